// Exact (erf) GELU and its derivative on vectors.
#pragma once

#include "common/exponential.h"
#include "common/vector.h"

#if defined(SEGNEXT_FLOAT64)
#include <cmath>
#elif defined(__AVX2__)
#include <immintrin.h>
#endif

namespace segnext {
namespace SEGNEXT_ISA {

#if defined(SEGNEXT_FLOAT64)

// sqrt(1/2), 1 / sqrt(2 pi)
constexpr Real kRootHalf = 0.70710678118654752440, kDensityAtZero = 0.39894228040143267794;

static inline FloatV erf(FloatV x) {
  for (int lane = 0; lane < kLanes; ++lane) x[lane] = std::erf(x[lane]);
  return x;
}

// GELU of a result that is stored as T.
template <typename T>
static inline FloatV gelu_for(FloatV x) {
  return x * 0.5 * (1.0 + erf(x * kRootHalf));
}

#else

constexpr Real kRootHalf = 0.70710678f, kDensityAtZero = 0.39894228f;

// erf as x P(x^2) / Q(x^2), fitted to relative 1.9e-9 on |x| <= 3.925, where float's erf reaches 1;
// evaluated in float the error stays below 4.2e-7.
static inline FloatV erf(FloatV x) {
  constexpr float kSaturates = 3.925f;
  const FloatV z = x * x;
  FloatV p = broadcast(-1.2829211965e-08f);
  p = p * z + 4.614703750553624e-06f;
  p = p * z + 0.0003769654086470787f;
  p = p * z + 0.0038394695399011007f;
  p = p * z + 0.054249427421746044f;
  p = p * z + 0.18514162710160156f;
  p = p * z + 1.1283791691624314f;
  FloatV q = broadcast(6.24505509862103e-05f);
  q = q * z + 0.001301972383358491f;
  q = q * z + 0.015432475231621f;
  q = q * z + 0.11388045423044216f;
  q = q * z + 0.4974109017648508f;
  q = q * z + 1.0f;
  const FloatV inside = x * p / q;
  const FloatV one = broadcast(1.0f);
  return x > kSaturates ? one : x < -kSaturates ? -one : inside;
}

// Into [-limit, limit]; NaN stays NaN: these instructions return their second operand then.
static inline FloatV clamp(FloatV x, float limit) {
  const FloatV high = broadcast(limit), low = broadcast(-limit);
#if defined(__AVX512F__)
  return (FloatV)_mm512_maskz_max_ps(0xffff, (__m512)low, _mm512_maskz_min_ps(0xffff, (__m512)high, (__m512)x));
#elif defined(__AVX2__)
  return (FloatV)_mm256_max_ps((__m256)low, _mm256_min_ps((__m256)high, (__m256)x));
#else
  x = x > high ? high : x;
  return x < low ? low : x;
#endif
}

// a / b for b >= 1 and finite.
static inline FloatV quotient(FloatV a, FloatV b) {
#if defined(__AVX512F__)
  // a division holds the unit for ten cycles; 14 bits and a Newton step make 27 bits in four instructions
  const FloatV r = (FloatV)_mm512_maskz_rcp14_ps(0xffff, (__m512)b);
  return a * (r * (2.0f - b * r));
#else
  return a / b;
#endif
}

// x phi(x), phi the normal distribution's integral: 0.5 + x P(x^2) / Q(x^2) fitted to 1.4e-8 on |x| <= 5.5, below it 0,
// above it 1. The float result is within 1.5e-7 max(1, |x|), PyTorch's own error.
static inline FloatV gelu(FloatV x) {
  constexpr float kLimit = 5.5f;
  const FloatV inside = clamp(x, kLimit);
  const FloatV z = inside * inside;
  FloatV p = broadcast(2.2749359729345997e-08f);
  p = p * z + 6.352122454700293e-06f;
  p = p * z + 0.00016882631462067366f;
  p = p * z + 0.0046772644855082035f;
  p = p * z + 0.0338527113199234f;
  p = p * z + 0.398942232131958f;
  FloatV q = broadcast(1.1975040479228483e-06f);
  q = q * z + 7.364770863205194e-05f;
  q = q * z + 0.0018844484584406018f;
  q = q * z + 0.02864590846002102f;
  q = q * z + 0.2515220642089844f;
  q = q * z + 1.0f;
  const FloatV phi = inside * quotient(p, q) + 0.5f;
  return x * (x < -kLimit ? FloatV{} : phi);  // -inf * 0 is NaN, as PyTorch's
}

// The same for results that are rounded to 16 bits: phi by a polynomial, within 8e-5.
static inline FloatV gelu_short(FloatV x) {
  constexpr float kLimit = 3.8f;
  const FloatV inside = clamp(x, kLimit);
  const FloatV z = inside * inside;
  FloatV p = broadcast(3.665840964117706e-08f);
  p = p * z - 2.2725014332536375e-06f;
  p = p * z + 6.068586662877351e-05f;
  p = p * z - 0.0009315640782006085f;
  p = p * z + 0.00931680016219616f;
  p = p * z - 0.06572095304727554f;
  p = p * z + 0.3986838161945343f;
  const FloatV phi = inside * p + 0.5f;
  return x * (x < -kLimit ? FloatV{} : phi);
}

// GELU of a result that is stored as T.
template <typename T>
static inline FloatV gelu_for(FloatV x) {
  return sizeof(T) == 2 ? gelu_short(x) : gelu(x);
}

#endif

// d gelu / dx = cdf(x) + x pdf(x)
static inline FloatV gelu_derivative(FloatV x) {
  const FloatV pdf = kDensityAtZero * exp_negative(-0.5f * x * x);
  return 0.5f * (1.0f + erf(x * kRootHalf)) + x * pdf;
}

}  // namespace SEGNEXT_ISA
}  // namespace segnext
