#include "bind.h"
#include "ops/resize_sum/resize_sum.h"

namespace segnext {

SEGNEXT_BIND(resize_sum, m) {
#if defined(SEGNEXT_WITH_CPU)
  m.def("resize_sum_cpu",
        [](DType dtype, Tensor4 base, const std::vector<Tensor4>& others, Tensor4 out, Isa isa, int threads) {
          ResizeSumParams params{dtype, base, static_cast<int>(others.size()), {}, out};
          copy_tensors(others, params.other);
          const WithoutGil released;
          throw_unless(SEGNEXT_DISPATCH(isa, resize_sum_cpu, params, threads));
        });
#endif
}

}  // namespace segnext
