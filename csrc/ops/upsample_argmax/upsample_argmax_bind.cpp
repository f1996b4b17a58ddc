#include "bind.h"
#include "ops/upsample_argmax/upsample_argmax.h"

namespace segnext {
namespace {

using Shape4 = std::array<int64_t, 4>;
using Size2 = std::array<int64_t, 2>;

UpsampleArgmaxParams upsample_argmax_params(uintptr_t logits, DType dtype, const Shape4& shape, const Shape4& strides,
                                            uintptr_t labels, const Size2& size) {
  return {pointer(logits),
          dtype,
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

SEGNEXT_BIND(upsample_argmax, m) {
#if defined(SEGNEXT_WITH_CPU)
  m.def("upsample_argmax_cpu", [](uintptr_t logits, DType dtype, const Shape4& shape, const Shape4& strides,
                                  uintptr_t labels, const Size2& size, Isa isa, int threads) {
    const auto params = upsample_argmax_params(logits, dtype, shape, strides, labels, size);
    const WithoutGil released;
    throw_unless(SEGNEXT_DISPATCH(isa, upsample_argmax_cpu, params, threads));
  });
#endif

#if defined(SEGNEXT_WITH_CUDA)
  m.def("upsample_argmax_cuda", [](uintptr_t logits, DType dtype, const Shape4& shape, const Shape4& strides,
                                   uintptr_t labels, const Size2& size, int device, uintptr_t stream) {
    const auto params = upsample_argmax_params(logits, dtype, shape, strides, labels, size);
    return on_device(device, [&] { return launch_upsample_argmax(params, pointer(stream)); });
  });
#endif
}

}  // namespace segnext
