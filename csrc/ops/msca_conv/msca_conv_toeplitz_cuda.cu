// msca_conv's forward on tensor cores, for SegNeXt's sizes (a 5x5 root; strips of 7, 11 and 21) in 16-bit types.
//
// A strip of K taps is a product with a banded Toeplitz matrix, see toeplitz.cuh. For one channel, 16 rows at a time,
// by mma.m16n8k16 and, for the last block of a band, m16n8k8:
// clang-format off
//   a   (16 rows x 8 columns)   = sum over the root's rows i of x (16 rows from i on x 16 columns) T_i (16 x 8) + bias
//   h   (16 columns x 8 rows)   = T_row (16 x 40, 32 or 24 columns) a (columns x 8 rows), for each of three pairs
//   out (16 columns x 8 rows)   = sum over pairs of h (16 columns x 32, 24 or 16 rows) T_column (rows x 8)
//                                 + a + what the biases add
// clang-format on
// In a result, a register's two elements are neighbours along one index; that index is k of the next product. So a and
// h pass from product to product in the registers in which they were made. They are rounded to the 16-bit type, as
// eager PyTorch rounds the results of its convolutions; sums are float32. h is never stored: its eight rows are added
// at once to all output rows that they contribute to, five blocks of eight, which stay in registers until they are
// complete. a is copied by a band with a single tap, in the half of k that the strip of 7 leaves free. a's columns and
// rows begin 11 before the outputs', so that the strips touch as few blocks of eight as possible. A mask makes a zero
// outside the image. A row strip's bias must be added inside the image only, so h is made without it. What the bias
// adds to an output, bias x sum of the column's taps that are inside, is added in float32.
//
// NaN and Inf: the zeros beside a band are multiplied too. A NaN that the definition spreads over 12 rows and columns
// to each side spreads up to 22 rows up, 20 down, 34 columns to the left and 28 to the right, within its channel.
//
// Tiling: a warp has one channel. A block has 16 channels (8 if the image is small) by 32 columns and moves down by 16
// rows. In shared memory:
//   stage   the next 16 rows of x, (row, column, channel), which arrive by cp.async: from 13 columns before the block's
//           to 19 after;
//   planes  x by channel, (channel, row, column), a ring of 24 rows for ldmatrix, made from stage by ldmatrix's
//           transposing form. Rows have 144 bytes, so the eight rows of a matrix lie in different banks;
//   tables  taps, for all blocks of Toeplitz matrices. They are loaded again at every step, because sums fill the
//           registers;
//   out     16 rows of results, (channel, half, column, row), which leave by the same transposing ldmatrix.
// A step has two barriers: stage -> planes and out -> image; then planes -> out, while the next rows of x arrive.
// Bytes: x once, plus as much again for halo columns and the rows above strips, which L2 serves, plus out once: 4 per
// element.
//
// Model for an H200 (132 x 1.7 GHz) of a step of 16 channels, 8192 outputs, counted in the machine code: 520
// instructions per warp, 2,080 cycles of issue; tensor cores 1,390 cycles (2,780 if mma.sync runs at half rate); shared
// memory 2,960 (the root's operands 1,280, taps 660, transposing both ways 1,020). The first two steps of a block make
// no outputs, and loading the taps takes about as long as a step, 2,800 cycles. By the largest of these numbers:
//   32 x 32 x 128 x 128: two blocks in sequence of 9 steps each, 35 us, 2.1 ps per element; float32 FMA take 3.07,
//     memory 0.93. 1 x 32 x 256 x 512: 6 steps, 12 us (13 and 4). 1 x 32 x 192 x 384: 4 steps, 8.6 us (7.2 and 2.2).
//   The four stages of T at 512x512, batch 1: 3.4, 2.6, 2.6 and 2.6 us without latencies.
// Versions tried, by the same count: the root in float32 FMA, a through shared memory and strips cut to 16 rows: 7,600
// cycles for 4096 outputs, 22 ps per element. All operands of the root by ldmatrix, with none assembled from two
// others: 60 moves fewer, 960 cycles of shared memory more. Persistent blocks that process one part after another: 30
// instructions more per step, for the taps of the second part. Without second() of toeplitz.cuh: 120 moves more per
// step.
// Measured on an H200 (bench/results/h200), bf16: T's first stage takes 10.0 us at 512x512 and 27.6 at 1024x2048, B's
// first stage 137 us for 32 images: 16, 47 and 75 % of what plain float32 multiply-adds could do, and 18, 57 and 93
// times as fast as eager PyTorch.

