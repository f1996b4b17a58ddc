#include "bind.h"
#include "ops/group_norm_act/group_norm_act.h"

namespace segnext {

SEGNEXT_BIND(group_norm_act, m) {
#if defined(SEGNEXT_WITH_CPU)
  m.def("group_norm_act_cpu",
        [](DType dtype, DType affine_dtype, Tensor4 x, int64_t groups, Tensor4 weight, Tensor4 bias, double eps,
           Tensor4 residual, bool relu, Tensor4 out, Isa isa, int threads) {
          const GroupNormActParams params{dtype, affine_dtype, groups, eps, relu, x, weight, bias, residual, out};
          const WithoutGil released;
          throw_unless(SEGNEXT_DISPATCH_DTYPE(dtype, isa, group_norm_act_forward_cpu, params, threads));
        });
  m.def("group_norm_act_backward_cpu",
        [](DType dtype, DType affine_dtype, Tensor4 grad, Tensor4 x, Tensor4 out, int64_t groups, Tensor4 weight,
           double eps, bool relu, Tensor4 grad_x, Tensor4 grad_weight, Tensor4 grad_bias, Tensor4 grad_residual,
           Isa isa, int threads) {
          const GroupNormActBackwardParams params{{dtype, affine_dtype, groups, eps, relu, x, weight, {}, {}, out},
                                                  grad,
                                                  grad_x,
                                                  grad_weight,
                                                  grad_bias,
                                                  grad_residual};
          const WithoutGil released;
          throw_unless(SEGNEXT_DISPATCH_DTYPE(dtype, isa, group_norm_act_backward_cpu, params, threads));
        });
#endif

#if defined(SEGNEXT_WITH_CUDA)
  m.def("group_norm_act_cuda",
        [](DType dtype, DType affine_dtype, Tensor4 x, int64_t groups, Tensor4 weight, Tensor4 bias, double eps,
           Tensor4 residual, bool relu, Tensor4 out, int device, uintptr_t stream, PyObject* workspace) {
          const GroupNormActParams params{dtype, affine_dtype, groups, eps, relu, x, weight, bias, residual, out};
          void* memory = allocated(workspace, group_norm_act_forward_workspace(params));
          return on_device(device, [&] { return launch_group_norm_act_forward(params, memory, pointer(stream)); });
        });
  m.def("group_norm_act_backward_cuda",
        [](DType dtype, DType affine_dtype, Tensor4 grad, Tensor4 x, Tensor4 out, int64_t groups, Tensor4 weight,
           double eps, bool relu, Tensor4 grad_x, Tensor4 grad_weight, Tensor4 grad_bias, Tensor4 grad_residual,
           int device, uintptr_t stream, PyObject* workspace) {
          const GroupNormActBackwardParams params{{dtype, affine_dtype, groups, eps, relu, x, weight, {}, {}, out},
                                                  grad,
                                                  grad_x,
                                                  grad_weight,
                                                  grad_bias,
                                                  grad_residual};
          void* memory = allocated(workspace, group_norm_act_backward_workspace(params));
          return on_device(device, [&] { return launch_group_norm_act_backward(params, memory, pointer(stream)); });
        });
#endif
}

}  // namespace segnext
