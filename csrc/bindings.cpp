// The Python module _C: pointers, sizes, strides and a stream go in, a status comes out. No torch header: the
// library neither needs torch to build nor breaks when torch is upgraded.

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <cstdint>
#include <new>

#include "common/isa.h"
#include "upsample_argmax/upsample_argmax.h"

#if defined(SEGNEXT_WITH_CUDA)
#include "common/launch.h"
#endif

namespace py = pybind11;

namespace {

using Shape4 = std::array<int64_t, 4>;
using Size2 = std::array<int64_t, 2>;

template <typename T = void>
T* pointer(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

void throw_unless(bool enough_memory) {
  if (!enough_memory) throw std::bad_alloc();
}

segnext::UpsampleArgmaxParams upsample_argmax_params(uintptr_t logits, int dtype, const Shape4& shape,
                                                     const Shape4& strides, uintptr_t labels, const Size2& size) {
  return {pointer(logits),
          static_cast<segnext::DType>(dtype),
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

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.def("best_instruction_set", [] { return static_cast<int>(segnext::best_isa()); });

  m.def("upsample_argmax_cpu", [](uintptr_t logits, int dtype, const Shape4& shape, const Shape4& strides,
                                  uintptr_t labels, const Size2& size, int isa, int threads) {
    const auto params = upsample_argmax_params(logits, dtype, shape, strides, labels, size);
    py::gil_scoped_release release;
    throw_unless(SEGNEXT_DISPATCH(static_cast<segnext::Isa>(isa), upsample_argmax_cpu, params, threads));
  });

#if defined(SEGNEXT_WITH_CUDA)
  m.attr("HAS_CUDA") = true;
  m.def("cuda_error", &segnext::cuda_error_text);
  m.def("upsample_argmax_cuda", [](uintptr_t logits, int dtype, const Shape4& shape, const Shape4& strides,
                                   uintptr_t labels, const Size2& size, int device, uintptr_t stream) {
    const auto params = upsample_argmax_params(logits, dtype, shape, strides, labels, size);
    return segnext::on_device(device, [&] { return segnext::launch_upsample_argmax(params, pointer(stream)); });
  });
#else
  m.attr("HAS_CUDA") = false;
#endif
}
