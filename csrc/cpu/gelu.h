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

// A polynomial on each of 16 intervals, the first of which is around 0: of x * scale less the nearest whole number. A
// permute fetches the coefficients. x is at most 15 / scale; NaN stays NaN.
template <int kCount>
SEGNEXT_INLINE Vec piecewise(const float (&coefficients)[kCount][16], Vec x, float scale) {
  // adding a float with no bits left for fractions puts the nearest interval's number into the last bits
  const Vec shifter = broadcast(12582912.0f);
  const Vec shifted = x * scale + shifter;
  const __m512i interval = (__m512i)shifted;
  const Vec r = x * scale - (shifted - shifter);
  Vec p = (Vec)_mm512_maskz_permutexvar_ps(0xffff, interval, _mm512_loadu_ps(coefficients[kCount - 1]));
#pragma GCC unroll 5
  for (int i = kCount - 2; i >= 0; --i) {
    p = p * r + (Vec)_mm512_maskz_permutexvar_ps(0xffff, interval, _mm512_loadu_ps(coefficients[i]));
  }
  return p;
}

// gelu(x) = x Φ(x) = x/2 + |x| (Φ(|x|) - 1/2), Φ the normal CDF; this form needs no sign fix-up. Φ(|x|) - 1/2 is a
// polynomial of degree 4 on each of 16 intervals around the multiples of 3/8. On the last interval it is 1/2. The float
// result is within 1.5e-7 max(1, |x|); PyTorch's is within 3.8e-7. It takes 8 instructions of the multiplying units; a
// quotient of polynomials takes 16.
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
  const Vec p = piecewise(kCoefficients, min(size, broadcast(kLast)), kScale);
  return size * p + 0.5f * x;
}

// d gelu / dx = Φ(x) + x φ(x), φ the density: less 1/2 it is odd, and above 0 a polynomial of degree 5 on each of 16
// intervals around the multiples of 2/5, within 1.4e-7; PyTorch's is within 3.1e-7. From 6 on it is 1/2; at infinity it
// is NaN, as in PyTorch.
static inline Vec gelu_derivative(Vec x) {
  constexpr float kScale = 2.5f, kLast = 15 / kScale;
  static const float kCoefficients[6][16] = {
      {5.29215829e-17f, 0.302729756f, 0.519897819f, 0.617953598f, 0.622674048f, 0.585231841f, 0.545549333f, 0.51960814f,
       0.506941915f, 0.502043724f, 0.500503659f, 0.500104308f, 0.500018239f, 0.500002682f, 0.500000358f, 0.5f},
      {0.319153816f, 0.271046817f, 0.157592207f, 0.0434976816f, -0.024846267f, -0.0431927741f, -0.033681374f,
       -0.0184904952f, -0.00785795413f, -0.00268257782f, -0.000749449187f, -0.000173200548f, -3.33383141e-05f,
       -5.36962261e-06f, -7.26089695e-07f, -8.26325959e-08f},
      {-5.18104061e-16f, -0.0452500507f, -0.0622927323f, -0.0477232933f, -0.0204465818f, -1.11992006e-06f,
       0.00756751606f, 0.00680894451f, 0.00380870537f, 0.00157906674f, 0.000513888896f, 0.000134832531f,
       2.89507225e-05f, 5.13460418e-06f, 7.56929637e-07f, 9.31607644e-08f},
      {-0.0170209948f, -0.0114136068f, 0.000217234279f, 0.0082981633f, 0.00871554669f, 0.00460738828f, 0.000750759558f,
       -0.000893747783f, -0.000945468782f, -0.000530281337f, -0.000211277918f, -6.47263951e-05f, -1.57827944e-05f,
       -3.1208931e-06f, -5.06234585e-07f, -6.78779557e-08f},
      {3.12038425e-15f, 0.00252389815f, 0.00278346916f, 0.00105369347f, -0.000665038708f, -0.0011398542f,
       -0.00069796294f, -0.000164317564f, 8.02932773e-05f, 0.000101278165f, 5.61647284e-05f, 2.13145613e-05f,
       6.11664018e-06f, 1.3832107e-06f, 2.51926565e-07f, 3.74473039e-08f},
      {0.000606971153f, 0.000319680548f, -0.000203121715f, -0.000414482813f, -0.000231166312f, 2.59438875e-05f,
       0.000120995275f, 8.07576216e-05f, 2.06354252e-05f, -6.68509938e-06f, -9.06437526e-06f, -4.76013747e-06f,
       -1.67171265e-06f, -4.3896668e-07f, -9.01600501e-08f, -1.48315538e-08f},
  };
  const Vec size = (Vec)((IntV)x & 0x7fffffff);
  const Vec p = piecewise(kCoefficients, min(broadcast(kLast), size), kScale);  // in this order NaN stays NaN
  return (Vec)((IntV)p ^ ((IntV)x & ~0x7fffffff)) + (0.5f + 0.0f * x);
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

#if defined(SEGNEXT_FLOAT64) || !defined(__AVX512F__)
// d gelu / dx = cdf(x) + x pdf(x)
static inline Vec gelu_derivative(Vec x) {
  const Vec pdf = kDensityAtZero * exp_negative(-0.5f * x * x);
  return 0.5f * (1.0f + erf(x * kRootHalf)) + x * pdf;
}
#endif

}  // namespace SEGNEXT_ISA
}  // namespace segnext
