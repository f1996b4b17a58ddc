// Third phase of conv_ffn on a GPU: fc2 of a slice of hidden channels, added to the sums of a tile.
#pragma once

#include "cuda/ptx.cuh"
#include "ops/conv_ffn/mix.cuh"

namespace segnext {

// Loads 8 elements at k of a row of a weight, with zeros past its end.
template <typename T>
__device__ inline Words load_weights(const Tensor4& weight, int row, int k) {
  Words words{};
  if (row < static_cast<int>(weight.size[0]) && k < static_cast<int>(weight.size[1])) {
    const T* at = static_cast<const T*>(weight.data) + (row * static_cast<int>(weight.stride[0]) + k);
    words = load_global(reinterpret_cast<const Words*>(at));
  }
  return words;
}

// fc2: (pixels, slice) x (slice, kOut), added to the warp's sums: tiles of two columns by eight lines, by 8 channels.
// Weights come from global memory in their own order, 16 bytes per lane: of 32 k, lane t = lane % 4 has 8 t to 8 t + 7,
// which are two steps of mma's 16. Step s takes k = 8 t + 4 s + 2 h + {0, 1} as its element 2 t + 8 h + {0, 1}, of the
// weights and of `mixed`, whose rows ldmatrix can read in any order.
template <typename T, typename S>
struct Reduce {
  static constexpr int kSteps = S::kSlice / 32;
  static constexpr bool kEven = S::kSumTiles * S::kWarpsP == S::kSets * kTileColumns / 2;  // a warp's are in one set

  unsigned first, tile;  // the warp's first output channel of the panel, and its first tile of pixels
  Words by[kSteps][S::kOutTiles];
  float sums[S::kSumTiles][S::kOutTiles][4];

  __device__ Reduce()
      : first(threadIdx.x / kWarp % S::kWarpsOut * S::kOutTiles * 8),
        tile(threadIdx.x / kWarp / S::kWarpsOut * S::kSumTiles) {
#pragma unroll
    for (int i = 0; i < S::kSumTiles; ++i) {
#pragma unroll
      for (int j = 0; j < S::kOutTiles; ++j) {
#pragma unroll
        for (int e = 0; e < 4; ++e) sums[i][j][e] = 0.0f;
      }
    }
  }

  // Loads the weights of a slice into registers.
  __device__ void prefetch(const ConvFfnWeights& w, int panel, int slice) {
    const unsigned lane = threadIdx.x % kWarp;
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
#pragma unroll
      for (int j = 0; j < S::kOutTiles; ++j) {
        const int row = panel * S::kOut + first + j * 8 + lane / 4, k = slice * S::kSlice + step * 32 + lane % 4 * 8;
        by[step][j] = load_weights<T>(w.fc2_weight, row, k);
      }
    }
  }

  __device__ void run(const T* mixed) {
    const unsigned lane = (S::kStays ? threadIdx.x : opaque(threadIdx.x)) % kWarp;
    const unsigned channel = lane % 8 / 2 * 8 + lane / 16 * 2 + lane % 2, column = lane / 8 % 2;
    const T* rows = mixed + channel * S::kMixedPitch + column * 8;
    const unsigned swizzle = Mix<T, S>::swizzle_of(channel);
#pragma unroll
    for (int i = 0; i < S::kSumTiles; ++i) {
      if (!kEven && tile + i >= S::kSets * kTileColumns / 2) break;
      // vectors of a channel, of which 14 of 16 are output; if kEven, four swizzled places serve a whole set
      const unsigned vector =
          kEven ? tile / S::kSumTiles * 16 + 2 * i / 8 * 8 + ((2 * i % 8) ^ swizzle) : (2 * (tile + i)) ^ swizzle;
      const T* columns = rows + vector * 8;
#pragma unroll
      for (int step = 0; step < 2 * kSteps; ++step) {
        uint32_t a[4];
        ldmatrix_x4_trans(a, columns + (step / 2 * 32 + step % 2 * 4) * S::kMixedPitch);
#pragma unroll
        for (int j = 0; j < S::kOutTiles; ++j) {
          const Words& words = by[step / 2][j];
          const uint32_t b[2] = {words.w[step % 2 * 2], words.w[step % 2 * 2 + 1]};
          mma_m16n8k16<T>(sums[i][j], a, b);
        }
      }
    }
  }

  // Stores the sums as (kOutputs, kOutPitch), with pixels by set, column, line.
  __device__ void store(float* target) const {
    const unsigned lane = threadIdx.x % kWarp;
    float* rows = target + (tile * 16 + lane / 4) * S::kOutPitch + first + lane % 4 * 2;
#pragma unroll
    for (int i = 0; i < S::kSumTiles; ++i) {
      if (!kEven && tile + i >= S::kSets * kTileColumns / 2) break;
#pragma unroll
      for (int j = 0; j < S::kOutTiles; ++j) {
#pragma unroll
        for (int second = 0; second < 2; ++second) {
          float* at = rows + (2 * i + second) * 8 * S::kOutPitch + j * 8;
          store_shared(reinterpret_cast<float2*>(at), make_float2(sums[i][j][2 * second], sums[i][j][2 * second + 1]));
        }
      }
    }
  }
};

}  // namespace segnext
