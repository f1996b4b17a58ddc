// upsample_argmax: bilinear resize of logits (align_corners = False) and argmax over classes.
#pragma once

#include <cstdint>

#include "common/dtype.h"
#include "common/isa.h"

namespace segnext {

struct UpsampleArgmaxParams {
  const void* logits;  // (batch, classes, height, width) of dtype; strides in elements
  DType dtype;
  int64_t batch, classes, height, width;
  int64_t stride_n, stride_c, stride_h, stride_w;
  void* labels;  // (batch, out_height, out_width), contiguous; uint8 up to 256 classes, else int32
  int64_t out_height, out_width;
  float scale_h, scale_w;  // height / out_height and width / out_width
};

// Returns false when scratch memory is exhausted.
SEGNEXT_FOR_EACH_ISA(bool upsample_argmax_cpu(const UpsampleArgmaxParams& params, int threads);)

// CUDA: returns a cudaError_t, 0 for success, and runs on `stream` of the current device.
int launch_upsample_argmax(const UpsampleArgmaxParams& params, void* stream);

}  // namespace segnext
