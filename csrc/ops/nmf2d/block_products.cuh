// The two products of nmf2d over a tile of pixels in shared memory. All threads of a block take part in each:
//   rows_times   (pixels x K)(K x columns): Xᵀ bases, coef Gram, coef basesᵀ
//   outer_sum    (pixels x M)ᵀ(pixels x columns): X coef, coefᵀ coef
// In floats, a thread makes 4 x 4 results (fewer pixels if threads would be idle), with sums in blocks of 64 terms, as
// accurate as PyTorch's. For 16-bit X the products run on tensor cores. The float operand is split into two bfloat16,
// value = high + low to 2^-17, so two mma replace one and the state keeps the precision that rounding would lose. A
// float16 X is exactly the sum of two bfloat16 (8 and 3 of its 11 bits): it takes three mma and does not limit the
// state to float16's range.
#pragma once

#include "cuda/device.cuh"
#include "cuda/fragments.cuh"
#include "cuda/ptx.cuh"

namespace segnext {

constexpr int kNmfThreads = 256;
constexpr int kSumBlock = 64;

template <typename T>
struct alignas(4 * sizeof(T)) Four {
  T values[4];
};

template <typename T>
__device__ inline void load_four(const T* shared, float (&four)[4]) {
  const Four<T> loaded = load_shared(reinterpret_cast<const Four<T>*>(shared));
#pragma unroll
  for (int e = 0; e < 4; ++e) four[e] = to_float(loaded.values[e]);
}

__device__ inline void store_four(float* shared, const float (&four)[4]) {
  Vec16<float>::from_floats(four).store_shared(shared);
}

// Stores two elements at once, at an address aligned to both.
template <typename T>
__device__ inline void store_two(T* shared, float first, float second) {
  struct alignas(2 * sizeof(T)) Pair {
    T values[2];
  };
  store_shared(reinterpret_cast<Pair*>(shared), Pair{{from_float<T>(first), from_float<T>(second)}});
}

template <int kRows>
struct ThreadSums {
  float values[kRows][4];

  __device__ void clear() {
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) values[i][j] = 0.0f;
    }
  }
  __device__ void add(const ThreadSums& other) {
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) values[i][j] += other.values[i][j];
    }
  }
};

template <int kRows, typename T, typename Sink>
__device__ inline void rows_times_by(const T* rows, int ld, int count, int terms, const float* weights, int ld_weights,
                                     int columns, const Sink& sink) {
  const int column_units = columns / 4;
  for (int unit = threadIdx.x; unit < count / kRows * column_units; unit += kNmfThreads) {
    const int row = unit / column_units * kRows, column = unit % column_units * 4;
    ThreadSums<kRows> total, sums;
    total.clear();
    for (int k0 = 0; k0 < terms; k0 += kSumBlock) {
      sums.clear();
      const int end = k0 + kSumBlock < terms ? k0 + kSumBlock : terms;
      for (int k = k0; k < end; k += 4) {
        float factors[4][4];
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const float* source = weights + static_cast<int64_t>(k + e) * ld_weights + column;
          reinterpret_cast<const Vec16<float>*>(source)->to_floats(factors[e]);
        }
#pragma unroll
        for (int i = 0; i < kRows; ++i) {
          float four[4];
          load_four(rows + (row + i) * ld + k, four);
#pragma unroll
          for (int e = 0; e < 4; ++e) {
#pragma unroll
            for (int j = 0; j < 4; ++j) sums.values[i][j] = fmaf(four[e], factors[e][j], sums.values[i][j]);
          }
        }
      }
      total.add(sums);
    }
#pragma unroll
    for (int i = 0; i < kRows; ++i) sink(row + i, column, total.values[i]);
  }
}

// Calls sink(row, column, four sums) with rows [0, count) of `rows`, which is in shared memory, times `weights` (terms,
// columns), in any memory. terms, columns and count are multiples of 4.
template <typename T, typename Sink>
__device__ inline void rows_times(const T* rows, int ld, int count, int terms, const float* weights, int ld_weights,
                                  int columns, const Sink& sink) {
  if (count * columns / 16 >= kNmfThreads) {
    rows_times_by<4>(rows, ld, count, terms, weights, ld_weights, columns, sink);
  } else {
    rows_times_by<1>(rows, ld, count, terms, weights, ld_weights, columns, sink);
  }
}

