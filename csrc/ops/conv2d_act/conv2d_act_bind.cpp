#include "bind.h"
#include "ops/conv2d_act/conv2d_act.h"

namespace segnext {

SEGNEXT_BIND(conv2d_act, m) {
#if defined(SEGNEXT_WITH_CPU)
  m.def("conv2d_act_packed_bytes", [](DType dtype, Tensor4 weight, Isa isa) {
    return SEGNEXT_DISPATCH(isa, conv2d_act_packed_bytes, dtype, weight);
  });
  m.def("conv2d_act_pack_cpu", [](DType dtype, Tensor4 weight, Tensor4 bias, uintptr_t packed, Isa isa) {
    const WithoutGil released;
    SEGNEXT_DISPATCH(isa, conv2d_act_pack_cpu, dtype, weight, bias, pointer(packed));
  });
  m.def("conv2d_act_cpu",
        [](DType dtype, DType out_dtype, Tensor4 x, const std::array<int64_t, 2>& kernel, int64_t stride,
           int64_t padding, uintptr_t packed, int activation, Tensor4 out, Isa isa, int threads) {
          const Conv2dActParams params{dtype,
                                       out_dtype,
                                       x,
                                       {kernel[0], kernel[1]},
                                       stride,
                                       padding,
                                       pointer(packed),
                                       static_cast<Activation>(activation),
                                       out};
          const WithoutGil released;
          throw_unless(SEGNEXT_DISPATCH(isa, conv2d_act_cpu, params, threads));
        });
#endif
}

}  // namespace segnext
