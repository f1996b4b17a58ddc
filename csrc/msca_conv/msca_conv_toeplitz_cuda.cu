// msca_conv's forward on tensor cores, for SegNeXt's sizes (a 5x5 root; strips of 7, 11 and 21) in 16-bit types.
//
// A strip of K taps over a row of 16 outputs is a product with a banded Toeplitz matrix, T[m][k] = w[k - m]. With
// columns as M, for one channel, 16 columns and 8 rows:
//   h' (16 columns x 8 rows)   = T_row (16 x 32 or 48) a' (32 or 48 columns x 8 rows) + bias, zero on rows outside
//   out' (16 columns x 8 rows) = sum of pairs h' (16 columns x 16 or 32 rows) T_column (16 or 32 x 8) + biases + a'
// in mma.m16n8k16: 7 and 5 products of 2048 multiply-adds for 128 outputs, 192 an output where the strips have 78. The
// first product's result is the second's left operand as it lies in registers: h never leaves them. Each pair's h comes
// in tiles of eight rows that begin where its column strip does, K / 2 rows above the output's: a strip of 21 then
// touches four tiles, of 11 three, of 7 two.
// a and h are rounded to the 16-bit type, as eager PyTorch rounds the results of its convolutions; sums are float32.
// The zeros beside a matrix's band are multiplied too: a NaN or Inf spreads to all outputs of the operands it is in,
// up to 32 columns and 22 rows away where the strips reach 12.
//
// Tiling: a block of 16 warps has 32 columns by 16 channels and walks down by eight rows:
//   x      (20 rows, 56 columns, 16 channels): what the root reaches, and the next eight rows on their way by cp.async;
//   a      (16 channels, 24 rows, 72 columns): one plane a channel, for ldmatrix. Rows of 144 bytes: the eight rows of
//          a matrix lie in different banks. The columns that no strip reaches stay zero;
//   pairs  (16 channels, kPairs) of neighbouring taps w[d], w[d + 1], with zeros around: a register of a Toeplitz
//          matrix is one load;
//   out    (8 rows, 32 columns, 16 channels and 8 unused), from where it leaves by 16-byte vectors.
// The root is SIMT, in float32: a thread has four rows by three columns by two channels.
// Model for an H200, of one block's eight rows (4096 outputs): the root reads shared memory for 1,850 cycles (9 warps x
// 206), the products take 770 cycles at 1,024 multiply-adds a cycle and 38 x 16 loads of taps; about 3 ps an element on
// 132 multiprocessors, where the ring kernel's shared memory takes 12 and main memory 0.9. Not yet measured on a GPU.

#include <cstring>

#include "msca_conv/strips.cuh"
#include "msca_conv/toeplitz.h"

