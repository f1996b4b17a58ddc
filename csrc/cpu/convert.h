// Conversion of single elements and of vectors to and from Real.
#pragma once

#include <cstdint>
#include <cstring>

#include "common/dtype.h"
#include "cpu/vector.h"

#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

// Calls function<T>(...), where T is the element type of a dtype that this build's kernels take.
#if defined(SEGNEXT_FLOAT64)
#define SEGNEXT_WITH_ELEMENT(dtype, function, ...) ((void)(dtype), function<double>(__VA_ARGS__))
#else
#define SEGNEXT_WITH_ELEMENT(dtype, function, ...) \
  ((dtype) == ::segnext::DType::kBFloat16 ? function<BFloat16>(__VA_ARGS__) : function<float>(__VA_ARGS__))
#endif

namespace segnext {
namespace SEGNEXT_ISA {

struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

static inline Real to_real(float x) { return x; }

static inline Real to_real(double x) { return static_cast<Real>(x); }

static inline Real to_real(BFloat16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float result;
  std::memcpy(&result, &bits, sizeof result);
  return result;
}

static inline Real to_real(Float16 x) {
  // Exponent and mantissa, moved to float's places, give the value times 2^-112, subnormals included.
  const uint32_t magnitude = (x.bits & 0x7fffu) << 13;
  const uint32_t sign = static_cast<uint32_t>(x.bits & 0x8000u) << 16;
  float result;
  if (magnitude >= (0x7c00u << 13)) {  // Inf and NaN have float's own exponent of all ones
    const uint32_t bits = sign | magnitude | 0x7f800000u;
    std::memcpy(&result, &bits, sizeof result);
    return result;
  }
  std::memcpy(&result, &magnitude, sizeof result);
  result *= 0x1p112f;
  return sign ? -result : result;
}

template <typename T>
static inline T from_real(Real x);

template <>
inline Real from_real<Real>(Real x) {
  return x;
}

// Rounds to nearest, ties to even; NaN stays NaN.
template <>
inline BFloat16 from_real<BFloat16>(Real value) {
  const float x = static_cast<float>(value);
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  if (x != x) return {static_cast<uint16_t>((bits >> 16) | 0x40u)};
  return {static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
}

static inline Vec load_vector(const Real* p) { return load(p); }

static inline void store_vector(Real* p, Vec v) { store(p, v); }

#if !defined(SEGNEXT_FLOAT64)
typedef uint32_t BitsV __attribute__((vector_size(SEGNEXT_VECTOR_BYTES)));
typedef uint16_t HalfBitsV __attribute__((vector_size(SEGNEXT_VECTOR_BYTES / 2)));

static inline Vec load_vector(const BFloat16* p) {
  HalfBitsV half;
  std::memcpy(&half, p, sizeof half);
  return (Vec)(__builtin_convertvector(half, BitsV) << 16);
}

// Rounds as from_real<BFloat16> does, to the upper half of each lane.
static inline BitsV upper_bfloat16(Vec v) {
  const BitsV bits = (BitsV)v;
  const BitsV rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) & 0xffff0000u;
  return v == v ? rounded : (bits & 0xffff0000u) | 0x400000u;
}

// AVX512-BF16 makes zeros of subnormal numbers.
static inline void store_vector(BFloat16* p, Vec v) {
#if defined(__AVX512BF16__)
  const __m256bh half = _mm512_cvtneps_pbh((__m512)v);
#else
  const HalfBitsV half = __builtin_convertvector(upper_bfloat16(v) >> 16, HalfBitsV);
#endif
  std::memcpy(p, &half, sizeof half);
}
#endif

// Loads the first `count` lanes; the other lanes are zero, all of them if count is zero or less. Callers pass a count
// of zero instead of choosing between this vector and zeros: GCC 12 miscompiles such a choice in an unrolled loop,
// where it vectorises the bools and keeps only the first lane.
template <typename T>
static inline Vec load_first(const T* p, int64_t count) {
  if (count >= kLanes) return load_vector(p);
  Real values[kLanes] = {};
  for (int64_t i = 0; i < count; ++i) values[i] = to_real(p[i]);
  return load(values);
}

template <typename T>
static inline void store_first(T* p, Vec v, int64_t count) {
  if (count >= kLanes) return store_vector(p, v);
  for (int64_t i = 0; i < count; ++i) p[i] = from_real<T>(v[i]);
}

}  // namespace SEGNEXT_ISA
}  // namespace segnext
