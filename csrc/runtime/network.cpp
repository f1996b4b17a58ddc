#include "runtime/network.h"

#include <string>
#include <utility>

namespace segnext::runtime {
namespace {

constexpr Convolution kHalving{3, 2, 1};

std::vector<Conv2d> squeeze(Weights& weights, const Configuration& network, const Placement& placement) {
  std::vector<Conv2d> result;
  for (size_t level = 0; level < network.stages.size(); ++level) {
    result.emplace_back(weights, "squeeze." + std::to_string(level), network.channels[network.stages[level]],
                        network.decoder_channels, false, placement);
  }
  return result;
}

// The stem reads the image's few channels in float32, also in a bfloat16 network.
Conv2d stem(Weights& weights, const Configuration& network, const Placement& placement) {
  Convolution convolution = kHalving;
  convolution.activation = Activation::kGelu;
  convolution.reads_float32 = true;
  return Conv2d(weights, "stem.0", network.in_channels, network.channels[0] / 2, true, placement, convolution);
}

Conv2d classifier(Weights& weights, const Configuration& network, const Placement& placement) {
  Convolution convolution;
  convolution.writes_float32 = true;
  return Conv2d(weights, "classifier", network.decoder_channels, network.logits(), true, placement, convolution);
}

}  // namespace

Decoder::Decoder(Weights& weights, const Configuration& network, const Placement& placement)
    : placement_(placement),
      squeeze_(squeeze(weights, network, placement)),
      squeeze_norm_(weights, "squeeze.norm", network.decoder_channels, placement),
      align_(weights, "align", network.decoder_channels, network.decoder_channels, false, placement),
      align_norm_(weights, "align.norm", network.decoder_channels, placement),
      classifier_(classifier(weights, network, placement)) {
  if (!network.has_hamburger) return;
  const int64_t width = network.decoder_channels;
  Convolution with_relu;
  with_relu.activation = Activation::kRelu;
  hamburger_.push_back({Conv2d(weights, "ham.proj_in", width, width, true, placement, with_relu),
                        Nmf(weights, width, network.rank, network.steps, placement),
                        GroupNorm(weights, "ham.norm", width, placement)});
}

void Decoder::run(const std::vector<Tensor4>& features, const Plan& plan, const Tensor4& logits) const {
  std::vector<Tensor4> levels;
  for (size_t i = 0; i < features.size(); ++i) levels.push_back(squeeze_[i].run(features[i], plan.levels[i]));
  Tensor4 x = squeeze_norm_.run(resize_sum(levels, plan.a, placement_), plan.a);
  Tensor4 place = plan.b;
  for (const Hamburger& ham : hamburger_) {
    x = ham.norm.run(ham.nmf.run(ham.proj_in.run(x, plan.b), plan.c), plan.b, x);
    place = plan.a;
  }
  x = align_norm_.run(align_.run(x, place), place);
  classifier_.run(x, logits);
}

Network::Stage Network::stage(Weights& weights, const Configuration& network, const Placement& placement, int index) {
  const std::string i = std::to_string(index);
  const int64_t channels = network.channels[index];
  const int64_t before = index == 0 ? channels / 2 : network.channels[index - 1];
  const std::string entry = index == 0 ? "stem.1" : "downsample." + std::to_string(index - 1);
  Stage result{Conv2d(weights, entry, before, channels, true, placement, kHalving),
               {},
               ChannelNorm(weights, "norm." + i, channels, placement)};
  for (int64_t j = 0; j < network.depths[index]; ++j) {
    const std::string block = "." + i + "." + std::to_string(j);
    result.blocks.push_back(
        {MscaBlock(weights, "attention" + block, channels, network.root, network.strips, placement),
         ConvFfn(weights, "ffn" + block, channels, channels * network.expansions[index], placement)});
  }
  return result;
}

Network::Network(Weights& weights, const Configuration& network, const Placement& placement)
    : read_(network.stages), stem_(stem(weights, network, placement)), decoder_(weights, network, placement) {
  for (int index = 0; index < kStages; ++index) {
    Stage next = stage(weights, network, placement, index);
    if (index <= read_.back()) stages_.push_back(std::move(next));  // nobody reads what comes after
  }
  weights.expect_all_taken();
}

void Network::run(const Tensor4& images, const Plan& plan, const Tensor4& logits) const {
  Tensor4 x = stem_.run(images, plan.stem);
  std::vector<Tensor4> features;
  size_t next = 0;
  for (size_t index = 0; index < stages_.size(); ++index) {
    const Plan::Stage& memory = plan.stages[index];
    x = stages_[index].entry.run(x, memory.x);
    for (const Block& block : stages_[index].blocks) {
      x = block.feed_forward.run(block.attention.run(x, memory.y, plan.workspace), memory.x);
    }
    x = stages_[index].norm.run(x, memory.feature);
    if (next < read_.size() && read_[next] == static_cast<int>(index)) {
      features.push_back(x);
      ++next;
    }
  }
  decoder_.run(features, plan, logits);
}

}  // namespace segnext::runtime
