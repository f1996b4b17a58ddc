// Second phase of conv_ffn on a GPU: the depthwise 3x3 and GELU of a slice of hidden channels.
#pragma once

#include "cuda/gelu.cuh"
#include "cuda/ptx.cuh"
#include "ops/conv_ffn/shape.cuh"

namespace segnext {

// The depthwise taps of a slice as Toeplitz matrices in the registers of a product's left operand, T[m][k] = w[k - m].
// There are seven vectors per channel and row of taps, and each lane reads the one that it needs: {pair, 0, 0, pair}
// for each of the pairs (w0, w1), (w2, 0), (0, w0) and (w1, w2); then zeros only; then {0, 0, pair, 0} for the second
// and the fourth pair.
constexpr unsigned kTapVectors = 7;

// Writes the zeros among them, once for all slices.
template <typename S>
__device__ inline void clear_taps(Words* taps) {
#pragma unroll 1
  for (unsigned i = threadIdx.x; i < S::kSlice * 3 * kTapVectors; i += S::kThreads) store_shared(taps + i, Words{});
}

// One row of taps of a channel in each of a block's first threads: load() reads it to registers, store() writes `taps`.
template <typename T, typename S>
struct TapRow {
  static_assert(3 * S::kSlice <= S::kThreads, "a thread a row");
  uint32_t bits[3];
  float bias;

  __device__ void load(const ConvFfnWeights& w, int slice) {
    const unsigned row = threadIdx.x % 3, e = slice * S::kSlice + threadIdx.x / 3;
    const bool given = threadIdx.x < 3 * S::kSlice && e < static_cast<unsigned>(w.dw_weight.size[0]);
#pragma unroll
    for (int tap = 0; tap < 3; ++tap) {
      const unsigned from = e * static_cast<unsigned>(w.dw_weight.stride[0]) +
                            row * static_cast<unsigned>(w.dw_weight.stride[2]) +
                            tap * static_cast<unsigned>(w.dw_weight.stride[3]);
      bits[tap] = given ? bits_of(load_global(static_cast<const T*>(w.dw_weight.data) + from)) : 0;
    }
    bias = given && row == 0 ? to_float(load_global(static_cast<const T*>(w.dw_bias.data) + e)) : 0.0f;
  }

  __device__ void store(Words* taps, float* biases) const {
    if (threadIdx.x >= 3 * S::kSlice) return;
    const uint32_t pairs[4] = {bits[0] | bits[1] << 16, bits[2], bits[0] << 16, bits[1] | bits[2] << 16};
    Words* target = taps + threadIdx.x * kTapVectors;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      store_shared(target[j].w, pairs[j]);
      store_shared(target[j].w + 3, pairs[j]);
    }
    store_shared(target[5].w + 2, pairs[1]);
    store_shared(target[6].w + 2, pairs[3]);
    if (threadIdx.x % 3 == 0) store_shared(biases + threadIdx.x / 3, bias);
  }
};

// The depthwise 3x3 and GELU, from `hidden` to `mixed`. For each channel and row of taps it is a product of the
// Toeplitz matrix with 16 columns by 8 lines. 14 of the 16 columns have all their taps.
template <typename T, typename S>
struct Mix {
  static constexpr unsigned kChannels = S::kSlice / S::kWarps;  // channels per warp
  static_assert(8 % kChannels == 0, "one swizzle for all of them");

  // The index of the vector of a row that a lane reads, by k - m of its first element.
  __device__ static unsigned vector_of(int difference) {
    switch (difference) {
      case 0:
        return 0;
      case 2:
        return 1;
      case -1:
        return 2;
      case 1:
        return 3;
      case 2 - 8:
        return 5;
      case 1 - 8:
        return 6;
      default:
        return 4;
    }
  }