#include "ops/msca_conv/toeplitz_rows.cuh"

namespace segnext {
namespace {

using namespace toeplitz;

// The values of its channel that a warp needs.
template <typename T>
struct WarpChannel {
  const T* plane;         // plane of x
  const uint32_t* words;  // its lane's place in the table of taps
  const float* floats;
  const uint32_t* column_masks;  // (kChunks, 4), starting at this lane's
  uint32_t* out;                 // this lane's place in (2, kColumns, kHalf) of results
};

// a of a step's rows, in chunks of eight columns: two words for rows g and g + 8 each. This is the B operand of both
// halves.
using Chunks = uint32_t[kChunks][2];

// `slot` is that of x's first row. An operand is 16 rows by two chunks of columns. The operand of an odd chunk consists
// of the halves of two even ones, so there the halves of k swap places, and the taps' halves too.
template <typename T>
__device__ inline void make_a(Chunks& a, const WarpChannel<T>& me, int slot, int image_row, int height) {
  const uint32_t zero = hidden_zero(me.words);
  const int lane = threadIdx.x % kWarp;
  uint32_t taps[2][kRoot][2], x[2][kRoot][4];
  load_b<0>(taps[0][0], me.words, 0);
  load_b<1>(taps[0][1], me.words, 0);
  load_b<2>(taps[0][2], me.words, 0);
  load_b<3>(taps[0][3], me.words, 0);
  load_b<4>(taps[0][4], me.words, 0);
  const T* rows[kRoot];
#pragma unroll
  for (int i = 0; i < kRoot; ++i) {
    taps[1][i][0] = second(taps[0][i][1], zero);
    taps[1][i][1] = second(taps[0][i][0], zero);
    constexpr unsigned kEnd = kRing * kXPitch;
    const unsigned from = (slot + lane % 16 + i) * kXPitch;
    rows[i] = me.plane + (from < kEnd ? from : from - kEnd) + lane / 16 * 8;
    ldmatrix_x4(x[0][i], rows[i]);
  }
  const float4 bias = load_shared(reinterpret_cast<const float4*>(me.floats + kRootBias));
  const float biases[4] = {bias.x, bias.y, bias.z, bias.w};
  // ones in rows outside the image, made from signs: a condition would become a selection for every word
  const int row = image_row + lane / 4;
  const uint32_t above = (row | (height - 1 - row)) >> 31, below = ((row + kHalf) | (height - 1 - row - kHalf)) >> 31;
#pragma unroll
  for (int chunk = 0; chunk < kChunks; ++chunk) {
    auto &own = x[chunk / 2 % 2], &next = x[(chunk / 2 + 1) % 2];
    float d[4];
#pragma unroll
    for (int i = 0; i < kRoot; ++i) {
      if (chunk % 2 == 0) {
        mma_m16n8k16<T>(d, own[i], taps[0][i], i == 0 ? biases : static_cast<const float (&)[4]>(d));
      } else {
        ldmatrix_x4(next[i], rows[i] + (chunk + 1) * 8);
        mma_m16n8k16<T>(d, {next[i][0], next[i][1], own[i][2], own[i][3]}, taps[1][i],
                        i == 0 ? biases : static_cast<const float (&)[4]>(d));
      }
    }
    const uint32_t columns = load_shared(me.column_masks + chunk * 4);
    a[chunk][0] = pack_pair<T>(d[0], d[1]) & columns & ~above;
    a[chunk][1] = pack_pair<T>(d[2], d[3]) & columns & ~below;
  }
}

// Sums of the output rows that are still open, 16 columns by eight rows each: columns g and g + 8, rows t and t + 1.
using OpenSums = float[kTiles][kOpen][4];

template <typename T>
__device__ inline void pack_rows(uint32_t* h, const float (&d)[4]) {
  h[0] = pack_pair<T>(d[0], d[1]);
  h[1] = pack_pair<T>(d[2], d[3]);
}

// Adds the row strip and column strip of 21 taps: five chunks of columns, four blocks of rows.
template <typename T>
__device__ inline void add_pair21(OpenSums& sums, const Chunks& a, const WarpChannel<T>& me) {
  const uint32_t zero = hidden_zero(me.words);
  constexpr int kRow = row_band(2), kColumn = column_band(2), kFirst = half_of(2) - kLead;
  uint32_t rows[3][4];
  load_a<kRow>(rows, me.words, kFirst, zero);
  uint32_t columns[3][2];
  load_b<kColumn>(columns, me.words, kFirst, zero);
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
    uint32_t h[4];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const auto at = [&](int chunk) { return a[2 * tile + chunk][half]; };
      float d[4] = {};
      mma_m16n8k16<T>(d, rows[0], {at(0), at(1)});
      mma_m16n8k16<T>(d, rows[1], {at(2), at(3)});
      mma_m16n8k8<T>(d, {rows[2][0], rows[2][1]}, at(4));
      pack_rows<T>(h + 2 * half, d);
    }
    auto& sum = sums[tile];
    mma_m16n8k8<T>(sum[0], {h[0], h[1]}, columns[2][1]);
    mma_m16n8k16<T>(sum[1], h, columns[2]);
    mma_m16n8k16<T>(sum[2], h, columns[1]);
    mma_m16n8k16<T>(sum[3], h, columns[0]);
    mma_m16n8k8<T>(sum[4], {h[2], h[3]}, columns[0][0]);
  }
}

