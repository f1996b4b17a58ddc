// channel_norm: LayerNorm over the channels of each pixel; for inference.
#pragma once

#include "common/dtype.h"
#include "common/isa.h"
#include "common/tensor.h"

namespace segnext {

struct ChannelNormParams {
  DType dtype;           // float32 or bfloat16
  Tensor4 x;             // (N, C, H, W), channels side by side
  Tensor4 weight, bias;  // (C), float32, contiguous
  float eps;
  Tensor4 out;  // like x; may be x
};

SEGNEXT_FOR_EACH_ISA(void channel_norm_cpu(const ChannelNormParams& params, int threads);)

}  // namespace segnext
