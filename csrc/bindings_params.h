// From what Python passes to the params structs: shared by the CPU's and CUDA's bindings.
#pragma once

#include "bindings.h"
#include "ops/conv_ffn/conv_ffn.h"
#include "ops/dwconv_gelu/dwconv_gelu.h"
#include "ops/gated_pointwise/gated_pointwise.h"
#include "ops/group_norm_act/group_norm_act.h"
#include "ops/msca_conv/msca_conv.h"
#include "ops/nmf2d/nmf2d.h"
#include "ops/upsample_argmax/upsample_argmax.h"
#include "ops/upsample_cross_entropy/upsample_cross_entropy.h"

namespace segnext {

using Shape4 = std::array<int64_t, 4>;
using Size2 = std::array<int64_t, 2>;

inline UpsampleArgmaxParams upsample_argmax_params(uintptr_t logits, int dtype, const Shape4& shape,
                                                   const Shape4& strides, uintptr_t labels, const Size2& size) {
  return {pointer(logits),
          static_cast<DType>(dtype),
          shape[0],
          shape[1],
          shape[2],
          shape[3],
          strides[0],
          strides[1],
          strides[2],
          strides[3],
          pointer(labels),
          size[0],
          size[1],
          static_cast<float>(shape[2]) / static_cast<float>(size[0]),
          static_cast<float>(shape[3]) / static_cast<float>(size[1])};
}

inline DwconvGeluParams dwconv_gelu_params(int dtype, py::object x, py::object weight, py::object bias) {
  return {static_cast<DType>(dtype), tensor(x), tensor(weight), tensor(bias), {}};
}

inline GatedPointwiseParams gated_pointwise_params(int dtype, py::object m, py::object u, py::object weight,
                                                   py::object bias) {
  return {static_cast<DType>(dtype), tensor(m), tensor(u), tensor(weight), tensor(bias), {}};
}

inline GatedPointwiseBackwardParams gated_pointwise_backward_params(int dtype, py::object m, py::object u,
                                                                    py::object weight, py::object bias, py::object grad,
                                                                    py::object grad_m, py::object grad_u,
                                                                    py::object grad_weight, py::object grad_bias) {
  return {gated_pointwise_params(dtype, m, u, weight, bias),
          tensor(grad),
          tensor(grad_m),
          tensor(grad_u),
          tensor(grad_weight),
          tensor(grad_bias)};
}

inline GroupNormActParams group_norm_act_params(int dtype, int affine_dtype, py::object x, int64_t groups,
                                                py::object weight, double eps, bool relu, py::object out) {
  GroupNormActParams params{};
  params.dtype = static_cast<DType>(dtype);
  params.affine_dtype = static_cast<DType>(affine_dtype);
  params.groups = groups;
  params.eps = eps;
  params.relu = relu;
  params.x = tensor(x);
  params.weight = tensor(weight);
  params.out = tensor(out);
  return params;
}

inline MscaConvParams msca_conv_params(int dtype, py::object x, py::object root_weight, py::object root_bias,
                                       py::list strip_weights, py::list strip_biases) {
  MscaConvParams params{};
  params.dtype = static_cast<DType>(dtype);
  params.x = tensor(x);
  params.weights.root_weight = tensor(root_weight);
  params.weights.root_bias = tensor(root_bias);
  params.weights.strips = static_cast<int>(strip_weights.size());
  tensors(strip_weights, params.weights.strip_weight);
  tensors(strip_biases, params.weights.strip_bias);
  return params;
}

// Gradients in the order of the op's list: x, root_weight, [root_bias], strip_weights, strip_biases.
inline MscaConvBackwardParams msca_conv_backward_params(const MscaConvParams& forward, py::object grad,
                                                        py::list grads) {
  MscaConvBackwardParams params{};
  params.forward = forward;
  params.grad = tensor(grad);
  size_t next = 0;
  params.grad_x = tensor(grads[next++]);
  params.grad_root_weight = tensor(grads[next++]);
  if (forward.weights.root_bias.data != nullptr) params.grad_root_bias = tensor(grads[next++]);
  const size_t strips = static_cast<size_t>(forward.weights.strips);
  for (size_t i = 0; i < strips; ++i) params.grad_strip_weight[i] = tensor(grads[next++]);
  for (size_t i = 0; next < grads.size(); ++i) params.grad_strip_bias[i] = tensor(grads[next++]);
  return params;
}

inline Nmf2dParams nmf2d_params(int dtype, int bases_dtype, py::object x, py::object bases, py::object projection,
                                py::object out, py::object saved_bases, py::object saved_coef, int64_t steps,
                                double eps, int projection_dtype = static_cast<int>(DType::kFloat32)) {
  return {static_cast<DType>(dtype),
          static_cast<DType>(bases_dtype),
          tensor(x),
          tensor(bases),
          tensor(projection),
          tensor(out),
          tensor(saved_bases),
          tensor(saved_coef),
          steps,
          eps,
          static_cast<DType>(projection_dtype)};
}

inline Nmf2dBackwardParams nmf2d_backward_params(int dtype, py::object grad, py::object x, py::object saved_bases,
                                                 py::object saved_coef, py::object grad_x, bool unrolled, double eps) {
  return {static_cast<DType>(dtype), tensor(grad),   tensor(x), tensor(saved_bases),
          tensor(saved_coef),        tensor(grad_x), unrolled,  eps};
}

inline UpsampleCrossEntropyParams upsample_cross_entropy_params(int dtype, py::object logits, py::object target,
                                                                bool target_is_byte, int64_t ignore_index,
                                                                uintptr_t class_weight, double label_smoothing,
                                                                bool mean_all) {
  return {static_cast<DType>(dtype), tensor(logits), tensor(target),  target_is_byte,
          pointer(class_weight),     ignore_index,   label_smoothing, mean_all};
}

}  // namespace segnext
