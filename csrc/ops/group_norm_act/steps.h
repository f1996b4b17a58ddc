// The steps of a call of group_norm_act: each takes whole groups of some images, as much as the caches hold.
#pragma once

#include "ops/group_norm_act/group_norm_act.h"
#include "ops/group_norm_act/statistics.h"

namespace segnext {
namespace SEGNEXT_ISA {

// The elements of a step, and its fewest channels: shorter pieces of a pixel's row are too short for the prefetcher.
constexpr int64_t kStepElements = 1048576, kStepChannels = 64;

// The channels of a step: all, or an equal part of them that is whole groups and whole vectors.
static inline int64_t step_channels(const Tensor4& x, int64_t groups) {
  int64_t best = x.size[1];
  for (int64_t shares = 2; shares <= groups && best * x.size[2] * x.size[3] > kStepElements; ++shares) {
    const int64_t channels = x.size[1] / shares;
    if (channels < kStepChannels) break;
    if (groups % shares == 0 && channels % kLanes == 0) best = channels;
  }
  return best;
}

// The steps of a call. The last images may make a smaller step.
struct Steps {
  int64_t channels, images, across, count;  // channels and images of a step, steps across the channels, all steps

  Steps(const Tensor4& x, int64_t groups) : channels(0), images(1), across(0), count(0) {
    const int64_t pixels = x.size[2] * x.size[3];
    if (x.size[0] * x.size[1] * pixels == 0) return;
    channels = step_channels(x, groups);
    images = smaller(larger(kStepElements / (channels * pixels), 1), x.size[0]);
    across = x.size[1] / channels;
    count = blocks_of(x.size[0], images) * across;
  }

  int64_t image(int64_t step) const { return step / across * images; }
  int64_t channel(int64_t step) const { return step % across * channels; }
  StepSizes sizes(const GroupNormActParams& p, int64_t step) const {
    return StepSizes(smaller(p.x.size[0] - image(step), images), channels, p.groups / across,
                     p.x.size[2] * p.x.size[3]);
  }
};

// A step's part of an activation.
template <typename T>
static inline Tensor4 part_of(const Tensor4& whole, const Steps& steps, int64_t step) {
  Tensor4 part = whole;
  if (whole.data == nullptr) return part;
  const int64_t offset = steps.image(step) * whole.stride[0] + steps.channel(step) * whole.stride[1];
  part.data = static_cast<T*>(whole.data) + offset;
  part.size[1] = steps.channels;
  return part;
}

}  // namespace SEGNEXT_ISA
}  // namespace segnext
