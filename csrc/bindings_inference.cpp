// The part of _C that runs packed weights: what `segnext_kernels.packed` calls.

#include "bindings.h"
#include "ops/channel_norm/channel_norm.h"
#include "ops/conv2d_act/conv2d_act.h"
#include "ops/conv_ffn/conv_ffn.h"
#include "ops/msca_block/msca_block.h"
#include "ops/resize_sum/resize_sum.h"

namespace segnext {
namespace {

// fc1_weight, fc1_bias, dw_weight, dw_bias, fc2_weight, fc2_bias
ConvFfnWeights conv_ffn_weights(int dtype, const py::list& weights) {
  Tensor4 t[6];
  tensors(weights, t);
  return {static_cast<DType>(dtype), t[0], t[1], t[2], t[3], t[4], t[5]};
}

// proj_in_weight, proj_in_bias, root_weight, root_bias, [strip_weights], [strip_biases], mix_weight, mix_bias,
// proj_out_weight, proj_out_bias, skip_scale, skip_shift
MscaBlockWeights msca_block_weights(int dtype, const py::list& weights) {
  MscaConvWeights strips{tensor(weights[2]), tensor(weights[3]), static_cast<int>(py::len(weights[4])), {}, {}};
  tensors(weights[4], strips.strip_weight);
  tensors(weights[5], strips.strip_bias);
  return {static_cast<DType>(dtype), tensor(weights[0]), tensor(weights[1]), strips,
          tensor(weights[6]),        tensor(weights[7]), tensor(weights[8]), tensor(weights[9]),
          tensor(weights[10]),       tensor(weights[11])};
}

}  // namespace

void bind_inference(py::module_& m) {
  m.def("conv_ffn_packed_bytes", [](int dtype, py::list weights, int isa) {
    return SEGNEXT_DISPATCH(static_cast<Isa>(isa), conv_ffn_packed_bytes, conv_ffn_weights(dtype, weights));
  });
  m.def("conv_ffn_pack_cpu", [](int dtype, py::list weights, uintptr_t packed, int isa) {
    const auto params = conv_ffn_weights(dtype, weights);
    py::gil_scoped_release release;
    SEGNEXT_DISPATCH(static_cast<Isa>(isa), conv_ffn_pack_cpu, params, pointer(packed));
  });
  m.def("conv_ffn_cpu", [](int dtype, py::object x, uintptr_t packed, int64_t hidden, bool residual, py::object out,
                           int isa, int threads) {
    const ConvFfnParams params{static_cast<DType>(dtype), tensor(x), pointer(packed), hidden, residual, tensor(out)};
    py::gil_scoped_release release;
    throw_unless(SEGNEXT_DISPATCH(static_cast<Isa>(isa), conv_ffn_cpu, params, threads));
  });

  m.def("msca_block_packed_bytes", [](int dtype, py::list weights, int isa) {
    return SEGNEXT_DISPATCH(static_cast<Isa>(isa), msca_block_packed_bytes, msca_block_weights(dtype, weights));
  });
  m.def("msca_block_pack_cpu", [](int dtype, py::list weights, uintptr_t packed, int isa) {
    const auto params = msca_block_weights(dtype, weights);
    py::gil_scoped_release release;
    SEGNEXT_DISPATCH(static_cast<Isa>(isa), msca_block_pack_cpu, params, pointer(packed));
  });
  m.def("msca_block_workspace", [](int64_t channels, int64_t height, int64_t width, int isa) {
    return SEGNEXT_DISPATCH(static_cast<Isa>(isa), msca_block_workspace, channels, height, width);
  });
  m.def("msca_block_cpu",
        [](int dtype, py::object x, uintptr_t packed, uintptr_t workspace, py::object out, int isa, int threads) {
          const MscaBlockParams params{static_cast<DType>(dtype), tensor(x), pointer(packed), pointer(workspace),
                                       tensor(out)};
          py::gil_scoped_release release;
          throw_unless(SEGNEXT_DISPATCH(static_cast<Isa>(isa), msca_block_cpu, params, threads));
        });

  m.def("conv2d_act_packed_bytes", [](int dtype, py::object weight, int isa) {
    return SEGNEXT_DISPATCH(static_cast<Isa>(isa), conv2d_act_packed_bytes, static_cast<DType>(dtype), tensor(weight));
  });
  m.def("conv2d_act_pack_cpu", [](int dtype, py::object weight, py::object bias, uintptr_t packed, int isa) {
    const auto w = tensor(weight), b = tensor(bias);
    py::gil_scoped_release release;
    SEGNEXT_DISPATCH(static_cast<Isa>(isa), conv2d_act_pack_cpu, static_cast<DType>(dtype), w, b, pointer(packed));
  });
  m.def("conv2d_act_cpu",
        [](int dtype, int out_dtype, py::object x, const std::array<int64_t, 2>& kernel, int64_t stride,
           int64_t padding, uintptr_t packed, int activation, py::object out, int isa, int threads) {
          const Conv2dActParams params{static_cast<DType>(dtype),
                                       static_cast<DType>(out_dtype),
                                       tensor(x),
                                       {kernel[0], kernel[1]},
                                       stride,
                                       padding,
                                       pointer(packed),
                                       static_cast<Activation>(activation),
                                       tensor(out)};
          py::gil_scoped_release release;
          throw_unless(SEGNEXT_DISPATCH(static_cast<Isa>(isa), conv2d_act_cpu, params, threads));
        });

  m.def("channel_norm_cpu", [](int dtype, py::object x, py::object weight, py::object bias, float eps, py::object out,
                               int isa, int threads) {
    const ChannelNormParams params{
        static_cast<DType>(dtype), tensor(x), tensor(weight), tensor(bias), eps, tensor(out)};
    py::gil_scoped_release release;
    SEGNEXT_DISPATCH(static_cast<Isa>(isa), channel_norm_cpu, params, threads);
  });

  m.def("resize_sum_cpu", [](int dtype, py::object base, py::list others, py::object out, int isa, int threads) {
    ResizeSumParams params{static_cast<DType>(dtype), tensor(base), static_cast<int>(others.size()), {}, tensor(out)};
    tensors(others, params.other);
    py::gil_scoped_release release;
    throw_unless(SEGNEXT_DISPATCH(static_cast<Isa>(isa), resize_sum_cpu, params, threads));
  });
}

}  // namespace segnext
