#include "bind.h"
#include "ops/msca_conv/msca_conv.h"

namespace segnext {
namespace {

using Tensors = std::vector<Tensor4>;

MscaConvParams forward_params(DType dtype, Tensor4 x, Tensor4 root_weight, Tensor4 root_bias,
                              const Tensors& strip_weights, const Tensors& strip_biases, Tensor4 out = {}) {
  MscaConvParams params{dtype, x, {root_weight, root_bias, static_cast<int>(strip_weights.size()), {}, {}}, out};
  copy_tensors(strip_weights, params.weights.strip_weight);
  copy_tensors(strip_biases, params.weights.strip_bias);
  return params;
}

// `grads` has the order of the op's list: x, root_weight, [root_bias], strip_weights, strip_biases.
MscaConvBackwardParams backward_params(const MscaConvParams& forward, Tensor4 grad, const Tensors& grads) {
  MscaConvBackwardParams params{};
  params.forward = forward;
  params.grad = grad;
  size_t next = 0;
  params.grad_x = grads.at(next++);
  params.grad_root_weight = grads.at(next++);
  if (forward.weights.root_bias.data != nullptr) params.grad_root_bias = grads.at(next++);
  const size_t strips = static_cast<size_t>(forward.weights.strips);
  for (size_t i = 0; i < strips; ++i) params.grad_strip_weight[i] = grads.at(next++);
  for (size_t i = 0; next < grads.size(); ++i) params.grad_strip_bias[i] = grads[next++];
  return params;
}

}  // namespace

SEGNEXT_BIND(msca_conv, m) {
  m.attr("MSCA_CONV_MAX_STRIPS") = kMaxStrips;

#if defined(SEGNEXT_WITH_CPU)
  m.attr("MSCA_CONV_MAX_ROOT") = kMaxRoot;
  m.attr("MSCA_CONV_MAX_TAPS") = kMaxStripTaps;
  m.def("msca_conv_cpu",
        [](DType dtype, Tensor4 x, Tensor4 root_weight, Tensor4 root_bias, const Tensors& strip_weights,
           const Tensors& strip_biases, Tensor4 out, Isa isa, int threads) {
          const auto params = forward_params(dtype, x, root_weight, root_bias, strip_weights, strip_biases, out);
          py::gil_scoped_release release;
          throw_unless(SEGNEXT_DISPATCH_DTYPE(dtype, isa, msca_conv_forward_cpu, params, threads));
        });
  m.def("msca_conv_backward_cpu", [](DType dtype, Tensor4 x, Tensor4 root_weight, Tensor4 root_bias,
                                     const Tensors& strip_weights, const Tensors& strip_biases, Tensor4 grad,
                                     const Tensors& grads, Isa isa, int threads) {
    const auto params =
        backward_params(forward_params(dtype, x, root_weight, root_bias, strip_weights, strip_biases), grad, grads);
    py::gil_scoped_release release;
    throw_unless(SEGNEXT_DISPATCH_DTYPE(dtype, isa, msca_conv_backward_cpu, params, threads));
  });
#endif

#if defined(SEGNEXT_WITH_CUDA)
  m.attr("MSCA_CONV_MAX_ROOT_CUDA") = kMaxRootCuda;
  m.attr("MSCA_CONV_MAX_TAPS_CUDA") = kMaxStripTaps;
  m.attr("MSCA_CONV_MAX_TAPS_BACKWARD_CUDA") = kMaxStripTapsBackwardCuda;
  m.def("msca_conv_cuda",
        [](DType dtype, Tensor4 x, Tensor4 root_weight, Tensor4 root_bias, const Tensors& strip_weights,
           const Tensors& strip_biases, Tensor4 out, int device, uintptr_t stream) {
          const auto params = forward_params(dtype, x, root_weight, root_bias, strip_weights, strip_biases, out);
          return on_device(device, [&] { return launch_msca_conv_forward(params, pointer(stream)); });
        });
  m.def("msca_conv_backward_cuda", [](DType dtype, Tensor4 x, Tensor4 root_weight, Tensor4 root_bias,
                                      const Tensors& strip_weights, const Tensors& strip_biases, Tensor4 grad,
                                      const Tensors& grads, int device, uintptr_t stream, const py::object& workspace) {
    const auto params =
        backward_params(forward_params(dtype, x, root_weight, root_bias, strip_weights, strip_biases), grad, grads);
    void* memory = allocated(workspace, msca_conv_backward_workspace(params));
    return on_device(device, [&] { return launch_msca_conv_backward(params, memory, pointer(stream)); });
  });
#endif
}

}  // namespace segnext
