// First phase of conv_ffn on a GPU: fc1 makes a slice of hidden channels of a tile with its halo.
#pragma once

#include "cuda/fragments.cuh"
#include "cuda/ptx.cuh"
#include "ops/conv_ffn/shape.cuh"

namespace segnext {

// Copies fc1's weights of a slice to shared memory, with zeros past the weights' end.
template <typename T, typename S>
__device__ inline void load_expansion(const Tensor4& weight, int slice, T* shared) {
  constexpr unsigned kVectors = S::kIn / 8;
#pragma unroll 1
  for (unsigned i = threadIdx.x; i < S::kSlice * kVectors; i += S::kThreads) {
    const int row = slice * S::kSlice + i / kVectors, k = i % kVectors * 8;
    const bool given = row < static_cast<int>(weight.size[0]) && k < static_cast<int>(weight.size[1]);
    const T* from = static_cast<const T*>(weight.data) + (given ? row * weight.stride[0] + k : 0);
    cp_async16(shared + i / kVectors * S::kPitch + k, from, given);
  }
  cp_async_commit();
}

// Loads one bias of fc1 in each of a block's first threads.
template <typename T, typename S>
__device__ inline float expansion_bias(const Tensor4& bias, int slice) {
  const int e = slice * S::kSlice + threadIdx.x;
  const bool given = threadIdx.x < S::kSlice && e < static_cast<int>(bias.size[0]);
  return given ? to_float(load_global(static_cast<const T*>(bias.data) + e)) : 0.0f;
}

// fc1: (slice, kIn) x (kIn, pixels) + bias goes to `hidden`, with zeros outside the image.
template <typename T, typename S>
struct Expand {
  static constexpr int kSteps = S::kIn / 16, kUnroll = kSteps > 10 ? 1 : kSteps / 2;  // more unrolling would spill
  unsigned lane, group, row, half;  // the warp's first tile of pixels, its first hidden channel, its half of the lines
  bool inside[2];                   // whether a lane's two columns are in the image
  int first_line, last_line;        // the lines that are in the image

  __device__ Expand(const FfnTile& at, unsigned thread)
      : lane(thread % kWarp),
        group(thread / kWarp / S::kWarpsM),
        row(thread / kWarp % S::kWarpsM * S::kRowTiles * 16),
        half(group % 2),
        first_line(at.top == 0 ? 1 : 0),
        last_line(at.height - at.top) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int column = at.left - 1 + static_cast<int>(half * 8 + lane % 4 * 2) + i;
      inside[i] = column >= 0 && column < at.width;
    }
  }

  __device__ NotFinite<T> run(const float* bias, const T* x, const T* weight, T* hidden) const {
    float biases[S::kRowTiles][4];
#pragma unroll
    for (int tile = 0; tile < S::kRowTiles; ++tile) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        biases[tile][i] = inside[i % 2] ? load_shared(bias + row + tile * 16 + i / 2 * 8 + lane / 4) : 0.0f;
      }
    }
    NotFinite<T> bad;
#pragma unroll
    for (int first = 0; first < S::kPixelTiles; first += S::kAtOnce) {
      float d[S::kRowTiles][S::kAtOnce][4];
#pragma unroll
      for (int tile = 0; tile < S::kRowTiles; ++tile) {
#pragma unroll
        for (int i = 0; i < S::kAtOnce; ++i) {
#pragma unroll
          for (int e = 0; e < 4; ++e) d[tile][i][e] = biases[tile][e];
        }
      }
      multiply(d, x + (first * S::kWarpsN + group) * 8 * S::kPitch, weight + row * S::kPitch);
      store(d, first, hidden, bad);
    }
    if (first_line > 0 || last_line < S::kLines - 1) clear_outside(hidden);
    return bad;
  }

 private:
  // The line of the warp's i-th tile.
  __device__ unsigned line_of(unsigned i) const { return i * (S::kWarpsN / 2) | (group / 2 & (S::kWarpsN / 2 - 1)); }

  __device__ void multiply(float (&d)[S::kRowTiles][S::kAtOnce][4], const T* x, const T* weight) const {
    const T* row = x + lane % 8 * S::kPitch + lane / 8 * 8;  // four vectors of 8 k: two steps
#pragma unroll(kUnroll)
    for (int step = 0; step < kSteps; step += 2) {
      uint32_t a[2][S::kRowTiles][4];
#pragma unroll
      for (int s = 0; s < 2; ++s) {
#pragma unroll
        for (int tile = 0; tile < S::kRowTiles; ++tile) {
          load_a_fragment<true>(a[s][tile], weight + tile * 16 * S::kPitch + (step + s) * 16, S::kPitch);
        }
      }
#pragma unroll
      for (int i = 0; i < S::kAtOnce; ++i) {
        uint32_t b[4];
        ldmatrix_x4(b, row + i * S::kWarpsN * 8 * S::kPitch + step * 16);
#pragma unroll
        for (int s = 0; s < 2; ++s) {
          const uint32_t right[2] = {b[2 * s], b[2 * s + 1]};
#pragma unroll
          for (int tile = 0; tile < S::kRowTiles; ++tile) mma_m16n8k16<T>(d[tile][i], a[s][tile], right);
        }
      }
    }
  }

  __device__ T* target_of(T* hidden, int i) const {
    return hidden + (row + lane / 4) * S::kHiddenPitch + hidden_vector<S>(half, line_of(i)) * 8 + lane % 4 * 2;
  }

  __device__ void store(const float (&d)[S::kRowTiles][S::kAtOnce][4], int first, T* hidden, NotFinite<T>& bad) const {
#pragma unroll
    for (int i = 0; i < S::kAtOnce; ++i) {
      T* target = target_of(hidden, first + i);
#pragma unroll
      for (int tile = 0; tile < S::kRowTiles; ++tile) {
#pragma unroll
        for (int upper = 0; upper < 2; ++upper) {
          const uint32_t pair = pack_pair<T>(d[tile][i][2 * upper], d[tile][i][2 * upper + 1]);
          bad.add(pair);
          store_shared(reinterpret_cast<uint32_t*>(target + (tile * 16 + upper * 8) * S::kHiddenPitch), pair);
        }
      }
    }
  }

  // The depthwise convolution's border consists of zeros, not of biases.
  __device__ void clear_outside(T* hidden) const {
#pragma unroll 1
    for (int i = 0; i < S::kPixelTiles; ++i) {
      const int line = line_of(i);
      if (line >= first_line && line <= last_line) continue;
#pragma unroll
      for (int e = 0; e < 2 * S::kRowTiles; ++e) {
        store_shared(reinterpret_cast<uint32_t*>(target_of(hidden, i) + e * 8 * S::kHiddenPitch), 0u);
      }
    }
  }
};

}  // namespace segnext
