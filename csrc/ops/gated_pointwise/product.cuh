// One block's tile of a matrix product C = A B, kM x kN. cp.async stages both operands in shared memory.
//
// Operands keep the order that they have in memory: the axis with stride 1 is the inner axis of the staged tile, and
// ldmatrix transposes where the tensor cores need the other order. 16-bit types use mma.m16n8k16, 8 warps of 32 x 32.
// float uses FMAs, 8 x 4 results per thread, because TF32 would round the operands. kStages tiles along K form a ring
// with one barrier per tile: the stage that a barrier frees is filled right after it.
#pragma once

#include "common/tensor.h"
#include "cuda/device.cuh"
#include "cuda/fragments.cuh"
#include "cuda/ptx.cuh"

namespace segnext {

constexpr int kProductThreads = 256;

// An axis of a tensor. If `width` > 0 it consists of rows (H, W) that one stride cannot describe.
struct StridedAxis {
  int64_t size, stride, width, stride_row;

  __device__ int64_t offset(int64_t i) const {
    return width == 0 ? i * stride : i / width * stride_row + i % width * stride;
  }
};

inline StridedAxis plain_axis(int64_t size, int64_t stride) { return {size, stride, 0, 0}; }

// A matrix in global memory. `vectors`: the inner elements of every row can be read 16 bytes at a time, from multiples
// of 16 bytes, up to the last whole vector.
template <typename T>
struct MatrixView {
  T* data;
  StridedAxis outer, inner;
  bool vectors;
};

template <typename T>
MatrixView<T> matrix(T* data, const StridedAxis& outer, const StridedAxis& inner) {
  const bool vectors = inner.width == 0 && inner.stride == 1 &&
                       is_aligned16<T>(static_cast<const void*>(data), outer.stride, outer.stride_row);
  return {data, outer, inner, vectors};
}

// Whether every access is a whole vector at an offset without splits. Kernels with kPlain rely on it.
template <typename T>
bool is_plain(const MatrixView<T>& m) {
  return m.vectors && m.outer.width == 0 && m.inner.size % Vec16<T>::kSize == 0;
}

// How many of the `most` indices from `first` on exist.
__device__ inline int left_of(int64_t size, int64_t first, int most) {
  return size - first < most ? static_cast<int>(size - first) : most;
}

// Copies the tile [outer0, + kOuter) x [inner0, + kInner) to shared memory, with zeros outside the matrix. Rows are
// kInner elements plus one vector apart.
template <bool kPlain, int kOuter, int kInner, typename T>
__device__ inline void stage(const MatrixView<const T>& from, int64_t outer0, int64_t inner0, T* shared) {
  constexpr int kVec = Vec16<T>::kSize, kVecs = kInner / kVec;
  if constexpr (kPlain) {
    const int rows = left_of(from.outer.size, outer0, kOuter), columns = left_of(from.inner.size, inner0, kInner);
    const T* corner = from.data + outer0 * from.outer.stride + inner0;
#pragma unroll
    for (int i = 0; i < (kOuter * kVecs + kProductThreads - 1) / kProductThreads; ++i) {
      const int at = threadIdx.x + i * kProductThreads, row = at / kVecs, column = at % kVecs * kVec;
      if (kOuter * kVecs % kProductThreads != 0 && row >= kOuter) continue;
      const bool inside = row < rows && column < columns;
      const T* source = inside ? corner + row * from.outer.stride + column : from.data;
      cp_async16(shared + row * (kInner + kVec) + column, source, inside);
    }
  } else {
    for (int i = threadIdx.x; i < kOuter * kVecs; i += kProductThreads) {
      const int row = i / kVecs, column = i % kVecs * kVec;
      const int64_t outer = outer0 + row, inner = inner0 + column;
      T* target = shared + row * (kInner + kVec) + column;
      const bool inside = outer < from.outer.size && inner < from.inner.size;
      const T* source = from.data + (inside ? from.outer.offset(outer) : 0);
      if (!inside || (from.vectors && inner + kVec <= from.inner.size)) {
        if (from.vectors) {
          cp_async16(target, inside ? source + inner : from.data, inside);
        } else {
          Vec16<T>{}.store_shared(target);
        }
        continue;
      }
      for (int e = 0; e < kVec; ++e) {
        const bool exists = inner + e < from.inner.size;
        store_shared(target + e, exists ? load_global(source + from.inner.offset(inner + e)) : from_float<T>(0.0f));
      }
    }
  }
}

template <typename T, bool kAInnerK, bool kBInnerK>
struct ProductTile {
  static constexpr bool kTensorCores = sizeof(T) == 2;
  static constexpr int kM = 128, kN = 64, kK = 64 / static_cast<int>(sizeof(T)), kStages = 3;
  static constexpr int kPad = Vec16<T>::kSize;
  static constexpr int kLdA = (kAInnerK ? kK : kM) + kPad, kLdB = (kBInnerK ? kK : kN) + kPad;
  static constexpr int kSizeA = (kAInnerK ? kM : kK) * kLdA, kSizeB = (kBInnerK ? kN : kK) * kLdB;
  static constexpr size_t kSharedBytes = kStages * (kSizeA + kSizeB) * sizeof(T);

