// float16 and bfloat16 as in the hardware: every operation is rounded once, to nearest, ties to even.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace emulator {

inline uint32_t bits_of(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

inline float float_of(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

struct HalfFormat {
  static uint16_t encode(float x) {
    const uint32_t bits = bits_of(x), sign = (bits >> 16) & 0x8000u, magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return 0x7fff;                                  // NaN, with the hardware's bits
    if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);  // 65520 and above
    if (magnitude < 0x38800000u) {  // subnormal: next to 0.5, a unit in the last place is 2^-24
      return static_cast<uint16_t>(sign | (bits_of(float_of(magnitude) + 0.5f) - 0x3f000000u));
    }
    return static_cast<uint16_t>(sign | ((magnitude + 0xfffu + ((magnitude >> 13) & 1u) - 0x38000000u) >> 13));
  }
  static float decode(uint16_t bits) {
    const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16, magnitude = (bits & 0x7fffu) << 13;
    if (magnitude >= (0x7c00u << 13)) return float_of(sign | magnitude | 0x7f800000u);
    return float_of(sign | bits_of(float_of(magnitude) * 0x1p112f));
  }
};

struct BFloat16Format {
  static uint16_t encode(float x) {
    const uint32_t bits = bits_of(x);
    if (x != x) return 0x7fff;
    return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
  }
  static float decode(uint16_t bits) { return float_of(static_cast<uint32_t>(bits) << 16); }
};

// Rounds a double to a float that rounds to 16 bits as the double would: to odd if it is not exact.
inline float to_odd(double x) {
  const float near = static_cast<float>(x);
  if (static_cast<double>(near) == x || x != x || std::isinf(near)) return near;
  const float toward_zero = std::fabs(static_cast<double>(near)) > std::fabs(x) ? std::nextafterf(near, 0.0f) : near;
  return float_of(bits_of(toward_zero) | 1u);
}

// The base class that the arithmetic below is written for; the types themselves must be plain structs.
template <typename Type, typename Format>
struct Sixteen {
  uint16_t bits;

  Sixteen() = default;
  Sixteen(float x) : bits(Format::encode(x)) {}
  Sixteen(double x) : bits(Format::encode(to_odd(x))) {}
  Sixteen(int x) : bits(Format::encode(to_odd(x))) {}
  operator float() const { return Format::decode(bits); }

  static Type of_bits(uint16_t bits) {
    Type result;
    result.bits = bits;
    return result;
  }
  // float holds the exact product of two values, and so much of a sum or quotient that rounding twice equals rounding
  // once.
  friend Type operator+(Type a, Type b) { return Type(float(a) + float(b)); }
  friend Type operator-(Type a, Type b) { return Type(float(a) - float(b)); }
  friend Type operator*(Type a, Type b) { return Type(float(a) * float(b)); }
  friend Type operator/(Type a, Type b) { return Type(float(a) / float(b)); }
  friend Type operator-(Type a) { return of_bits(a.bits ^ 0x8000u); }
  friend Type& operator+=(Type& a, Type b) { return a = a + b; }
  friend Type& operator-=(Type& a, Type b) { return a = a - b; }
  friend Type& operator*=(Type& a, Type b) { return a = a * b; }
  friend bool operator==(Type a, Type b) { return float(a) == float(b); }
  friend bool operator!=(Type a, Type b) { return float(a) != float(b); }
  friend bool operator<(Type a, Type b) { return float(a) < float(b); }
  friend bool operator>(Type a, Type b) { return float(a) > float(b); }
  friend bool operator<=(Type a, Type b) { return float(a) <= float(b); }
  friend bool operator>=(Type a, Type b) { return float(a) >= float(b); }

  // The product is exact in double. Only the sign of the sum's error matters for rounding to odd.
  static Type fused(Type a, Type b, Type c) {
    const double product = static_cast<double>(float(a)) * float(b), addend = float(c), sum = product + addend;
    const double back = sum - product, error = (product - (sum - back)) + (addend - back);
    if (error == 0.0 || sum != sum || std::isinf(sum)) return Type(to_odd(sum));
    return Type(to_odd(std::nextafter(sum, error > 0.0 ? INFINITY : -INFINITY)));
  }
};

}  // namespace emulator

// Functions that CUDA has for both formats under the same names.
#define EMULATOR_SIXTEEN(Type, Type2)                                                                        \
  inline Type __hadd(Type a, Type b) { return a + b; }                                                       \
  inline Type __hsub(Type a, Type b) { return a - b; }                                                       \
  inline Type __hmul(Type a, Type b) { return a * b; }                                                       \
  inline Type __hdiv(Type a, Type b) { return a / b; }                                                       \
  inline Type __hneg(Type a) { return -a; }                                                                  \
  inline Type __hfma(Type a, Type b, Type c) { return Type::fused(a, b, c); }                                \
  inline Type __hmax(Type a, Type b) { return Type(std::fmax(float(a), float(b))); }                         \
  inline Type __hmin(Type a, Type b) { return Type(std::fmin(float(a), float(b))); }                         \
  inline bool __hgt(Type a, Type b) { return a > b; }                                                        \
  inline bool __hisnan(Type a) { return float(a) != float(a); }                                              \
  inline Type2 __hadd2(Type2 a, Type2 b) { return {a.x + b.x, a.y + b.y}; }                                  \
  inline Type2 __hsub2(Type2 a, Type2 b) { return {a.x - b.x, a.y - b.y}; }                                  \
  inline Type2 __hmul2(Type2 a, Type2 b) { return {a.x * b.x, a.y * b.y}; }                                  \
  inline Type2 __hfma2(Type2 a, Type2 b, Type2 c) { return {__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y)}; } \
  inline Type2 __hmax2(Type2 a, Type2 b) { return {__hmax(a.x, b.x), __hmax(a.y, b.y)}; }                    \
  inline Type2 __hmin2(Type2 a, Type2 b) { return {__hmin(a.x, b.x), __hmin(a.y, b.y)}; }                    \
  inline float __low2float(Type2 a) { return float(a.x); }                                                   \
  inline float __high2float(Type2 a) { return float(a.y); }
