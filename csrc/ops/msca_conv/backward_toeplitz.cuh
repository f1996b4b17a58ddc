// The work of one warp in msca_conv's backward on tensor cores: its products and the sums that it keeps. See
// msca_conv_backward_toeplitz_cuda.cu for the whole kernel.
#pragma once

#include "cuda/row_tiles.cuh"
#include "ops/msca_conv/toeplitz.cuh"

namespace segnext {
namespace backward_toeplitz {

using namespace toeplitz;

constexpr int kThreads = 512;
constexpr int kSlice = 8;  // channels per block: a 16-byte vector
constexpr int kColumns = 32, kRows = 16;
constexpr int kHalf = kRoot / 2;
constexpr int kBefore = 11;  // lines of a strip's window before its first output

// Layout of a channel's planes in shared memory, in elements. k...Left is the column of a plane's first column, counted
// from the block's first column.
constexpr int kStagedColumns = 64;
constexpr int kGRows = 48, kGPitch = 72, kGLeft = -16;
constexpr int kXRows = 32, kXPitch = 72, kXLeft = -13;
constexpr int kALeft = -11, kAPitch = 56, kATiles = 7;
constexpr int kGhLeft = kGLeft, kGhColumns = 76, kGhPitch = 24;
constexpr int kGaRows = 32, kGaLeft = -2, kGaPitch = 40, kGaTiles = 5;
constexpr int kXAt = kGRows * kGPitch, kAAt = kXAt + kXRows * kXPitch, kGhAt = kAAt + kRows * kAPitch,
              kGaAt = kGhAt + kGhColumns * kGhPitch, kPlanes = kGaAt + kGaRows * kGaPitch;
constexpr int kTablesAt = kPlanes * 2;  // bytes
constexpr int kChannelBytes = (kTablesAt + (2 * kTableWords + kTableFloats) * 4 + 127) / 128 * 128 + 16;
constexpr int kStaged = kRows * kStagedColumns * kSlice;
constexpr int kBlockAt = kSlice * kChannelBytes + 2 * kStaged * 2;
static_assert(kALeft - kHalf == kXLeft && kALeft == -kBefore, "windows begin at multiples of eight");
static_assert((kGaLeft - 3 - kXLeft) % 8 == 0 && kGaLeft == -kHalf, "and the root's gradient's");

// Steps before the first one that only load: g's ring must hold rows from 20 above a step's first to 10 below its last.
constexpr int kWarmUp = 2;
constexpr int kGAhead = 10, kXAhead = 2;  // the first row that a step loads, counted from its own first row

// The sums in registers are D tiles; these constants say where a warp stores them at the end. The first warp of a
// channel has the sums of the column strip of 21 and of the root's first three rows, the second warp those of 11, of 7
// and of the root's last two rows.
constexpr int kRowTiles = 5, kOwnTiles = 5;
constexpr int kOwnTilesAt = kRowTiles, kBiasTileAt = kOwnTilesAt + kOwnTiles, kTiles = kBiasTileAt + 1;
constexpr int kTileFloats = 128, kFirstRootRows = 3;
__host__ __device__ constexpr int root_tile_at(int row) { return row < kFirstRootRows ? 2 + row : row; }
constexpr int kBiasOfG = kPairCount, kBiasOfGa = kPairCount + 1;
static_assert(2 * kTiles * kTileFloats * 4 <= kTablesAt, "the planes hold the sums at the end");
__host__ __device__ constexpr int row_tile_at(int pair) { return pair == 0 ? 0 : 2 * pair - 1; }

// The block's part of the image, in rows and columns counted from the block's first; the image ends at `height` and
// `width`.
struct Window {
  int rows, top, height, left, width;
};

// Per-step values of the rows that a lane works on.
struct Step {
  int first;              // first row, counted from the block's
  int g_slot;             // slot of the row kBefore above the first
  int g_blocks[3];        // where this lane's lines of two blocks each lie in g's plane
  int slot;               // slot of the step's first row in ga's ring, and of the row 4 above it in x's ring
  bool image[2], own[2];  // whether rows g and g + 8 of a tile of 16 are in the image; in the block
  uint32_t image_pairs[2], own_pairs[2];  // the same as masks of the pairs of rows t and t + 1, t + 8 and t + 9
};

template <typename T>
struct BackwardWarp {
  T *g, *x, *a, *gh, *ga;
  const uint32_t *taps, *turned;  // this lane's places in the tables; `turned` has the taps reversed
  const float* biases;
  int half, lane, line, pair;  // line: g of the fragments; pair: t of the fragments
};

struct WarpSums {
  float of_rows[kRowTiles][4], own[kOwnTiles][4], of_biases[4];
};

__device__ inline uint32_t pair_mask(int first, int begin, int end) {
  return (first >= begin && first < end ? 0xffffu : 0u) | (first + 1 >= begin && first + 1 < end ? 0xffff0000u : 0u);
}

__device__ inline int wrap(int slot) { return slot < kGRows ? slot : slot - kGRows; }

__device__ inline Step step_of(int step, int lane, const Window& window) {
  Step s;
  s.first = step * kRows - kHalf;
  s.g_slot = (step % 3 * kRows - kGAhead - kBefore + kGRows) % kGRows;
#pragma unroll
  for (int i = 0; i < 3; ++i) {
    s.g_blocks[i] = wrap(s.g_slot + i * 16 + lane / 16 * 8 + lane % 8) * kGPitch + lane / 8 % 2 * 8;
  }
  s.slot = step % 2 * kRows;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int row = s.first + lane / 4 + i * 8, pair = s.first + lane % 4 * 2 + i * 8;
    s.image[i] = row >= window.top && row < window.height;
    s.own[i] = row >= 0 && row < window.rows;
    s.image_pairs[i] = pair_mask(pair, window.top, window.height);
    s.own_pairs[i] = pair_mask(pair, 0, window.rows);
  }
  return s;
}

// Loads kCount blocks of two matrices each. at(i) is this lane's line of blocks 2 i and 2 i + 1.
template <int kCount, bool kTransposed, typename At>
__device__ inline void load_blocks(uint32_t (&blocks)[kCount][2], At at) {
#pragma unroll
  for (int i = 0; i < kCount / 2; ++i) {
    uint32_t r[4];
    if constexpr (kTransposed) {
      ldmatrix_x4_trans(r, at(i));
    } else {
      ldmatrix_x4(r, at(i));
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) blocks[2 * i + j / 2][j % 2] = r[j];
  }
  if constexpr (kCount % 2 != 0 && kTransposed) ldmatrix_x2_trans(blocks[kCount - 1], at(kCount / 2));
  if constexpr (kCount % 2 != 0 && !kTransposed) ldmatrix_x2(blocks[kCount - 1], at(kCount / 2));
}

// Loads blocks of 16 rows by eight columns, side by side. `row` is this lane's row (lane % 16) of the first.
template <int kCount, bool kTransposed, typename T>
__device__ inline void load_columns(uint32_t (&blocks)[kCount][2], const T* row, int lane) {
  load_blocks<kCount, kTransposed>(blocks, [&](int i) { return row + i * 16 + lane / 16 * 8; });
}

// Loads blocks of eight rows of g by 16 columns, one above the other, starting kBefore rows above the step.
template <bool kTransposed, typename T>
__device__ inline void load_g(uint32_t (&blocks)[5][2], const BackwardWarp<T>& me, const Step& s, int column) {
  load_blocks<5, kTransposed>(blocks, [&](int i) { return me.g + s.g_blocks[i] + column - kGLeft; });
}

// Loads the band of a pair's strip: the words of the blocks of its window.
template <int kPair, int kBand>
__device__ inline void load_band(uint32_t (&band)[4], const uint32_t* words) {
#pragma unroll
  for (int i = 0; i < 4; ++i) band[i] = block<kBand>(words, half_of(kPair) - kBefore + i * 8);
}

// d += 16 lines of a window, whose blocks begin at `blocks`, times a band.
template <typename T, int kPair>
__device__ inline void strip(float (&d)[4], const uint32_t (*blocks)[2], const uint32_t (&band)[4]) {
  constexpr int kFirst = kPair == 0 ? 1 : 0;
  const uint32_t a[4] = {blocks[kFirst][0], blocks[kFirst][1], blocks[kFirst + 1][0], blocks[kFirst + 1][1]};
  const uint32_t b[2] = {band[kFirst], band[kFirst + 1]};
  mma_m16n8k16<T>(d, a, b);
  if constexpr (kPair == 1) mma_m16n8k8<T>(d, {blocks[2][0], blocks[2][1]}, band[2]);
  if constexpr (kPair == 2) {
    const uint32_t rest[4] = {blocks[2][0], blocks[2][1], blocks[3][0], blocks[3][1]};
    mma_m16n8k16<T>(d, rest, {band[2], band[3]});
  }
}

// d[m][n] += a sum over 16 lines; m counts through the two blocks from `blocks` on.
template <typename T>
__device__ inline void correlate(float (&d)[4], const uint32_t (*blocks)[2], const uint32_t (&b)[2]) {
  const uint32_t a[4] = {blocks[0][0], blocks[1][0], blocks[0][1], blocks[1][1]};
  mma_m16n8k16<T>(d, a, b);
}

// The same with a pair's window, for two tiles of eight n. `sums` has one tile of D for strips of 7, else two.
template <typename T, int kPair>
__device__ inline void correlate_strip(float (*sums)[4], const uint32_t (&blocks)[5][2], const uint32_t (&b)[2][2]) {
#pragma unroll
  for (int n = 0; n < 2; ++n) {
    if constexpr (kPair == 0) {
      correlate<T>(sums[0], blocks + n + 1, b[n]);
    } else {
      correlate<T>(sums[0], blocks + n, b[n]);
      // the last window's second block is past the last tap of strips of 11
      correlate<T>(sums[1], blocks + n + 2, b[n]);
    }
  }
}

template <typename T>
__device__ inline void store_pair(T* shared, uint32_t pair) {
  store_shared(reinterpret_cast<uint32_t*>(shared), pair);
}

// Adds to row `which` of D: A (16 x 16) has ones in that row, where k is one of the step's own rows.
template <typename T>
__device__ inline void add_bias(float (&sums)[4], int which, const BackwardWarp<T>& me, const Step& s,
                                const uint32_t (&b)[2]) {
  const uint32_t ones = me.line == which ? pack_pair<T>(1.0f, 1.0f) : 0;
  const uint32_t a[4] = {ones & s.own_pairs[0], 0, ones & s.own_pairs[1], 0};
  mma_m16n8k16<T>(sums, a, b);
}

// Applies the root's bands to rows of `source`, a ring of 32 rows, from 4 rows above the step's slot on. Makes `count`
// tiles of eight columns from tile `first` on and passes each to store(tile, d).
template <typename T, int kPitch, int kMost, typename Store>
__device__ inline void root(const T* source, const uint32_t* words, float bias, int first, int count,
                            const BackwardWarp<T>& me, const Step& s, Store store) {
  float d[kMost][4];
#pragma unroll
  for (int tile = 0; tile < kMost; ++tile) {
#pragma unroll
    for (int i = 0; i < 4; ++i) d[tile][i] = bias;
  }
#pragma unroll
  for (int band = 0; band < kRoot; ++band) {
    const int slot = (s.slot - 2 * kHalf + band + me.lane % 16) & (kXRows - 1);
    uint32_t blocks[kMost + 1][2];
    load_columns<kMost + 1, false>(blocks, source + slot * kPitch + first * 8, me.lane);
    const uint32_t* at = words + band * (kRoot + kGap);
    const uint32_t b[2] = {block<0>(at, 0), block<0>(at, 8)};
#pragma unroll
    for (int tile = 0; tile < kMost; ++tile) {
      const uint32_t a[4] = {blocks[tile][0], blocks[tile][1], blocks[tile + 1][0], blocks[tile + 1][1]};
      if (tile < count) mma_m16n8k16<T>(d[tile], a, b);
    }
  }
#pragma unroll
  for (int tile = 0; tile < kMost; ++tile) {
    if (tile < count) store(first + tile, d[tile]);
  }
}

// Makes the step's rows of a, with zeros outside the image's columns and in rows that are not the block's own.
template <typename T>
__device__ inline void make_a(const BackwardWarp<T>& me, const Step& s, const Window& window) {
  constexpr int kMost = (kATiles + 1) / 2;
  const auto store = [&](int tile, const float (&d)[4]) {
    const int column = tile * 8 + me.pair;
    const uint32_t mask = pair_mask(kALeft + column, window.left, window.width);
    store_pair(me.a + me.line * kAPitch + column, s.own[0] ? pack_pair<T>(d[0], d[1]) & mask : 0);
    store_pair(me.a + (me.line + 8) * kAPitch + column, s.own[1] ? pack_pair<T>(d[2], d[3]) & mask : 0);
  };
  root<T, kXPitch, kMost>(me.x, me.taps, load_shared(me.biases + kRootBias), me.half * kMost, kATiles - me.half * kMost,
                          me, s, store);
}

// Makes h of a pair in all of the block's columns, and adds to the gradient of the column's taps.
template <typename T, int kPair>
__device__ inline void correlate_columns(float (*sums)[4], const BackwardWarp<T>& me, const Step& s,
                                         const Window& window) {
  uint32_t band[4];
  load_band<kPair, row_band(kPair)>(band, me.taps);
  const float bias = load_shared(me.biases + kRowBias + kPair);
#pragma unroll 1
  for (int left = 0; left < kColumns; left += 16) {
    uint32_t blocks[5][2], b[2][2];
    load_columns<5, false>(blocks, me.a + me.lane % 16 * kAPitch + left, me.lane);
#pragma unroll
    for (int tile = 0; tile < 2; ++tile) {
      float d[4] = {bias, bias, bias, bias};
      strip<T, kPair>(d, blocks + tile, band);
      const uint32_t mask = pair_mask(left + tile * 8 + me.pair, window.left, window.width);
      b[0][tile] = s.own[0] ? pack_pair<T>(d[0], d[1]) & mask : 0;
      b[1][tile] = s.own[1] ? pack_pair<T>(d[2], d[3]) & mask : 0;
    }
    load_g<false>(blocks, me, s, left);
    correlate_strip<T, kPair>(sums, blocks, b);
  }
}

// Makes gh of a pair in 16 columns from `left` on, zero outside the image. It goes to its plane and, as the operand of
// sums over 16 rows, to `b`: two tiles of eight columns.
template <typename T, int kPair>
__device__ inline void make_gh(uint32_t (&b)[2][2], const uint32_t (&band)[4], int left, const BackwardWarp<T>& me,
                               const Step& s, const Window& window) {
  uint32_t blocks[5][2];
  load_g<true>(blocks, me, s, left);
#pragma unroll
  for (int tile = 0; tile < 2; ++tile) {
    float d[4] = {};
    strip<T, kPair>(d, blocks + tile, band);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int column = left + me.line + i * 8;
      const bool inside = column >= window.left && column < window.width;
      b[i][tile] = inside ? pack_pair<T>(d[2 * i], d[2 * i + 1]) & s.image_pairs[tile] : 0;
      store_pair(me.gh + (column - kGhLeft) * kGhPitch + tile * 8 + me.pair, b[i][tile]);
    }
  }
}

