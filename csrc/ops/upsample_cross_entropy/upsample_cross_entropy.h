// upsample_cross_entropy: bilinear resize of logits (align_corners = False) and cross-entropy.
#pragma once

#include "common/dtype.h"
#include "common/isa.h"
#include "common/tensor.h"

namespace segnext {

struct UpsampleCrossEntropyParams {
  DType dtype;
  Tensor4 logits;  // (N, K, h, w)
  Tensor4 target;  // (N, H, W), contiguous; int64, or uint8 where target_is_byte
  bool target_is_byte;
  const void* class_weight;  // (K) float32 (float64 if dtype is), or null
  int64_t ignore_index;
  double label_smoothing;
  bool mean_all;  // the mean is over all pixels, not only over those that count
};

enum class CrossEntropyStatus : int { kOk = 0, kNoMemory = 1, kClassOutOfRange = 2 };

// The forward writes the loss to *loss, the backward grad * d loss / d logits to grad_logits, which has any strides.
SEGNEXT_FOR_EACH_ISA_AND_FLOAT64(
    CrossEntropyStatus upsample_cross_entropy_forward_cpu(const UpsampleCrossEntropyParams& params, double* loss,
                                                          int threads);
    CrossEntropyStatus upsample_cross_entropy_backward_cpu(const UpsampleCrossEntropyParams& params, double grad,
                                                           const Tensor4& grad_logits, int threads);)

// CUDA: both launches return a cudaError_t, 0 for success, and run on `stream` of the current device. A pixel whose
// label is out of range has a loss and a gradient of NaN. `loss` and `grad` point to a float in device memory.
int64_t upsample_cross_entropy_forward_workspace(const UpsampleCrossEntropyParams& params);
int64_t upsample_cross_entropy_backward_workspace(const UpsampleCrossEntropyParams& params);
int launch_upsample_cross_entropy_forward(const UpsampleCrossEntropyParams& params, float* loss, void* workspace,
                                          void* stream);
int launch_upsample_cross_entropy_backward(const UpsampleCrossEntropyParams& params, const float* grad,
                                           const Tensor4& grad_logits, void* workspace, void* stream);

}  // namespace segnext
