// Depthwise strips as products with banded Toeplitz matrices, T[i][j] = w[j - i + first], for mma.m16n8k16 and m16n8k8
// in 16-bit types, and the table of SegNeXt's taps that they are loaded from. A band is one line of taps: a row of the
// root, or a strip.
//
// In every fragment of mma, a register holds two neighbours along k: elements (i, j) and (i, j + 1), where j - i = t -
// g plus a constant, g = lane / 4 and t = 2 (lane % 4). So a Toeplitz matrix consists of 8 x 8 blocks, and each lane
// needs one word of the table below per block: the pair (w[d], w[d + 1]) with d = first + t - g. Blocks that touch no
// tap are zero. The table of a channel has all bands one after the other, with kGap zeros between them: see
// load_channel_taps().
#pragma once

#include "cuda/device.cuh"
#include "cuda/ptx.cuh"
#include "ops/msca_conv/strips.cuh"

namespace segnext {
namespace toeplitz {

// SegNeXt's sizes.
constexpr int kRoot = 5, kPairCount = 3;
__host__ __device__ constexpr int taps_of(int pair) { return pair == 0 ? 7 : pair == 1 ? 11 : 21; }
// Taps of the pairs before it. There is no loop, because a compiler may leave one in the code.
__host__ __device__ constexpr int taps_before(int pair) {
  return pair == 0   ? 0
         : pair == 1 ? taps_of(0)
         : pair == 2 ? taps_of(0) + taps_of(1)
                     : taps_of(0) + taps_of(1) + taps_of(2);
}
__host__ __device__ constexpr int half_of(int pair) { return taps_of(pair) / 2; }

// Whether the sizes are SegNeXt's.
inline bool has_segnext_sizes(const StripSizes& s) {
  if (s.root != kRoot || s.pairs != kPairCount) return false;
  for (int i = 0; i < kPairCount; ++i) {
    if (s.row[i] != taps_of(i) || s.column[i] != taps_of(i)) return false;
  }
  return true;
}

// The bands: the root's rows, the row and column strip of each pair, and a single tap of one, whose product copies.
constexpr int kBandCount = kRoot + 2 * kPairCount + 1;
constexpr int kCopyBand = kBandCount - 1;
__host__ __device__ constexpr int row_band(int pair) { return kRoot + 2 * pair; }
__host__ __device__ constexpr int column_band(int pair) { return kRoot + 2 * pair + 1; }
__host__ __device__ constexpr int band_taps(int band) {
  return band < kRoot ? kRoot : band == kCopyBand ? 1 : taps_of((band - kRoot) / 2);
}

// Layout of a channel's table: word band_at(band) + d is the pair (w[d], w[d + 1]), for d from -15 to taps + 13.
constexpr int kGap = 15;
__host__ __device__ constexpr int band_at(int band) {
  return (band + 1) * kGap + (band <= kRoot ? band * kRoot
                                            : kRoot * kRoot + 2 * taps_before((band - kRoot) / 2) +
                                                  (band - kRoot) % 2 * taps_of((band - kRoot) / 2));
}
constexpr int kTableWords = band_at(kCopyBand) + 1 + kGap;

// Layout of a channel's floats: its biases (the columns' bias is the sum of all three, the rows' biases are three),
// what they add to an output whose rows are all inside the image, and running sums of the column strips' taps:
// cumulative_at(pair) + n is the sum of the first n.
constexpr int kRootBias = 0, kColumnBias = 4, kInnerBias = 5, kRowBias = 6;  // root: four copies, an operand C
__host__ __device__ constexpr int cumulative_at(int pair) { return kRowBias + kPairCount + taps_before(pair) + pair; }
constexpr int kTableFloats = (cumulative_at(kPairCount) + 3) / 4 * 4;
static_assert(band_at(kCopyBand) == band_at(column_band(2)) + taps_of(2) + kGap, "bands follow each other");

// Fills the table of image channel `channel`. A whole warp calls it; this warp may read the table afterwards without a
// barrier. `words` (kTableWords) and `floats` (kTableFloats) are all zero for a channel past `channels`. kTurned
// reverses the taps of every band, and the order of the root's rows, as the gradient of the input needs them.
template <typename T, bool kTurned = false>
__device__ inline void load_channel_taps(const MscaConvWeights& w, int64_t channel, int64_t channels, uint32_t* words,
                                         float* floats) {
  constexpr int kBiasLane = kWarp - 1;  // the first lanes load each tensor's taps, the last one its bias
  const int lane = threadIdx.x % kWarp;
  const bool exists = channel < channels;
  if (!exists) channel = 0;
  // Every lane loads something, so that all loads are in flight together; value_of() drops what is not needed.
  const auto load = [&](const Tensor4& weight, const Tensor4& bias, int taps, int64_t offset) {
    const bool is_bias = lane == kBiasLane && bias.data != nullptr;
    const T* source = static_cast<const T*>(is_bias ? bias.data : weight.data);
    return load_global(source + channel * (is_bias ? bias.stride[0] : weight.stride[0]) + (lane < taps ? offset : 0));
  };
  const auto value_of = [&](T loaded, const Tensor4& bias, int taps) {
    const bool asked = lane < taps || (lane == kBiasLane && bias.data != nullptr);
    return exists && asked ? to_float(loaded) : 0.0f;
  };
  const int root_lane = kTurned ? kRoot * kRoot - 1 - lane : lane;
  const T loaded_root = load(w.root_weight, w.root_bias, kRoot * kRoot,
                             root_lane / kRoot * w.root_weight.stride[2] + root_lane % kRoot * w.root_weight.stride[3]);
  T loaded_row[kPairCount], loaded_column[kPairCount];
#pragma unroll
  for (int i = 0; i < kPairCount; ++i) {
    const int taps = taps_of(i), tap = kTurned ? taps - 1 - lane : lane;
    loaded_row[i] = load(w.row_weight[i], w.row_bias[i], taps, tap * w.row_weight[i].stride[3]);
    loaded_column[i] = load(w.column_weight[i], w.column_bias[i], taps, tap * w.column_weight[i].stride[2]);
  }
  const float root = value_of(loaded_root, w.root_bias, kRoot * kRoot);
  float row[kPairCount], column[kPairCount];
#pragma unroll
  for (int i = 0; i < kPairCount; ++i) {
    row[i] = value_of(loaded_row[i], w.row_bias[i], taps_of(i));
    column[i] = value_of(loaded_column[i], w.column_bias[i], taps_of(i));
  }
  for (int i = lane; i < kTableWords; i += kWarp) store_shared(words + i, 0u);
  __syncwarp();

  const auto store_band = [&](float value, int at, int tap, int taps) {
    const float next = __shfl_down_sync(kFullWarp, value, 1);
    if (tap >= 0 && tap < taps) store_shared(words + at + tap, pack_pair<T>(value, tap + 1 < taps ? next : 0.0f));
    if (tap == 0) store_shared(words + at - 1, pack_pair<T>(0.0f, value));
  };
  const int root_row = lane / kRoot;
  store_band(root, band_at(0) + root_row * (kRoot + kGap), root_row < kRoot ? lane % kRoot : -1, kRoot);
#pragma unroll
  for (int i = 0; i < kPairCount; ++i) {
    store_band(row[i], band_at(row_band(i)), lane, taps_of(i));
    store_band(column[i], band_at(column_band(i)), lane, taps_of(i));
  }
  store_band(1.0f, band_at(kCopyBand), lane, 1);

  float column_bias = 0.0f, inner_bias = 0.0f;
#pragma unroll
  for (int pair = 0; pair < kPairCount; ++pair) {
    float sum = column[pair];
    column_bias += sum;  // only the last lane's is used
#pragma unroll
    for (int step = 1; step < kWarp; step *= 2) {
      const float before = __shfl_up_sync(kFullWarp, sum, step);
      if (lane >= step) sum += before;
    }
    float* cumulative = floats + cumulative_at(pair);
    if (lane < taps_of(pair)) store_shared(cumulative + lane + 1, sum);
    if (lane == 0) store_shared(cumulative, 0.0f);
    const float all = __shfl_sync(kFullWarp, sum, taps_of(pair) - 1);
    inner_bias = fmaf(row[pair], all, inner_bias);
    if (lane == kBiasLane) store_shared(floats + kRowBias + pair, row[pair]);
  }
  if (lane == kBiasLane) {
#pragma unroll
    for (int i = 0; i < 4; ++i) store_shared(floats + kRootBias + i, root);
    store_shared(floats + kColumnBias, column_bias);
    store_shared(floats + kInnerBias, column_bias + inner_bias);
  }
  __syncwarp();
}

// This lane's place in a table: the word of t - g.
__device__ inline const uint32_t* lane_words(const uint32_t* words) {
  const int lane = threadIdx.x % kWarp;
  return words + lane % 4 * 2 - lane / 4;
}

// The block whose first tap is w[first]; zeros if it touches no tap.
template <int kBand>
__device__ inline uint32_t block(const uint32_t* lane_words, int first) {
  const bool touches = first >= -7 && first <= band_taps(kBand) + 6;
  return load_shared(lane_words + band_at(kBand) + (touches ? first : -8));
}

// Copies a word that occurs twice in the operands to a second register. If the compiler saw that the values are equal,
// or are zero, it would build the operand anew for every product that uses it. `zero` is a zero that it cannot
// recognise.
__device__ inline uint32_t second(uint32_t word, uint32_t zero) { return word | zero; }
__device__ inline uint32_t hidden_zero(const uint32_t* lane_words) { return block<0>(lane_words, -8); }

// Loads kCount operands A (16 x 16) that follow each other along k: A[m][k] = w[k - m + first], with k from 16 i on in
// a[i].
template <int kBand, int kCount>
__device__ inline void load_a(uint32_t (&a)[kCount][4], const uint32_t* lane_words, int first, uint32_t zero) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    a[i][0] = block<kBand>(lane_words, first + 16 * i);
    a[i][1] = i == 0 ? block<kBand>(lane_words, first - 8) : second(a[i - 1][2], zero);
    a[i][2] = block<kBand>(lane_words, first + 16 * i + 8);
    a[i][3] = second(a[i][0], zero);
  }
}

// Loads B (16 x 8) with B[k][n] = w[k - n + first].
template <int kBand>
__device__ inline void load_b(uint32_t (&b)[2], const uint32_t* lane_words, int first) {
  b[0] = block<kBand>(lane_words, first);
  b[1] = block<kBand>(lane_words, first + 8);
}

// Loads kCount such operands that overlap by half, with k from 8 i on in b[i].
template <int kBand, int kCount>
__device__ inline void load_b(uint32_t (&b)[kCount][2], const uint32_t* lane_words, int first, uint32_t zero) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    b[i][0] = i == 0 ? block<kBand>(lane_words, first) : second(b[i - 1][1], zero);
    b[i][1] = block<kBand>(lane_words, first + 8 * (i + 1));
  }
}

}  // namespace toeplitz
}  // namespace segnext
