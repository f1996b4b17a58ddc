#include "bind.h"
#include "ops/nmf2d/nmf2d.h"

namespace segnext {

SEGNEXT_BIND(nmf2d, m) {
#if defined(SEGNEXT_WITH_CPU)
  m.def("nmf2d_cpu", [](DType dtype, DType bases_dtype, Tensor4 x, Tensor4 bases, Tensor4 projection, Tensor4 out,
                        Tensor4 saved_bases, Tensor4 saved_coef, int64_t steps, double eps, Isa isa, int threads) {
    const Nmf2dParams params{dtype,       bases_dtype, x,     bases, projection,     out,
                             saved_bases, saved_coef,  steps, eps,   DType::kFloat32};
    const WithoutGil released;
    throw_unless(SEGNEXT_DISPATCH_DTYPE(dtype, isa, nmf2d_forward_cpu, params, threads));
  });
  m.def("nmf2d_backward_cpu", [](DType dtype, Tensor4 grad, Tensor4 x, Tensor4 saved_bases, Tensor4 saved_coef,
                                 Tensor4 grad_x, bool unrolled, double eps, Isa isa, int threads) {
    const Nmf2dBackwardParams params{dtype, grad, x, saved_bases, saved_coef, grad_x, unrolled, eps};
    const WithoutGil released;
    throw_unless(SEGNEXT_DISPATCH_DTYPE(dtype, isa, nmf2d_backward_cpu, params, threads));
  });
#endif

#if defined(SEGNEXT_WITH_CUDA)
  m.def("nmf2d_cuda_fits",
        [](DType dtype, int64_t channels, int64_t rank) { return nmf2d_fits(dtype, channels, rank); });
  m.def("nmf2d_cuda_variant", [](DType dtype, DType bases_dtype, Tensor4 x, Tensor4 bases, Tensor4 out,
                                 Tensor4 saved_bases, Tensor4 saved_coef, int64_t steps, double eps, int device) {
    const Nmf2dParams params{dtype,      bases_dtype, x,   bases,          {}, out, saved_bases,
                             saved_coef, steps,       eps, DType::kFloat32};
    int variant = 0;
    on_device(device, [&] { return variant = nmf2d_forward_variant(params), 0; });
    return variant;
  });
  m.def("nmf2d_cuda", [](DType dtype, DType bases_dtype, DType projection_dtype, Tensor4 x, Tensor4 bases,
                         Tensor4 projection, Tensor4 out, Tensor4 saved_bases, Tensor4 saved_coef, int64_t steps,
                         double eps, int variant, int device, uintptr_t stream, PyObject* workspace) {
    const Nmf2dParams params{dtype,       bases_dtype, x,     bases, projection,      out,
                             saved_bases, saved_coef,  steps, eps,   projection_dtype};
    return on_device(device, [&] {
      const auto memory = [&](int64_t bytes) { return allocated(workspace, bytes); };
      return launch_nmf2d_forward(params, variant, memory, pointer(stream));
    });
  });
  m.def("nmf2d_backward_cuda",
        [](DType dtype, Tensor4 grad, Tensor4 x, Tensor4 saved_bases, Tensor4 saved_coef, Tensor4 grad_x, bool unrolled,
           double eps, int device, uintptr_t stream, PyObject* workspace) {
          const Nmf2dBackwardParams params{dtype, grad, x, saved_bases, saved_coef, grad_x, unrolled, eps};
          void* memory = allocated(workspace, nmf2d_backward_workspace(params));
          return on_device(device, [&] { return launch_nmf2d_backward(params, memory, pointer(stream)); });
        });
#endif
}

}  // namespace segnext
