// resize_sum: adds bilinearly resized tensors to a tensor of the output's size; for inference.
#pragma once

#include "common/dtype.h"
#include "common/isa.h"
#include "common/tensor.h"

namespace segnext {

constexpr int kMaxResized = 4;

struct ResizeSumParams {
  DType dtype;   // float32 or bfloat16
  Tensor4 base;  // (N, C, H, W), channels side by side, as in all tensors here
  int count;
  Tensor4 other[kMaxResized];  // (N, C, h, w)
  Tensor4 out;                 // (N, C, H, W); may be base
};

// Returns false when scratch memory is exhausted.
SEGNEXT_FOR_EACH_ISA(bool resize_sum_cpu(const ResizeSumParams& params, int threads);)

}  // namespace segnext
