// msca_conv's backward on tensor cores, for SegNeXt's sizes (a 5x5 root; strips of 7, 11 and 21) in 16-bit types. Maths
// and names are those of msca_conv_backward_cuda.cu: x and g come in; a, h, gh and ga are intermediate results.
//
// For one channel everything is a product of one of two kinds:
//   strip      a strip of K taps: 8 neighbouring outputs are 16 lines of 24 or 32 values times a banded Toeplitz
//              matrix, see toeplitz.cuh. The root consists of five bands of 5. Windows begin 11 before their outputs
//              for all three pairs, so strips of 7, 11 and 21 use blocks of eight 1-2, 0-2 and 0-3 of one window, and
//              share its fragments.
//   correlate  a weight gradient: D[m][n] += sum over 16 lines k of v[m][k] u[k][n], where m counts 16 places of a
//              window of v, and n eight of u. The terms of one tap lie on a diagonal of D. m - n means the same in
//              every tile, so D stays in registers for the whole block, and its diagonals are summed once, at the end.
// The products and the correlations beside them:
// clang-format off
//   root     a  (16 rows x 8 columns)   = five bands over columns of x        D over x and ga for each of its five rows
//   rows     h  (16 rows x 8 columns)   = band over columns of a              D over columns of a and gh
//            ga (16 rows x 8 columns)  += reversed band over columns of gh
//   columns  gh (16 columns x 8 rows)   = reversed band over rows of g        D over rows of g and h
//   grad_x      (16 rows x 8 columns)   = five reversed bands over columns of ga
// clang-format on
// Where a correlation follows (h, gh), the result of one product is the operand of the next in the same registers.
// Biases: D[which][n] += a row of ones times the values to sum. a, h, gh and ga are rounded to the 16-bit type, as
// eager PyTorch rounds them; sums are float32.
// The zeros beside a band are multiplied too. A NaN or Inf of g or of x spreads in grad_x through all operands that
// contain it: up to 37 columns and 35 rows away, within its own channel. Weight gradients have no such zeros, because
// everything beside D's diagonals is dropped; they see the wider NaN of a, h, gh and ga.
//
// Tiling: a block has 32 columns by 8 channels and moves down by 16 rows, with two warps per channel, each of which has
// half of the tiles. Rows arrive by cp.async as (row, column, channel), and ldmatrix transposes them into planes of one
// channel:
//   g (48 rows, 64 columns) and x (32 rows, 64 columns), both rings; a (16, 56), from which grad_x leaves too;
//   gh of one pair (76 columns, 16 rows): its lines are 16 rows, so a window may begin at any column;
//   ga (32, 40), a ring, because grad_x follows two rows behind.
// The pitches put the eight lines of a matrix into different banks. A channel's memory is 4 words longer than a
// multiple of 32, because eight channels are written at once. The block takes 208 KB: one block fits a multiprocessor
// with 227 KB. None fits one with 163 KB, so sm_80 uses the ring kernel.
// Bytes: x, g and grad_x once; a tile's halo, which L2 serves, doubles x and g; partial sums 440 bytes per channel.
// Model for an H200, of one channel's 16 rows by 32 columns: 220 products of 2048 multiply-adds (7 cycles per element
// and multiprocessor at 1,024 per cycle: 3.8 ps), 900 cycles of shared memory (7.8 ps).
// Measured on an H200 (bench/results/h200), bf16, forward and backward: T's first stage takes 36 us at 512x512 and 105
// at 1024x2048, B's first stage 719 us for 32 images.

#include "cuda/partials.cuh"
#include "cuda/row_tiles.cuh"
#include "ops/msca_conv/backward_toeplitz.cuh"
#include "ops/msca_conv/gradients.cuh"

