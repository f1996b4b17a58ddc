// depthwise_sum: chains of depthwise convolutions over one tensor, added up or side by side.
#pragma once

#include "common/dtype.h"
#include "common/isa.h"
#include "common/tensor.h"

namespace segnext {

constexpr int kMaxConvolutions = 32;
constexpr int kMaxBranches = 16;

// How the branches' results become one; Python passes the place in COMBINES.
enum class Combine : int { kSum = 0, kCat = 1, kSplit = 2 };

struct DepthwiseSumParams {
  DType dtype;
  Tensor4 x;  // (N, C, H, W)
  int convolutions;
  Tensor4 weight[kMaxConvolutions];       // (C, 1, Kh, Kw), the root's first, then branch by branch
  Tensor4 bias[kMaxConvolutions];         // (C); all absent or none
  int64_t dilation[kMaxConvolutions][2];  // y, x
  int branches;
  int length[1 + kMaxBranches];  // convolutions of the root, then of each branch
  Combine combine;
  Tensor4 out;  // (N, C, H, W), for kCat (N, C * branches, H, W)
};

struct DepthwiseSumBackwardParams {
  DepthwiseSumParams forward;                                          // out is not set
  Tensor4 grad;                                                        // shaped as out
  Tensor4 grad_x;                                                      // (N, C, H, W)
  Tensor4 grad_weight[kMaxConvolutions], grad_bias[kMaxConvolutions];  // contiguous, shaped as the parameters
};

// Both return false when scratch memory is exhausted.
SEGNEXT_FOR_EACH_ISA_AND_FLOAT64(bool depthwise_sum_forward_cpu(const DepthwiseSumParams& params, int threads);
                                 bool depthwise_sum_backward_cpu(const DepthwiseSumBackwardParams& params,
                                                                 int threads);)

}  // namespace segnext
