// conv_ffn: fc1 (1x1), depthwise 3x3, exact GELU, fc2 (1x1), optionally plus the input. There is only a forward.
#pragma once

#include "common/dtype.h"
#include "common/isa.h"
#include "common/tensor.h"

namespace segnext {

struct ConvFfnWeights {
  DType dtype;
  Tensor4 fc1_weight;  // (E, C, 1, 1)
  Tensor4 fc1_bias;    // (E)
  Tensor4 dw_weight;   // (E, 1, 3, 3)
  Tensor4 dw_bias;     // (E)
  Tensor4 fc2_weight;  // (Co, E, 1, 1)
  Tensor4 fc2_bias;    // (Co)
};

struct ConvFfnParams {
  DType dtype;
  Tensor4 x;           // (N, C, H, W)
  const void* packed;  // from conv_ffn_pack_cpu of the same instruction set and dtype, aligned to 64 bytes
  int64_t hidden;      // E
  bool residual;
  Tensor4 out;  // (N, Co, H, W)
};

struct ConvFfnCudaParams {
  ConvFfnWeights weights;  // 16-bit elements; the rows of fc1_weight and fc2_weight and the biases are dense
  Tensor4 x;               // (N, C, H, W)
  bool residual;
  Tensor4 out;  // (N, Co, H, W)
};

// Limits of the CUDA kernel: C up to kMostFfnChannels; C, E and Co multiples of 8; weights and fc2_bias at multiples of
// 16 bytes. The launch returns a cudaError_t, 0 for success, and runs on `stream` of the current device.
constexpr int kMostFfnChannels = 320;
int launch_conv_ffn_forward(const ConvFfnCudaParams& params, void* stream);
// Whether a block for C channels fits the current device's shared memory.
bool conv_ffn_forward_fits(int64_t channels);

SEGNEXT_FOR_EACH_ISA(
    // The bytes of the packed weights.
    int64_t conv_ffn_packed_bytes(const ConvFfnWeights& weights);
    void conv_ffn_pack_cpu(const ConvFfnWeights& weights, void* packed);
    // Returns false when scratch memory is exhausted.
    bool conv_ffn_cpu(const ConvFfnParams& params, int threads);)

}  // namespace segnext
