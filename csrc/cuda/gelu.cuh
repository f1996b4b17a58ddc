// Exact (erf) GELU and its derivative on a GPU, without a branch: 16 instructions each, 13 for 16-bit results.
//
// With a = |x|, Phi the normal CDF and phi its density,
//   gelu(x) = max(x, 0) - a Phi(-a)
//   gelu'(x) = k for x <= 0, 1 - k for x > 0, where k = Phi(-a) - a phi(a).
// Phi(-a) = exp(-a^2 / 2) (1/2 - a t R(t)), t = 1 / (1 + p a), with R a polynomial fitted over all a. The form is exact
// at 0. It subtracts no nearly equal numbers for large a, so digits remain far below zero, where 1 + erf has none left.
//
// Largest errors over all floats, with the exact exp2 and reciprocal of the emulator:
//                    gelu / max(1, |x|)   relative error: |x| < 0.03, -1 < x, -10 < x < -1     gelu'
//   float            9.5e-8                               1.5e-7      3.5e-7   9.5e-5            1.3e-7
//   16-bit results   5.0e-5                               2.0e-5      3.0e-4   2.4e-3            7.0e-5
//   PyTorch, float   1.1e-7                               1.2e-7      2.2e-7   1                 1.4e-7
// The hardware's exp2 has a relative error of at most 2^-22, its reciprocal of at most 2^-23. The first moves gelu by
// 2^-22 a Phi(-a) < 4.1e-8 and gelu' by 2^-22 |k| < 1.2e-7. The second moves a t R(t), which is below 1/2, by a
// relative 1.7 x 2^-23 at most, so it moves gelu by a exp(-a^2 / 2) 1e-7 < 6.2e-8 and gelu' by 1e-7. Together they add
// about as much as the errors in the table. Inf and NaN are those of PyTorch's float64: gelu(inf) = inf, gelu(-inf) =
// NaN (-inf times 0), gelu'(+-inf) = NaN.
#pragma once

#include "cuda/ptx.cuh"

namespace segnext {

namespace detail {

// Splits Phi(-a) = density * ratio with density = exp(-a^2 / 2), for a >= 0 and results that are stored as T. `minus`
// is subtracted from the ratio without a rounding of its own.
template <typename T>
__device__ inline void normal_tail(float a, float minus, float& density, float& ratio) {
  density = exp2_approx(a * a * -0.72134752f);  // log2(e) / 2
  if constexpr (sizeof(T) == 2) {
    const float t = reciprocal_approx(fmaf(a, 0.340000004f, 1.0f));
    float r = 0.1164307f;
    r = fmaf(r, t, 0.11174874f);
    r = fmaf(r, t, 0.171166003f);
    ratio = fmaf(-(a * t), r, 0.5f - minus);
  } else {
    const float t = reciprocal_approx(fmaf(a, 0.280000001f, 1.0f));
    float r = -0.0301093776f;
    r = fmaf(r, t, 0.0814990997f);
    r = fmaf(r, t, 0.0100272698f);
    r = fmaf(r, t, 0.0909865424f);
    r = fmaf(r, t, 0.106383249f);
    r = fmaf(r, t, 0.140154943f);
    ratio = fmaf(-(a * t), r, 0.5f - minus);
  }
}

}  // namespace detail

template <typename T>
__device__ inline float gelu(float x) {
  constexpr float kNothingLeft = 16.0f;  // exp(-16^2 / 2) is 0 in float; inf must not be multiplied by it
  const float a = fabsf(fminf(x, kNothingLeft));
  float density, ratio;
  detail::normal_tail<T>(a, 0.0f, density, ratio);
  return fmaf(-a, density * ratio, max_or_nan(x, -0.0f));
}

template <typename T>
__device__ inline float gelu_derivative(float x) {
  const float a = fabsf(x);
  float density, ratio;
  detail::normal_tail<T>(a, 0.39894228f * a, density, ratio);  // phi(0) a
  const float k = density * ratio;
  return x > 0.0f ? 1.0f - k : k;
}

}  // namespace segnext
