// dwconv_gelu: depthwise 3x3 convolution and exact GELU.
#pragma once

#include "common/dtype.h"
#include "common/isa.h"
#include "common/tensor.h"

namespace segnext {

struct DwconvGeluParams {
  DType dtype;
  Tensor4 x;       // (N, C, H, W)
  Tensor4 weight;  // (C, 1, 3, 3)
  Tensor4 bias;    // (C), or absent
  Tensor4 out;     // (N, C, H, W)
};

struct DwconvGeluBackwardParams {
  DwconvGeluParams forward;  // out is not set
  Tensor4 grad;              // (N, C, H, W)
  Tensor4 grad_x;            // (N, C, H, W)
  Tensor4 grad_weight;       // (C, 1, 3, 3), contiguous
  Tensor4 grad_bias;         // (C), or absent
};

// Both return false when scratch memory is exhausted.
SEGNEXT_FOR_EACH_ISA_AND_FLOAT64(bool dwconv_gelu_forward_cpu(const DwconvGeluParams& params, int threads);
                                 bool dwconv_gelu_backward_cpu(const DwconvGeluBackwardParams& params, int threads);)

// CUDA: both return a cudaError_t, 0 for success, and run on `stream` of the current device. The backward needs a
// workspace of dwconv_gelu_backward_workspace() bytes at a multiple of 16.
int launch_dwconv_gelu_forward(const DwconvGeluParams& params, void* stream);
int64_t dwconv_gelu_backward_workspace(const DwconvGeluBackwardParams& params);
int launch_dwconv_gelu_backward(const DwconvGeluBackwardParams& params, void* workspace, void* stream);

}  // namespace segnext
