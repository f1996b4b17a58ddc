// How channels_last images (N, C, H, W) are brought into the planes of the Toeplitz kernels, one plane per channel, and
// how results leave: whole 16-byte vectors of channels on one side, rows of one channel on the other, and the
// transposing form of ldmatrix between them.
#pragma once

#include "cuda/row_tiles.cuh"
#include "ops/msca_conv/toeplitz.cuh"

namespace segnext {
namespace toeplitz {

constexpr int kColumns = 32, kTile = 16, kTiles = kColumns / kTile;  // columns of a block's outputs, in tiles of 16
constexpr int kRows = 16, kHalf = 8;                                 // rows per step; rows per operand
constexpr int kLead = 11;  // rows and columns of a before the outputs: 7, 11 and 21 taps then touch 3, 4 and 5 blocks
constexpr int kXLead = kLead + kRoot / 2;
constexpr int kChunks = 2 * kTiles + 3;  // of eight columns of a; tile t's strips touch five, from chunk 2 t on
constexpr int kXColumns = 8 * (kChunks + 1), kXRows = kRows + kRoot - 1;
constexpr int kRing = 24;               // rows of x's planes: at least kXRows, and a multiple of 8 for the banks
constexpr int kXPitch = kXColumns + 8;  // the eight rows of a matrix lie in different banks
constexpr int kXPlane = kRing * kXPitch + 8;
constexpr int kOutPlane = kRows * kColumns + 8;
constexpr int kOpen = 5;  // blocks of eight output rows that a step adds to

static_assert(kXLead == 13 && kXColumns == 64, "the lanes of RowLoader and transpose() cover a row");

template <int kSlice>
struct BlockLayout {
  static constexpr int kThreads = kSlice * kWarp;  // one warp per channel
  static constexpr int kPacks = kSlice / 8;        // 16-byte vectors per pixel; words of a pixel that one lane stores
  static constexpr size_t kStage = static_cast<size_t>(kXRows) * kXColumns * kSlice;
  static constexpr size_t kPlanes = static_cast<size_t>(kSlice) * kXPlane;
  static constexpr size_t kOut = static_cast<size_t>(kSlice) * kOutPlane;
  static constexpr size_t kBytes =
      2 * (kStage + kPlanes + kOut) + 4 * (kSlice * (kTableWords + kTableFloats) + kChunks * 4);
  static_assert((2 * (kStage + kPlanes + kOut) + 4 * kSlice * kTableWords) % 16 == 0, "floats are loaded by four");
};

// The part of the image that a block works on.
struct BlockPlace {
  int64_t image;
  int channel, left, top, rows;  // rows: from top on
};

__device__ inline BlockPlace place_of(const RowTiling& t) {
  const unsigned slices = static_cast<unsigned>(t.slices), tiles = static_cast<unsigned>(t.tiles);
  const unsigned strips = static_cast<unsigned>(t.strips), part = blockIdx.x / slices;
  const int top = static_cast<int>(part / tiles % strips) * t.rows, height = static_cast<int>(t.height);
  return {part / (tiles * strips), static_cast<int>(blockIdx.x % slices) * t.slice,
          static_cast<int>(part % tiles) * t.columns, top, top + t.rows < height ? t.rows : height - top};
}

// Copies rows of x from the image to shared memory, downwards, by 16-byte vectors, with zeros outside the image. The
// stage is (row, column, channel); the two vectors of a pixel swap places every four pixels, for the banks of
// transpose().
template <typename T, int kSlice>
struct RowLoader {
  const T* data;  // this thread's channels and column, in the next row to load
  int64_t stride_h;
  int height;
  bool valid;
  T* stage;

  // `row` is the first row of the image to load.
  __device__ RowLoader(const Tensor4& x, const BlockPlace& at, const RowTiling& t, T* staged, int row)
      : stride_h(x.stride[2]), height(static_cast<int>(t.height)) {
    constexpr int kPacks = BlockLayout<kSlice>::kPacks;
    const int thread = threadIdx.x, pack = thread % kPacks, pixel = thread / kPacks % kXColumns;
    const int column = at.left - kXLead + pixel, own = own_row();
    valid = column >= 0 && column < t.width && at.channel + pack * 8 < t.channels;
    data = static_cast<const T*>(x.data) + at.image * x.stride[0] + at.channel + pack * 8 + (row + own) * stride_h +
           column * x.stride[3];
    stage = staged + (own * kXColumns + pixel) * kSlice + (pack ^ (kPacks == 2 ? pixel / 4 % 2 : 0)) * 8;
  }

