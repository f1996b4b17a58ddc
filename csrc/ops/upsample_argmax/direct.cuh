// The naive kernel of upsample_argmax: one warp per output pixel computes every class.
#pragma once

#include "cuda/resize.cuh"
#include "ops/upsample_argmax/upsample_argmax.h"

namespace segnext {
namespace {

constexpr int kThreads = 128;  // few: setting up a tile costs each thread as much as 30 pixels

// The order of PyTorch's argmax: NaN beats everything, then the larger value, then the lower class.
__device__ inline bool wins(float value, int32_t k, float best, int32_t best_k) {
  const bool nan = value != value, best_nan = best != best;
  if (nan || best_nan) return nan && (!best_nan || k < best_k);
  return value > best || (value == best && k < best_k);
}

template <typename T>
__device__ inline GlobalCell<T> cell_at(const UpsampleArgmaxParams& p, int64_t n, const Sample& y, const Sample& x) {
  const T* image = static_cast<const T*>(p.logits) + n * p.stride_n;
  const T *top = image + y.source * p.stride_h, *bottom = image + y.next * p.stride_h;
  const int64_t left = x.source * p.stride_w, right = x.next * p.stride_w;
  return {top + left, top + right, bottom + left, bottom + right, p.stride_c};
}

__device__ inline void reduce_winner(float& best, int32_t& best_k) {
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    const float other = __shfl_xor_sync(kFullWarp, best, offset);
    const int32_t other_k = __shfl_xor_sync(kFullWarp, best_k, offset);
    if (wins(other, other_k, best, best_k)) {
      best = other;
      best_k = other_k;
    }
  }
}

template <typename T, typename Label>
__global__ void __launch_bounds__(kThreads) upsample_argmax_direct_kernel(UpsampleArgmaxParams p) {
  const int lane = threadIdx.x % kWarp;
  const int64_t pixels = p.batch * p.out_height * p.out_width;
  const int64_t warps = static_cast<int64_t>(gridDim.x) * (kThreads / kWarp);
  for (int64_t i = blockIdx.x * static_cast<int64_t>(kThreads / kWarp) + threadIdx.x / kWarp; i < pixels; i += warps) {
    const int64_t n = i / (p.out_height * p.out_width), in_image = i % (p.out_height * p.out_width);
    const Sample y = sample_axis(static_cast<int>(in_image / p.out_width), p.scale_h, static_cast<int>(p.height));
    const Sample x = sample_axis(static_cast<int>(in_image % p.out_width), p.scale_w, static_cast<int>(p.width));
    const GlobalCell<T> cell = cell_at<T>(p, n, y, x);
    float best = -INFINITY;
    int32_t best_k = INT32_MAX;  // loses every tie, so lanes without a class never win
    for (int32_t k = lane; k < p.classes; k += kWarp) {
      const float value = cell.interpolate(k, y, x);
      if (wins(value, k, best, best_k)) {
        best = value;
        best_k = k;
      }
    }
    reduce_winner(best, best_k);
    if (lane == 0) store_global(static_cast<Label*>(p.labels) + i, static_cast<Label>(best_k));
  }
}

}  // namespace
}  // namespace segnext
