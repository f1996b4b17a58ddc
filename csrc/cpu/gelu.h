// Exact (erf) GELU and its derivative on vectors.
#pragma once

#include "cpu/exponential.h"
#include "cpu/vector.h"

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

static inline Vec erf(Vec x) {
  for (int lane = 0; lane < kLanes; ++lane) x[lane] = std::erf(x[lane]);
  return x;
}

// The GELU for results that are stored as T.
template <typename T>
static inline Vec gelu_for(Vec x) {
  return x * 0.5 * (1.0 + erf(x * kRootHalf));
}

#else

constexpr Real kRootHalf = 0.70710678f, kDensityAtZero = 0.39894228f;

// erf as x P(x^2) / Q(x^2), fitted to a relative error of 1.9e-9 on |x| <= 3.925, where erf reaches 1 in float. The
// error of its evaluation in float stays below 4.2e-7.
static inline Vec erf(Vec x) {
  constexpr float kSaturates = 3.925f;
  const Vec z = x * x;
  Vec p = broadcast(-1.2829211965e-08f);
  p = p * z + 4.614703750553624e-06f;
  p = p * z + 0.0003769654086470787f;
  p = p * z + 0.0038394695399011007f;
  p = p * z + 0.054249427421746044f;
  p = p * z + 0.18514162710160156f;
  p = p * z + 1.1283791691624314f;
  Vec q = broadcast(6.24505509862103e-05f);
  q = q * z + 0.001301972383358491f;
  q = q * z + 0.015432475231621f;
  q = q * z + 0.11388045423044216f;
  q = q * z + 0.4974109017648508f;
  q = q * z + 1.0f;
  const Vec inside = x * p / q;
  const Vec one = broadcast(1.0f);
  return x > kSaturates ? one : x < -kSaturates ? -one : inside;
}

// Clamps to [-limit, limit]. NaN stays NaN: these instructions return their second operand then.
static inline Vec clamp(Vec x, float limit) {
  const Vec high = broadcast(limit), low = broadcast(-limit);
#if defined(__AVX512F__)
  return (Vec)_mm512_maskz_max_ps(0xffff, (__m512)low, _mm512_maskz_min_ps(0xffff, (__m512)high, (__m512)x));
#elif defined(__AVX2__)
  return (Vec)_mm256_max_ps((__m256)low, _mm256_min_ps((__m256)high, (__m256)x));
#else
  x = x > high ? high : x;
  return x < low ? low : x;
#endif
}

#if defined(__AVX512F__)

// gelu(x) = x Φ(x) = x/2 + |x| (Φ(|x|) - 1/2), Φ the normal CDF; this form needs no sign fix-up. Φ(|x|) - 1/2 is a
// polynomial of degree 4 on each of 16 intervals around the multiples of 3/8; a permute fetches the coefficients. On
// the last interval it is 1/2. The float result is within 1.5e-7 max(1, |x|); PyTorch's is within 3.8e-7. It takes 8
// instructions of the multiplying units; a quotient of polynomials takes 16.
static inline Vec gelu(Vec x) {
  constexpr float kScale = 8.0f / 3, kLast = 15 / kScale;
  static const float kCoefficients[5][16] = {
      {4.40763337e-09f, 0.146169752f, 0.27337265f, 0.369705468f, 0.43319279f, 0.469603628f, 0.487775534f, 0.495667547f,
       0.498650104f, 0.499630928f, 0.499911577f, 0.499981463f, 0.499996603f, 0.499999464f, 0.499999911f, 0.5f},
      {0.149602905f, 0.139444679f, 0.11292655f, 0.079454504f, 0.0485699475f, 0.0257953312f, 0.0119024385f,
       0.00477143051f, 0.00166178378f, 0.00050281547f, 0.000132173707f, 3.01840246e-05f, 5.98821453e-06f,
       1.03204195e-06f, 1.5451397e-07f, 0.0f},
      {7.08955076e-06f, -0.00980440248f, -0.0158799589f, -0.0167595893f, -0.0136601496f, -0.00906869955f,
       -0.00502145058f, -0.00234854873f, -0.000934827898f, -0.000318226637f, -9.29508897e-05f, -2.33510909e-05f,
       -5.05419121e-06f, -9.43751218e-07f, -1.52182878e-07f, 0.0f},
      {-0.00354616856f, -0.00279309554f, -0.0011582087f, 0.000482479896f, 0.00140937231f, 0.00151325029f, 0.0011321964f,
       0.000660994498f, 0.000314174365f, 0.00012414463f, 4.12754598e-05f, 1.16350584e-05f, 2.79509663e-06f,
       5.74341982e-07f, 1.01220508e-07f, 0.0f},
      {9.15427227e-05f, 0.000325352041f, 0.000450265303f, 0.000339050282f, 0.000120849523f, -5.31059013e-05f,
       -0.00012016471f, -0.000106711334f, -6.58635327e-05f, -3.15280413e-05f, -1.22136098e-05f, -3.91244248e-06f,
       -1.04956086e-06f, -2.37723967e-07f, -4.5718366e-08f, 0.0f},
  };
  const Vec size = (Vec)((IntV)x & 0x7fffffff);
  const Vec inside = min(size, broadcast(kLast));
  // adding a float with no bits left for fractions puts the nearest interval's number into the last bits
  const Vec shifter = broadcast(12582912.0f);
  const Vec shifted = inside * kScale + shifter;
  const __m512i interval = (__m512i)shifted;
  const Vec r = inside * kScale - (shifted - shifter);
  Vec p = (Vec)_mm512_maskz_permutexvar_ps(0xffff, interval, _mm512_loadu_ps(kCoefficients[4]));
#pragma GCC unroll 4
  for (int i = 3; i >= 0; --i) {
    p = p * r + (Vec)_mm512_maskz_permutexvar_ps(0xffff, interval, _mm512_loadu_ps(kCoefficients[i]));
  }
  return size * p + 0.5f * x;
}