namespace segnext {
namespace {

constexpr int kThreads = 512;
constexpr int kSlice = 16;    // channels of a block: one a warp
constexpr int kColumns = 32;  // of a block: two tiles of 16
constexpr int kTile = 16, kRows = 8;
constexpr int kRoot = 5, kPairCount = 3;

__host__ __device__ constexpr int taps_of(int pair) { return pair == 0 ? 7 : pair == 1 ? 11 : 21; }
__host__ __device__ constexpr int half_of(int pair) { return taps_of(pair) / 2; }
// Columns left of a tile at which the row strip's operand begins, a multiple of 8, and its steps of 16 columns.
__host__ __device__ constexpr int before_of(int pair) { return (half_of(pair) + 7) / 8 * 8; }
__host__ __device__ constexpr int row_steps(int pair) { return (before_of(pair) + kTile + half_of(pair) + 15) / 16; }
// Tiles of eight rows of h that a column strip touches, and its steps of 16 rows.
__host__ __device__ constexpr int h_tiles(int pair) { return (kRows + taps_of(pair) - 1 + kRows - 1) / kRows; }
__host__ __device__ constexpr int column_steps(int pair) { return (h_tiles(pair) + 1) / 2; }
// First row of the newest tile of h, from the first output row.
__host__ __device__ constexpr int newest_h(int pair) { return (h_tiles(pair) - 1) * kRows - half_of(pair); }

// Where a pair's weights lie, in vectors of a slice: its row's taps and bias, then its column's.
__host__ __device__ constexpr int row_at(int pair) {
  int at = kRoot * kRoot + 1;
  for (int i = 0; i < pair; ++i) at += 2 * taps_of(i) + 2;
  return at;
}
__host__ __device__ constexpr int column_at(int pair) { return row_at(pair) + taps_of(pair) + 1; }

constexpr int kSide = 16;               // columns of a's plane left of the block's, and right
constexpr int kReach = half_of(2);      // columns that strips reach
constexpr int kAhead = 16;              // first of the rows of a that a step makes, from its first output row
constexpr int kARows = kAhead + kRows;  // newest_h(2) + 8 = 22 are read
constexpr int kAPitch = kColumns + 2 * kSide + 8;
constexpr int kAPlane = kARows * kAPitch + 8;  // channels side by side in different banks
constexpr int kOutPitch = kSlice + 8;          // of a pixel: a quarter of the lanes of a store meet in a bank, not half
constexpr int kXRows = 2 * kRows + kRoot - 1;
constexpr int kRootRun = 3;  // columns of a thread's root: odd, for the banks
constexpr int kRootRuns = (kColumns + 2 * kReach + kRootRun - 1) / kRootRun;
constexpr int kXColumns = kRootRuns * kRootRun + kRoot - 1;
constexpr int kWarmUp = 4;  // steps before the first output: rows of a from 16 above it on

// Taps w[d] for d from -kZeros on; T_row asks for d from half - before - 15 to half - before + 16 steps.
constexpr int kZeros = 24;
__host__ __device__ constexpr int pairs_of(int pair) { return kZeros + taps_of(pair) + 32; }
__host__ __device__ constexpr int pairs_at(int pair) {  // rows, then columns
  int at = 0;
  for (int i = 0; i < pair; ++i) at += 2 * pairs_of(i);
  return at;
}
constexpr int kPairs = pairs_at(kPairCount);
static_assert(newest_h(2) + kRows <= kARows && kAhead >= 2 * kRows, "a holds what is read");
static_assert(before_of(2) <= kSide && row_steps(2) * 16 <= 2 * kSide + kTile, "a's plane has the operand's columns");

constexpr size_t kSharedElements = static_cast<size_t>(kXRows) * kXColumns * kSlice + kSlice * kAPlane +
                                   kRows * kColumns * kOutPitch + 2 * kSlice * kPairs;

constexpr size_t kSharedBytes = kSharedElements * 2 + sizeof(float) * row_at(kPairCount) * kSlice;

template <typename T>
__device__ inline uint32_t pack(float low, float high) {
  Channels<T, 2> both;
  both.values[0] = from_float<T>(low);
  both.values[1] = from_float<T>(high);
  uint32_t result;
  memcpy(&result, &both, sizeof result);
  return result;
}

// What a warp knows of its channel.
template <typename T>
struct WarpChannel {
  const T* plane;         // of a
  const uint32_t* pairs;  // of taps
  const float* weights;   // (vectors, slice) from this channel on
  int g, t;               // of mma's fragments: lane / 4 and 2 (lane % 4)
};

// The last tiles of h of a pair, oldest first: columns g and g + 8, each rows t and t + 1.
template <int kPair>
struct History {
  uint32_t tiles[h_tiles(kPair)][2];
};

template <typename T, int kPair>
__device__ inline void make_h(History<kPair>& history, const WarpChannel<T>& me, int row, int column, int64_t image_row,
                              int64_t height) {
  const int lane = threadIdx.x % kWarp;
  const float bias = load_shared(me.weights + (row_at(kPair) + taps_of(kPair)) * kSlice);
  float d[4] = {bias, bias, bias, bias};
  const int slot = (row + newest_h(kPair) + lane % 8 + 8 * kARows) % kARows;
  const T* operand = me.plane + slot * kAPitch + column + kSide - before_of(kPair) + lane / 8 % 2 * 8;
  const uint32_t* pairs = me.pairs + pairs_at(kPair) + kZeros + half_of(kPair) - before_of(kPair) + me.t - me.g;
#pragma unroll
  for (int step = 0; step < row_steps(kPair); ++step) {
    uint32_t b[2];
    ldmatrix_x2(b, operand + step * 16);
    const uint32_t* at = pairs + step * 16;
    const uint32_t a[4] = {load_shared(at), load_shared(at - 8), load_shared(at + 8), load_shared(at)};
    mma_m16n8k16<T>(d, a, b);
  }
  const int64_t first = image_row + newest_h(kPair) + me.t;
  const bool upper = first >= 0 && first < height, lower = first + 1 >= 0 && first + 1 < height;
#pragma unroll
  for (int tile = 0; tile < h_tiles(kPair) - 1; ++tile) {
    history.tiles[tile][0] = history.tiles[tile + 1][0];
    history.tiles[tile][1] = history.tiles[tile + 1][1];
  }
  history.tiles[h_tiles(kPair) - 1][0] = pack<T>(upper ? d[0] : 0.0f, lower ? d[1] : 0.0f);
  history.tiles[h_tiles(kPair) - 1][1] = pack<T>(upper ? d[2] : 0.0f, lower ? d[3] : 0.0f);
}

template <typename T, int kPair>
__device__ inline void add_columns(float (&d)[4], const History<kPair>& history, const WarpChannel<T>& me) {
  const uint32_t* pairs = me.pairs + pairs_at(kPair) + pairs_of(kPair) + kZeros + me.t - me.g;
#pragma unroll
  for (int step = 0; step < column_steps(kPair); ++step) {
    constexpr int kLast = h_tiles(kPair) - 1;
    const bool whole = 2 * step + 1 <= kLast;
    const auto& upper = history.tiles[2 * step];
    const auto& lower = history.tiles[whole ? 2 * step + 1 : kLast];
    const uint32_t a[4] = {upper[0], upper[1], whole ? lower[0] : 0, whole ? lower[1] : 0};
    const uint32_t b[2] = {load_shared(pairs + step * 16), load_shared(pairs + step * 16 + 8)};
    mma_m16n8k16<T>(d, a, b);
  }
}

struct Histories {
  History<0> of7;
  History<1> of11;
  History<2> of21;
};

// Eight rows from `row` on of one tile, to `result` (kRows, kColumns, kOutPitch); while the histories fill, only these.
template <typename T>
__device__ inline void make_tile(Histories& h, const WarpChannel<T>& me, int row, int column, int64_t image_row,
                                 int64_t height, T* result) {
  make_h<T, 0>(h.of7, me, row, column, image_row, height);
  make_h<T, 1>(h.of11, me, row, column, image_row, height);
  make_h<T, 2>(h.of21, me, row, column, image_row, height);
  float d[4] = {};
  add_columns<T, 0>(d, h.of7, me);
  add_columns<T, 1>(d, h.of11, me);
  add_columns<T, 2>(d, h.of21, me);
  if (row < 0) return;
  float bias = 0.0f;
#pragma unroll
  for (int pair = 0; pair < kPairCount; ++pair) {
    bias += load_shared(me.weights + (column_at(pair) + taps_of(pair)) * kSlice);
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int r = me.t + i % 2, c = column + me.g + i / 2 * 8;
    const float a = to_float(load_shared(me.plane + (row + r) % kARows * kAPitch + kSide + c));
    store_shared(result + (r * kColumns + c) * kOutPitch, from_float<T>(a + (d[i] + bias)));
  }
}

// Rows [row, row + 8) of a, zero outside the image's columns; its rows outside the image only reach masked rows of h.
template <typename T>
__device__ inline void make_a(const RowRing<T>& x, T* planes, const float* weights, int row, int64_t image_column,
                              int64_t width) {
  constexpr int kChannelPairs = kSlice / 2;
  for (int item = threadIdx.x; item < kChannelPairs * kRootRuns * 2; item += blockDim.x) {
    const int channel = item % kChannelPairs * 2, column = item / kChannelPairs % kRootRuns * kRootRun;
    const int first = row + item / (kChannelPairs * kRootRuns) * kQuad;
    float sum[kRootRun][kQuad][2], tap[2];
    Channels<float, 2>::load(weights + kRoot * kRoot * kSlice + channel, tap);
#pragma unroll
    for (int o = 0; o < kRootRun; ++o) {
#pragma unroll
      for (int r = 0; r < kQuad; ++r) {
        sum[o][r][0] = tap[0];
        sum[o][r][1] = tap[1];
      }
    }
#pragma unroll
    for (int j = 0; j < kRootRun + kRoot - 1; ++j) {
      float pixel[kQuad + kRoot - 1][2];
      int slot = x.slot(first - kRoot / 2);
#pragma unroll
      for (int i = 0; i < kQuad + kRoot - 1; ++i) {
        Channels<T, 2>::load(x.data + slot * x.row_size + (column + j) * kSlice + channel, pixel[i]);
        slot = x.after(slot);
      }
#pragma unroll
      for (int o = 0; o < kRootRun; ++o) {
        if (j - o < 0 || j - o >= kRoot) continue;
#pragma unroll
        for (int i = 0; i < kRoot; ++i) {
          Channels<float, 2>::load(weights + (i * kRoot + j - o) * kSlice + channel, tap);
#pragma unroll
          for (int r = 0; r < kQuad; ++r) {
            sum[o][r][0] = fmaf(tap[0], pixel[r + i][0], sum[o][r][0]);
            sum[o][r][1] = fmaf(tap[1], pixel[r + i][1], sum[o][r][1]);
          }
        }
      }
    }
#pragma unroll
    for (int o = 0; o < kRootRun; ++o) {
      const int64_t at = image_column + column + o;
      const bool inside = at >= 0 && at < width;
#pragma unroll
      for (int r = 0; r < kQuad; ++r) {
        T* pixel =
            planes + channel * kAPlane + (first + r + 8 * kARows) % kARows * kAPitch + kSide - kReach + column + o;
        store_shared(pixel, from_float<T>(inside ? sum[o][r][0] : 0.0f));
        store_shared(pixel + kAPlane, from_float<T>(inside ? sum[o][r][1] : 0.0f));
      }
    }
  }
}

// pairs: (slice, kPairs).
template <typename T>
__device__ inline void make_pairs(uint32_t* pairs, const float* weights) {
  for (int i = threadIdx.x; i < kSlice * kPairs; i += blockDim.x) {
    const int channel = i / kPairs, at = i % kPairs;
    int pair = 0;
    while (pair + 1 < kPairCount && at >= pairs_at(pair + 1)) ++pair;
    const int taps = taps_of(pair), place = at - pairs_at(pair);
    const bool of_row = place < pairs_of(pair);
    const float* w = weights + (of_row ? row_at(pair) : column_at(pair)) * kSlice + channel;
    const int d = place % pairs_of(pair) - kZeros;
    const auto tap = [&](int at) { return at >= 0 && at < taps ? load_shared(w + at * kSlice) : 0.0f; };
    store_shared(pairs + i, pack<T>(tap(d), tap(d + 1)));
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads, 1) msca_conv_toeplitz_kernel(MscaConvParams p, RowTiling t) {
  const TilePlace at = tile_place(t);
  const ImageSlice<T> image(p.x, at, kSlice), out(p.out, at, kSlice);
  const RowRing<T> x{reinterpret_cast<T*>(shared_memory()), kXRows, kXColumns * kSlice};
  T* planes = x.data + kXRows * x.row_size;  // (slice, kARows, kAPitch)
  T* result = planes + kSlice * kAPlane;     // (kRows, kColumns, slice)
  uint32_t* pairs = reinterpret_cast<uint32_t*>(result + kRows * kColumns * kOutPitch);
  float* weights = reinterpret_cast<float*>(pairs + kSlice * kPairs);

  const int rows = static_cast<int>(at.bottom - at.top);
  const auto load_x = [&](int first, int count) {
    for (int i = first; i < first + count; ++i) {
      load_row(x.at(i), image, at.top + i, at.left - kReach - kRoot / 2, kXColumns, t);
    }
    cp_async_commit();
  };
  const auto store_rows = [&](int first) {
    constexpr int kVec = Vec16<T>::kSize, kPacks = kSlice / kVec;
    for (int i = threadIdx.x; i < kRows * kColumns * kPacks; i += blockDim.x) {
      const int channel = i % kPacks * kVec, column = i / kPacks % kColumns, row = i / (kPacks * kColumns);
      if (first + row >= rows || at.left + column >= t.width || channel >= out.channels) continue;
      T* target = out.data + (at.top + first + row) * out.stride_h + (at.left + column) * out.stride_w + channel;
      Vec16<T>::load_shared(result + (row * kColumns + column) * kOutPitch + channel).store_global(target);
    }
  };

  const int first_step = -kWarmUp;
  load_x(first_step * kRows + kAhead - kRoot / 2, kRows + kRoot - 1);
  const MscaConvWeights& w = p.weights;
  load_taps<T>(weights, w.root_weight, w.root_bias, kRoot * kRoot, kRoot, w.root_weight.stride[2],
               w.root_weight.stride[3], at, t);
#pragma unroll
  for (int pair = 0; pair < kPairCount; ++pair) {
    const Tensor4 &of_row = w.strip_weight[2 * pair], &of_column = w.strip_weight[2 * pair + 1];
    load_taps<T>(weights + row_at(pair) * kSlice, of_row, w.strip_bias[2 * pair], taps_of(pair), taps_of(pair), 0,
                 of_row.stride[3], at, t);
    load_taps<T>(weights + column_at(pair) * kSlice, of_column, w.strip_bias[2 * pair + 1], taps_of(pair), 1,
                 of_column.stride[2], 0, at, t);
  }
  for (int i = threadIdx.x; i < kSlice * kAPlane; i += blockDim.x) store_shared(planes + i, from_float<T>(0.0f));
  __syncthreads();
  make_pairs<T>(pairs, weights);

  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const WarpChannel<T> me{planes + warp * kAPlane, pairs + warp * kPairs, weights + warp, lane / 4, lane % 4 * 2};
  Histories histories[kColumns / kTile] = {};
  for (int row = first_step * kRows; row < rows; row += kRows) {
    cp_async_wait<0>();
    __syncthreads();
    load_x(row + kAhead + kRows + kRoot / 2, kRows);
    if (row > 0) store_rows(row - kRows);
    make_a(x, planes, weights, row + kAhead, at.left - kReach, t.width);
    __syncthreads();
#pragma unroll
    for (int tile = 0; tile < kColumns / kTile; ++tile) {
      make_tile(histories[tile], me, row, tile * kTile, at.top + row, t.height, result + warp);
    }
  }
  __syncthreads();
  store_rows((rows - 1) / kRows * kRows);
}

template <typename T>
int launch_typed(const MscaConvParams& p, void* stream) {
  if constexpr (sizeof(T) != 2) {
    return static_cast<int>(cudaErrorInvalidValue);
  } else {
    RowTiling t{};
    t.vectors = true;
    t.slice = kSlice;
    t.columns = kColumns;
    fill_device(t, p.x, 128, 16);
    if (t.blocks() == 0) return 0;
    if (t.blocks() > INT32_MAX) return static_cast<int>(cudaErrorInvalidConfiguration);
    return launch(msca_conv_toeplitz_kernel<T>, dim3(static_cast<unsigned>(t.blocks())), dim3(kThreads), kSharedBytes,
                  stream, p, t);
  }
}

}  // namespace

bool takes_toeplitz(const MscaConvParams& p) {
  const StripSizes s = strip_sizes(p.weights);
  if (s.root != kRoot || s.pairs != kPairCount) return false;
  for (int i = 0; i < kPairCount; ++i) {
    if (s.row[i] != taps_of(i) || s.column[i] != taps_of(i)) return false;
  }
  const bool aligned = p.dtype != DType::kFloat32 && has_vectors<__half>(p.x, p.out);
  return aligned && kSharedBytes <= shared_limit();
}

int launch_msca_conv_toeplitz(const MscaConvParams& params, void* stream) {
  return with_element_type(params.dtype, [&](auto element) { return launch_typed<decltype(element)>(params, stream); });
}

}  // namespace segnext