namespace segnext {
namespace {

using namespace backward_toeplitz;

// Stores a warp's D tiles at `tiles` (kTiles, 16, 8).
__device__ inline void store_tiles(float* tiles, const WarpSums& sums, int line, int pair) {
  const auto store = [&](int tile, const float (&d)[4]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      store_shared(tiles + tile * kTileFloats + (line + i / 2 * 8) * 8 + pair + i % 2, d[i]);
    }
  };
#pragma unroll
  for (int i = 0; i < kRowTiles; ++i) store(i, sums.of_rows[i]);
#pragma unroll
  for (int i = 0; i < kOwnTiles; ++i) store(kOwnTilesAt + i, sums.own[i]);
  store(kBiasTileAt, sums.of_biases);
}

// The sum of D[m][n] over m - n = `apart`; zero if the tile has no such elements.
__device__ inline float diagonal(const float* tile, int apart) {
  float sum = 0.0f;
  for (int n = 0; n < 8; ++n) {
    if (n + apart >= 0 && n + apart < 16) sum += load_shared(tile + (n + apart) * 8 + n);
  }
  return sum;
}

__device__ inline float row_of(const float* tile, int row) {
  float sum = 0.0f;
  for (int n = 0; n < 8; ++n) sum += load_shared(tile + row * 8 + n);
  return sum;
}

// One of a channel's gradient values, in msca_conv's order, computed from the tiles of its two warps.
__device__ inline float gradient(const float* tiles, int vector) {
  const auto tile = [&](int half, int at) { return tiles + (half * kTiles + at) * kTileFloats; };
  const auto bias = [&](int which) {
    return row_of(tile(0, kBiasTileAt), which) + row_of(tile(1, kBiasTileAt), which);
  };
  if (vector < kRoot * kRoot) {
    const int row = vector / kRoot;
    // windows begin three columns before their tiles, and taps two
    return diagonal(tile(row < kFirstRootRows ? 0 : 1, kOwnTilesAt + root_tile_at(row)), vector % kRoot + 1);
  }
  int tap = vector - kRoot * kRoot;
  if (tap == 0) return bias(kBiasOfGa);
  tap -= 1;
  for (int pair = 0; pair < kPairCount; ++pair) {
    const int taps = taps_of(pair), outside = kBefore - half_of(pair);
    if (tap < taps) {  // m - n = tap + outside, counted from the window's first block
      float sum = 0.0f;
      for (int half = 0; half < 2; ++half) {
        const float* first = tile(half, row_tile_at(pair));
        sum += pair == 0 ? diagonal(first, tap + outside - 8)
                         : diagonal(first, tap + outside) + diagonal(first + kTileFloats, tap + outside - 16);
      }
      return sum;
    }
    if (tap == taps) return bias(pair);
    tap -= taps + 1;
    if (tap < taps) {  // reversed: the window is the gradient's
      const int apart = taps - 1 - tap + outside;
      const float* first = tile(pair == 2 ? 0 : 1, kOwnTilesAt + (pair == 0 ? 2 : 0));
      return pair == 0 ? diagonal(first, apart - 8)
                       : diagonal(first, apart) + diagonal(first + kTileFloats, apart - 16);
    }
    if (tap == taps) return bias(kBiasOfG);
    tap -= taps + 1;
  }
  return 0.0f;
}

__host__ __device__ constexpr int vectors() {
  int count = kRoot * kRoot + 1;
  for (int pair = 0; pair < kPairCount; ++pair) count += 2 * (taps_of(pair) + 1);
  return count;
}

// Transposes a warp's row of 64 staged pixels into the channels' planes, from `plane` of the first channel on.
template <typename T>
__device__ inline void turn(const T* staged, T* plane, int lane) {
  constexpr int kChannel = kChannelBytes / static_cast<int>(sizeof(T));
#pragma unroll
  for (int i = 0; i < kStagedColumns / 32; ++i) {
    uint32_t r[4];
    ldmatrix_x4_trans(r, staged + (i * 32 + lane) * kSlice);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      store_pair(plane + lane / 4 * kChannel + i * 32 + j * 8 + lane % 4 * 2, r[j]);
    }
  }
}

// Values that a block needs at every step. They are kept in shared memory, because the sums fill the registers.
template <typename T>
struct BackwardBlock {
  ImageSlice<T> x, g, grad_x;
  int64_t top, left;
  Window window;

  __device__ BackwardBlock(const Tensor4& x, const Tensor4& g, const Tensor4& grad_x, const TilePlace& at,
                           const RowTiling& t)
      : x(x, at, kSlice), g(g, at, kSlice), grad_x(grad_x, at, kSlice), top(at.top), left(at.left) {
    const auto from = [](int64_t first) { return -static_cast<int>(first < kStagedColumns ? first : kStagedColumns); };
    const auto until = [](int64_t rest, int most) { return static_cast<int>(rest < most ? rest : most); };
    const int rows = static_cast<int>(at.bottom - at.top);
    window = {rows, from(top), until(t.height - top, rows + kGRows), from(left),
              until(t.width - left, kColumns + kStagedColumns)};
  }
};
constexpr size_t kSharedBytes = kBlockAt + sizeof(BackwardBlock<__half>);