  __device__ static void run(unsigned thread, const T* hidden, const Words* taps, const float* biases, T* mixed) {
    const unsigned lane = thread % kWarp, first = thread / kWarp * kChannels;
    taps += first * 3 * kTapVectors + vector_of(static_cast<int>(lane % 4 * 2) - static_cast<int>(lane / 4));
    const T* operand = hidden + first * S::kHiddenPitch +
                       (lane / 16 * hidden_vector<S>(0, 1) + lane / 8 % 2 * S::kLines + lane % 8) * 8;
    T* target = mixed + first * S::kMixedPitch + ((lane / 4) ^ swizzle_of(first)) * 8 + lane % 4 * 2;
    T* upper = mixed + first * S::kMixedPitch + ((lane / 4 + 8) ^ swizzle_of(first)) * 8 + lane % 4 * 2;
    biases += first;
#pragma unroll 4
    for (unsigned i = 0; i < kChannels; ++i) {
      uint32_t toeplitz[3][4];
#pragma unroll
      for (int row = 0; row < 3; ++row) {
        const Words words = load_shared(taps + (i * 3 + row) * kTapVectors);
#pragma unroll
        for (int j = 0; j < 4; ++j) toeplitz[row][j] = words.w[j];
      }
      const float bias = load_shared(biases + i);
      uint32_t columns[S::kSets + 2][2];
      load_columns(columns, operand + i * S::kHiddenPitch);
#pragma unroll
      for (int set = 0; set < S::kSets; ++set) {
        float d[4] = {bias, bias, bias, bias};
#pragma unroll
        for (int row = 0; row < 3; ++row) mma_m16n8k16<T>(d, toeplitz[row], columns[set + row]);
#pragma unroll
        for (int j = 0; j < 4; ++j) d[j] = gelu<T>(d[j]);
        const unsigned at = i * S::kMixedPitch + set * 128;
        store_shared(reinterpret_cast<uint32_t*>(target + at), pack_pair<T>(d[0], d[1]));
        store_shared(reinterpret_cast<uint32_t*>(upper + at), pack_pair<T>(d[2], d[3]));
      }
    }
  }

  // The same by the definition, for slices with NaN or infinity: multiplied by the zeros beside the taps, these would
  // make other outputs NaN.
  __device__ static void run_plainly(const T* hidden, const Words* taps, const float* biases, T* mixed) {
#pragma unroll 1
    for (unsigned i = threadIdx.x; i < S::kSlice * S::kOutputs; i += S::kThreads) {
      const unsigned channel = i / S::kOutputs, line = i % S::kOutputs / kTileColumns, column = i % kTileColumns;
      float sum = load_shared(biases + channel);
#pragma unroll 1
      for (unsigned row = 0; row < 3; ++row) {
        const Words* words = taps + (channel * 3 + row) * kTapVectors;
        const uint32_t first = load_shared(words->w), last = load_shared(words[1].w);
        const float by[3] = {to_float(low_of<T>(first)), to_float(low_of<T>(first >> 16)), to_float(low_of<T>(last))};
#pragma unroll
        for (int tap = 0; tap < 3; ++tap) {
          const unsigned from = column + tap;
          const T* at = hidden + channel * S::kHiddenPitch + hidden_vector<S>(from / 8, line + row) * 8 + from % 8;
          sum = fmaf(by[tap], to_float(load_shared(at)), sum);
        }
      }
      const unsigned vector = (line % S::kSets * 16 + column) ^ swizzle_of(channel);
      store_shared(mixed + channel * S::kMixedPitch + vector * 8 + line / S::kSets, from_float<T>(gelu<T>(sum)));
    }
  }

  // Swizzles vectors of 8 lines of `mixed`, so that the channels of one operand of fc2 lie in different banks.
  __device__ static unsigned swizzle_of(unsigned channel) { return channel / 8 % 4 * 2; }

 private:
  // Loads sets 0 to kSets + 1 of eight lines each: the lines set + kSets n.
  __device__ static void load_columns(uint32_t (&columns)[S::kSets + 2][2], const T* operand) {
#pragma unroll
    for (int set = 0; set < S::kSets + 2; set += 2) {
      const T* at = operand + hidden_vector<S>(0, set) * 8;
      if (set + 1 < S::kSets + 2) {  // lanes from 16 on load the next set
        uint32_t both[4];
        ldmatrix_x4(both, at);
        columns[set][0] = both[0];
        columns[set][1] = both[1];
        columns[set + 1][0] = both[2];
        columns[set + 1][1] = both[3];
      } else {
        ldmatrix_x2(columns[set], at);
      }
    }
  }
};

}  // namespace segnext
