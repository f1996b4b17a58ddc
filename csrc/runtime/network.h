// A folded network: the layers, and the forward pass from the image to the logits; as segnext/deployment/network.py.
#pragma once

#include <vector>

#include "runtime/configuration.h"
#include "runtime/layers.h"
#include "runtime/placement.h"
#include "runtime/plan.h"
#include "runtime/weights.h"

namespace segnext::runtime {

// LightHam: squeezes each feature at its own size, sums them up, factorises, aligns, classifies.
class Decoder {
 public:
  Decoder(Weights& weights, const Configuration& network, const Placement& placement);

  void run(const std::vector<Tensor4>& features, const Plan& plan, const Tensor4& logits) const;

 private:
  struct Hamburger {
    Conv2d proj_in;
    Nmf nmf;
    GroupNorm norm;
  };

  Placement placement_;
  std::vector<Conv2d> squeeze_;
  GroupNorm squeeze_norm_;
  std::vector<Hamburger> hamburger_;  // one or none
  Conv2d align_;
  GroupNorm align_norm_;
  Conv2d classifier_;
};

class Network {
 public:
  // Takes all tensors of the file.
  Network(Weights& weights, const Configuration& network, const Placement& placement);

  // images: (N, C, H, W), float32, any strides. logits: (N, K, h, w), float32, any strides.
  void run(const Tensor4& images, const Plan& plan, const Tensor4& logits) const;

 private:
  struct Block {
    MscaBlock attention;
    ConvFfn feed_forward;
  };
  struct Stage {
    Conv2d entry;
    std::vector<Block> blocks;
    ChannelNorm norm;
  };

  static Stage stage(Weights& weights, const Configuration& network, const Placement& placement, int index);

  std::vector<int> read_;
  Conv2d stem_;
  std::vector<Stage> stages_;
  Decoder decoder_;
};

}  // namespace segnext::runtime