#else

// gelu(x) = x Φ(x), Φ the normal CDF: 0.5 + x P(x^2) / Q(x^2), fitted to 1.4e-8 on |x| <= 5.5, 0 below and 1 above. The
// float result is within 2.1e-7 max(1, |x|); PyTorch's is within 3.8e-7.
static inline Vec gelu(Vec x) {
  constexpr float kLimit = 5.5f;
  const Vec inside = clamp(x, kLimit);
  const Vec z = inside * inside;
  Vec p = broadcast(2.2749359729345997e-08f);
  p = p * z + 6.352122454700293e-06f;
  p = p * z + 0.00016882631462067366f;
  p = p * z + 0.0046772644855082035f;
  p = p * z + 0.0338527113199234f;
  p = p * z + 0.398942232131958f;
  Vec q = broadcast(1.1975040479228483e-06f);
  q = q * z + 7.364770863205194e-05f;
  q = q * z + 0.0018844484584406018f;
  q = q * z + 0.02864590846002102f;
  q = q * z + 0.2515220642089844f;
  q = q * z + 1.0f;
  const Vec phi = inside * (p / q) + 0.5f;
  return x * (x < -kLimit ? Vec{} : phi);  // -inf * 0 is NaN, as in PyTorch
}

#endif

// The same for results that are rounded to 16 bits: Φ is a polynomial, within 8e-5.
static inline Vec gelu_short(Vec x) {
  constexpr float kLimit = 3.8f;
  const Vec inside = clamp(x, kLimit);
  const Vec z = inside * inside;
  Vec p = broadcast(3.665840964117706e-08f);
  p = p * z - 2.2725014332536375e-06f;
  p = p * z + 6.068586662877351e-05f;
  p = p * z - 0.0009315640782006085f;
  p = p * z + 0.00931680016219616f;
  p = p * z - 0.06572095304727554f;
  p = p * z + 0.3986838161945343f;
  const Vec phi = inside * p + 0.5f;
  return x * (x < -kLimit ? Vec{} : phi);
}

// The GELU for results that are stored as T.
template <typename T>
static inline Vec gelu_for(Vec x) {
  return sizeof(T) == 2 ? gelu_short(x) : gelu(x);
}

#endif

// d gelu / dx = cdf(x) + x pdf(x)
static inline Vec gelu_derivative(Vec x) {
  const Vec pdf = kDensityAtZero * exp_negative(-0.5f * x * x);
  return 0.5f * (1.0f + erf(x * kRootHalf)) + x * pdf;
}

}  // namespace SEGNEXT_ISA
}  // namespace segnext
