// Depthwise strips as products with banded Toeplitz matrices, T[i][j] = w[j - i + first], for mma.m16n8k16 and m16n8k8
// in 16-bit types, and SegNeXt's taps laid out for them. A band is one line of taps: a row of the root, or a strip.
//
// In every fragment of mma a register holds two neighbours along k: elements (i, j) and (i, j + 1) with j - i = t - g
// plus a constant, where g = lane / 4 and t = 2 (lane % 4). So a Toeplitz matrix is made of 8 x 8 blocks, and a block
// is one word of the table below, the pair (w[d], w[d + 1]) with d = first + t - g. Blocks that touch no tap are zero.
// The table of a channel has all bands one after the other, kGap zeros between them: see load_channel_taps().
#pragma once

#include <cstring>

#include "common/device.cuh"
#include "common/ptx.cuh"
#include "msca_conv/msca_conv.h"

namespace segnext {
namespace toeplitz {

// SegNeXt's sizes.
constexpr int kRoot = 5, kPairCount = 3;
__host__ __device__ constexpr int taps_of(int pair) { return pair == 0 ? 7 : pair == 1 ? 11 : 21; }
__host__ __device__ constexpr int half_of(int pair) { return taps_of(pair) / 2; }

// Bands: the root's rows, then row and column strip of each pair.
constexpr int kBandCount = kRoot + 2 * kPairCount;
__host__ __device__ constexpr int row_band(int pair) { return kRoot + 2 * pair; }
__host__ __device__ constexpr int column_band(int pair) { return kRoot + 2 * pair + 1; }
__host__ __device__ constexpr int band_taps(int band) { return band < kRoot ? kRoot : taps_of((band - kRoot) / 2); }

// Words of a channel's table: band_at(band) + d is the pair (w[d], w[d + 1]), for d from -14 to taps + 12.
constexpr int kGap = 14;
__host__ __device__ constexpr int band_at(int band) {
  int at = kGap;
  for (int i = 0; i < band; ++i) at += band_taps(i) + kGap;
  return at;
}
constexpr int kTableWords = band_at(kBandCount);

// A channel's biases, and running sums of its column strips' taps: cumulative_at(pair) + n is the sum of the first n.
constexpr int kRootBias = 0, kColumnBias = 1,
              kRowBias = 2;  // the columns' is the sum of all three; the rows' are three
__host__ __device__ constexpr int cumulative_at(int pair) {
  int at = kRowBias + kPairCount;
  for (int i = 0; i < pair; ++i) at += taps_of(i) + 1;
  return at;
}
constexpr int kTableFloats = cumulative_at(kPairCount);

template <typename T>
__device__ inline uint32_t pack(float low, float high);
template <>
__device__ inline uint32_t pack<__half>(float low, float high) {
  const __half2 both = __floats2half2_rn(low, high);
  uint32_t result;
  memcpy(&result, &both, sizeof result);
  return result;
}
template <>
__device__ inline uint32_t pack<__nv_bfloat16>(float low, float high) {
  const __nv_bfloat162 both = __floats2bfloat162_rn(low, high);
  uint32_t result;
  memcpy(&result, &both, sizeof result);
  return result;
}

// Fills the table of image channel `channel`; by a whole warp, which alone may read it afterwards without a barrier.
// `words` (kTableWords), `floats` (kTableFloats); all zero for a channel past `channels`. With kTurned the taps of
// every band, and the root's rows, stand in reverse order, as the gradient of the input needs them.
template <typename T, bool kTurned = false>
__device__ inline void load_channel_taps(const MscaConvWeights& w, int64_t channel, int64_t channels, uint32_t* words,
                                         float* floats) {
  constexpr int kBiasLane = kWarp - 1;  // each tensor's taps by the first lanes, its bias by the last: one load
  const int lane = threadIdx.x % kWarp;
  const auto load = [&](const Tensor4& weight, const Tensor4& bias, int taps, int64_t offset) {
    const T* source = nullptr;
    if (lane < taps) {
      source = static_cast<const T*>(weight.data) + channel * weight.stride[0] + offset;
    } else if (lane == kBiasLane && bias.data != nullptr) {
      source = static_cast<const T*>(bias.data) + channel * bias.stride[0];
    }
    return source != nullptr && channel < channels ? to_float(load_global(source)) : 0.0f;
  };
  const int root_lane = kTurned ? kRoot * kRoot - 1 - lane : lane;
  const float root = load(w.root_weight, w.root_bias, kRoot * kRoot,
                          root_lane / kRoot * w.root_weight.stride[2] + root_lane % kRoot * w.root_weight.stride[3]);
  float strips[2 * kPairCount];
#pragma unroll
  for (int i = 0; i < 2 * kPairCount; ++i) {
    const int taps = taps_of(i / 2);
    const Tensor4& weight = w.strip_weight[i];
    strips[i] = load(weight, w.strip_bias[i], taps, (kTurned ? taps - 1 - lane : lane) * weight.stride[3 - i % 2]);
  }
  for (int i = lane; i < kTableWords; i += kWarp) store_shared(words + i, 0u);
  __syncwarp();

  const auto store_band = [&](float value, int at, int tap, int taps) {
    const float next = __shfl_down_sync(kFullWarp, value, 1);
    if (tap >= 0 && tap < taps) store_shared(words + at + tap, pack<T>(value, tap + 1 < taps ? next : 0.0f));
    if (tap == 0) store_shared(words + at - 1, pack<T>(0.0f, value));
  };
  const int root_row = lane / kRoot;
  store_band(root, band_at(0) + root_row * (kRoot + kGap), root_row < kRoot ? lane % kRoot : -1, kRoot);
#pragma unroll
  for (int i = 0; i < 2 * kPairCount; ++i) store_band(strips[i], band_at(kRoot + i), lane, taps_of(i / 2));

  float column_bias = 0.0f;
#pragma unroll
  for (int pair = 0; pair < kPairCount; ++pair) {
    float sum = strips[2 * pair + 1];
    column_bias += sum;  // of the last lane alone
#pragma unroll
    for (int step = 1; step < kWarp; step *= 2) {
      const float before = __shfl_up_sync(kFullWarp, sum, step);
      if (lane >= step) sum += before;
    }
    float* cumulative = floats + cumulative_at(pair);
    if (lane < taps_of(pair)) store_shared(cumulative + lane + 1, sum);
    if (lane == 0) store_shared(cumulative, 0.0f);
    if (lane == kBiasLane) store_shared(floats + kRowBias + pair, strips[2 * pair]);
  }
  if (lane == kBiasLane) {
    store_shared(floats + kRootBias, root);
    store_shared(floats + kColumnBias, column_bias);
  }
  __syncwarp();
}

// This lane's place in a table: the word of t - g.
__device__ inline const uint32_t* lane_words(const uint32_t* words) {
  const int lane = threadIdx.x % kWarp;
  return words + lane % 4 * 2 - lane / 4;
}

// The block whose first tap is w[first]: nothing is loaded where it touches no tap.
template <int kBand>
__device__ inline uint32_t block(const uint32_t* lane_words, int first) {
  if (first < -7 || first > band_taps(kBand) + 6) return 0;
  return load_shared(lane_words + band_at(kBand) + first);
}

// A (16 x 16) with A[m][k] = w[k - m + first].
template <int kBand>
__device__ inline void load_a(uint32_t (&a)[4], const uint32_t* lane_words, int first) {
  a[0] = block<kBand>(lane_words, first);
  a[1] = block<kBand>(lane_words, first - 8);
  a[2] = block<kBand>(lane_words, first + 8);
  a[3] = a[0];
}

// B (16 x 8) with B[k][n] = w[k - n + first].
template <int kBand>
__device__ inline void load_b(uint32_t (&b)[2], const uint32_t* lane_words, int first) {
  b[0] = block<kBand>(lane_words, first);
  b[1] = block<kBand>(lane_words, first + 8);
}

}  // namespace toeplitz
}  // namespace segnext
