// e^x on vectors.
#pragma once

#include "common/vector.h"

namespace segnext {
namespace SEGNEXT_ISA {

// e^x for x <= 0; below -87 it is e^-87, about float's smallest normal number.
static inline FloatV exp_negative(FloatV x) {
  constexpr float kLog2E = 1.44269504f, kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;
  x = x < -87.0f ? broadcast(-87.0f) : x;  // in this form NaN stays NaN
  // round to nearest by the float that has no fraction bits left
  const FloatV shifter = broadcast(12582912.0f);
  const FloatV n = (x * kLog2E + shifter) - shifter;
  const FloatV r = (x - n * kLn2High) - n * kLn2Low;
  FloatV p = broadcast(1.9875691500e-4f);  // Cephes' expf
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const IntV exponent = (__builtin_convertvector(n, IntV) + 127) << 23;
  FloatV scale;
  std::memcpy(&scale, &exponent, sizeof scale);
  return p * scale;
}

}  // namespace SEGNEXT_ISA
}  // namespace segnext
