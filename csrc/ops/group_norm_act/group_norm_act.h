// group_norm_act: GroupNorm, an optional residual, ReLU.
#pragma once

#include "common/dtype.h"
#include "common/isa.h"
#include "common/tensor.h"

namespace segnext {

struct GroupNormActParams {
  DType dtype, affine_dtype;  // dtype of the activations, and of weight and bias
  int64_t groups;
  double eps;
  bool relu;
  Tensor4 x;         // (N, C, H, W)
  Tensor4 weight;    // (C)
  Tensor4 bias;      // (C); not read by the backward
  Tensor4 residual;  // (N, C, H, W), or absent; not read by the backward
  Tensor4 out;       // (N, C, H, W); the backward reads from it where ReLU passed its input
};

struct GroupNormActBackwardParams {
  GroupNormActParams forward;
  Tensor4 grad;           // (N, C, H, W)
  Tensor4 grad_x;         // (N, C, H, W)
  Tensor4 grad_weight;    // (C), contiguous
  Tensor4 grad_bias;      // (C), contiguous
  Tensor4 grad_residual;  // (N, C, H, W), or absent
};

// Both return false when scratch memory is exhausted.
SEGNEXT_FOR_EACH_ISA_AND_FLOAT64(bool group_norm_act_forward_cpu(const GroupNormActParams& params, int threads);
                                 bool group_norm_act_backward_cpu(const GroupNormActBackwardParams& params,
                                                                  int threads);)

// CUDA: ..._workspace() returns the bytes of device memory that a launch needs. Both launches return a cudaError_t, 0
// for success, and run on `stream` of the current device.
int64_t group_norm_act_forward_workspace(const GroupNormActParams& params);
int64_t group_norm_act_backward_workspace(const GroupNormActBackwardParams& params);
int launch_group_norm_act_forward(const GroupNormActParams& params, void* workspace, void* stream);
int launch_group_norm_act_backward(const GroupNormActBackwardParams& params, void* workspace, void* stream);

}  // namespace segnext
