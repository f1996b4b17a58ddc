// Matrix products of pixels and packed weights, with the epilogue applied while the sums are in registers.
//
//   sum[m][n] = sum over k of a[m][k] w[k][n],   epilogue(m, n, sum[m][n .. n + kLanes))
//
// a is read in place: rows of K elements (channels_last pixels) a fixed distance apart, or `segments` such pieces
// (the three rows of a 3x3 convolution). Weights are packed once into panels of up to kPanel vectors of columns, K rows
// each. A tile of kAccumulators vectors, 6 x 64 with AVX-512, stays in registers: a step of k costs 4 loads of weights
// and 6 broadcasts for 24 FMAs. Panels are the outer loop. One panel (K x 64) stays in the caches for all rows of a
// call, so a call should have 48 rows or more if the weights are larger than the caches.
// Sums of more than kChain products are added up in pieces: one long chain of 512 had 2.7 times PyTorch's error.
// With AVX512-BF16 and NEON's BF16 a BFloat16 product takes two k per step; elsewhere pixels and weights are widened
// first. With AMX it runs on tile registers if they take it (cpu/gemm_on_tiles.h).
#pragma once

#include <type_traits>

#include "cpu/convert.h"
#include "cpu/gemm_on_tiles.h"
#include "cpu/packed_weights.h"
#include "cpu/vector.h"

#if defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
#include <arm_neon.h>
#endif

namespace segnext {
namespace SEGNEXT_ISA {

#if defined(__AVX512F__)
constexpr int kAccumulators = 24;
#elif SEGNEXT_VECTOR_REGISTERS == 32  // NEON's broadcasts take registers too: of 24 sums GCC keeps some in memory
constexpr int kAccumulators = 20;
#else
constexpr int kAccumulators = 12;
#endif
constexpr int64_t kChain = 128;
constexpr int kMaxTileRows = 12;  // three rows share an address register, so four registers are enough

constexpr int tile_rows(int vectors) { return static_cast<int>(smaller(kAccumulators / vectors, kMaxTileRows)); }

// Adds one segment to the tile's sums.
template <int kRows, int kVectors>
SEGNEXT_INLINE void multiply(const Real* a, int64_t row_stride, int64_t steps, const Real* w,
                             Vec (&sum)[kRows][kVectors]) {
  const Real* base[(kRows + 2) / 3];
#pragma GCC unroll 4
  for (int i = 0; i < (kRows + 2) / 3; ++i) base[i] = a + 3 * i * row_stride;
  for (int64_t k = 0; k < steps; ++k, w += kVectors * kLanes) {
    Vec b[kVectors];
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) b[j] = load(w + j * kLanes);
#pragma GCC unroll 12
    for (int i = 0; i < kRows; ++i) {
      const Vec value = broadcast(base[i / 3][i % 3 * row_stride]);
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) sum[i][j] += value * b[j];
    }
#pragma GCC unroll 4
    for (int i = 0; i < (kRows + 2) / 3; ++i) ++base[i];
  }
}

#if defined(SEGNEXT_BFLOAT16_PRODUCTS)
// Two neighbouring k of each column, and the sums that grow by their products with a pair of pixels.
#if defined(__AVX512BF16__)
typedef __m512bh Pairs;

SEGNEXT_INLINE Pairs broadcast_pair(int32_t pair) { return (Pairs)_mm512_set1_epi32(pair); }

SEGNEXT_INLINE Vec add_products(Vec sum, Pairs a, Pairs b) { return (Vec)_mm512_dpbf16_ps((__m512)sum, a, b); }
#else
typedef bfloat16x8_t Pairs;

SEGNEXT_INLINE Pairs broadcast_pair(int32_t pair) { return vreinterpretq_bf16_s32(vdupq_n_s32(pair)); }

SEGNEXT_INLINE Vec add_products(Vec sum, Pairs a, Pairs b) { return (Vec)vbfdotq_f32((float32x4_t)sum, a, b); }
#endif

template <int kRows, int kVectors>
SEGNEXT_INLINE void multiply(const BFloat16* a, int64_t row_stride, int64_t steps, const BFloat16* w,
                             Vec (&sum)[kRows][kVectors]) {
  const BFloat16* base[(kRows + 2) / 3];
#pragma GCC unroll 4
  for (int i = 0; i < (kRows + 2) / 3; ++i) base[i] = a + 3 * i * row_stride;
  for (int64_t k = 0; k < steps; ++k, w += kVectors * kLanes * 2) {
    Pairs b[kVectors];
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) std::memcpy(&b[j], w + j * kLanes * 2, sizeof b[j]);
#pragma GCC unroll 12
    for (int i = 0; i < kRows; ++i) {
      int32_t pair;
      std::memcpy(&pair, base[i / 3] + i % 3 * row_stride, sizeof pair);
      const Pairs value = broadcast_pair(pair);
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) sum[i][j] = add_products(sum[i][j], value, b[j]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < (kRows + 2) / 3; ++i) base[i] += 2;
  }
}
#endif

// Where an epilogue finds the sums. From registers it is inlined once for every vector of a tile: this suits a few
// instructions, since for K = 32 the detour through memory is noticeable. A longer epilogue takes minutes to compile
// that way.
enum class SumsIn { kMemory, kRegisters };