template <typename T>
__global__ void __launch_bounds__(kThreads, 1)
    msca_conv_backward_toeplitz_kernel(MscaConvParams p, Tensor4 grad, Tensor4 grad_x, RowTiling t, float* partials) {
  const TilePlace at = tile_place(t);
  BackwardBlock<T>* block = reinterpret_cast<BackwardBlock<T>*>(shared_memory() + kBlockAt);
  if (threadIdx.x == 0) store_shared(block, BackwardBlock<T>(p.x, grad, grad_x, at, t));
  __syncthreads();

  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, channel = warp % kSlice;
  T* staged_x = reinterpret_cast<T*>(shared_memory() + kSlice * kChannelBytes);
  T* staged_g = staged_x + kStaged;
  T* planes = reinterpret_cast<T*>(shared_memory());  // the first channel's
  T* own = reinterpret_cast<T*>(shared_memory() + channel * kChannelBytes);
  uint32_t* tables = reinterpret_cast<uint32_t*>(shared_memory() + channel * kChannelBytes + kTablesAt);
  float* biases = reinterpret_cast<float*>(tables + 2 * kTableWords);
  const BackwardWarp<T> me{
      own,    own + kXAt,    own + kAAt, own + kGhAt, own + kGaAt, lane_words(tables), lane_words(tables + kTableWords),
      biases, warp / kSlice, lane,       lane / 4,    lane % 4 * 2};

  // loads the 16 rows each of x and g that this step is the first to need
  const auto load = [&](int step) {
    const BackwardBlock<T> at = load_shared(block);
#pragma unroll 1
    for (int i = threadIdx.x; i < kRows * kStagedColumns; i += kThreads) {
      const int64_t row = at.top + step * kRows - kHalf + i / kStagedColumns, column = at.left + i % kStagedColumns;
      const auto copy = [&](T* shared, const ImageSlice<T>& image, int64_t row, int64_t column) {
        const bool valid = image.has(row, column);
        const T* source = valid ? image.data + row * image.stride_h + column * image.stride_w : image.data;
        cp_async16(shared + i * kSlice, source, valid);
      };
      copy(staged_x, at.x, row + kXAhead, column + kXLeft);
      copy(staged_g, at.g, row + kGAhead, column + kGLeft);
    }
    cp_async_commit();
  };

  load(-kWarmUp);
  if (me.half == 0) {
    load_channel_taps<T>(p.weights, at.channel + channel, t.channels, tables, biases);
  } else {
    load_channel_taps<T, true>(p.weights, at.channel + channel, t.channels, tables + kTableWords,
                               reinterpret_cast<float*>(me.ga));  // its sums are not needed
  }
  for (int i = threadIdx.x; i < kSlice * (kGhColumns - 64) * kGhPitch; i += kThreads) {
    const int line = i % ((kGhColumns - 64) * kGhPitch), of = i / ((kGhColumns - 64) * kGhPitch);
    store_shared(planes + of * (kChannelBytes / 2) + kGhAt + 64 * kGhPitch + line, from_float<T>(0.0f));
  }

  WarpSums sums = {};
  const int steps = (load_shared(&block->window.rows) + 2 * kHalf + kRows - 1) / kRows;
  for (int step = -kWarmUp; step < steps; ++step) {
    cp_async_wait<0>();
    __syncthreads();
    turn(staged_x + warp * kStagedColumns * kSlice, planes + kXAt + ((step & 1) * kRows + warp) * kXPitch, lane);
    turn(staged_g + warp * kStagedColumns * kSlice, planes + ((step + 3) % 3 * kRows + warp) * kGPitch, lane);
    __syncthreads();
    if (step + 1 < steps) load(step + 1);
    if (step < 0) continue;
    {
      const Window window = load_shared(&block->window);
      work(sums, me, step_of(step, lane, window), window);
    }

    // grad_x follows: its rows are two above the step's. Each warp stores one row.
    const int row = step * kRows - 2 * kHalf + warp;
    const BackwardBlock<T> now = load_shared(block);
    if (row < 0 || row >= now.window.rows) continue;
    uint32_t r[4];
    ldmatrix_x4_trans(r, planes + lane % 8 * (kChannelBytes / 2) + kAAt + warp * kAPitch + lane / 8 * 8);
    T* target = now.grad_x.data + (now.top + row) * now.grad_x.stride_h + now.left * now.grad_x.stride_w + me.pair;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int column = i * 8 + me.line;
      if (column >= now.window.width) continue;
      store_global(reinterpret_cast<uint32_t*>(target + column * now.grad_x.stride_w), r[i]);
    }
  }
  __syncthreads();
  store_tiles(reinterpret_cast<float*>(own) + me.half * kTiles * kTileFloats, sums, me.line, me.pair);
  __syncthreads();
  // recomputed here, so that only the block's rows and columns stay in registers during the loop
  const unsigned slices = static_cast<unsigned>(t.slices), part = blockIdx.x / slices;
  const int64_t first = static_cast<int64_t>(blockIdx.x % slices) * kSlice;
  for (int i = threadIdx.x; i < vectors() * kSlice; i += kThreads) {
    const int vector = i / kSlice, of = i % kSlice;
    const float* tiles = reinterpret_cast<const float*>(shared_memory() + of * kChannelBytes);
    store_global(partials + (static_cast<int64_t>(part) * vectors() + vector) * t.channels + first + of,
                 gradient(tiles, vector));
  }
}

