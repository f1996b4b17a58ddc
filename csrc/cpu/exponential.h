// e^x on vectors.
#pragma once

#include "cpu/vector.h"

#if defined(SEGNEXT_FLOAT64)
#include <cmath>
#endif

namespace segnext {
namespace SEGNEXT_ISA {

#if defined(SEGNEXT_FLOAT64)

constexpr Real kLeastExponent = -708.0;  // e^this is about the smallest normal number

// e^x for x <= 0.
static inline Vec exp_negative(Vec x) {
  for (int lane = 0; lane < kLanes; ++lane) x[lane] = std::exp(x[lane]);
  return x;
}

#else

constexpr Real kLeastExponent = -87.0f;  // e^this is about the smallest normal number

// e^x for x <= 0. Below kLeastExponent it is 0: anything else would show where it is multiplied by 1e38 or infinity.
static inline Vec exp_negative(Vec x) {
  constexpr float kLog2E = 1.44269504f, kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;
  const IntV below = x < kLeastExponent;
  x = below ? broadcast(kLeastExponent) : x;  // in this form NaN stays NaN
  // adding a float with no bits left for fractions rounds to nearest
  const Vec shifter = broadcast(12582912.0f);
  const Vec n = (x * kLog2E + shifter) - shifter;
  const Vec r = (x - n * kLn2High) - n * kLn2Low;
  Vec p = broadcast(1.9875691500e-4f);  // Cephes' expf
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const IntV exponent = (__builtin_convertvector(n, IntV) + 127) << 23;
  Vec scale;
  std::memcpy(&scale, &exponent, sizeof scale);
  return below ? Vec{} : p * scale;
}

#endif

}  // namespace SEGNEXT_ISA
}  // namespace segnext
