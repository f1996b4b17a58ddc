// conv2d_act: dense convolution of any kernel and stride with an activation, on packed weights; for inference.
#pragma once

#include "common/dtype.h"
#include "common/isa.h"
#include "common/tensor.h"

namespace segnext {

enum class Activation : int { kNone = 0, kRelu = 1, kGelu = 2 };  // Python uses the same codes

struct Conv2dActParams {
  DType dtype;      // of x, and of the products
  DType out_dtype;  // float32 or bfloat16
  Tensor4 x;        // (N, C, H, W)
  int64_t kernel[2], stride, padding;
  const void* packed;  // from conv2d_act_pack_cpu of the same instruction set and dtype, aligned to 64 bytes
  Activation activation;
  Tensor4 out;  // (N, Co, Ho, Wo)
};

SEGNEXT_FOR_EACH_ISA(
    // The bytes of the packed weight (Co, C, Kh, Kw) and bias (Co), for pixels of dtype. Weight and bias are float32;
    // the bias may be absent.
    int64_t conv2d_act_packed_bytes(DType dtype, const Tensor4& weight);
    void conv2d_act_pack_cpu(DType dtype, const Tensor4& weight, const Tensor4& bias, void* packed);
    // Returns false when scratch memory is exhausted.
    bool conv2d_act_cpu(const Conv2dActParams& params, int threads);)

}  // namespace segnext
