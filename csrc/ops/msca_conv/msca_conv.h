// msca_conv: a depthwise root convolution, then the sum of its strip branches.
#pragma once

#include "common/dtype.h"
#include "common/isa.h"
#include "common/tensor.h"

namespace segnext {

constexpr int kMaxStrips = 8;       // pairs of a row and a column
constexpr int kMaxRoot = 63;        // longest side of a root
constexpr int kMaxStripTaps = 127;  // longest strip
// Limits of the CUDA kernels: what fits 96 KiB of shared memory beside 16 of the longest strips.
constexpr int kMaxRootCuda = 31;
constexpr int kMaxStripTapsBackwardCuda = 63;

struct MscaConvWeights {
  Tensor4 root_weight;                                        // (C, 1, K, K)
  Tensor4 root_bias;                                          // (C), or absent
  int strips;                                                 // pairs of a row and a column
  Tensor4 row_weight[kMaxStrips], column_weight[kMaxStrips];  // (C, 1, 1, K) and (C, 1, K, 1)
  Tensor4 row_bias[kMaxStrips], column_bias[kMaxStrips];      // (C), or absent
};

struct MscaConvParams {
  DType dtype;
  Tensor4 x;  // (N, C, H, W)
  MscaConvWeights weights;
  Tensor4 out;  // (N, C, H, W)
};

struct MscaConvBackwardParams {
  MscaConvParams forward;                    // out is not set
  Tensor4 grad;                              // (N, C, H, W)
  Tensor4 grad_x;                            // (N, C, H, W)
  Tensor4 grad_root_weight, grad_root_bias;  // contiguous, shaped as the parameters; a bias's is absent if the bias is
  Tensor4 grad_row_weight[kMaxStrips], grad_column_weight[kMaxStrips];
  Tensor4 grad_row_bias[kMaxStrips], grad_column_bias[kMaxStrips];
};

// Both return false when scratch memory is exhausted.
SEGNEXT_FOR_EACH_ISA_AND_FLOAT64(bool msca_conv_forward_cpu(const MscaConvParams& params, int threads);
                                 bool msca_conv_backward_cpu(const MscaConvBackwardParams& params, int threads);)

// CUDA: both return a cudaError_t, 0 for success, and run on `stream` of the current device. The backward needs a
// workspace of msca_conv_backward_workspace() bytes at a multiple of 16.
int launch_msca_conv_forward(const MscaConvParams& params, void* stream);
int64_t msca_conv_backward_workspace(const MscaConvBackwardParams& params);
int launch_msca_conv_backward(const MscaConvBackwardParams& params, void* workspace, void* stream);

}  // namespace segnext
