// The layers of a folded network: weights packed once for a placement, results written to memory that the caller gives.
//
// Each has `run`, which may be called from several threads at once. Activations are (N, C, H, W) with channels side by
// side, in the placement's dtype.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/tensor.h"
#include "ops/conv2d_act/conv2d_act.h"
#include "runtime/memory.h"
#include "runtime/placement.h"
#include "runtime/weights.h"

namespace segnext::runtime {

// Throws std::bad_alloc if a kernel reports, by returning false, that scratch memory is exhausted.
void throw_unless(bool enough_memory);

struct Convolution {
  int64_t kernel = 1, stride = 1, padding = 0;
  Activation activation = Activation::kNone;
  bool reads_float32 = false;  // instead of the placement's dtype
  bool writes_float32 = false;
};

// A dense convolution, `name`.weight and, if it has one, `name`.bias.
class Conv2d {
 public:
  Conv2d(Weights& weights, const std::string& name, int64_t in, int64_t out, bool has_bias, const Placement& placement,
         const Convolution& convolution = {});

  int64_t channels() const { return out_; }
  Tensor4 run(const Tensor4& x, const Tensor4& out) const;

 private:
  Convolution convolution_;
  int64_t out_;
  DType dtype_, out_dtype_;
  Isa isa_;
  int threads_;
  Memory packed_;
};

// The attention half of a block.
class MscaBlock {
 public:
  MscaBlock(Weights& weights, const std::string& prefix, int64_t channels, int64_t root,
            const std::vector<int64_t>& strips, const Placement& placement);

  static int64_t workspace_bytes(const Shape& x, const Placement& placement);
  // `out` and the workspace do not overlap x, nor each other.
  Tensor4 run(const Tensor4& x, const Tensor4& out, void* workspace) const;

 private:
  Placement placement_;
  Memory packed_;
};

// The feed-forward half of a block, with the residual.
class ConvFfn {
 public:
  ConvFfn(Weights& weights, const std::string& prefix, int64_t channels, int64_t hidden, const Placement& placement);

  // `out` does not overlap x.
  Tensor4 run(const Tensor4& x, const Tensor4& out) const;

 private:
  Placement placement_;
  int64_t hidden_;
  Memory packed_;
};

// LayerNorm over the channels of each pixel.
class ChannelNorm {
 public:
  ChannelNorm(Weights& weights, const std::string& name, int64_t channels, const Placement& placement);

  // `out` may be x.
  Tensor4 run(const Tensor4& x, const Tensor4& out) const;

 private:
  Placement placement_;
  Parameter weight_, bias_;
};

// GroupNorm, an optional residual, ReLU.
class GroupNorm {
 public:
  GroupNorm(Weights& weights, const std::string& name, int64_t channels, const Placement& placement);

  // `out` may be x or the residual, whose data is null without one.
  Tensor4 run(const Tensor4& x, const Tensor4& out, const Tensor4& residual = {}) const;

 private:
  Placement placement_;
  Parameter weight_, bias_;
};

// The matrix factorisation of the Hamburger with the 1x1 convolution behind it, which projects the bases.
class Nmf {
 public:
  Nmf(Weights& weights, int64_t channels, int64_t rank, int64_t steps, const Placement& placement);

  Tensor4 run(const Tensor4& x, const Tensor4& out) const;

 private:
  Placement placement_;
  int64_t steps_;
  Parameter bases_, projection_;
};

// The first tensor plus all others, which are resized to it; `out` may be the first.
Tensor4 resize_sum(const std::vector<Tensor4>& levels, const Tensor4& out, const Placement& placement);

}  // namespace segnext::runtime
