// Numbers as the chip has them: 16-bit floats, comparisons with unordered values.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace issue_model {

enum Compare : int64_t { kFalse, kLT, kEQ, kLE, kGT, kNE, kGE, kTrue };  // + 8: unordered too; 16 NUM, 17 NAN
enum Combine : int64_t { kAnd, kOr, kXor };

inline uint32_t bits_of(float f) {
  uint32_t b;
  std::memcpy(&b, &f, 4);
  return b;
}
inline float float_of(uint32_t b) {
  float f;
  std::memcpy(&f, &b, 4);
  return f;
}
inline double double_of(uint64_t b) {
  double d;
  std::memcpy(&d, &b, 8);
  return d;
}
inline uint64_t bits_of(double d) {
  uint64_t b;
  std::memcpy(&b, &d, 8);
  return b;
}

inline float half_to_float(uint16_t h) {
  const uint32_t sign = (h & 0x8000u) << 16, exponent = (h >> 10) & 31, mantissa = h & 1023;
  if (exponent == 31) return float_of(sign | 0x7f800000u | mantissa << 13);
  if (exponent == 0) return (sign ? -1.0f : 1.0f) * std::ldexp(static_cast<float>(mantissa), -24);
  return float_of(sign | (exponent + 112) << 23 | mantissa << 13);
}
inline uint16_t float_to_half(float f) {
  const uint32_t b = bits_of(f), sign = b >> 16 & 0x8000u;
  if (f != f) return 0x7fff;
  const float a = std::fabs(f);
  if (a >= 65520.0f) return static_cast<uint16_t>(sign | 0x7c00u);
  if (a < 6.103515625e-5f)
    return static_cast<uint16_t>(sign | static_cast<uint32_t>(std::nearbyint(std::ldexp(a, 24))));
  uint32_t x = bits_of(a);
  x += 0xfffu + (x >> 13 & 1);
  return static_cast<uint16_t>(sign | ((x >> 13) - (112u << 10)));
}
inline uint16_t float_to_bfloat(float f) {
  uint32_t b = bits_of(f);
  if (f != f) return 0x7fff;
  b += 0x7fffu + (b >> 16 & 1);
  return static_cast<uint16_t>(b >> 16);
}
inline float low_to_float(uint16_t v, bool bfloat) {
  return bfloat ? float_of(static_cast<uint32_t>(v) << 16) : half_to_float(v);
}
inline uint16_t float_to_low(float f, bool bfloat) { return bfloat ? float_to_bfloat(f) : float_to_half(f); }

template <typename T>
bool compare(int64_t how, T a, T b) {
  switch (how & 7) {
    case kFalse:
      return false;
    case kLT:
      return a < b;
    case kEQ:
      return a == b;
    case kLE:
      return a <= b;
    case kGT:
      return a > b;
    case kNE:
      return a < b || a > b;
    case kGE:
      return a >= b;
    default:
      return true;
  }
}
template <typename T>
bool compare_float(int64_t how, T a, T b) {
  const bool nan = a != a || b != b;
  if (how == 16) return !nan;
  if (how == 17) return nan;
  if (nan) return (how & 8) != 0 || (how & 7) == kTrue;
  return compare(how, a, b);
}
inline bool combine(int64_t how, bool a, bool b) { return how == kAnd ? a && b : how == kOr ? a || b : a != b; }

inline int count_bits(uint32_t v) { return __builtin_popcount(v); }

inline int64_t sign_extended(uint32_t v) { return static_cast<int64_t>(static_cast<int32_t>(v)); }

}  // namespace issue_model