// Makes gh of a pair, and adds to the gradient of the row's taps and bias.
template <typename T, int kPair>
__device__ inline void correlate_rows(WarpSums& sums, const BackwardWarp<T>& me, const Step& s, const Window& window) {
  uint32_t band[4], b[2][2], blocks[5][2];
  load_band<kPair, column_band(kPair)>(band, me.turned);
  make_gh<T, kPair>(b, band, me.half == 0 ? -16 : kColumns, me, s, window);
  make_gh<T, kPair>(b, band, me.half * 16, me, s, window);
  load_columns<5, true>(blocks, me.a + me.lane % 16 * kAPitch + me.half * 16, me.lane);
  correlate_strip<T, kPair>(sums.of_rows + row_tile_at(kPair), blocks, b);
#pragma unroll
  for (int n = 0; n < 2; ++n) add_bias(sums.of_biases, kPair, me, s, b[n]);
}

constexpr int kGaMost = (kGaTiles + 1) / 2;

// ga += the row's reversed band times gh, in this warp's tiles.
template <typename T, int kPair>
__device__ inline void add_to_ga(float (&ga)[kGaMost][4], const BackwardWarp<T>& me) {
  uint32_t band[4], blocks[kGaMost + 3][2];
  load_band<kPair, row_band(kPair)>(band, me.turned);
  const T* line = me.gh +
                  (kGaLeft - kBefore - kGhLeft + me.half * kGaMost * 8 + me.lane / 16 * 8 + me.lane % 8) * kGhPitch +
                  me.lane / 8 % 2 * 8;
  load_blocks<kGaMost + 3, true>(blocks, [&](int i) { return line + i * 16 * kGhPitch; });
#pragma unroll
  for (int tile = 0; tile < kGaMost; ++tile) {
    if (me.half * kGaMost + tile < kGaTiles) strip<T, kPair>(ga[tile], blocks + tile, band);
  }
}

