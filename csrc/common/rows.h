// Vectors of channels to and from memory of any element type, and rows of pixels as matrix products read them.
#pragma once

#include "common/arena.h"
#include "common/convert.h"
#include "common/gemm.h"
#include "common/tensor.h"
#include "common/vector.h"

namespace segnext {
namespace SEGNEXT_ISA {

typedef uint16_t HalfBitsV __attribute__((vector_size(kLanes * 2)));
typedef uint32_t BitsV __attribute__((vector_size(kLanes * 4)));

static inline FloatV load_vector(const float* p) { return load(p); }

static inline FloatV load_vector(const BFloat16* p) {
  HalfBitsV half;
  std::memcpy(&half, p, sizeof half);
  const BitsV bits = __builtin_convertvector(half, BitsV) << 16;
  FloatV v;
  std::memcpy(&v, &bits, sizeof v);
  return v;
}

static inline void store_vector(float* p, FloatV v) { store(p, v); }

// To nearest, ties to even; NaN stays NaN: from_float<BFloat16>, lane by lane.
static inline void store_vector(BFloat16* p, FloatV v) {
  BitsV bits;
  std::memcpy(&bits, &v, sizeof bits);
  const BitsV rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const HalfBitsV half = __builtin_convertvector(v == v ? rounded : (bits >> 16) | 0x40u, HalfBitsV);
  std::memcpy(p, &half, sizeof half);
}

// The first `lanes` channels from a pixel whose channels lie `stride` apart; the rest are zero.
template <typename T>
static inline FloatV load_channels(const T* p, int64_t stride, int64_t lanes) {
  if (stride == 1 && lanes >= kLanes) return load_vector(p);
  float values[kLanes] = {};
  for (int64_t i = 0; i < kLanes && i < lanes; ++i) values[i] = to_float(p[i * stride]);
  return load(values);
}

template <typename T>
static inline void store_channels(T* p, int64_t stride, int64_t lanes, FloatV v) {
  if (stride == 1 && lanes >= kLanes) {
    store_vector(p, v);
    return;
  }
  float values[kLanes];
  store(values, v);
  for (int64_t i = 0; i < kLanes && i < lanes; ++i) p[i * stride] = from_float<T>(values[i]);
}

// A vector of parameters, widened and padded with zeros to whole vectors of lanes.
template <typename T>
static inline void load_parameter(const Tensor4& parameter, int64_t count, float* out) {
  for (int64_t i = 0; i < vectors_of(count) * kLanes; ++i) {
    const bool given = parameter.data != nullptr && i < count;
    out[i] = given ? to_float(static_cast<const T*>(parameter.data)[i * parameter.stride[0]]) : 0.0f;
  }
}

// Elements of a row of `channels` in scratch: padded so that a product may take whole steps of k.
template <typename Element>
static inline int64_t row_elements(int64_t channels) {
  return (channels + k_step<Element>() - 1) / k_step<Element>() * k_step<Element>();
}

// True where a product may read this tensor's pixels as they lie: no conversion, no gap between channels.
template <typename T, typename Element>
static inline bool is_direct(const Tensor4& x) {
  return sizeof(T) == sizeof(Element) && x.size[1] % k_step<Element>() == 0 && (x.stride[1] == 1 || x.size[1] == 1);
}

// Copies `count` pixels (of `channels` at `source`, `pixel_stride` apart) to rows of a product; padding becomes zero.
template <typename T, typename Element>
static inline void gather_rows(const T* source, int64_t channels, int64_t channel_stride, int64_t pixel_stride,
                               int64_t count, Element* out) {
  const int64_t row = row_elements<Element>(channels);
  if (channel_stride == 1) {
    for (int64_t p = 0; p < count; ++p) {
      for (int64_t c = 0; c < row; ++c) {
        out[p * row + c] = from_float<Element>(c < channels ? to_float(source[p * pixel_stride + c]) : 0.0f);
      }
    }
  } else {
    for (int64_t c = 0; c < row; ++c) {
      for (int64_t p = 0; p < count; ++p) {
        out[p * row + c] =
            from_float<Element>(c < channels ? to_float(source[p * pixel_stride + c * channel_stride]) : 0.0f);
      }
    }
  }
}

}  // namespace SEGNEXT_ISA
}  // namespace segnext
