#include "bind.h"
#include "ops/conv_ffn/conv_ffn.h"

namespace segnext {

SEGNEXT_BIND(conv_ffn, m) {
#if defined(SEGNEXT_WITH_CPU)
  // fc1_weight, fc1_bias, dw_weight, dw_bias, fc2_weight, fc2_bias
  using Weights = std::array<Tensor4, 6>;
  m.def("conv_ffn_packed_bytes", [](DType dtype, const Weights& w, Isa isa) {
    return SEGNEXT_DISPATCH(isa, conv_ffn_packed_bytes, {dtype, w[0], w[1], w[2], w[3], w[4], w[5]});
  });
  m.def("conv_ffn_pack_cpu", [](DType dtype, const Weights& w, uintptr_t packed, Isa isa) {
    const ConvFfnWeights params{dtype, w[0], w[1], w[2], w[3], w[4], w[5]};
    const WithoutGil released;
    SEGNEXT_DISPATCH(isa, conv_ffn_pack_cpu, params, pointer(packed));
  });
  m.def("conv_ffn_cpu",
        [](DType dtype, Tensor4 x, uintptr_t packed, int64_t hidden, bool residual, Tensor4 out, Isa isa, int threads) {
          const ConvFfnParams params{dtype, x, pointer(packed), hidden, residual, out};
          const WithoutGil released;
          throw_unless(SEGNEXT_DISPATCH(isa, conv_ffn_cpu, params, threads));
        });
#endif

#if defined(SEGNEXT_WITH_CUDA)
  m.constant("CONV_FFN_MAX_CHANNELS_CUDA", kMostFfnChannels);
  m.def("conv_ffn_cuda_fits", [](int64_t channels, int device) {
    bool fits = false;
    on_device(device, [&] {
      fits = conv_ffn_forward_fits(channels);
      return 0;
    });
    return fits;
  });
  m.def("conv_ffn_cuda",
        [](DType dtype, Tensor4 x, Tensor4 fc1_weight, Tensor4 fc1_bias, Tensor4 dw_weight, Tensor4 dw_bias,
           Tensor4 fc2_weight, Tensor4 fc2_bias, Tensor4 out, bool residual, int device, uintptr_t stream) {
          const ConvFfnCudaParams params{
              {dtype, fc1_weight, fc1_bias, dw_weight, dw_bias, fc2_weight, fc2_bias}, x, residual, out};
          return on_device(device, [&] { return launch_conv_ffn_forward(params, pointer(stream)); });
        });
#endif
}

}  // namespace segnext