// Stores ga + g, zero outside the image, to the step's rows of its ring.
template <typename T>
__device__ inline void store_ga(const float (&ga)[kGaMost][4], const BackwardWarp<T>& me, const Step& s,
                                const Window& window) {
#pragma unroll
  for (int tile = 0; tile < kGaMost; ++tile) {
    const int column = (me.half * kGaMost + tile) * 8 + me.pair;
    if (me.half * kGaMost + tile >= kGaTiles) continue;
    const uint32_t mask = pair_mask(kGaLeft + column, window.left, window.width);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int row = me.line + i * 8;
      float g[2];
      Channels<T, 2>::load(me.g + wrap(s.g_slot + kBefore + row) * kGPitch + kGaLeft - kGLeft + column, g);
      const uint32_t both = pack_pair<T>(g[0] + ga[tile][2 * i], g[1] + ga[tile][2 * i + 1]);
      store_pair(me.ga + (s.slot + row) * kGaPitch + column, s.image[i] ? both & mask : 0);
    }
  }
}

// Adds to the gradient of some rows of the root's taps and, with the first rows, of its bias.
template <int kFirst, int kLast, typename T>
__device__ inline void correlate_root(WarpSums& sums, const BackwardWarp<T>& me, const Step& s) {
  uint32_t ga[kGaTiles][2];
  load_columns<kGaTiles, true>(ga, me.ga + (s.slot + me.lane % 16) * kGaPitch, me.lane);
#pragma unroll
  for (int tile = 0; tile < kGaTiles; ++tile) {
    const int column = kGaLeft + tile * 8 + me.line;
    const bool own = column >= 0 && column < kColumns;
    ga[tile][0] &= own ? s.own_pairs[0] : 0;
    ga[tile][1] &= own ? s.own_pairs[1] : 0;
    if (kFirst == 0) add_bias(sums.of_biases, kBiasOfGa, me, s, ga[tile]);
  }
#pragma unroll
  for (int row = kFirst; row < kLast; ++row) {
    const int slot = (s.slot - 2 * kHalf + row + me.lane % 16) & (kXRows - 1);
    uint32_t blocks[kGaTiles + 1][2];
    load_columns<kGaTiles + 1, true>(blocks, me.x + slot * kXPitch + kGaLeft - 3 - kXLeft, me.lane);
#pragma unroll
    for (int tile = 0; tile < kGaTiles; ++tile) correlate<T>(sums.own[root_tile_at(row)], blocks + tile, ga[tile]);
  }
}

