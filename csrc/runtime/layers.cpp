#include "runtime/layers.h"

#include <algorithm>
#include <new>

#include "ops/channel_norm/channel_norm.h"
#include "ops/conv_ffn/conv_ffn.h"
#include "ops/group_norm_act/group_norm_act.h"
#include "ops/msca_block/msca_block.h"
#include "ops/nmf2d/nmf2d.h"
#include "ops/resize_sum/resize_sum.h"

namespace segnext::runtime {
namespace {

// Of segnext/deployment/parts.py, segnext/models/config.py and segnext_kernels/ops/nmf2d/op.py.
constexpr double kNormEps = 1e-5, kNmfEps = 1e-6;
constexpr int64_t kGroups = 32;

// A part's parameters in the network's dtype, by name. They live until the part is packed.
class PartOf {
 public:
  PartOf(Weights& weights, const std::string& prefix, DType dtype) : weights_(weights), prefix_(prefix), dtype_(dtype) {
    parameters_.reserve(kMost);
  }

  Tensor4 operator()(const std::string& name, const std::vector<int64_t>& shape) {
    parameters_.push_back(weights_.take(prefix_ + "." + name, shape).as(dtype_));
    return parameters_.back().tensor();
  }

 private:
  static constexpr size_t kMost = 16 + 4 * kMaxStrips;
  Weights& weights_;
  std::string prefix_;
  DType dtype_;
  std::vector<Parameter> parameters_;
};

// (N, C, H, W) as (N, C, H W)
Tensor4 as_matrices(const Tensor4& x) {
  return {x.data, {x.size[0], x.size[1], x.size[2] * x.size[3]}, {x.stride[0], x.stride[1], x.stride[3]}};
}

}  // namespace

void throw_unless(bool enough_memory) {
  if (!enough_memory) throw std::bad_alloc();
}

Conv2d::Conv2d(Weights& weights, const std::string& name, int64_t in, int64_t out, bool has_bias,
               const Placement& placement, const Convolution& convolution)
    : convolution_(convolution),
      out_(out),
      dtype_(convolution.reads_float32 ? DType::kFloat32 : placement.dtype),
      out_dtype_(convolution.writes_float32 ? DType::kFloat32 : placement.dtype),
      isa_(convolution.reads_float32 ? placement.vectors : placement.isa),
      threads_(placement.threads) {
  const Parameter weight = weights.take(name + ".weight", {out, in, convolution.kernel, convolution.kernel});
  const Parameter bias = has_bias ? weights.take(name + ".bias", {out}) : Parameter();
  packed_ = Memory(SEGNEXT_DISPATCH(isa_, conv2d_act_packed_bytes, dtype_, weight.tensor()));
  SEGNEXT_DISPATCH(isa_, conv2d_act_pack_cpu, dtype_, weight.tensor(), bias.tensor(), packed_.data());
}

Tensor4 Conv2d::run(const Tensor4& x, const Tensor4& out) const {
  const Convolution& c = convolution_;
  const Conv2dActParams params{dtype_,         out_dtype_,   x,  {c.kernel, c.kernel}, c.stride, c.padding,
                               packed_.data(), c.activation, out};
  throw_unless(SEGNEXT_DISPATCH(isa_, conv2d_act_cpu, params, threads_));
  return out;
}

MscaBlock::MscaBlock(Weights& weights, const std::string& prefix, int64_t channels, int64_t root,
                     const std::vector<int64_t>& strips, const Placement& placement)
    : placement_(placement) {
  const int64_t c = channels;
  PartOf part(weights, prefix, placement.dtype);
  MscaBlockWeights w{};
  w.dtype = placement.dtype;
  w.proj_in_weight = part("proj_in_weight", {c, c, 1, 1});
  w.proj_in_bias = part("proj_in_bias", {c});
  w.strips.root_weight = part("root_weight", {c, 1, root, root});
  w.strips.root_bias = part("root_bias", {c});
  w.strips.strips = static_cast<int>(strips.size());
  for (size_t i = 0; i < strips.size(); ++i) {
    const std::string row = std::to_string(2 * i), column = std::to_string(2 * i + 1);
    w.strips.row_weight[i] = part("strip_weights." + row, {c, 1, 1, strips[i]});
    w.strips.column_weight[i] = part("strip_weights." + column, {c, 1, strips[i], 1});
    w.strips.row_bias[i] = part("strip_biases." + row, {c});
    w.strips.column_bias[i] = part("strip_biases." + column, {c});
  }
  w.mix_weight = part("mix_weight", {c, c, 1, 1});
  w.mix_bias = part("mix_bias", {c});
  w.proj_out_weight = part("proj_out_weight", {c, c, 1, 1});
  w.proj_out_bias = part("proj_out_bias", {c});
  w.skip_scale = part("skip_scale", {c});
  w.skip_shift = part("skip_shift", {c});
  packed_ = Memory(SEGNEXT_DISPATCH(placement.isa, msca_block_packed_bytes, w));
  SEGNEXT_DISPATCH(placement.isa, msca_block_pack_cpu, w, packed_.data());
}

int64_t MscaBlock::workspace_bytes(const Shape& x, const Placement& placement) {
  return x.batch * size_of(placement.dtype) *
         SEGNEXT_DISPATCH(placement.isa, msca_block_workspace, x.channels, x.height, x.width);
}

Tensor4 MscaBlock::run(const Tensor4& x, const Tensor4& out, void* workspace) const {
  const MscaBlockParams params{placement_.dtype, x, packed_.data(), workspace, out};
  throw_unless(SEGNEXT_DISPATCH(placement_.isa, msca_block_cpu, params, placement_.threads));
  return out;
}

ConvFfn::ConvFfn(Weights& weights, const std::string& prefix, int64_t channels, int64_t hidden,
                 const Placement& placement)
    : placement_(placement), hidden_(hidden) {
  PartOf part(weights, prefix, placement.dtype);
  ConvFfnWeights w{};
  w.dtype = placement.dtype;
  w.fc1_weight = part("fc1_weight", {hidden, channels, 1, 1});
  w.fc1_bias = part("fc1_bias", {hidden});
  w.dw_weight = part("dw_weight", {hidden, 1, 3, 3});
  w.dw_bias = part("dw_bias", {hidden});
  w.fc2_weight = part("fc2_weight", {channels, hidden, 1, 1});
  w.fc2_bias = part("fc2_bias", {channels});
  packed_ = Memory(SEGNEXT_DISPATCH(placement.isa, conv_ffn_packed_bytes, w));
  SEGNEXT_DISPATCH(placement.isa, conv_ffn_pack_cpu, w, packed_.data());
}

Tensor4 ConvFfn::run(const Tensor4& x, const Tensor4& out) const {
  const ConvFfnParams params{placement_.dtype, x, packed_.data(), hidden_, true, out};
  throw_unless(SEGNEXT_DISPATCH(placement_.isa, conv_ffn_cpu, params, placement_.threads));
  return out;
}

ChannelNorm::ChannelNorm(Weights& weights, const std::string& name, int64_t channels, const Placement& placement)
    : placement_(placement),
      weight_(weights.take(name + ".weight", {channels})),
      bias_(weights.take(name + ".bias", {channels})) {}

Tensor4 ChannelNorm::run(const Tensor4& x, const Tensor4& out) const {
  const ChannelNormParams params{
      placement_.dtype, x, weight_.tensor(), bias_.tensor(), static_cast<float>(kNormEps), out};
  SEGNEXT_DISPATCH(placement_.isa, channel_norm_cpu, params, placement_.threads);
  return out;
}

GroupNorm::GroupNorm(Weights& weights, const std::string& name, int64_t channels, const Placement& placement)
    : placement_(placement),
      weight_(weights.take(name + ".weight", {channels})),
      bias_(weights.take(name + ".bias", {channels})) {}

Tensor4 GroupNorm::run(const Tensor4& x, const Tensor4& out, const Tensor4& residual) const {
  const GroupNormActParams params{placement_.dtype, DType::kFloat32, kGroups,  kNormEps, true, x,
                                  weight_.tensor(), bias_.tensor(),  residual, out};
  throw_unless(SEGNEXT_DISPATCH(placement_.isa, group_norm_act_forward_cpu, params, placement_.threads));
  return out;
}

Nmf::Nmf(Weights& weights, int64_t channels, int64_t rank, int64_t steps, const Placement& placement)
    : placement_(placement),
      steps_(steps),
      bases_(weights.take("ham.bases", {1, channels, rank})),
      projection_(weights.take("ham.proj_out.weight", {channels, channels, 1, 1})) {}

Tensor4 Nmf::run(const Tensor4& x, const Tensor4& out) const {
  const Tensor4 p = projection_.tensor();
  const Tensor4 matrix{p.data, {p.size[0], p.size[1]}, {p.stride[0], p.stride[1]}};
  const Nmf2dParams params{
      placement_.dtype, DType::kFloat32, as_matrices(x), bases_.tensor(), matrix, as_matrices(out), {}, {},
      steps_,           kNmfEps,         DType::kFloat32};
  throw_unless(SEGNEXT_DISPATCH(placement_.isa, nmf2d_forward_cpu, params, placement_.threads));
  return out;
}

Tensor4 resize_sum(const std::vector<Tensor4>& levels, const Tensor4& out, const Placement& placement) {
  ResizeSumParams params{placement.dtype, levels.front(), static_cast<int>(levels.size()) - 1, {}, out};
  std::copy(levels.begin() + 1, levels.end(), params.other);
  throw_unless(SEGNEXT_DISPATCH(placement.isa, resize_sum_cpu, params, placement.threads));
  return out;
}

}  // namespace segnext::runtime