// Stores four results in `out`, or adds them to it.
__device__ inline void put_four(float* out, const float (&sums)[4], bool accumulate) {
  Vec16<float> result = Vec16<float>::from_floats(sums);
  if (accumulate) {
    const Vec16<float> before = *reinterpret_cast<const Vec16<float>*>(out);
#pragma unroll
    for (int j = 0; j < 4; ++j) result.values[j] += before.values[j];
  }
  *reinterpret_cast<Vec16<float>*>(out) = result;
}

// out[m][c] = (or +=) sum over pixels of left[pixel][m] right[pixel][c], with m and columns multiples of 4. `out`
// belongs to this block, in shared or global memory; the same thread always handles the same element.
template <typename T>
__device__ inline void outer_sum(const T* left, int ld_left, int m, const float* right, int ld_right, int columns,
                                 int pixels, float* out, int ld_out, bool accumulate) {
  const int column_units = columns / 4;
  for (int unit = threadIdx.x; unit < m / 4 * column_units; unit += kNmfThreads) {
    const int row = unit / column_units * 4, column = unit % column_units * 4;
    ThreadSums<4> total, sums;
    total.clear();
    for (int p0 = 0; p0 < pixels; p0 += kSumBlock) {
      sums.clear();
      const int end = p0 + kSumBlock < pixels ? p0 + kSumBlock : pixels;
      for (int p = p0; p < end; ++p) {
        float lefts[4], rights[4];
        load_four(left + p * ld_left + row, lefts);
        load_four(right + p * ld_right + column, rights);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
#pragma unroll
          for (int j = 0; j < 4; ++j) sums.values[i][j] = fmaf(lefts[i], rights[j], sums.values[i][j]);
        }
      }
      total.add(sums);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      put_four(out + static_cast<int64_t>(row + i) * ld_out + column, total.values[i], accumulate);
    }
  }
}

struct alignas(8) Two {
  float values[2];
};

struct Split {
  __nv_bfloat16 high, low;
};

__device__ inline uint32_t bits_of(__nv_bfloat16 first, __nv_bfloat16 second) {
  return __bfloat16_as_ushort(first) | static_cast<uint32_t>(__bfloat16_as_ushort(second)) << 16;
}

__device__ inline Split split(float value) {
  const __nv_bfloat16 high = from_float<__nv_bfloat16>(value);
  const float rest = value - to_float(high);
  return {high, from_float<__nv_bfloat16>(isfinite(rest) ? rest : 0.0f)};  // inf - inf would be NaN
}

// d += (a high + a low) (b high + b low) without the product of the low parts.
__device__ inline void multiply_split(float (&d)[4], const uint32_t (&a_high)[4], const uint32_t (&a_low)[4],
                                      const uint32_t (&b_high)[2], const uint32_t (&b_low)[2]) {
  mma_m16n8k16<__nv_bfloat16>(d, a_low, b_high);
  mma_m16n8k16<__nv_bfloat16>(d, a_high, b_low);
  mma_m16n8k16<__nv_bfloat16>(d, a_high, b_high);
}

// d += a (b high + b low), where a is a fragment of X.
__device__ inline void multiply_fragment(float (&d)[4], const __nv_bfloat16*, const uint32_t (&a)[4],
                                         const uint32_t (&b_high)[2], const uint32_t (&b_low)[2]) {
  mma_m16n8k16<__nv_bfloat16>(d, a, b_low);
  mma_m16n8k16<__nv_bfloat16>(d, a, b_high);
}
__device__ inline void multiply_fragment(float (&d)[4], const __half*, const uint32_t (&a)[4],
                                         const uint32_t (&b_high)[2], const uint32_t (&b_low)[2]) {
  uint32_t a_high[4], a_low[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const Split first = split(__half2float(__ushort_as_half(static_cast<unsigned short>(a[i]))));
    const Split second = split(__half2float(__ushort_as_half(static_cast<unsigned short>(a[i] >> 16))));
    a_high[i] = bits_of(first.high, second.high);
    a_low[i] = bits_of(first.low, second.low);
  }
  multiply_split(d, a_high, a_low, b_high, b_low);
}

