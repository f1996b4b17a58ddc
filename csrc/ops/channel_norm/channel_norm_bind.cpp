#include "bind.h"
#include "ops/channel_norm/channel_norm.h"

namespace segnext {

SEGNEXT_BIND(channel_norm, m) {
#if defined(SEGNEXT_WITH_CPU)
  m.def("channel_norm_cpu",
        [](DType dtype, Tensor4 x, Tensor4 weight, Tensor4 bias, float eps, Tensor4 out, Isa isa, int threads) {
          const ChannelNormParams params{dtype, x, weight, bias, eps, out};
          const WithoutGil released;
          SEGNEXT_DISPATCH(isa, channel_norm_cpu, params, threads);
        });
#endif
}

}  // namespace segnext
