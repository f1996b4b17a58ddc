// The part of _C that launches CUDA kernels; compiled only where nvcc is. No CUDA header: tests/cuda_emulator
// compiles it too. Every function takes the device's index and a stream and returns a status, 0 for success.

#include "bindings_params.h"
#include "common/launch.h"

namespace segnext {
namespace {

// Memory from a native.Workspace.
void* allocated(const py::object& workspace, int64_t bytes) { return pointer(workspace(bytes).cast<uintptr_t>()); }

}  // namespace

void bind_cuda(py::module_& m) {
  m.attr("HAS_CUDA") = true;
  m.def("cuda_error", &cuda_error_text);

  m.def("dwconv_gelu_cuda",
        [](int dtype, py::object x, py::object weight, py::object bias, py::object out, int device, uintptr_t stream) {
          auto params = dwconv_gelu_params(dtype, x, weight, bias);
          params.out = tensor(out);
          return on_device(device, [&] { return launch_dwconv_gelu_forward(params, pointer(stream)); });
        });

  m.def("dwconv_gelu_backward_cuda",
        [](int dtype, py::object x, py::object weight, py::object bias, py::object grad, py::object grad_x,
           py::object grad_weight, py::object grad_bias, int device, uintptr_t stream, const py::object& workspace) {
          const DwconvGeluBackwardParams params{dwconv_gelu_params(dtype, x, weight, bias), tensor(grad),
                                                tensor(grad_x), tensor(grad_weight), tensor(grad_bias)};
          void* memory = allocated(workspace, dwconv_gelu_backward_workspace(params));
          return on_device(device, [&] { return launch_dwconv_gelu_backward(params, memory, pointer(stream)); });
        });

  m.attr("CONV_FFN_MAX_CHANNELS_CUDA") = kMostFfnChannels;
  m.def("conv_ffn_cuda_fits", [](int64_t channels, int device) {
    bool fits = false;
    on_device(device, [&] {
      fits = conv_ffn_forward_fits(channels);
      return 0;
    });
    return fits;
  });
  m.def("conv_ffn_cuda", [](int dtype, py::object x, py::object fc1_weight, py::object fc1_bias, py::object dw_weight,
                            py::object dw_bias, py::object fc2_weight, py::object fc2_bias, py::object out,
                            bool residual, int device, uintptr_t stream) {
    const ConvFfnCudaParams params{{static_cast<DType>(dtype), tensor(fc1_weight), tensor(fc1_bias), tensor(dw_weight),
                                    tensor(dw_bias), tensor(fc2_weight), tensor(fc2_bias)},
                                   tensor(x),
                                   residual,
                                   tensor(out)};
    return on_device(device, [&] { return launch_conv_ffn_forward(params, pointer(stream)); });
  });

  m.def("gated_pointwise_cuda", [](int dtype, py::object m, py::object u, py::object weight, py::object bias,
                                   py::object out, int device, uintptr_t stream) {
    auto params = gated_pointwise_params(dtype, m, u, weight, bias);
    params.out = tensor(out);
    return on_device(device, [&] { return launch_gated_pointwise_forward(params, pointer(stream)); });
  });
  m.def("gated_pointwise_backward_cuda",
        [](int dtype, py::object m, py::object u, py::object weight, py::object bias, py::object grad,
           py::object grad_m, py::object grad_u, py::object grad_weight, py::object grad_bias, int device,
           uintptr_t stream, const py::object& workspace) {
          const auto params =
              gated_pointwise_backward_params(dtype, m, u, weight, bias, grad, grad_m, grad_u, grad_weight, grad_bias);
          void* memory = allocated(workspace, gated_pointwise_backward_workspace(params));
          return on_device(device, [&] { return launch_gated_pointwise_backward(params, memory, pointer(stream)); });
        });

  m.def("group_norm_act_cuda",
        [](int dtype, int affine_dtype, py::object x, int64_t groups, py::object weight, py::object bias, double eps,
           py::object residual, bool relu, py::object out, int device, uintptr_t stream, const py::object& workspace) {
          auto params = group_norm_act_params(dtype, affine_dtype, x, groups, weight, eps, relu, out);
          params.bias = tensor(bias);
          params.residual = tensor(residual);
          void* memory = allocated(workspace, group_norm_act_forward_workspace(params));
          return on_device(device, [&] { return launch_group_norm_act_forward(params, memory, pointer(stream)); });
        });
  m.def("group_norm_act_backward_cuda",
        [](int dtype, int affine_dtype, py::object grad, py::object x, py::object out, int64_t groups,
           py::object weight, double eps, bool relu, py::object grad_x, py::object grad_weight, py::object grad_bias,
           py::object grad_residual, int device, uintptr_t stream, const py::object& workspace) {
          const GroupNormActBackwardParams params{
              group_norm_act_params(dtype, affine_dtype, x, groups, weight, eps, relu, out),
              tensor(grad),
              tensor(grad_x),
              tensor(grad_weight),
              tensor(grad_bias),
              tensor(grad_residual)};
          void* memory = allocated(workspace, group_norm_act_backward_workspace(params));
          return on_device(device, [&] { return launch_group_norm_act_backward(params, memory, pointer(stream)); });
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
  m.def("msca_conv_backward_cuda", [](int dtype, py::object x, py::object root_weight, py::object root_bias,
                                      py::list strip_weights, py::list strip_biases, py::object grad, py::list grads,
                                      int device, uintptr_t stream, const py::object& workspace) {
    const auto params = msca_conv_backward_params(
        msca_conv_params(dtype, x, root_weight, root_bias, strip_weights, strip_biases), grad, grads);
    void* memory = allocated(workspace, msca_conv_backward_workspace(params));
    return on_device(device, [&] { return launch_msca_conv_backward(params, memory, pointer(stream)); });
  });

  m.def("nmf2d_cuda_fits", [](int dtype, int64_t channels, int64_t rank) {
    return nmf2d_fits(static_cast<DType>(dtype), channels, rank);
  });
  m.def("nmf2d_cuda_variant", [](int dtype, int bases_dtype, py::object x, py::object bases, py::object out,
                                 py::object saved_bases, py::object saved_coef, int64_t steps, double eps, int device) {
    const auto params =
        nmf2d_params(dtype, bases_dtype, x, bases, py::none(), out, saved_bases, saved_coef, steps, eps);
    int variant = 0;
    on_device(device, [&] { return variant = nmf2d_forward_variant(params), 0; });
    return variant;
  });
  m.def("nmf2d_cuda",
        [](int dtype, int bases_dtype, int projection_dtype, py::object x, py::object bases, py::object projection,
           py::object out, py::object saved_bases, py::object saved_coef, int64_t steps, double eps, int variant,
           int device, uintptr_t stream, const py::object& workspace) {
          const auto params = nmf2d_params(dtype, bases_dtype, x, bases, projection, out, saved_bases, saved_coef,
                                           steps, eps, projection_dtype);
          return on_device(device, [&] {
            const auto memory = [&](int64_t bytes) { return allocated(workspace, bytes); };
            return launch_nmf2d_forward(params, variant, memory, pointer(stream));
          });
        });
  m.def("nmf2d_backward_cuda",
        [](int dtype, py::object grad, py::object x, py::object saved_bases, py::object saved_coef, py::object grad_x,
           bool unrolled, double eps, int device, uintptr_t stream, const py::object& workspace) {
          const auto params = nmf2d_backward_params(dtype, grad, x, saved_bases, saved_coef, grad_x, unrolled, eps);
          void* memory = allocated(workspace, nmf2d_backward_workspace(params));
          return on_device(device, [&] { return launch_nmf2d_backward(params, memory, pointer(stream)); });
        });

  m.def("upsample_argmax_cuda", [](uintptr_t logits, int dtype, const Shape4& shape, const Shape4& strides,
                                   uintptr_t labels, const Size2& size, int device, uintptr_t stream) {
    const auto params = upsample_argmax_params(logits, dtype, shape, strides, labels, size);
    return on_device(device, [&] { return launch_upsample_argmax(params, pointer(stream)); });
  });

  m.def("upsample_cross_entropy_cuda",
        [](int dtype, py::object logits, py::object target, bool target_is_byte, int64_t ignore_index,
           uintptr_t class_weight, double label_smoothing, bool mean_all, uintptr_t loss, int device, uintptr_t stream,
           const py::object& workspace) {
          const auto params = upsample_cross_entropy_params(dtype, logits, target, target_is_byte, ignore_index,
                                                            class_weight, label_smoothing, mean_all);
          void* memory = allocated(workspace, upsample_cross_entropy_forward_workspace(params));
          return on_device(device, [&] {
            return launch_upsample_cross_entropy_forward(params, pointer<float>(loss), memory, pointer(stream));
          });
        });
  m.def("upsample_cross_entropy_backward_cuda", [](int dtype, py::object logits, py::object target, bool target_is_byte,
                                                   int64_t ignore_index, uintptr_t class_weight, double label_smoothing,
                                                   bool mean_all, uintptr_t grad, py::object grad_logits, int device,
                                                   uintptr_t stream, const py::object& workspace) {
    const auto params = upsample_cross_entropy_params(dtype, logits, target, target_is_byte, ignore_index, class_weight,
                                                      label_smoothing, mean_all);
    const auto out = tensor(grad_logits);
    void* memory = allocated(workspace, upsample_cross_entropy_backward_workspace(params));
    return on_device(device, [&] {
      return launch_upsample_cross_entropy_backward(params, pointer<const float>(grad), out, memory, pointer(stream));
    });
  });
}

}  // namespace segnext
