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
    Vec v = {};
    const int64_t whole = 2 * kLanes;
    std::memcpy(&v, p, sizeof(T) * smaller(left, whole));
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
static inline void pack_panel(const Matrix<T>& w, int64_t panel, Element* packed) {
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

template <typename Element, typename T>
static inline void pack_matrix(const Matrix<T>& w, Element* packed) {
  for (int64_t panel = 0; panel < w.panels(); ++panel) pack_panel(w, panel, packed);
}

// The weight (out, in, 1, 1) of a 1x1 convolution.
template <typename T>
static inline Matrix<T> pointwise(const Tensor4& weight) {
  return {static_cast<const T*>(weight.data), weight.size[0], weight.size[1], weight.stride[0], weight.stride[1]};
}

}  // namespace SEGNEXT_ISA
}  // namespace segnext