// The tile's sums if they have more than kChain terms. It is a function of its own so that gemm_tile's accumulators
// stay in registers throughout.
template <int kRows, int kVectors, typename Element>
__attribute__((noinline)) static void multiply_in_pieces(const Rows<const Element>& a, int64_t row,
                                                         const Element* panel, const PackedWeights<Element>& w,
                                                         Vec (&total)[kRows][kVectors]) {
  const int64_t step = k_step<Element>();
  const int64_t steps = k_steps<Element>(w.segment_k), most = kChain / step;
  for (int64_t s = 0; s < w.segments; ++s) {
    const Element* pixels = a.data + row * a.stride + s * a.segment_stride;
    for (int64_t k = 0; k < steps; k += most) {
      const int64_t count = smaller(steps - k, most);
      Vec sum[kRows][kVectors] = {};
      multiply<kRows, kVectors>(pixels + k * step, a.stride, count, panel, sum);
      panel += count * step * kVectors * kLanes;
#pragma GCC unroll 12
      for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
        for (int j = 0; j < kVectors; ++j) total[i][j] += sum[i][j];
      }
    }
  }
}

template <SumsIn kSums, int kRows, int kVectors, typename Element, typename Epilogue>
static inline void gemm_tile(const Rows<const Element>& a, int64_t row, int64_t first, const Element* panel,
                             const PackedWeights<Element>& w, int64_t column, const Epilogue& epilogue) {
  Vec sum[kRows][kVectors] = {};
  if (w.elements() > kChain) {
    Vec total[kRows][kVectors] = {};
    multiply_in_pieces<kRows, kVectors>(a, row, panel, w, total);
#pragma GCC unroll 12
    for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) sum[i][j] = total[i][j];
    }
  } else {
    const int64_t step = k_step<Element>();
    const int64_t steps = k_steps<Element>(w.segment_k);
    for (int64_t s = 0; s < w.segments; ++s) {
      multiply<kRows, kVectors>(a.data + row * a.stride + s * a.segment_stride, a.stride, steps,
                                panel + s * steps * step * kVectors * kLanes, sum);
    }
  }
  if (kSums == SumsIn::kRegisters) {
#pragma GCC unroll 12
    for (int i = 0; i < kRows; ++i) {
      if (row + i < first) continue;
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) epilogue(row + i, column + j * kLanes, sum[i][j]);
    }
    return;
  }
  Real tile[kRows][kVectors * kLanes];
#pragma GCC unroll 12
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) store(tile[i] + j * kLanes, sum[i][j]);
  }
#pragma GCC unroll 1
  for (int64_t i = larger(first - row, 0); i < kRows; ++i) {
#pragma GCC unroll 1
    for (int j = 0; j < kVectors; ++j) epilogue(row + i, column + j * kLanes, load(tile[i] + j * kLanes));
  }
}

template <SumsIn kSums, int kVectors, typename Element, typename Epilogue>
static inline void gemm_panel(const Rows<const Element>& a, int64_t rows, const Element* panel,
                              const PackedWeights<Element>& w, int64_t column, const Epilogue& epilogue) {
  constexpr int kRows = tile_rows(kVectors);
  int64_t row = 0;
  for (; row + kRows <= rows; row += kRows) {
    gemm_tile<kSums, kRows, kVectors>(a, row, row, panel, w, column, epilogue);
  }
  if (row == rows) return;
  if (rows >= kRows) {  // the last tile is moved up; rows that are done already are not stored again
    gemm_tile<kSums, kRows, kVectors>(a, rows - kRows, row, panel, w, column, epilogue);
  } else {
    for (; row < rows; ++row) gemm_tile<kSums, 1, kVectors>(a, row, row, panel, w, column, epilogue);
  }
}

template <SumsIn kSums, typename Element, typename Epilogue>
static inline void gemm_on_vectors(const Rows<const Element>& a, int64_t rows, const PackedWeights<Element>& w,
                                   const Epilogue& epilogue) {
  const Element* panel = w.data;
  for (int64_t column = 0; column < w.n; column += kPanel * kLanes) {
    const int64_t vectors = smaller(vectors_of(w.n - column), kPanel);
    switch (vectors) {
      case 1:
        gemm_panel<kSums, 1>(a, rows, panel, w, column, epilogue);
        break;
      case 2:
        gemm_panel<kSums, 2>(a, rows, panel, w, column, epilogue);
        break;
#if SEGNEXT_VECTOR_REGISTERS == 32
      case 3:
        gemm_panel<kSums, 3>(a, rows, panel, w, column, epilogue);
        break;
      default:
        gemm_panel<kSums, 4>(a, rows, panel, w, column, epilogue);
        break;
#endif
    }
    panel += vectors * kLanes * w.elements();
  }
}

// Calls epilogue(m, n, sum) once for every row m < rows and every n < w.n that is a multiple of kLanes. Only the first
// w.n - n lanes of the last vector count.
template <SumsIn kSums = SumsIn::kMemory, typename Element, typename Epilogue>
static inline void gemm(const Rows<const PixelElement<Element>>& a, int64_t rows, const PackedWeights<Element>& w,
                        const Epilogue& epilogue) {
#if defined(SEGNEXT_TILES)
  if constexpr (!std::is_same_v<Element, Real>) {
    if (w.on_tiles) return gemm_on_tiles(a, rows, w, epilogue);
  }
#endif
  if constexpr (std::is_same_v<Element, Split>) {
    const PackedWeights<Real> whole{reinterpret_cast<const Real*>(w.data), w.n, w.segment_k, w.segments};
    gemm_on_vectors<kSums>(a, rows, whole, epilogue);
  } else {
    gemm_on_vectors<kSums>(a, rows, w, epilogue);
  }
}

}  // namespace SEGNEXT_ISA
}  // namespace segnext
