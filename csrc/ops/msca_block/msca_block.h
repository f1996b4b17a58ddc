// msca_block: the attention half of a SegNeXt block, for inference.
#pragma once

#include "common/dtype.h"
#include "common/isa.h"
#include "common/tensor.h"
#include "ops/msca_conv/msca_conv.h"

namespace segnext {

struct MscaBlockWeights {
  DType dtype;
  Tensor4 proj_in_weight, proj_in_bias;  // (C, C, 1, 1), (C)
  MscaConvWeights strips;
  Tensor4 mix_weight, mix_bias;            // (C, C, 1, 1), (C)
  Tensor4 proj_out_weight, proj_out_bias;  // (C, C, 1, 1), (C)
  Tensor4 skip_scale, skip_shift;          // (C)
};

struct MscaBlockParams {
  DType dtype;
  Tensor4 x;           // (N, C, H, W)
  const void* packed;  // from msca_block_pack_cpu of the same instruction set and dtype, aligned to 64 bytes
  void* workspace;     // msca_block_workspace elements of x's dtype per image
  Tensor4 out;         // (N, C, H, W); must not overlap x
};

SEGNEXT_FOR_EACH_ISA(
    // The bytes of the packed weights.
    int64_t msca_block_packed_bytes(const MscaBlockWeights& weights);
    void msca_block_pack_cpu(const MscaBlockWeights& weights, void* packed);
    // The elements of the workspace per image of (C, H, W).
    int64_t msca_block_workspace(int64_t channels, int64_t height, int64_t width);
    // Returns false when scratch memory is exhausted.
    bool msca_block_cpu(const MscaBlockParams& params, int threads);)

}  // namespace segnext
