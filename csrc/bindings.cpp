// The Python module _C: pointers, sizes, strides and a stream go in, a status comes out. No torch header: the
// library neither needs torch to build nor breaks when torch is upgraded.

#include "bindings_params.h"

namespace py = pybind11;
using namespace segnext;

// `dtype` and `isa` as Python passes them.
#define DISPATCH(dtype, isa, function, ...) \
  SEGNEXT_DISPATCH_DTYPE(static_cast<DType>(dtype), static_cast<Isa>(isa), function, __VA_ARGS__)

namespace {

// Memory and labels can fail; a label out of range is the caller's IndexError.
void throw_unless_ok(segnext::CrossEntropyStatus status) {
  throw_unless(status != segnext::CrossEntropyStatus::kNoMemory);
  if (status == segnext::CrossEntropyStatus::kClassOutOfRange) {
    throw py::index_error(
        "upsample_cross_entropy: target must hold class ids below the logits' classes, or ignore_index;"
        " got another id; map it, or pass it as ignore_index");
  }
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  segnext::bind_inference(m);
  m.def("best_instruction_set", [] { return static_cast<int>(segnext::best_isa()); });

  m.def("upsample_argmax_cpu", [](uintptr_t logits, int dtype, const Shape4& shape, const Shape4& strides,
                                  uintptr_t labels, const Size2& size, int isa, int threads) {
    const auto params = upsample_argmax_params(logits, dtype, shape, strides, labels, size);
    py::gil_scoped_release release;
    throw_unless(SEGNEXT_DISPATCH(static_cast<segnext::Isa>(isa), upsample_argmax_cpu, params, threads));
  });

  m.def("dwconv_gelu_cpu",
        [](int dtype, py::object x, py::object weight, py::object bias, py::object out, int isa, int threads) {
          auto params = dwconv_gelu_params(dtype, x, weight, bias);
          params.out = tensor(out);
          py::gil_scoped_release release;
          throw_unless(DISPATCH(dtype, isa, dwconv_gelu_forward_cpu, params, threads));
        });

  m.def("dwconv_gelu_backward_cpu",
        [](int dtype, py::object x, py::object weight, py::object bias, py::object grad, py::object grad_x,
           py::object grad_weight, py::object grad_bias, int isa, int threads) {
          const segnext::DwconvGeluBackwardParams params{dwconv_gelu_params(dtype, x, weight, bias), tensor(grad),
                                                         tensor(grad_x), tensor(grad_weight), tensor(grad_bias)};
          py::gil_scoped_release release;
          throw_unless(DISPATCH(dtype, isa, dwconv_gelu_backward_cpu, params, threads));
        });

  m.def("gated_pointwise_cpu", [](int dtype, py::object m, py::object u, py::object weight, py::object bias,
                                  py::object out, int isa, int threads) {
    auto params = gated_pointwise_params(dtype, m, u, weight, bias);
    params.out = tensor(out);
    py::gil_scoped_release release;
    throw_unless(DISPATCH(dtype, isa, gated_pointwise_forward_cpu, params, threads));
  });

  m.def("gated_pointwise_backward_cpu",
        [](int dtype, py::object m, py::object u, py::object weight, py::object bias, py::object grad,
           py::object grad_m, py::object grad_u, py::object grad_weight, py::object grad_bias, int isa, int threads) {
          const auto params =
              gated_pointwise_backward_params(dtype, m, u, weight, bias, grad, grad_m, grad_u, grad_weight, grad_bias);
          py::gil_scoped_release release;
          throw_unless(DISPATCH(dtype, isa, gated_pointwise_backward_cpu, params, threads));
        });

  m.def("group_norm_act_cpu",
        [](int dtype, int affine_dtype, py::object x, int64_t groups, py::object weight, py::object bias, double eps,
           py::object residual, bool relu, py::object out, int isa, int threads) {
          auto params = group_norm_act_params(dtype, affine_dtype, x, groups, weight, eps, relu, out);
          params.bias = tensor(bias);
          params.residual = tensor(residual);
          py::gil_scoped_release release;
          throw_unless(DISPATCH(dtype, isa, group_norm_act_forward_cpu, params, threads));
        });

  m.def("group_norm_act_backward_cpu",
        [](int dtype, int affine_dtype, py::object grad, py::object x, py::object out, int64_t groups,
           py::object weight, double eps, bool relu, py::object grad_x, py::object grad_weight, py::object grad_bias,
           py::object grad_residual, int isa, int threads) {
          const segnext::GroupNormActBackwardParams params{
              group_norm_act_params(dtype, affine_dtype, x, groups, weight, eps, relu, out),
              tensor(grad),
              tensor(grad_x),
              tensor(grad_weight),
              tensor(grad_bias),
              tensor(grad_residual)};
          py::gil_scoped_release release;
          throw_unless(DISPATCH(dtype, isa, group_norm_act_backward_cpu, params, threads));
        });

  m.attr("MSCA_CONV_MAX_STRIPS") = segnext::kMaxStrips;
  m.attr("MSCA_CONV_MAX_ROOT") = segnext::kMaxRoot;
  m.attr("MSCA_CONV_MAX_TAPS") = segnext::kMaxStripTaps;
  m.def("msca_conv_cpu", [](int dtype, py::object x, py::object root_weight, py::object root_bias,
                            py::list strip_weights, py::list strip_biases, py::object out, int isa, int threads) {
    auto params = msca_conv_params(dtype, x, root_weight, root_bias, strip_weights, strip_biases);
    params.out = tensor(out);
    py::gil_scoped_release release;
    throw_unless(DISPATCH(dtype, isa, msca_conv_forward_cpu, params, threads));
  });

  m.def("msca_conv_backward_cpu",
        [](int dtype, py::object x, py::object root_weight, py::object root_bias, py::list strip_weights,
           py::list strip_biases, py::object grad, py::list grads, int isa, int threads) {
          const auto params = msca_conv_backward_params(
              msca_conv_params(dtype, x, root_weight, root_bias, strip_weights, strip_biases), grad, grads);
          py::gil_scoped_release release;
          throw_unless(DISPATCH(dtype, isa, msca_conv_backward_cpu, params, threads));
        });

  m.def("nmf2d_cpu",
        [](int dtype, int bases_dtype, py::object x, py::object bases, py::object projection, py::object out,
           py::object saved_bases, py::object saved_coef, int64_t steps, double eps, int isa, int threads) {
          const auto params =
              nmf2d_params(dtype, bases_dtype, x, bases, projection, out, saved_bases, saved_coef, steps, eps);
          py::gil_scoped_release release;
          throw_unless(DISPATCH(dtype, isa, nmf2d_forward_cpu, params, threads));
        });

  m.def("nmf2d_backward_cpu",
        [](int dtype, py::object grad, py::object x, py::object saved_bases, py::object saved_coef, py::object grad_x,
           bool unrolled, double eps, int isa, int threads) {
          const auto params = nmf2d_backward_params(dtype, grad, x, saved_bases, saved_coef, grad_x, unrolled, eps);
          py::gil_scoped_release release;
          throw_unless(DISPATCH(dtype, isa, nmf2d_backward_cpu, params, threads));
        });

  m.def("upsample_cross_entropy_cpu",
        [](int dtype, py::object logits, py::object target, bool target_is_byte, int64_t ignore_index,
           uintptr_t class_weight, double label_smoothing, bool mean_all, int isa, int threads) {
          const auto params = upsample_cross_entropy_params(dtype, logits, target, target_is_byte, ignore_index,
                                                            class_weight, label_smoothing, mean_all);
          double loss = 0.0;
          auto status = segnext::CrossEntropyStatus::kOk;
          {
            py::gil_scoped_release release;
            status = DISPATCH(dtype, isa, upsample_cross_entropy_forward_cpu, params, &loss, threads);
          }
          throw_unless_ok(status);
          return loss;
        });

  m.def("upsample_cross_entropy_backward_cpu",
        [](int dtype, py::object logits, py::object target, bool target_is_byte, int64_t ignore_index,
           uintptr_t class_weight, double label_smoothing, bool mean_all, double grad, py::object grad_logits, int isa,
           int threads) {
          const auto params = upsample_cross_entropy_params(dtype, logits, target, target_is_byte, ignore_index,
                                                            class_weight, label_smoothing, mean_all);
          const auto out = tensor(grad_logits);
          auto status = segnext::CrossEntropyStatus::kOk;
          {
            py::gil_scoped_release release;
            status = DISPATCH(dtype, isa, upsample_cross_entropy_backward_cpu, params, grad, out, threads);
          }
          throw_unless_ok(status);
        });

#if defined(SEGNEXT_WITH_CUDA)
  segnext::bind_cuda(m);
#else
  m.attr("HAS_CUDA") = false;
#endif
}
