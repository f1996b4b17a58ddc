#include "ops/msca_conv/msca_conv_bind.h"

namespace segnext {
namespace {

// `grads` has the order of the op's list: x, root_weight, [root_bias], row_weights, column_weights, row_biases,
// column_biases.
MscaConvBackwardParams backward_params(DType dtype, Tensor4 x, const MscaConvWeights& weights, Tensor4 grad,
                                       const Tensors& grads) {
  MscaConvBackwardParams params{};
  params.forward = {dtype, x, weights, {}};
  params.grad = grad;
  size_t next = 0;
  const auto take = [&](Tensor4& to) { to = grads.at(next++); };
  const auto take_for = [&](const Tensor4(&parameters)[kMaxStrips], Tensor4(&to)[kMaxStrips]) {
    for (int i = 0; i < weights.strips; ++i) {
      if (parameters[i].data != nullptr) take(to[i]);
    }
  };
  take(params.grad_x);
  take(params.grad_root_weight);
  if (weights.root_bias.data != nullptr) take(params.grad_root_bias);
  take_for(weights.row_weight, params.grad_row_weight);
  take_for(weights.column_weight, params.grad_column_weight);
  take_for(weights.row_bias, params.grad_row_bias);
  take_for(weights.column_bias, params.grad_column_bias);
  return params;
}

}  // namespace

SEGNEXT_BIND(msca_conv, m) {
  m.constant("MSCA_CONV_MAX_STRIPS", kMaxStrips);

#if defined(SEGNEXT_WITH_CPU)
  m.constant("MSCA_CONV_MAX_ROOT", kMaxRoot);
  m.constant("MSCA_CONV_MAX_TAPS", kMaxStripTaps);
  m.def("msca_conv_cpu", [](DType dtype, Tensor4 x, Tensor4 root_weight, Tensor4 root_bias, const Tensors& row_weights,
                            const Tensors& column_weights, const Tensors& row_biases, const Tensors& column_biases,
                            Tensor4 out, Isa isa, int threads) {
    const MscaConvParams params{
        dtype, x, msca_conv_weights(root_weight, root_bias, row_weights, column_weights, row_biases, column_biases),
        out};
    const WithoutGil released;
    throw_unless(SEGNEXT_DISPATCH_DTYPE(dtype, isa, msca_conv_forward_cpu, params, threads));
  });
  m.def("msca_conv_backward_cpu",
        [](DType dtype, Tensor4 x, Tensor4 root_weight, Tensor4 root_bias, const Tensors& row_weights,
           const Tensors& column_weights, const Tensors& row_biases, const Tensors& column_biases, Tensor4 grad,
           const Tensors& grads, Isa isa, int threads) {
          const auto weights =
              msca_conv_weights(root_weight, root_bias, row_weights, column_weights, row_biases, column_biases);
          const auto params = backward_params(dtype, x, weights, grad, grads);
          const WithoutGil released;
          throw_unless(SEGNEXT_DISPATCH_DTYPE(dtype, isa, msca_conv_backward_cpu, params, threads));
        });
#endif

#if defined(SEGNEXT_WITH_CUDA)
  m.constant("MSCA_CONV_MAX_ROOT_CUDA", kMaxRootCuda);
  m.constant("MSCA_CONV_MAX_TAPS_CUDA", kMaxStripTaps);
  m.constant("MSCA_CONV_MAX_TAPS_BACKWARD_CUDA", kMaxStripTapsBackwardCuda);
  m.def("msca_conv_cuda", [](DType dtype, Tensor4 x, Tensor4 root_weight, Tensor4 root_bias, const Tensors& row_weights,
                             const Tensors& column_weights, const Tensors& row_biases, const Tensors& column_biases,
                             Tensor4 out, int device, uintptr_t stream) {
    const MscaConvParams params{
        dtype, x, msca_conv_weights(root_weight, root_bias, row_weights, column_weights, row_biases, column_biases),
        out};
    return on_device(device, [&] { return launch_msca_conv_forward(params, pointer(stream)); });
  });
  m.def("msca_conv_backward_cuda",
        [](DType dtype, Tensor4 x, Tensor4 root_weight, Tensor4 root_bias, const Tensors& row_weights,
           const Tensors& column_weights, const Tensors& row_biases, const Tensors& column_biases, Tensor4 grad,
           const Tensors& grads, int device, uintptr_t stream, PyObject* workspace) {
          const auto weights =
              msca_conv_weights(root_weight, root_bias, row_weights, column_weights, row_biases, column_biases);
          const auto params = backward_params(dtype, x, weights, grad, grads);
          void* memory = allocated(workspace, msca_conv_backward_workspace(params));
          return on_device(device, [&] { return launch_msca_conv_backward(params, memory, pointer(stream)); });
        });
#endif
}

}  // namespace segnext
