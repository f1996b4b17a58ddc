// Packed weights and rows: what the products of cpu/gemm.h multiply.
#pragma once

#include "cpu/convert.h"
#include "cpu/vector.h"

namespace segnext {
namespace SEGNEXT_ISA {

// Vectors of columns in a panel of packed weights.
#if defined(__AVX512F__)
constexpr int kPanel = 4;
#else
constexpr int kPanel = 2;
#endif

// The type that a product of T pixels multiplies: T itself if the instruction set can, else Real.
template <typename T>
struct ProductOf {
  using Element = Real;
};
#if defined(__AVX512BF16__)
template <>
struct ProductOf<BFloat16> {
  using Element = BFloat16;
};
#endif
template <typename T>
using ProductElement = typename ProductOf<T>::Element;

// Elements of k per step; K is padded with zeros to a multiple.
template <typename Element>
constexpr int64_t k_step() {
  return sizeof(Element) == 2 ? 2 : 1;
}

template <typename Element>
static inline int64_t k_steps(int64_t k) {
  return blocks_of(k, k_step<Element>());
}

// k padded to whole steps.
template <typename Element>
static inline int64_t padded_k(int64_t k) {
  return k_steps<Element>(k) * k_step<Element>();
}

// The elements of a packed (segments x segment_k, n) matrix.
template <typename Element>
static inline int64_t packed_size(int64_t n, int64_t segment_k, int64_t segments = 1) {
  return padded(n) * segments * padded_k<Element>(segment_k);
}

template <typename Element>
struct PackedWeights {
  const Element* data;
  int64_t n, segment_k, segments;

  int64_t elements() const { return segments * padded_k<Element>(segment_k); }  // per column
};

// The rows of a matrix, mostly pixels: row m of segment s begins at data + m * stride + s * segment_stride.
template <typename E>
struct Rows {
  E* data;
  int64_t stride, segment_stride = 0;
};

}  // namespace SEGNEXT_ISA
}  // namespace segnext
