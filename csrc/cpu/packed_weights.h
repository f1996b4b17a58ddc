// Packed weights and rows: what the products of cpu/gemm.h multiply.
#pragma once

#if defined(__AVX512BF16__) || defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
#define SEGNEXT_BFLOAT16_PRODUCTS
#endif

#include <type_traits>

#include "cpu/convert.h"
#include "cpu/vector.h"

namespace segnext {
namespace SEGNEXT_ISA {

// Vectors of columns in a panel of packed weights.
#if SEGNEXT_VECTOR_REGISTERS == 32
constexpr int kPanel = 4;
#else
constexpr int kPanel = 2;
#endif
constexpr int64_t kTileDepth = 32;  // k of a product of two tiles (cpu/tile_registers.h)

// A float32 weight as two bfloat16, which AMX multiplies (cpu/gemm_on_tiles.h): high + low has 16 of its 24 bits. In
// memory all highs of a panel come before its lows. Where tiles do not take a product, its weights are Reals, which
// need as much memory.
struct Split {
  BFloat16 high, low;
};
static_assert(sizeof(Split) == sizeof(float));

// The type of the weights in a product of T pixels: T itself if the instruction set can, else Real.
template <typename T>
struct ProductOf {
  using Element = Real;
};
#if defined(SEGNEXT_BFLOAT16_PRODUCTS)
template <>
struct ProductOf<BFloat16> {
  using Element = BFloat16;
};
#endif
#if defined(SEGNEXT_TILES)
template <>
struct ProductOf<float> {
  using Element = Split;
};
#endif
template <typename T>
using ProductElement = typename ProductOf<T>::Element;

// The type of the pixels that are multiplied by weights of Element.
template <typename Element>
struct PixelOf {
  using Type = Element;
};
template <>
struct PixelOf<Split> {
  using Type = Real;
};
template <typename Element>
using PixelElement = typename PixelOf<Element>::Type;

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

// Whether tiles take a product over `total` k in runs of `run`: they have 32 k each. Rows of floats are split into
// pieces on the stack, which limits k.
template <typename Element>
static inline bool suits_tiles(int64_t run, int64_t total) {
  constexpr int64_t kMostSplit = 4096;
  return run % kTileDepth == 0 && (!std::is_same_v<Element, Split> || total <= kMostSplit);
}

template <typename Element>
struct PackedWeights {
  const Element* data;
  int64_t n, segment_k, segments;
  bool on_tiles = suits_tiles<Element>(segment_k, segment_k* segments);

  int64_t elements() const { return segments * padded_k<Element>(segment_k); }  // per column
};

#if defined(SEGNEXT_TILES)
// 16 bits of each lane of v and the rest, in the upper half of a lane. Both together differ from v by 2^-17 of it.
// A lane that is not finite has no rest.
static inline void split(Vec v, BitsV* high, BitsV* low) {
  const BitsV magnitude = (BitsV)v & 0x7fffffffu, infinity = BitsV{} + 0x7f800000u;
  const auto would_be_infinite = (magnitude >= 0x7f7f8000u) & (magnitude < infinity);
  *high = would_be_infinite ? (BitsV)v & 0xffff0000u : upper_bfloat16(v);
  *low = magnitude >= infinity ? BitsV{} : upper_bfloat16(v - (Vec)*high);
}
#endif

// The rows of a matrix, mostly pixels: row m of segment s begins at data + m * stride + s * segment_stride.
template <typename E>
struct Rows {
  E* data;
  int64_t stride, segment_stride = 0;
};

}  // namespace SEGNEXT_ISA
}  // namespace segnext
