// gated_pointwise: (W m + b) * u, a 1x1 convolution and a multiplication by the gate. On the CPU u may be absent: then
// it is the convolution alone.
#pragma once

#include "common/dtype.h"
#include "common/isa.h"
#include "common/tensor.h"

namespace segnext {

struct GatedPointwiseParams {
  DType dtype;
  Tensor4 m;       // (N, Ci, H, W)
  Tensor4 u;       // (N, Co, H, W); on the CPU it may be absent
  Tensor4 weight;  // (Co, Ci, 1, 1)
  Tensor4 bias;    // (Co), or absent
  Tensor4 out;     // (N, Co, H, W)
};

struct GatedPointwiseBackwardParams {
  GatedPointwiseParams forward;  // out is not set
  Tensor4 grad;                  // (N, Co, H, W)
  Tensor4 grad_m;                // (N, Ci, H, W)
  Tensor4 grad_u;                // (N, Co, H, W), absent where u is
  Tensor4 grad_weight;           // (Co, Ci, 1, 1), contiguous
  Tensor4 grad_bias;             // (Co), contiguous, or absent
};

// Both return false when scratch memory is exhausted.
SEGNEXT_FOR_EACH_ISA_AND_FLOAT64(bool gated_pointwise_forward_cpu(const GatedPointwiseParams& params, int threads);
                                 bool gated_pointwise_backward_cpu(const GatedPointwiseBackwardParams& params,
                                                                   int threads);)

// CUDA: both return a cudaError_t, 0 for success, and run on `stream` of the current device. The backward needs a
// workspace of gated_pointwise_backward_workspace() bytes.
int launch_gated_pointwise_forward(const GatedPointwiseParams& params, void* stream);
int64_t gated_pointwise_backward_workspace(const GatedPointwiseBackwardParams& params);
int launch_gated_pointwise_backward(const GatedPointwiseBackwardParams& params, void* workspace, void* stream);

}  // namespace segnext
