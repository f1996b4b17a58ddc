// The part of _C that launches CUDA kernels; compiled only where nvcc is. No CUDA header: tests/cuda_emulator
// compiles it too. Every function takes the device's index and a stream and returns a status, 0 for success.

#include "bindings_params.h"
#include "common/launch.h"

namespace segnext {

void bind_cuda(py::module_& m) {
  m.attr("HAS_CUDA") = true;
  m.def("cuda_error", &cuda_error_text);

  m.def("dwconv_gelu_cuda",
        [](int dtype, py::object x, py::object weight, py::object bias, py::object out, int device, uintptr_t stream) {
          auto params = dwconv_gelu_params(dtype, x, weight, bias);
          params.out = tensor(out);
          return on_device(device, [&] { return launch_dwconv_gelu_forward(params, pointer(stream)); });
        });

  const auto dwconv_gelu_backward_params = [](int dtype, py::object x, py::object weight, py::object bias,
                                              py::object grad, py::object grad_x, py::object grad_weight,
                                              py::object grad_bias) {
    return DwconvGeluBackwardParams{dwconv_gelu_params(dtype, x, weight, bias), tensor(grad), tensor(grad_x),
                                    tensor(grad_weight), tensor(grad_bias)};
  };
  m.def("dwconv_gelu_backward_workspace_cuda",
        [=](int dtype, py::object x, py::object weight, py::object bias, py::object grad, py::object grad_x,
            py::object grad_weight, py::object grad_bias) {
          return dwconv_gelu_backward_workspace(
              dwconv_gelu_backward_params(dtype, x, weight, bias, grad, grad_x, grad_weight, grad_bias));
        });
  m.def("dwconv_gelu_backward_cuda", [=](int dtype, py::object x, py::object weight, py::object bias, py::object grad,
                                         py::object grad_x, py::object grad_weight, py::object grad_bias,
                                         uintptr_t workspace, int device, uintptr_t stream) {
    const auto params = dwconv_gelu_backward_params(dtype, x, weight, bias, grad, grad_x, grad_weight, grad_bias);
    return on_device(device, [&] { return launch_dwconv_gelu_backward(params, pointer(workspace), pointer(stream)); });
  });

  m.attr("MSCA_CONV_MAX_ROOT_CUDA") = kMaxRootCuda;
  m.attr("MSCA_CONV_MAX_TAPS_CUDA") = kMaxStripTaps;
  m.attr("MSCA_CONV_MAX_TAPS_BACKWARD_CUDA") = kMaxStripTapsBackwardCuda;
  m.def("msca_conv_cuda",
        [](int dtype, py::object x, py::object root_weight, py::object root_bias, py::list strip_weights,
           py::list strip_biases, py::object out, int device, uintptr_t stream) {
          auto params = msca_conv_params(dtype, x, root_weight, root_bias, strip_weights, strip_biases);
          params.out = tensor(out);
          return on_device(device, [&] { return launch_msca_conv_forward(params, pointer(stream)); });
        });
  m.def("msca_conv_backward_workspace_cuda",
        [](int dtype, py::object x, py::object root_weight, py::object root_bias, py::list strip_weights,
           py::list strip_biases, py::object grad, py::list grads) {
          return msca_conv_backward_workspace(msca_conv_backward_params(
              msca_conv_params(dtype, x, root_weight, root_bias, strip_weights, strip_biases), grad, grads));
        });
  m.def("msca_conv_backward_cuda", [](int dtype, py::object x, py::object root_weight, py::object root_bias,
                                      py::list strip_weights, py::list strip_biases, py::object grad, py::list grads,
                                      uintptr_t workspace, int device, uintptr_t stream) {
    const auto params = msca_conv_backward_params(
        msca_conv_params(dtype, x, root_weight, root_bias, strip_weights, strip_biases), grad, grads);
    return on_device(device, [&] { return launch_msca_conv_backward(params, pointer(workspace), pointer(stream)); });
  });

  m.def("upsample_argmax_cuda", [](uintptr_t logits, int dtype, const Shape4& shape, const Shape4& strides,
                                   uintptr_t labels, const Size2& size, int device, uintptr_t stream) {
    const auto params = upsample_argmax_params(logits, dtype, shape, strides, labels, size);
    return on_device(device, [&] { return launch_upsample_argmax(params, pointer(stream)); });
  });
}

}  // namespace segnext
