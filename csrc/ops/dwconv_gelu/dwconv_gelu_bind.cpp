#include "bind.h"
#include "ops/dwconv_gelu/dwconv_gelu.h"

namespace segnext {

SEGNEXT_BIND(dwconv_gelu, m) {
#if defined(SEGNEXT_WITH_CPU)
  m.def("dwconv_gelu_cpu", [](DType dtype, Tensor4 x, Tensor4 weight, Tensor4 bias, Tensor4 out, Isa isa, int threads) {
    const DwconvGeluParams params{dtype, x, weight, bias, out};
    const WithoutGil released;
    throw_unless(SEGNEXT_DISPATCH_DTYPE(dtype, isa, dwconv_gelu_forward_cpu, params, threads));
  });
  m.def("dwconv_gelu_backward_cpu", [](DType dtype, Tensor4 x, Tensor4 weight, Tensor4 bias, Tensor4 grad,
                                       Tensor4 grad_x, Tensor4 grad_weight, Tensor4 grad_bias, Isa isa, int threads) {
    const DwconvGeluBackwardParams params{{dtype, x, weight, bias, {}}, grad, grad_x, grad_weight, grad_bias};
    const WithoutGil released;
    throw_unless(SEGNEXT_DISPATCH_DTYPE(dtype, isa, dwconv_gelu_backward_cpu, params, threads));
  });
#endif

#if defined(SEGNEXT_WITH_CUDA)
  m.def("dwconv_gelu_cuda",
        [](DType dtype, Tensor4 x, Tensor4 weight, Tensor4 bias, Tensor4 out, int device, uintptr_t stream) {
          const DwconvGeluParams params{dtype, x, weight, bias, out};
          return on_device(device, [&] { return launch_dwconv_gelu_forward(params, pointer(stream)); });
        });
  m.def("dwconv_gelu_backward_cuda",
        [](DType dtype, Tensor4 x, Tensor4 weight, Tensor4 bias, Tensor4 grad, Tensor4 grad_x, Tensor4 grad_weight,
           Tensor4 grad_bias, int device, uintptr_t stream, PyObject* workspace) {
          const DwconvGeluBackwardParams params{{dtype, x, weight, bias, {}}, grad, grad_x, grad_weight, grad_bias};
          void* memory = allocated(workspace, dwconv_gelu_backward_workspace(params));
          return on_device(device, [&] { return launch_dwconv_gelu_backward(params, memory, pointer(stream)); });
        });
#endif
}

}  // namespace segnext
