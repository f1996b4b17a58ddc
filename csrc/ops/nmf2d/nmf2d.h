// nmf2d: the matrix factorisation of the Hamburger decoder, with all of its steps. For a dtype of float64, float32
// below means float64.
#pragma once

#include <functional>

#include "common/dtype.h"
#include "common/isa.h"
#include "common/tensor.h"

namespace segnext {

struct Nmf2dParams {
  DType dtype;         // of x and out
  DType bases_dtype;   // float32 or x's
  Tensor4 x;           // (B, D, N), any strides
  Tensor4 bases;       // (1 or B, D, R), any strides
  Tensor4 projection;  // (P, D), rows contiguous, or absent; with it out is (B, P, N) = projection · bases coefᵀ
  Tensor4 out;         // (B, D, N), any strides
  // float32 (S, B, D, R) and (S, B, N, R), the state before each update. S is 0, steps + 1, or 1 for the last state
  // alone
  Tensor4 saved_bases;
  Tensor4 saved_coef;
  int64_t steps;
  double eps;
  DType projection_dtype;  // float32; on a GPU it may be x's, with any strides
};

struct Nmf2dBackwardParams {
  DType dtype;          // of grad, x and grad_x
  Tensor4 grad;         // (B, D, N), any strides
  Tensor4 x;            // (B, D, N), any strides
  Tensor4 saved_bases;  // float32 (S, B, D, R), any strides; S >= 1
  Tensor4 saved_coef;   // float32 (S, B, N, R), any strides
  Tensor4 grad_x;       // (B, D, N), any strides
  bool unrolled;        // if false, only the last coef update is differentiated
  double eps;
};

// Both return false when scratch memory is exhausted.
SEGNEXT_FOR_EACH_ISA_AND_FLOAT64(bool nmf2d_forward_cpu(const Nmf2dParams& params, int threads);
                                 bool nmf2d_backward_cpu(const Nmf2dBackwardParams& params, int threads);)

// Whether a tile with this many channels and this rank fits a block of the CUDA kernels.
bool nmf2d_fits(DType dtype, int64_t channels, int64_t rank);
// CUDA: both launches return a cudaError_t, 0 for success, and run on `stream` of the current device. Workspaces are in
// bytes. The forward makes its plan only once, so it requests its own workspace. `variant`: 0 streaming, 1 grid, 2
// cluster; -1 stands for the result of nmf2d_forward_variant().
int nmf2d_forward_variant(const Nmf2dParams& params);
int launch_nmf2d_forward(const Nmf2dParams& params, int variant, const std::function<void*(int64_t)>& workspace,
                         void* stream);
int64_t nmf2d_backward_workspace(const Nmf2dBackwardParams& params);
int launch_nmf2d_backward(const Nmf2dBackwardParams& params, void* workspace, void* stream);

}  // namespace segnext