// All computation of a step: from its rows of x and g in their rings to its rows of grad_x in a's plane.
template <typename T>
__device__ inline void work(WarpSums& sums, const BackwardWarp<T>& me, const Step& s, const Window& window) {
  make_a(me, s, window);
  __syncthreads();
  if (me.half == 0) {
    correlate_columns<T, 2>(sums.own, me, s, window);
  } else {
    correlate_columns<T, 1>(sums.own, me, s, window);
    correlate_columns<T, 0>(sums.own + 2, me, s, window);
  }
  uint32_t g[2][2];
  load_columns<2, true>(g, me.g + wrap(s.g_slot + kBefore + me.lane % 16) * kGPitch + me.half * 16 - kGLeft, me.lane);
#pragma unroll
  for (int n = 0; n < 2; ++n) add_bias(sums.of_biases, kBiasOfG, me, s, g[n]);

  float ga[kGaMost][4] = {};
  correlate_rows<T, 0>(sums, me, s, window);
  __syncthreads();
  add_to_ga<T, 0>(ga, me);
  __syncthreads();
  correlate_rows<T, 1>(sums, me, s, window);
  __syncthreads();
  add_to_ga<T, 1>(ga, me);
  __syncthreads();
  correlate_rows<T, 2>(sums, me, s, window);
  __syncthreads();
  add_to_ga<T, 2>(ga, me);
  store_ga(ga, me, s, window);
  __syncthreads();
  const auto store = [&](int tile, const float (&d)[4]) {
    T* pixel = me.a + me.line * kAPitch + tile * 8 + me.pair;
    store_pair(pixel, pack_pair<T>(d[0], d[1]));
    store_pair(pixel + 8 * kAPitch, pack_pair<T>(d[2], d[3]));
  };
  root<T, kGaPitch, 2>(me.ga, me.turned, 0.0f, me.half * 2, 2, me, s, store);
  if (me.half == 0) {
    correlate_root<0, kFirstRootRows>(sums, me, s);
  } else {
    correlate_root<kFirstRootRows, kRoot>(sums, me, s);
  }
  __syncthreads();
}

}  // namespace backward_toeplitz
}  // namespace segnext