// The same for 11 taps: four chunks of columns, three blocks of rows.
template <typename T>
__device__ inline void add_pair11(OpenSums& sums, const Chunks& a, const WarpChannel<T>& me) {
  const uint32_t zero = hidden_zero(me.words);
  constexpr int kRow = row_band(1), kColumn = column_band(1), kFirst = half_of(1) - kLead;
  uint32_t rows[2][4];
  load_a<kRow>(rows, me.words, kFirst, zero);
  uint32_t columns[2][2];
  load_b<kColumn>(columns, me.words, kFirst, zero);
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
    uint32_t h[4];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const auto at = [&](int chunk) { return a[2 * tile + chunk][half]; };
      float d[4] = {};
      mma_m16n8k16<T>(d, rows[0], {at(0), at(1)});
      mma_m16n8k16<T>(d, rows[1], {at(2), at(3)});
      pack_rows<T>(h + 2 * half, d);
    }
    auto& sum = sums[tile];
    mma_m16n8k8<T>(sum[1], {h[0], h[1]}, columns[1][1]);
    mma_m16n8k16<T>(sum[2], h, columns[1]);
    mma_m16n8k16<T>(sum[3], h, columns[0]);
    mma_m16n8k8<T>(sum[4], {h[2], h[3]}, columns[0][0]);
  }
}

// The same for 7 taps, three chunks and two blocks, and for a itself, which is copied by bands of one tap that touch
// the same chunks and blocks: k holds eight rows of both.
template <typename T>
__device__ inline void add_pair7_and_a(OpenSums& sums, const Chunks& a, const WarpChannel<T>& me) {
  const uint32_t zero = hidden_zero(me.words);
  constexpr int kRow = row_band(0), kColumn = column_band(0), kFirst = half_of(0) - kLead;
  uint32_t rows[2][4], copies[2][4];  // the first chunk is the second half of the first operand
  load_a<kRow>(rows, me.words, kFirst, zero);
  load_a<kCopyBand>(copies, me.words, -kLead, zero);
  uint32_t columns[2][2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    columns[i][0] = block<kColumn>(me.words, kFirst + 8 * (i + 1));
    columns[i][1] = block<kCopyBand>(me.words, 8 * (i + 1) - kLead);
  }
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
    auto& sum = sums[tile];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const auto at = [&](int chunk) { return a[2 * tile + chunk][half]; };
      uint32_t h[4];
      float d[4] = {}, copied[4] = {};
      mma_m16n8k8<T>(d, {rows[0][2], rows[0][3]}, at(1));
      mma_m16n8k16<T>(d, rows[1], {at(2), at(3)});
      mma_m16n8k8<T>(copied, {copies[0][2], copies[0][3]}, at(1));
      mma_m16n8k16<T>(copied, copies[1], {at(2), at(3)});
      pack_rows<T>(h, d);
      pack_rows<T>(h + 2, copied);
      mma_m16n8k16<T>(sum[half + 1], h, columns[1]);
      mma_m16n8k16<T>(sum[half + 2], h, columns[0]);
    }
  }
}

