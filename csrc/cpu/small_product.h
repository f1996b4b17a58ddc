// Products of small matrices in any memory order:
//
//   out[m][n] (+)= sum over k of a(m, k) w[k][n]
//
// The vectors run over n: w and out are row-major with rows padded to whole vectors, and the padding may hold anything.
// a is read one element at a time and broadcast, so its two strides may be any: a product with a transposed matrix,
// Xᵀ·w from rows of X, is the same code. Unlike cpu/gemm.h, nothing is packed and the sums go to memory.
// A tile of up to 24 vectors of sums (NEON: 20, 16 registers: 12) stays in registers: 6 x 4 vectors cost 4 loads and
// 6 broadcasts per step of k for 24 FMAs; 16 x 1 vectors cost one load and 16 broadcasts that the FMAs take from
// memory. Rows are divided into tiles of nearly equal height, so that 64 rows are not ten tiles of six and one of four.
// Measured on one Zen 4 core: 117 GFLOP/s for 256 x 64 x 16, 109 for 512 x 64 x 64; FMAs alone reach 118.
#pragma once

#include "cpu/vector.h"

namespace segnext {
namespace SEGNEXT_ISA {

// The tallest tile by its width in vectors.
#if defined(__AVX512F__)
constexpr int kTileRows[] = {0, 16, 12, 8, 6};
constexpr int kTileVectors = 4;
#elif SEGNEXT_VECTOR_REGISTERS == 32
constexpr int kTileRows[] = {0, 12, 10, 6, 5};
constexpr int kTileVectors = 4;
#else
constexpr int kTileRows[] = {0, 12, 6};
constexpr int kTileVectors = 2;
#endif

// Terms summed in registers before they are added to the sums in memory: a chain's rounding errors grow with the root
// of its length. Over D = 512, nmf2d's error is 1.5 to 2 times that of PyTorch's products with whole chains, 0.9 times
// with blocks of 64 and 0.6 times with blocks of 32. These blocks cost 2 % and 5 % of the time.
constexpr int64_t kSumSteps = 64;

// Element (m, k) at data + m * row_stride + k * k_stride.
struct Factor {
  const Real* data;
  int64_t row_stride, k_stride;

  Factor transposed() const { return {data, k_stride, row_stride}; }
  Factor from_row(int64_t row) const { return at(row, 0); }
  Factor at(int64_t row, int64_t k) const { return {data + row * row_stride + k * k_stride, row_stride, k_stride}; }
};

// A row-major matrix, or a part of its rows or columns; a row has `stride` elements, a whole number of vectors.
struct Block {
  Real* data;
  int64_t stride;

  Real* row(int64_t index) const { return data + index * stride; }
  Block from_row(int64_t index) const { return {row(index), stride}; }
  Block from_column(int64_t index) const { return {data + index, stride}; }
  Factor factor() const { return {data, stride, 1}; }
  Factor transposed() const { return {data, 1, stride}; }
};

template <int kRows, int kVectors>
static __attribute__((noinline)) void multiply_tile(const Factor& a, int64_t k, const Block& w, const Block& out,
                                                    bool accumulate) {
  constexpr int kPointers = (kRows + 2) / 3;  // three rows share one, at 0, 1 and 2 strides from it
  Vec sum[kRows][kVectors] = {};
  const int64_t row_stride = a.row_stride, k_stride = a.k_stride, w_stride = w.stride;
  const Real* base[kPointers];
#pragma GCC unroll 8
  for (int i = 0; i < kPointers; ++i) base[i] = a.data + 3 * i * row_stride;
  const Real* weight = w.data;
  Real* const target = out.data;
  const int64_t out_stride = out.stride;
  for (int64_t step = 0; step < k; ++step, weight += w_stride) {
    Vec b[kVectors];
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) b[j] = load(weight + j * kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
      const Vec value = broadcast(base[i / 3][i % 3 * row_stride]);
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) sum[i][j] += value * b[j];
    }
#pragma GCC unroll 8
    for (int i = 0; i < kPointers; ++i) base[i] += k_stride;
  }
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) {
      Real* at = target + i * out_stride + j * kLanes;
      store(at, accumulate ? load(at) + sum[i][j] : sum[i][j]);
    }
  }
}

// multiply_tile for a height known at run time, at most kRows.
template <int kRows, int kVectors>
static inline void multiply_rows(int64_t rows, const Factor& a, int64_t k, const Block& w, const Block& out,
                                 bool accumulate) {
  if constexpr (kRows > 1) {
    if (rows < kRows) return multiply_rows<kRows - 1, kVectors>(rows, a, k, w, out, accumulate);
  }
  multiply_tile<kRows, kVectors>(a, k, w, out, accumulate);
}

template <int kVectors>
static void multiply_panel(const Factor& a, int64_t m, int64_t k, const Block& w, const Block& out, bool accumulate) {
  constexpr int64_t kRows = kTileRows[kVectors];
  int64_t row = 0;
  for (int64_t tiles = blocks_of(m, kRows); tiles > 0; --tiles) {
    const int64_t rows = blocks_of(m - row, tiles);
    int64_t step = 0;
    do {
      const int64_t steps = smaller(k - step, kSumSteps);
      multiply_rows<kRows, kVectors>(rows, a.at(row, step), steps, w.from_row(step), out.from_row(row),
                                     accumulate || step > 0);
      step += steps;
    } while (step < k);
    row += rows;
  }
}

// out (m, n) = a (m, k) w (k, n), or added to it.
static inline void product(const Factor& a, int64_t m, int64_t k, const Block& w, int64_t n, const Block& out,
                           bool accumulate = false) {
  for (int64_t column = 0; column < n; column += kTileVectors * kLanes) {
    const Block panel = w.from_column(column), target = out.from_column(column);
    switch (smaller(vectors_of(n - column), kTileVectors)) {
      case 1:
        multiply_panel<1>(a, m, k, panel, target, accumulate);
        break;
      case 2:
        multiply_panel<2>(a, m, k, panel, target, accumulate);
        break;
#if SEGNEXT_VECTOR_REGISTERS == 32
      case 3:
        multiply_panel<3>(a, m, k, panel, target, accumulate);
        break;
      default:
        multiply_panel<4>(a, m, k, panel, target, accumulate);
        break;
#endif
    }
  }
}

}  // namespace SEGNEXT_ISA
}  // namespace segnext
