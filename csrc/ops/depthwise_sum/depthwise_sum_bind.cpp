#include "bind.h"
#include "ops/depthwise_sum/depthwise_sum.h"

namespace segnext {
namespace {

using Tensors = std::vector<Tensor4>;
using Integers = std::vector<int64_t>;

DepthwiseSumParams depthwise_sum_params(DType dtype, Tensor4 x, const Tensors& weights, const Tensors& biases,
                                        const Integers& dilations, const Integers& chains, int combine) {
  if (chains.size() > 1 + kMaxBranches || dilations.size() != 2 * weights.size()) {
    throw std::invalid_argument("depthwise_sum: too many branches or too few dilations");
  }
  DepthwiseSumParams params{};
  params.dtype = dtype;
  params.x = x;
  params.convolutions = static_cast<int>(weights.size());
  copy_tensors(weights, params.weight);
  copy_tensors(biases, params.bias);
  for (size_t i = 0; i < dilations.size(); ++i) params.dilation[i / 2][i % 2] = dilations[i];
  params.branches = static_cast<int>(chains.size()) - 1;
  std::copy(chains.begin(), chains.end(), params.length);
  params.combine = static_cast<Combine>(combine);
  return params;
}

}  // namespace

SEGNEXT_BIND(depthwise_sum, m) {
  m.constant("DEPTHWISE_SUM_MAX_CONVOLUTIONS", kMaxConvolutions);
  m.constant("DEPTHWISE_SUM_MAX_BRANCHES", kMaxBranches);

#if defined(SEGNEXT_WITH_CPU)
  m.def("depthwise_sum_cpu",
        [](DType dtype, Tensor4 x, const Tensors& weights, const Tensors& biases, const Integers& dilations,
           const Integers& chains, int combine, Tensor4 out, Isa isa, int threads) {
          auto params = depthwise_sum_params(dtype, x, weights, biases, dilations, chains, combine);
          params.out = out;
          const WithoutGil released;
          throw_unless(SEGNEXT_DISPATCH_DTYPE(dtype, isa, depthwise_sum_forward_cpu, params, threads));
        });
  // `grads` has the order of the op's list: x, weights, biases.
  m.def("depthwise_sum_backward_cpu",
        [](DType dtype, Tensor4 x, const Tensors& weights, const Tensors& biases, const Integers& dilations,
           const Integers& chains, int combine, Tensor4 grad, const Tensors& grads, Isa isa, int threads) {
          DepthwiseSumBackwardParams params{};
          params.forward = depthwise_sum_params(dtype, x, weights, biases, dilations, chains, combine);
          params.grad = grad;
          size_t next = 0;
          params.grad_x = grads.at(next++);
          for (size_t i = 0; i < weights.size(); ++i) params.grad_weight[i] = grads.at(next++);
          for (size_t i = 0; i < biases.size(); ++i) params.grad_bias[i] = grads.at(next++);
          const WithoutGil released;
          throw_unless(SEGNEXT_DISPATCH_DTYPE(dtype, isa, depthwise_sum_backward_cpu, params, threads));
        });
#endif
}

}  // namespace segnext