// Stores an element of a (K x columns) matrix of floats as part of B fragments, high and low. For each 16 x 8 of the
// matrix, the 16 bytes of every lane are contiguous, in the order in which rows_times_fragments reads them.
__device__ inline void pack_fragment(__nv_bfloat16* packed, int columns, int k, int column, float value) {
  const int64_t fragment = static_cast<int64_t>(k / 16) * (columns / 8) + column / 8;
  const int lane = column % 8 * 4 + k % 8 / 2;
  __nv_bfloat16* target = packed + (fragment * kWarp + lane) * 8 + k % 16 / 8 * 2 + k % 2;
  const Split parts = split(value);
  store_global(target, parts.high);
  store_global(target + 4, parts.low);
}

// State in shared memory as the sum of two bfloat16 matrices.
struct SplitMatrix {
  __nv_bfloat16 *high, *low;

  __device__ SplitMatrix at(int offset) const { return {high + offset, low + offset}; }
};

// 16 x 16 of state as the right factor: two fragments side by side, each in two parts.
struct StateFragments {
  uint32_t high[2][2], low[2][2];

  // Element (k, n) is row k, column n of `parts`.
  __device__ void load(const SplitMatrix& parts, int ld) {
    load_b_fragments<false>(high, parts.high, ld);
    load_b_fragments<false>(low, parts.low, ld);
  }
  // Loads 16 rows of a symmetric matrix of floats in global memory; a row serves as a column.
  __device__ void load_symmetric(const float* rows, int ld) {
    const int lane = threadIdx.x % kWarp;
#pragma unroll
    for (int j = 0; j < 2; ++j) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const Two two =
            load_global(reinterpret_cast<const Two*>(rows + (8 * j + lane / 4) * ld + 8 * half + lane % 4 * 2));
        const Split first = split(two.values[0]), second = split(two.values[1]);
        high[j][half] = bits_of(first.high, second.high);
        low[j][half] = bits_of(first.low, second.low);
      }
    }
  }
};

__device__ inline void store_parts(const SplitMatrix& parts, int at, const float (&values)[2]) {
  const Split first = split(values[0]), second = split(values[1]);
  store_shared(reinterpret_cast<uint32_t*>(parts.high + at), bits_of(first.high, second.high));
  store_shared(reinterpret_cast<uint32_t*>(parts.low + at), bits_of(first.low, second.low));
}

// matrixᵀ matrix of a (rows, 16) matrix in two parts. Each warp adds every eighth group of 16 rows and stores the
// result in its own `sums`.
__device__ inline void gram_fragments(const SplitMatrix& parts, int ld, int rows, float* sums) {
  const int lane = threadIdx.x % kWarp;
  float total[2][4] = {};
  for (int k = threadIdx.x / kWarp * 16; k < rows; k += kNmfThreads / kWarp * 16) {
    const SplitMatrix own = parts.at(k * ld);
    uint32_t high[4], low[4];
    load_a_fragment<false>(high, own.high, ld);
    load_a_fragment<false>(low, own.low, ld);
    StateFragments right;
    right.load(own, ld);
#pragma unroll
    for (int j = 0; j < 2; ++j) multiply_split(total[j], high, low, right.high[j], right.low[j]);
  }
#pragma unroll
  for (int j = 0; j < 2; ++j) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      Two* target = reinterpret_cast<Two*>(sums + (lane / 4 + 8 * half) * 16 + 8 * j + lane % 4 * 2);
      store_shared(target, Two{{total[j][2 * half], total[j][2 * half + 1]}});
    }
  }
}

struct alignas(16) FragmentPair {
  uint32_t high[2], low[2];
};

