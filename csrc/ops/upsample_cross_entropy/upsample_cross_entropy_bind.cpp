#include "bind.h"
#include "ops/upsample_cross_entropy/upsample_cross_entropy.h"

namespace segnext {

#if defined(SEGNEXT_WITH_CPU)
namespace {

// Memory and labels can fail; a label out of range is the caller's IndexError.
void throw_unless_ok(CrossEntropyStatus status) {
  throw_unless(status != CrossEntropyStatus::kNoMemory);
  if (status == CrossEntropyStatus::kClassOutOfRange) {
    throw std::out_of_range(
        "upsample_cross_entropy: target must hold class ids below the logits' classes, or ignore_index;"
        " got another id; map it, or pass it as ignore_index");
  }
}

}  // namespace
#endif

SEGNEXT_BIND(upsample_cross_entropy, m) {
#if defined(SEGNEXT_WITH_CPU)
  m.def("upsample_cross_entropy_cpu", [](DType dtype, Tensor4 logits, Tensor4 target, bool target_is_byte,
                                         int64_t ignore_index, uintptr_t class_weight, double label_smoothing,
                                         bool mean_all, Isa isa, int threads) {
    const UpsampleCrossEntropyParams params{
        dtype, logits, target, target_is_byte, pointer(class_weight), ignore_index, label_smoothing, mean_all};
    double loss = 0.0;
    const WithoutGil released;
    throw_unless_ok(SEGNEXT_DISPATCH_DTYPE(dtype, isa, upsample_cross_entropy_forward_cpu, params, &loss, threads));
    return loss;
  });
  m.def(
      "upsample_cross_entropy_backward_cpu",
      [](DType dtype, Tensor4 logits, Tensor4 target, bool target_is_byte, int64_t ignore_index, uintptr_t class_weight,
         double label_smoothing, bool mean_all, double grad, Tensor4 grad_logits, Isa isa, int threads) {
        const UpsampleCrossEntropyParams params{
            dtype, logits, target, target_is_byte, pointer(class_weight), ignore_index, label_smoothing, mean_all};
        const WithoutGil released;
        throw_unless_ok(SEGNEXT_DISPATCH_DTYPE(dtype, isa, upsample_cross_entropy_backward_cpu, params, grad,
                                               grad_logits, threads));
      });
#endif

#if defined(SEGNEXT_WITH_CUDA)
  m.def(
      "upsample_cross_entropy_cuda",
      [](DType dtype, Tensor4 logits, Tensor4 target, bool target_is_byte, int64_t ignore_index, uintptr_t class_weight,
         double label_smoothing, bool mean_all, uintptr_t loss, int device, uintptr_t stream, PyObject* workspace) {
        const UpsampleCrossEntropyParams params{
            dtype, logits, target, target_is_byte, pointer(class_weight), ignore_index, label_smoothing, mean_all};
        void* memory = allocated(workspace, upsample_cross_entropy_forward_workspace(params));
        return on_device(device, [&] {
          return launch_upsample_cross_entropy_forward(params, pointer<float>(loss), memory, pointer(stream));
        });
      });
  m.def("upsample_cross_entropy_backward_cuda",
        [](DType dtype, Tensor4 logits, Tensor4 target, bool target_is_byte, int64_t ignore_index,
           uintptr_t class_weight, double label_smoothing, bool mean_all, uintptr_t grad, Tensor4 grad_logits,
           int device, uintptr_t stream, PyObject* workspace) {
          const UpsampleCrossEntropyParams params{
              dtype, logits, target, target_is_byte, pointer(class_weight), ignore_index, label_smoothing, mean_all};
          void* memory = allocated(workspace, upsample_cross_entropy_backward_workspace(params));
          return on_device(device, [&] {
            return launch_upsample_cross_entropy_backward(params, pointer<const float>(grad), grad_logits, memory,
                                                          pointer(stream));
          });
        });
#endif
}

}  // namespace segnext
