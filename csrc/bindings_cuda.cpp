// The part of _C that launches CUDA kernels; compiled only where nvcc is. No CUDA header: tests/cuda_emulator
// compiles it too. Every function takes the device's index and a stream and returns a status, 0 for success.

#include "bindings_params.h"
#include "common/launch.h"

namespace segnext {

void bind_cuda(py::module_& m) {
  m.attr("HAS_CUDA") = true;
  m.def("cuda_error", &cuda_error_text);

  m.def("gated_pointwise_cuda", [](int dtype, py::object m, py::object u, py::object weight, py::object bias,
                                   py::object out, int device, uintptr_t stream) {
    auto params = gated_pointwise_params(dtype, m, u, weight, bias);
    params.out = tensor(out);
    return on_device(device, [&] { return launch_gated_pointwise_forward(params, pointer(stream)); });
  });

  m.def("gated_pointwise_backward_cuda_workspace",
        [](int dtype, py::object m, py::object u, py::object weight, py::object bias, py::object grad,
           py::object grad_m, py::object grad_u, py::object grad_weight, py::object grad_bias) {
          return gated_pointwise_backward_workspace(
              gated_pointwise_backward_params(dtype, m, u, weight, bias, grad, grad_m, grad_u, grad_weight, grad_bias));
        });

  m.def("gated_pointwise_backward_cuda",
        [](int dtype, py::object m, py::object u, py::object weight, py::object bias, py::object grad,
           py::object grad_m, py::object grad_u, py::object grad_weight, py::object grad_bias, uintptr_t workspace,
           int device, uintptr_t stream) {
          const auto params =
              gated_pointwise_backward_params(dtype, m, u, weight, bias, grad, grad_m, grad_u, grad_weight, grad_bias);
          return on_device(
              device, [&] { return launch_gated_pointwise_backward(params, pointer(workspace), pointer(stream)); });
        });

  m.def("nmf2d_cuda_fits", [](int dtype, int64_t channels, int64_t rank) {
    return nmf2d_fits(static_cast<DType>(dtype), channels, rank);
  });

  // The variant to run and the bytes of its workspace.
  m.def("nmf2d_cuda_plan",
        [](int dtype, int bases_dtype, py::object x, py::object bases, py::object out, py::object saved_bases,
           py::object saved_coef, int64_t steps, float eps, int variant, int device) {
          const auto params =
              nmf2d_params(dtype, bases_dtype, x, bases, py::none(), out, saved_bases, saved_coef, steps, eps);
          int64_t bytes = 0;
          on_device(device, [&] {
            if (variant < 0) variant = nmf2d_forward_variant(params);
            bytes = nmf2d_forward_workspace(params, variant);
            return 0;
          });
          return std::make_tuple(variant, bytes);
        });

  m.def("nmf2d_cuda", [](int dtype, int bases_dtype, py::object x, py::object bases, py::object out,
                         py::object saved_bases, py::object saved_coef, int64_t steps, float eps, int variant,
                         uintptr_t workspace, int device, uintptr_t stream) {
    const auto params =
        nmf2d_params(dtype, bases_dtype, x, bases, py::none(), out, saved_bases, saved_coef, steps, eps);
    return on_device(device,
                     [&] { return launch_nmf2d_forward(params, variant, pointer(workspace), pointer(stream)); });
  });

  m.def("nmf2d_backward_cuda_workspace", [](int dtype, py::object grad, py::object x, py::object saved_bases,
                                            py::object saved_coef, py::object grad_x, bool unrolled, float eps) {
    return nmf2d_backward_workspace(
        nmf2d_backward_params(dtype, grad, x, saved_bases, saved_coef, grad_x, unrolled, eps));
  });

  m.def("nmf2d_backward_cuda",
        [](int dtype, py::object grad, py::object x, py::object saved_bases, py::object saved_coef, py::object grad_x,
           bool unrolled, float eps, uintptr_t workspace, int device, uintptr_t stream) {
          const auto params = nmf2d_backward_params(dtype, grad, x, saved_bases, saved_coef, grad_x, unrolled, eps);
          return on_device(device, [&] { return launch_nmf2d_backward(params, pointer(workspace), pointer(stream)); });
        });

  m.def("upsample_argmax_cuda", [](uintptr_t logits, int dtype, const Shape4& shape, const Shape4& strides,
                                   uintptr_t labels, const Size2& size, int device, uintptr_t stream) {
    const auto params = upsample_argmax_params(logits, dtype, shape, strides, labels, size);
    return on_device(device, [&] { return launch_upsample_argmax(params, pointer(stream)); });
  });
}

}  // namespace segnext