// rows_times on tensor cores, with packed weights; count, terms and columns are multiples of 16. Each call of the sink
// gets two sums.
template <typename T, typename Sink>
__device__ inline void rows_times_fragments(const T* rows, int ld, int count, int terms, const __nv_bfloat16* packed,
                                            int columns, const Sink& sink) {
  const int lane = threadIdx.x % kWarp, column_units = columns / 16;
  const FragmentPair* pairs = reinterpret_cast<const FragmentPair*>(packed);
  for (int unit = threadIdx.x / kWarp; unit < count / 16 * column_units; unit += kNmfThreads / kWarp) {
    const int row = unit / column_units * 16, column = unit % column_units * 16;
    float sums[2][4] = {};
#pragma unroll 4
    for (int k = 0; k < terms; k += 16) {
      uint32_t a[4];
      load_a_fragment<true>(a, rows + row * ld + k, ld);
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const int64_t fragment = static_cast<int64_t>(k / 16) * (columns / 8) + column / 8 + j;
        const FragmentPair b = load_global(pairs + fragment * kWarp + lane);
        multiply_fragment(sums[j], rows, a, b.high, b.low);
      }
    }
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const int first = column + 8 * j + lane % 4 * 2;
      sink(row + lane / 4, first, sums[j][0], sums[j][1]);
      sink(row + lane / 4 + 8, first, sums[j][2], sums[j][3]);
    }
  }
}

// The same with state in two parts as the left factor.
template <typename Sink>
__device__ inline void parts_times_fragments(const SplitMatrix& rows, int ld, int count, int terms,
                                             const __nv_bfloat16* packed, int columns, const Sink& sink) {
  const int lane = threadIdx.x % kWarp, column_units = columns / 16;
  const FragmentPair* pairs = reinterpret_cast<const FragmentPair*>(packed);
  for (int unit = threadIdx.x / kWarp; unit < count / 16 * column_units; unit += kNmfThreads / kWarp) {
    const int row = unit / column_units * 16, column = unit % column_units * 16;
    float sums[2][4] = {};
#pragma unroll 2
    for (int k = 0; k < terms; k += 16) {
      uint32_t high[4], low[4];
      load_a_fragment<true>(high, rows.high + row * ld + k, ld);
      load_a_fragment<true>(low, rows.low + row * ld + k, ld);
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const int64_t fragment = static_cast<int64_t>(k / 16) * (columns / 8) + column / 8 + j;
        const FragmentPair b = load_global(pairs + fragment * kWarp + lane);
        multiply_split(sums[j], high, low, b.high, b.low);
      }
    }
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const int first = column + 8 * j + lane % 4 * 2;
      sink(row + lane / 4, first, sums[j][0], sums[j][1]);
      sink(row + lane / 4 + 8, first, sums[j][2], sums[j][3]);
    }
  }
}

__device__ inline void put_two(float* out, float first, float second, bool accumulate) {
  Two result = {{first, second}};
  if (accumulate) {
    const Two before = *reinterpret_cast<const Two*>(out);
    result = {{before.values[0] + first, before.values[1] + second}};
  }
  *reinterpret_cast<Two*>(out) = result;
}

// Units are 16 rows by kUnits x 16 columns; a fragment of `left` is loaded once per unit.
template <int kUnits, typename T>
__device__ inline void outer_sum_fragments_by(const T* left, int ld_left, int m, const SplitMatrix& right, int ld_right,
                                              int columns, int pixels, float* out, int ld_out, bool accumulate) {
  const int lane = threadIdx.x % kWarp, column_units = columns / (16 * kUnits);
  for (int unit = threadIdx.x / kWarp; unit < m / 16 * column_units; unit += kNmfThreads / kWarp) {
    const int row = unit / column_units * 16, column = unit % column_units * 16 * kUnits;
    float sums[kUnits][2][4] = {};
#pragma unroll 2
    for (int p = 0; p < pixels; p += 16) {
      uint32_t a[4];
      load_a_fragment<false>(a, left + p * ld_left + row, ld_left);
#pragma unroll
      for (int u = 0; u < kUnits; ++u) {
        StateFragments b;
        b.load(right.at(p * ld_right + column + 16 * u), ld_right);
#pragma unroll
        for (int j = 0; j < 2; ++j) multiply_fragment(sums[u][j], left, a, b.high[j], b.low[j]);
      }
    }
    float* target = out + static_cast<int64_t>(row + lane / 4) * ld_out + column + lane % 4 * 2;
#pragma unroll
    for (int u = 0; u < kUnits; ++u) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        put_two(target + 16 * u + 8 * j, sums[u][j][0], sums[u][j][1], accumulate);
        put_two(target + 16 * u + 8 * j + 8 * ld_out, sums[u][j][2], sums[u][j][3], accumulate);
      }
    }
  }
}

