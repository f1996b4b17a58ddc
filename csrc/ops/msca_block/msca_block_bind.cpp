#include "bind.h"
#include "ops/msca_block/msca_block.h"
#include "ops/msca_conv/msca_conv_bind.h"

namespace segnext {

#if defined(SEGNEXT_WITH_CPU)
namespace {

using Weights = std::tuple<Tensor4, Tensor4, Tensor4, Tensor4, Tensors, Tensors, Tensors, Tensors, Tensor4, Tensor4,
                           Tensor4, Tensor4, Tensor4, Tensor4>;

MscaBlockWeights named(DType dtype, const Weights& weights) {
  const auto& [proj_in_weight, proj_in_bias, root_weight, root_bias, row_weights, column_weights, row_biases,
               column_biases, mix_weight, mix_bias, proj_out_weight, proj_out_bias, skip_scale, skip_shift] = weights;
  return {dtype,
          proj_in_weight,
          proj_in_bias,
          msca_conv_weights(root_weight, root_bias, row_weights, column_weights, row_biases, column_biases),
          mix_weight,
          mix_bias,
          proj_out_weight,
          proj_out_bias,
          skip_scale,
          skip_shift};
}

}  // namespace
#endif

SEGNEXT_BIND(msca_block, m) {
#if defined(SEGNEXT_WITH_CPU)
  m.def("msca_block_packed_bytes", [](DType dtype, const Weights& weights, Isa isa) {
    return SEGNEXT_DISPATCH(isa, msca_block_packed_bytes, named(dtype, weights));
  });
  m.def("msca_block_pack_cpu", [](DType dtype, const Weights& weights, uintptr_t packed, Isa isa) {
    const WithoutGil released;
    SEGNEXT_DISPATCH(isa, msca_block_pack_cpu, named(dtype, weights), pointer(packed));
  });
  m.def("msca_block_workspace", [](int64_t channels, int64_t height, int64_t width, Isa isa) {
    return SEGNEXT_DISPATCH(isa, msca_block_workspace, channels, height, width);
  });
  m.def("msca_block_cpu",
        [](DType dtype, Tensor4 x, uintptr_t packed, uintptr_t workspace, Tensor4 out, Isa isa, int threads) {
          const MscaBlockParams params{dtype, x, pointer(packed), pointer(workspace), out};
          const WithoutGil released;
          throw_unless(SEGNEXT_DISPATCH(isa, msca_block_cpu, params, threads));
        });
#endif
}

}  // namespace segnext
