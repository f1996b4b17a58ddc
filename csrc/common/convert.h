// Element types as they lie in memory, and their conversion to and from float.
#pragma once

#include <cstdint>
#include <cstring>

namespace segnext {

// Codes shared with the Python side.
enum class DType : int { kFloat32 = 0, kBFloat16 = 1, kFloat16 = 2, kFloat64 = 3 };

}  // namespace segnext

#if defined(SEGNEXT_ISA)
namespace segnext {
namespace SEGNEXT_ISA {

struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

static inline float to_float(float x) { return x; }

static inline float to_float(double x) { return static_cast<float>(x); }

static inline float to_float(BFloat16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float result;
  std::memcpy(&result, &bits, sizeof result);
  return result;
}

static inline float to_float(Float16 x) {
  // Exponent and mantissa shifted into float's places are the value times 2^-112, subnormals included.
  const uint32_t magnitude = (x.bits & 0x7fffu) << 13;
  const uint32_t sign = static_cast<uint32_t>(x.bits & 0x8000u) << 16;
  float result;
  if (magnitude >= (0x7c00u << 13)) {  // Inf, NaN: float's own exponent of all ones
    const uint32_t bits = sign | magnitude | 0x7f800000u;
    std::memcpy(&result, &bits, sizeof result);
    return result;
  }
  std::memcpy(&result, &magnitude, sizeof result);
  result *= 0x1p112f;
  return sign ? -result : result;
}

template <typename T>
static inline T from_float(float x);

template <>
inline float from_float<float>(float x) {
  return x;
}

// To nearest, ties to even; NaN stays NaN.
template <>
inline BFloat16 from_float<BFloat16>(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  if (x != x) return {static_cast<uint16_t>((bits >> 16) | 0x40u)};
  return {static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
}

}  // namespace SEGNEXT_ISA
}  // namespace segnext
#endif