  // Loads the next four rows, which begin at `row`, to staged rows from `to` on.
  __device__ void load_four(int row, int to) {
    const bool inside = valid && static_cast<unsigned>(row + own_row()) < static_cast<unsigned>(height);
    cp_async16(stage + to * kXColumns * kSlice, data, inside);
    data += kPassRows * stride_h;
  }
  __device__ void load_step(int row) {
#pragma unroll
    for (int to = 0; to < kRows; to += kPassRows) load_four(row + to, to);
    cp_async_commit();
  }

 private:
  static constexpr int kPassRows = 4;
  static_assert(kPassRows == kRoot - 1 &&
                    BlockLayout<kSlice>::kThreads == kPassRows * kXColumns * BlockLayout<kSlice>::kPacks,
                "a pass is four rows");
  __device__ static int own_row() { return threadIdx.x / (BlockLayout<kSlice>::kPacks * kXColumns); }
};

// Transposes a staged row into the planes, (channel, slot of the ring, column). A whole warp calls it.
template <typename T, int kSlice>
__device__ inline void transpose(const T* staged, T* planes) {
  constexpr int kPacks = BlockLayout<kSlice>::kPacks;
  const int lane = threadIdx.x % kWarp, swap = kPacks == 2 ? lane / 4 % 2 * 8 : 0;
#pragma unroll
  for (int pack = 0; pack < kPacks; ++pack) {
    T* target = planes + (pack * 8 + lane / 4) * kXPlane + lane % 4 * 2;
#pragma unroll
    for (int pixels = 0; pixels < kXColumns; pixels += kWarp) {
      uint32_t pairs[4];  // pairs of columns of the lane's channel
      ldmatrix_x4_trans(pairs, staged + (pixels + lane) * kSlice + (pack * 8 ^ swap));
#pragma unroll
      for (int i = 0; i < 4; ++i) store_shared(reinterpret_cast<uint32_t*>(target + pixels + i * 8), pairs[i]);
    }
  }
}

// Stores results, (channel, 2, column, kHalf), to 16 rows of the image. A lane has one row and 2 kWords channels.
template <typename T, int kSlice>
struct RowStorer {
  static constexpr int kWords = BlockLayout<kSlice>::kPacks, kPixels = 4 / kWords;
  const T* results;
  T* data;  // this lane's first pixel
  int64_t stride_w, stride_h;
  int rows;    // rows of the block
  int pixels;  // pixels that exist

  // `first` is the first row of the block to store; it may be above the block.
  __device__ RowStorer(const Tensor4& out, const BlockPlace& at, const RowTiling& t, const T* all, int first)
      : stride_w(out.stride[3]), stride_h(out.stride[2]), rows(at.rows) {
    const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, matrix = lane / 8, i = lane % 8;
    const int from = 2 * kWords * (i / 2) + matrix % kWords * 2 + i % 2;
    results = all + from * kOutPlane + (warp * kPixels + matrix / kWords) * kHalf;
    const int channel = at.channel + lane % 4 * 2 * kWords, column = at.left + warp * kPixels;
    pixels = channel < t.channels ? static_cast<int>(t.width) - column : 0;
    data = static_cast<T*>(out.data) + at.image * out.stride[0] + channel + (at.top + first + lane / 4) * stride_h +
           column * stride_w;
  }

  // Stores the next 16 rows; `first` is their first row, counted from the block's.
  __device__ void store(int first) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      uint32_t pairs[4];
      ldmatrix_x4_trans(pairs, results + half * kColumns * kHalf);
      const unsigned row = first + half * kHalf + threadIdx.x % kWarp / 4;
      const bool inside = row < static_cast<unsigned>(rows);
#pragma unroll
      for (int pixel = 0; pixel < kPixels; ++pixel) {
        if (!inside || pixel >= pixels) continue;
        T* to = data + pixel * stride_w;
        if constexpr (kWords == 2) {
          store_global(reinterpret_cast<uint2*>(to), make_uint2(pairs[2 * pixel], pairs[2 * pixel + 1]));
        } else {
          store_global(reinterpret_cast<uint32_t*>(to), pairs[pixel]);
        }
      }
      data += kHalf * stride_h;
    }
  }
};

}  // namespace toeplitz
}  // namespace segnext
