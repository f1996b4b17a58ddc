// The part of _C that launches CUDA kernels; compiled only where nvcc is. No CUDA header: tests/cuda_emulator
// compiles it too. Every function takes the device's index and a stream and returns a status, 0 for success.

#include "bindings_params.h"
#include "common/launch.h"

namespace segnext {

void bind_cuda(py::module_& m) {
  m.attr("HAS_CUDA") = true;
  m.def("cuda_error", &cuda_error_text);

  m.def("upsample_argmax_cuda", [](uintptr_t logits, int dtype, const Shape4& shape, const Shape4& strides,
                                   uintptr_t labels, const Size2& size, int device, uintptr_t stream) {
    const auto params = upsample_argmax_params(logits, dtype, shape, strides, labels, size);
    return on_device(device, [&] { return launch_upsample_argmax(params, pointer(stream)); });
  });
}

}  // namespace segnext