  // The part of C that this thread sums: 2 x 4 fragments, or rows ty + 16 i and columns tx + 16 j.
  float sums[8][4];

  __device__ void clear() {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) sums[i][j] = 0.0f;
    }
  }

  // Adds the products of `tiles` tiles along K. load(tile, a, b) stages one tile; inspect(a) is called with each staged
  // A.
  template <typename Load, typename Inspect>
  __device__ void add(int64_t tiles, T* shared, const Load& load, const Inspect& inspect) {
    for (int s = 0; s < kStages - 1; ++s) {
      if (s < tiles) load(s, shared + s * (kSizeA + kSizeB), shared + s * (kSizeA + kSizeB) + kSizeA);
      cp_async_commit();
    }
    for (int64_t tile = 0; tile < tiles; ++tile) {
      cp_async_wait<kStages - 2>();
      __syncthreads();
      const int64_t next = tile + kStages - 1;
      if (next < tiles) {
        T* stage_next = shared + next % kStages * (kSizeA + kSizeB);
        load(next, stage_next, stage_next + kSizeA);
      }
      cp_async_commit();
      const T* a = shared + tile % kStages * (kSizeA + kSizeB);
      inspect(a);
      if constexpr (kTensorCores) {
        multiply_fragments(a, a + kSizeA);
      } else {
        multiply_floats(a, a + kSizeA);
      }
    }
    cp_async_wait<0>();
    __syncthreads();  // the caller may now reuse the ring
  }

  // Calls visit(m, n, step, pair) for this thread's elements, two at a time: (m, n) and (m, n + step).
  template <typename Visit>
  __device__ void for_each_pair(const Visit& visit) const {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
#pragma unroll
      for (int j = 0; j < 4; j += 2) {
        const float2 pair = make_float2(sums[i][j], sums[i][j + 1]);
        if constexpr (kTensorCores) {
          const int lane = threadIdx.x % kWarp;
          visit(warp_m() + i / 4 * 16 + lane / 4 + j / 2 * 8, warp_n() + i % 4 * 8 + lane % 4 * 2, 1, pair);
        } else {
          visit(static_cast<int>(threadIdx.x) / 16 + 16 * i, static_cast<int>(threadIdx.x) % 16 + 16 * j, 16, pair);
        }
      }
    }
  }

 private:
  __device__ static int warp_m() { return threadIdx.x / kWarp / 2 * 32; }
  __device__ static int warp_n() { return threadIdx.x / kWarp % 2 * 32; }

  __device__ void multiply_fragments(const T* a, const T* b) {
#pragma unroll
    for (int k = 0; k < kK; k += 16) {
      uint32_t fragments_a[2][4], fragments_b[2][2][2];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int m = warp_m() + 16 * i;
        load_a_fragment<kAInnerK>(fragments_a[i], a + (kAInnerK ? m * kLdA + k : k * kLdA + m), kLdA);
      }
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const int n = warp_n() + 16 * j;
        load_b_fragments<kBInnerK>(fragments_b[j], b + (kBInnerK ? n * kLdB + k : k * kLdB + n), kLdB);
      }
#pragma unroll
      for (int i = 0; i < 2; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) mma_m16n8k16<T>(sums[i * 4 + j], fragments_a[i], fragments_b[j / 2][j % 2]);
      }
    }
  }

  // Loads four consecutive k of one row of A or one column of B.
  template <bool kInnerK>
  __device__ static void load_four(const T* tile, int ld, int row, int k, float (&four)[4]) {
    if constexpr (kInnerK) {
      Vec16<float>::load_shared(tile + row * ld + k).to_floats(four);
    } else {
#pragma unroll
      for (int e = 0; e < 4; ++e) four[e] = load_shared(tile + (k + e) * ld + row);
    }
  }

  __device__ void multiply_floats(const T* a, const T* b) {
    for (int k = 0; k < kK; k += 4) {
      float fours_b[4][4];
#pragma unroll
      for (int j = 0; j < 4; ++j) load_four<kBInnerK>(b, kLdB, threadIdx.x % 16 + 16 * j, k, fours_b[j]);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        float four_a[4];
        load_four<kAInnerK>(a, kLdA, threadIdx.x / 16 + 16 * i, k, four_a);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
#pragma unroll
          for (int e = 0; e < 4; ++e) sums[i][j] = fmaf(four_a[e], fours_b[j][e], sums[i][j]);
        }
      }
    }
  }
};

}  // namespace segnext
