#include "bind.h"
#include "ops/gated_pointwise/gated_pointwise.h"

namespace segnext {

SEGNEXT_BIND(gated_pointwise, module) {
#if defined(SEGNEXT_WITH_CPU)
  module.def("gated_pointwise_cpu",
             [](DType dtype, Tensor4 m, Tensor4 u, Tensor4 weight, Tensor4 bias, Tensor4 out, Isa isa, int threads) {
               const GatedPointwiseParams params{dtype, m, u, weight, bias, out};
               const WithoutGil released;
               throw_unless(SEGNEXT_DISPATCH_DTYPE(dtype, isa, gated_pointwise_forward_cpu, params, threads));
             });
  module.def("gated_pointwise_backward_cpu",
             [](DType dtype, Tensor4 m, Tensor4 u, Tensor4 weight, Tensor4 bias, Tensor4 grad, Tensor4 grad_m,
                Tensor4 grad_u, Tensor4 grad_weight, Tensor4 grad_bias, Isa isa, int threads) {
               const GatedPointwiseBackwardParams params{
                   {dtype, m, u, weight, bias, {}}, grad, grad_m, grad_u, grad_weight, grad_bias};
               const WithoutGil released;
               throw_unless(SEGNEXT_DISPATCH_DTYPE(dtype, isa, gated_pointwise_backward_cpu, params, threads));
             });
#endif

#if defined(SEGNEXT_WITH_CUDA)
  module.def("gated_pointwise_cuda", [](DType dtype, Tensor4 m, Tensor4 u, Tensor4 weight, Tensor4 bias, Tensor4 out,
                                        int device, uintptr_t stream) {
    const GatedPointwiseParams params{dtype, m, u, weight, bias, out};
    return on_device(device, [&] { return launch_gated_pointwise_forward(params, pointer(stream)); });
  });
  module.def("gated_pointwise_backward_cuda", [](DType dtype, Tensor4 m, Tensor4 u, Tensor4 weight, Tensor4 bias,
                                                 Tensor4 grad, Tensor4 grad_m, Tensor4 grad_u, Tensor4 grad_weight,
                                                 Tensor4 grad_bias, int device, uintptr_t stream, PyObject* workspace) {
    const GatedPointwiseBackwardParams params{
        {dtype, m, u, weight, bias, {}}, grad, grad_m, grad_u, grad_weight, grad_bias};
    void* memory = allocated(workspace, gated_pointwise_backward_workspace(params));
    return on_device(device, [&] { return launch_gated_pointwise_backward(params, memory, pointer(stream)); });
  });
#endif
}

}  // namespace segnext
