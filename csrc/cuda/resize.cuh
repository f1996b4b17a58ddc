// Bilinear resizing (align_corners = False) on a GPU, in the float arithmetic of PyTorch's upsample_bilinear2d.
#pragma once

#include "cuda/device.cuh"

namespace segnext {

struct Sample {
  int source, next;  // the two source indices
  float w0, w1;      // their weights
};

// 1 if a source index has a neighbour to blend with. The last index has none, and no index has one at scale 1.
__device__ inline int reach(int source, float scale, int in) { return scale != 1.0f && source < in - 1; }

__device__ inline Sample sample_axis(int out, float scale, int in) {
  const float position = fmaxf(__fsub_rn(__fmul_rn(scale, static_cast<float>(out) + 0.5f), 0.5f), 0.0f);
  const int floor = static_cast<int>(fminf(position, 2147483520.0f));  // the largest float that fits an int
  const int source = floor < in - 1 ? floor : in - 1;
  const float w1 = fminf(position - static_cast<float>(source), 1.0f);
  return {source, source + reach(source, scale, in), 1.0f - w1, w1};
}

// First output index whose source is at least `cell`, found by exact steps from an estimate.
__device__ inline int first_output(int cell, float scale, int in, int out) {
  if (cell <= 0) return 0;
  if (cell >= in) return out;
  const float estimate = (static_cast<float>(cell) + 0.5f) / scale - 0.5f;
  int i = static_cast<int>(fminf(fmaxf(estimate, 0.0f), static_cast<float>(out)));
  i = i > out ? out : i;
  while (i > 0 && sample_axis(i - 1, scale, in).source >= cell) --i;
  while (i < out && sample_axis(i, scale, in).source < cell) ++i;
  return i;
}

template <typename T>
struct GlobalCell {
  const T *a, *b, *c, *d;  // corners: top left, top right, bottom left, bottom right
  int64_t stride_c;

  __device__ float interpolate(int64_t k, const Sample& y, const Sample& x) const {
    const int64_t at = k * stride_c;
    const float top = x.w0 * to_float(load_global(a + at)) + x.w1 * to_float(load_global(b + at));
    const float bottom = x.w0 * to_float(load_global(c + at)) + x.w1 * to_float(load_global(d + at));
    return y.w0 * top + y.w1 * bottom;
  }
};

}  // namespace segnext