// The sum that the biases add to an output of image row `row`: the columns' bias, and the rows' biases times the taps
// that are inside.
__device__ inline float bias_of(const float* floats, int row, int height) {
  float result = load_shared(floats + kColumnBias);
#pragma unroll
  for (int pair = 0; pair < kPairCount; ++pair) {
    const int first = half_of(pair) - row, last = height + half_of(pair) - row;
    const float* cumulative = floats + cumulative_at(pair);
    const float end = load_shared(cumulative + (last < taps_of(pair) ? last : taps_of(pair)));
    const float begin = load_shared(cumulative + (first > 0 ? first : 0));
    result = fmaf(load_shared(floats + kRowBias + pair), end - begin, result);
  }
  return result;
}

// Opens the next 16 output rows, from image row `row` on.
__device__ inline void open_rows(OpenSums& sums, const float* floats, int row, int height, uint32_t zero) {
  constexpr int kReach = half_of(kPairCount - 1);
  const int own = row + static_cast<int>(threadIdx.x) % kRows, t = threadIdx.x % 4 * 2;
  float bias = load_shared(floats + kInnerBias);
  if (row < kReach || row + kRows + kReach > height) bias = bias_of(floats, own < height ? own : height - 1, height);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float quad[4];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      quad[i] = __shfl_sync(kFullWarp, bias, half * kHalf + t + i);
      quad[i + 2] = __uint_as_float(second(__float_as_uint(quad[i]), zero));
    }
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
      for (int i = 0; i < 4; ++i) sums[tile][kOpen - 2 + half][i] = quad[i];
    }
  }
}

// Closes the two oldest blocks of rows, which are complete, and moves the others up.
template <typename T>
__device__ inline void close_rows(OpenSums& sums, uint32_t* out) {
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
    auto& sum = sums[tile];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      uint32_t h[2];
      pack_rows<T>(h, sum[half]);
      uint32_t* target = out + (half * kColumns + tile * kTile) * (kHalf / 2);
      store_shared(target, h[0]);
      store_shared(target + kTile / 2 * (kHalf / 2), h[1]);
    }
#pragma unroll
    for (int i = 0; i < kOpen - 2; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) sum[i][j] = sum[i + 2][j];
    }
  }
}

// Number of steps of a block that moves down `rows` rows.
__host__ __device__ constexpr int steps_of(int rows) { return (rows + kHalf - 1) / kHalf / 2 + 2; }

template <typename T, int kSlice>
__global__ void __launch_bounds__(BlockLayout<kSlice>::kThreads, 16 / kSlice)
    msca_conv_toeplitz_kernel(MscaConvParams p, RowTiling t) {
  using Layout = BlockLayout<kSlice>;
  const BlockPlace at = place_of(t);
  T* stage = reinterpret_cast<T*>(shared_memory());
  T* planes = stage + Layout::kStage;
  T* results = planes + Layout::kPlanes;
  uint32_t* tables = reinterpret_cast<uint32_t*>(results + Layout::kOut);
  float* floats = reinterpret_cast<float*>(tables + kSlice * kTableWords);
  uint32_t* column_masks = reinterpret_cast<uint32_t*>(floats + kSlice * kTableFloats);
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, height = static_cast<int>(t.height);

  RowLoader<T, kSlice> source(p.x, at, t, stage, at.top - kXLead);
  source.load_four(at.top - kXLead, kRows);  // first step only: later ones find these four rows in the planes
  source.load_step(at.top - kXLead + kRoot - 1);
  load_channel_taps<T>(p.weights, at.channel + warp, t.channels, tables + warp * kTableWords,
                       floats + warp * kTableFloats);
  if (threadIdx.x < kChunks * 4) {
    const int column = at.left - kLead + 2 * static_cast<int>(threadIdx.x);
    const auto inside = [&](int c) { return c >= 0 && c < t.width; };
    store_shared(column_masks + threadIdx.x, (inside(column) ? 0xffffu : 0u) | (inside(column + 1) ? 0xffff0000u : 0u));
  }
  constexpr int kDelay = kRows + 3 * kHalf;  // rows from the first that a step opens to the first that it stores
  RowStorer<T, kSlice> target(p.out, at, t, results, 2 * kRows - kDelay);
  const uint32_t* words = lane_words(tables + warp * kTableWords);
  const WarpChannel<T> me{planes + warp * kXPlane, words, floats + warp * kTableFloats, column_masks + lane % 4,
                          reinterpret_cast<uint32_t*>(results + warp * kOutPlane + lane / 4 * kHalf) + lane % 4};
  OpenSums sums = {};
  const int steps = steps_of(at.rows);
  int slot = 0;  // slot of the first row of x that a step needs
  for (int step = 0; step < steps; ++step) {
    const int row = step * kRows;  // first of the output rows that it opens
    // Past the image's last row a step has no a, and the rows that it opens are no outputs: it only stores.
    const bool is_inside = at.top + row - kLead < height, next_is_inside = at.top + row + kRows - kLead < height;
    cp_async_wait<0>();
    __syncthreads();
    if (is_inside) {
#pragma unroll
      for (int i = 0; i < kRows; i += kSlice) {
        const int to = slot + kRoot - 1 + warp + i;
        transpose<T, kSlice>(stage + (warp + i) * kXColumns * kSlice,
                             planes + (to < kRing ? to : to - kRing) * kXPitch);
      }
      if (step == 0 && warp < kRoot - 1) {
        transpose<T, kSlice>(stage + (kRows + warp) * kXColumns * kSlice, planes + warp * kXPitch);
      }
    }
    if (step > 1) target.store(row - kDelay);
    __syncthreads();
    if (step + 1 < steps && next_is_inside) source.load_step(at.top + row + kRows - kXLead + kRoot - 1);
    if (is_inside) {
      Chunks a;
      make_a(a, me, slot, at.top + row - kLead, height);
      open_rows(sums, me.floats, at.top + row, height, hidden_zero(me.words));
      add_pair7_and_a(sums, a, me);
      add_pair21(sums, a, me);
      add_pair11(sums, a, me);
    }
    close_rows<T>(sums, me.out);
    slot = slot < kRing - kRows ? slot + kRows : slot + kRows - kRing;
  }
  __syncthreads();
  target.store(steps * kRows - kDelay);
}