// outer_sum on tensor cores, with the right factor in two parts; m, columns and pixels are multiples of 16.
template <typename T>
__device__ inline void outer_sum_fragments(const T* left, int ld_left, int m, const SplitMatrix& right, int ld_right,
                                           int columns, int pixels, float* out, int ld_out, bool accumulate) {
  if (columns % 64 == 0) {
    outer_sum_fragments_by<4>(left, ld_left, m, right, ld_right, columns, pixels, out, ld_out, accumulate);
  } else {
    outer_sum_fragments_by<1>(left, ld_left, m, right, ld_right, columns, pixels, out, ld_out, accumulate);
  }
}

// Calls sink(row, column, two sums) with state (count, columns) in two parts times a symmetric matrix of floats in
// global memory; count and columns are multiples of 16.
template <typename Sink>
__device__ inline void parts_times_symmetric(const SplitMatrix& rows, int ld, int count, const float* matrix,
                                             int columns, const Sink& sink) {
  const int lane = threadIdx.x % kWarp, column_units = columns / 16;
  for (int unit = threadIdx.x / kWarp; unit < count / 16 * column_units; unit += kNmfThreads / kWarp) {
    const int row = unit / column_units * 16, column = unit % column_units * 16;
    float sums[2][4] = {};
    for (int k = 0; k < columns; k += 16) {
      uint32_t high[4], low[4];
      load_a_fragment<true>(high, rows.high + row * ld + k, ld);
      load_a_fragment<true>(low, rows.low + row * ld + k, ld);
      StateFragments right;
      right.load_symmetric(matrix + static_cast<int64_t>(column) * columns + k, columns);
#pragma unroll
      for (int j = 0; j < 2; ++j) multiply_split(sums[j], high, low, right.high[j], right.low[j]);
    }
#pragma unroll
    for (int j = 0; j < 2; ++j) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        sink(row + lane / 4 + 8 * half, column + 8 * j + lane % 4 * 2, sums[j][2 * half], sums[j][2 * half + 1]);
      }
    }
  }
}

// out = (or +=) matrixᵀ matrix of (pixels, columns) state in two parts, with the sizes of outer_sum_fragments.
__device__ inline void gram_parts(const SplitMatrix& matrix, int ld, int columns, int pixels, float* out,
                                  bool accumulate) {
  const int lane = threadIdx.x % kWarp, units = columns / 16;
  for (int unit = threadIdx.x / kWarp; unit < units * units; unit += kNmfThreads / kWarp) {
    const int row = unit / units * 16, column = unit % units * 16;
    float sums[2][4] = {};
#pragma unroll 2
    for (int p = 0; p < pixels; p += 16) {
      uint32_t high[4], low[4];
      load_a_fragment<false>(high, matrix.high + p * ld + row, ld);
      load_a_fragment<false>(low, matrix.low + p * ld + row, ld);
      StateFragments right;
      right.load(matrix.at(p * ld + column), ld);
#pragma unroll
      for (int j = 0; j < 2; ++j) multiply_split(sums[j], high, low, right.high[j], right.low[j]);
    }
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      float* target = out + (row + lane / 4) * columns + column + 8 * j + lane % 4 * 2;
      put_two(target, sums[j][0], sums[j][1], accumulate);
      put_two(target + 8 * columns, sums[j][2], sums[j][3], accumulate);
    }
  }
}

}  // namespace segnext
