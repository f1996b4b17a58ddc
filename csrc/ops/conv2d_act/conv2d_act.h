// conv2d: dense convolution of any kernel and stride with an activation, on packed weights; inference.
#pragma once

#include "common/dtype.h"
#include "common/isa.h"
#include "common/tensor.h"

namespace segnext {

enum class Activation : int { kNone = 0, kRelu = 1, kGelu = 2 };  // codes shared with the Python side

struct Conv2dActParams {
  DType dtype;      // of x: the products are taken in it
  DType out_dtype;  // float32 or bfloat16
  Tensor4 x;        // (N, C, H, W)
  int64_t kernel[2], stride, padding;
  const void* packed;  // by conv2d_act_pack_cpu of the same instruction set and dtype, 64-byte aligned
  Activation activation;
  Tensor4 out;  // (N, Co, Ho, Wo)
};

SEGNEXT_FOR_EACH_ISA(
    // Bytes of the packed weight (Co, C, Kh, Kw) and bias (Co, or absent), both float32, for pixels of dtype.
    int64_t conv2d_act_packed_bytes(DType dtype, const Tensor4& weight);
    void conv2d_act_pack_cpu(DType dtype, const Tensor4& weight, const Tensor4& bias, void* packed);
    // False when scratch memory is exhausted.
    bool conv2d_act_cpu(const Conv2dActParams& params, int threads);)

}  // namespace segnext
