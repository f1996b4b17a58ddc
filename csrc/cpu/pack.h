// Vectorised packing of matrices into the panels of cpu/gemm.h, one panel at a time so that threads can divide the
// work.
//
// In memory a panel is [step of k][column][k within the step]: units of 4 bytes, one float or two BFloat16. If k is
// innermost in the matrix, squares of units are transposed in registers. If columns are innermost (the other operand
// order, or pixels that are summed over), whole vectors of columns are copied.
#pragma once

#include <type_traits>

#include "common/tensor.h"
#include "cpu/convert.h"
#include "cpu/gemm.h"
#include "cpu/transpose.h"

namespace segnext {
namespace SEGNEXT_ISA {

// w[n][k] = data[n * n_stride + k * k_stride] for n < columns and k < depth, packed with zeros up to k = padded_depth.
template <typename T>
struct Matrix {
  const T* data;
  int64_t columns, depth, n_stride, k_stride;
  int64_t padded_depth = depth;

  int64_t panels() const { return blocks_of(columns, kPanel * kLanes); }
};

// kLanes units of k of one column, with zeros behind the last.
template <typename Element, typename T>
static inline Vec load_units(const T* p, int64_t left) {
  if constexpr (std::is_same_v<Element, Real>) {
    return load_first(p, left);
  } else {
    static_assert(std::is_same_v<Element, T>, "BFloat16 products take BFloat16");
    Vec v;
    if (left >= 2 * kLanes) {
      std::memcpy(&v, p, sizeof v);
    } else {
      v = Vec{};
      std::memcpy(&v, p, sizeof(T) * left);
    }
    return v;
  }
}

// One step of k of kLanes columns; `left` columns and `k_left` of k are inside the matrix.
template <typename Element, typename T>
static inline void pack_columns(Element* out, const T* p, int64_t k_stride, int64_t k_left, int64_t left) {
  if constexpr (std::is_same_v<Element, Real>) {
    (void)k_stride, (void)k_left;
    store(out, load_first(p, left));
  } else {
    for (int64_t i = 0; i < 2; ++i) {
      const T* row = p + i * k_stride;
      const bool whole = i < k_left && left >= kLanes;
      for (int64_t n = 0; n < kLanes; ++n) {
        out[2 * n + i] = whole || (i < k_left && n < left) ? row[n] : from_real<Element>(0.0f);
      }
    }
  }
}

template <typename Element, typename T>
static inline void pack_whole_panel(const Matrix<T>& w, int64_t panel, Element* packed) {
  constexpr int64_t kStep = k_step<Element>();
  const int64_t steps = k_steps<Element>(w.depth), padded_steps = k_steps<Element>(w.padded_depth);
  const int64_t first = panel * kPanel * kLanes;
  const int64_t vectors = smaller(vectors_of(w.columns - first), kPanel);
  const int64_t width = vectors * kLanes * kStep;  // elements of a step
  Element* out = packed + first * padded_steps * kStep;
  std::memset(out + steps * width, 0, (padded_steps - steps) * width * sizeof(Element));
  for (int64_t j = 0; j < vectors; ++j, out += kLanes * kStep) {
    const int64_t column = first + j * kLanes;
    const T* source = w.data + column * w.n_stride;
    if (w.k_stride == 1) {
      for (int64_t step = 0; step < steps; step += kLanes) {
        Vec square[kLanes];
#pragma GCC unroll 16
        for (int lane = 0; lane < kLanes; ++lane) {
          const T* p = source + lane * w.n_stride + step * kStep;
          square[lane] = load_units<Element>(p, column + lane < w.columns ? w.depth - step * kStep : 0);
        }
        transpose(square);
#pragma GCC unroll 16
        for (int lane = 0; lane < kLanes; ++lane) {
          if (step + lane < steps) std::memcpy(out + (step + lane) * width, &square[lane], sizeof square[lane]);
        }
      }
    } else if (w.n_stride == 1) {
      for (int64_t step = 0; step < steps; ++step) {
        const int64_t k = step * kStep;
        pack_columns<Element>(out + step * width, source + k * w.k_stride, w.k_stride, w.depth - k, w.columns - column);
      }
    } else {
      for (int64_t k = 0; k < steps * kStep; ++k) {
#pragma GCC unroll 16
        for (int lane = 0; lane < kLanes; ++lane) {
          const bool inside = k < w.depth && column + lane < w.columns;
          const Real value = inside ? to_real(source[lane * w.n_stride + k * w.k_stride]) : 0.0f;
          out[k / kStep * width + lane * kStep + k % kStep] = from_real<Element>(value);
        }
      }
    }
  }
}

#if defined(SEGNEXT_TILES)
// kLanes columns of step k.
static inline Vec load_columns(const Matrix<float>& w, int64_t column, int64_t k) {
  const float* p = w.data + column * w.n_stride + k * w.k_stride;
  const int64_t left = k < w.depth ? w.columns - column : 0;
  if (w.n_stride == 1) return load_first(p, left);
  Real values[kLanes] = {};
  for (int64_t n = 0; n < smaller(left, kLanes); ++n) values[n] = p[n * w.n_stride];
  return load(values);
}

// A panel in pieces: pairs of k, as for BFloat16, first the highs of all steps and then the lows.
static inline void pack_split_panel(const Matrix<float>& w, int64_t panel, Split* packed) {
  const int64_t first = panel * kPanel * kLanes;
  const int64_t vectors = smaller(vectors_of(w.columns - first), kPanel);
  BitsV* const highs = reinterpret_cast<BitsV*>(packed + first * w.padded_depth);
  BitsV* const lows = highs + vectors * w.padded_depth / 2;
  for (int64_t j = 0; j < vectors; ++j) {
    const int64_t column = first + j * kLanes;
    for (int64_t k = 0; k < w.padded_depth; k += kLanes) {
      Vec square[kLanes];
#pragma GCC unroll 16
      for (int64_t lane = 0; lane < kLanes; ++lane) {
        if (w.k_stride == 1) {
          square[lane] =
              load_first(w.data + (column + lane) * w.n_stride + k, column + lane < w.columns ? w.depth - k : 0);
        } else {
          square[lane] = load_columns(w, column, k + lane);
        }
      }
      if (w.k_stride == 1) transpose(square);
#pragma GCC unroll 16
      for (int lane = 0; lane < kLanes; lane += 2) {
        BitsV high[2], low[2];
        split(square[lane], &high[0], &low[0]);
        split(square[lane + 1], &high[1], &low[1]);
        const int64_t at = (k + lane) / 2 * vectors + j;
        highs[at] = high[0] >> 16 | high[1];
        lows[at] = low[0] >> 16 | low[1];
      }
    }
  }
}
#endif

template <typename Element, typename T>
static inline void pack_panel(const Matrix<T>& w, int64_t panel, Element* packed) {
#if defined(SEGNEXT_TILES)
  if constexpr (std::is_same_v<Element, Split>) {
    if (suits_tiles<Split>(w.padded_depth, w.padded_depth)) return pack_split_panel(w, panel, packed);
    return pack_panel(w, panel, reinterpret_cast<Real*>(packed));
  } else
#endif
    pack_whole_panel(w, panel, packed);
}

template <typename Element, typename T>
static inline void pack_matrix(const Matrix<T>& w, Element* packed) {
  for (int64_t panel = 0; panel < w.panels(); ++panel) pack_panel(w, panel, packed);
}

#if defined(SEGNEXT_BFLOAT16_PRODUCTS)
// Packs rows k = first to first + count of weights (depth, columns), rounded to BFloat16; first is even. Rows that
// follow up to `last` become zeros. Every row has whole vectors.
static inline void pack_rounded(const Real* rows, int64_t stride, int64_t first, int64_t count, int64_t last,
                                int64_t columns, int64_t depth, BFloat16* packed) {
  for (int64_t column = 0; column < columns; column += kPanel * kLanes) {
    const int64_t vectors = smaller(vectors_of(columns - column), kPanel);
    BitsV* const panel = reinterpret_cast<BitsV*>(packed + column * depth);
    for (int64_t k = first; k < last; k += 2) {
      const Real* row = rows + (k - first) * stride + column;
      for (int64_t j = 0; j < vectors; ++j) {
        const BitsV even = k - first < count ? upper_bfloat16(load(row + j * kLanes)) : BitsV{};
        const BitsV odd = k + 1 - first < count ? upper_bfloat16(load(row + stride + j * kLanes)) : BitsV{};
        panel[k / 2 * vectors + j] = even >> 16 | odd;
      }
    }
  }
}

// out[c][i] = channel c of pixel i, for an even number of channels; rows of out have `width` pixels, a whole number of
// vectors, with zeros behind the last of `count`.
static inline void transpose_pixels(const Rows<const BFloat16>& pixels, int64_t count, int64_t channels, int64_t width,
                                    BFloat16* out) {
  for (int64_t i = 0; i < width; i += kLanes) {
    for (int64_t c = 0; c < channels; c += 2 * kLanes) {
      Vec square[kLanes];  // of pairs of channels
#pragma GCC unroll 16
      for (int64_t lane = 0; lane < kLanes; ++lane) {
        const BFloat16* p = pixels.data + (i + lane) * pixels.stride + c;
        square[lane] = load_units<BFloat16>(p, i + lane < count ? channels - c : 0);
      }
      transpose(square);
      for (int64_t lane = 0; lane < smaller(kLanes, (channels - c) / 2); ++lane) {
        const HalfBitsV even = __builtin_convertvector((BitsV)square[lane], HalfBitsV);
        const HalfBitsV odd = __builtin_convertvector((BitsV)square[lane] >> 16, HalfBitsV);
        std::memcpy(out + (c + 2 * lane) * width + i, &even, sizeof even);
        std::memcpy(out + (c + 2 * lane + 1) * width + i, &odd, sizeof odd);
      }
    }
  }
}
#endif

// The weight (out, in, 1, 1) of a 1x1 convolution.
template <typename T>
static inline Matrix<T> pointwise(const Tensor4& weight) {
  return {static_cast<const T*>(weight.data), weight.size[0], weight.size[1], weight.stride[0], weight.stride[1]};
}

}  // namespace SEGNEXT_ISA
}  // namespace segnext