template <typename T>
RowTiling tiling_of(const MscaConvBackwardParams& p) {
  RowTiling t{};
  t.vectors = true;
  t.slice = kSlice;
  t.columns = kColumns;
  const int resident = resident_blocks(msca_conv_backward_toeplitz_kernel<T>, kThreads, kSharedBytes);
  constexpr int kMost =
      512 - 2 * kHalf;  // other heights than 4 short of whole steps leave rows of the last step unused
  fill_device(t, p.forward.x, kMost, kRows, resident,
              [](int rows) { return kWarmUp + (rows + 2 * kHalf + kRows - 1) / kRows; });
  return t;
}

template <typename T>
int launch_typed(const MscaConvBackwardParams& p, float* partials, void* stream) {
  const RowTiling t = tiling_of<T>(p);
  if (t.blocks() > INT32_MAX) return static_cast<int>(cudaErrorInvalidConfiguration);
  if (t.blocks() > 0) {
    if (const int status = launch(msca_conv_backward_toeplitz_kernel<T>, dim3(static_cast<unsigned>(t.blocks())),
                                  dim3(kThreads), kSharedBytes, stream, p.forward, p.grad, p.grad_x, t, partials)) {
      return status;
    }
  }
  return add_partials(partials, t.parts(), vectors() * t.channels, gradients_of<T>(p, t.channels), stream);
}

// Calls f with the element type, which is one of the two that takes_toeplitz_backward() accepts.
template <typename F>
auto with_16_bits(DType dtype, F f) {
  return dtype == DType::kFloat16 ? f(__half()) : f(__nv_bfloat16());
}

}  // namespace

bool takes_toeplitz_backward(const MscaConvBackwardParams& p) {
  if (!has_segnext_sizes(strip_sizes(p.forward.weights))) return false;
  const bool is_16_bit = p.forward.dtype == DType::kFloat16 || p.forward.dtype == DType::kBFloat16;
  return is_16_bit && has_vectors<__half>(p.forward.x, p.grad, p.grad_x) && kSharedBytes <= shared_limit();
}

int64_t msca_conv_backward_toeplitz_workspace(const MscaConvBackwardParams& params) {
  return with_16_bits(params.forward.dtype, [&](auto element) {
    const RowTiling t = tiling_of<decltype(element)>(params);
    return t.parts() * vectors() * t.channels * static_cast<int64_t>(sizeof(float));
  });
}

int launch_msca_conv_backward_toeplitz(const MscaConvBackwardParams& params, void* workspace, void* stream) {
  return with_16_bits(params.forward.dtype, [&](auto element) {
    return launch_typed<decltype(element)>(params, static_cast<float*>(workspace), stream);
  });
}

}  // namespace segnext