// Time of a grid whose blocks move down `rows` rows, in sixteenths of a step of 16 channels. Blocks of eight channels
// cost half as much, and a little more for the half sectors that they move. Loading the taps counts as a step.
int64_t cost_of(const RowTiling& t, int64_t resident) {
  const int64_t waves = (t.blocks() + resident - 1) / resident;
  return waves * (steps_of(t.rows) + 1) * (t.slice == 16 ? 16 : 9);
}

template <typename T, int kSlice>
int launch_sliced(const MscaConvParams& p, const RowTiling& t, void* stream) {
  if (t.blocks() > INT32_MAX) return static_cast<int>(cudaErrorInvalidConfiguration);
  return launch(msca_conv_toeplitz_kernel<T, kSlice>, dim3(static_cast<unsigned>(t.blocks())),
                dim3(BlockLayout<kSlice>::kThreads), BlockLayout<kSlice>::kBytes, stream, p, t);
}

template <typename T>
int launch_typed(const MscaConvParams& p, void* stream) {
  if constexpr (sizeof(T) != 2) {
    return static_cast<int>(cudaErrorInvalidValue);
  } else {
    // one block of 16 channels fills a multiprocessor's registers; blocks of eight get one each while they are few
    const int resident =
        resident_blocks(msca_conv_toeplitz_kernel<T, 16>, BlockLayout<16>::kThreads, BlockLayout<16>::kBytes);
    const auto tiling = [&](int slice) {
      RowTiling t{};
      t.vectors = true;
      t.slice = slice;
      t.columns = kColumns;
      fill_device(t, p.x, 256, kHalf, resident, [](int rows) { return steps_of(rows) + 1; });
      return t;
    };
    const RowTiling wide = tiling(16), narrow = tiling(8);
    if (wide.blocks() == 0) return 0;
    const bool is_narrow = cost_of(narrow, resident) < cost_of(wide, resident);
    return is_narrow ? launch_sliced<T, 8>(p, narrow, stream) : launch_sliced<T, 16>(p, wide, stream);
  }
}

}  // namespace

bool takes_toeplitz(const MscaConvParams& p) {
  if (!has_segnext_sizes(strip_sizes(p.weights))) return false;
  const bool aligned = p.dtype != DType::kFloat32 && has_vectors<__half>(p.x, p.out);
  return aligned && BlockLayout<16>::kBytes <= shared_limit();
}

int launch_msca_conv_toeplitz(const MscaConvParams& params, void* stream) {
  return with_element_type(params.dtype, [&](auto element) { return launch_typed<decltype(element)>(params, stream); });
}

}  // namespace segnext
