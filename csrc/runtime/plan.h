// The memory of one forward pass: made once per shape of images, and used by one call at a time.
#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <vector>

#include "common/tensor.h"
#include "runtime/configuration.h"
#include "runtime/memory.h"
#include "runtime/placement.h"

namespace segnext::runtime {

struct ImageSize {
  int64_t batch, height, width;

  bool operator==(const ImageSize& other) const {
    return batch == other.batch && height == other.height && width == other.width;
  }
  // Of what the network makes of the images at so many pixels of theirs per pixel.
  Shape shape(int64_t channels, int64_t stride) const {
    return {batch, channels, (height + stride - 1) / stride, (width + stride - 1) / stride};
  }
};

// What each layer writes to. As in segnext/deployment/plan.py there are three regions, and one per feature that is
// read. The first region holds a block's input; the second the stem's result, then what attention gives to the
// feed-forward network; the third the attention's workspace. The decoder uses them after the encoder.
class Plan {
 public:
  struct Stage {
    Tensor4 x, y, feature;
  };

  Plan(const Configuration& network, const Placement& placement, const ImageSize& size);

  Tensor4 images;  // float32, for who has none of their own
  Tensor4 stem;
  std::vector<Stage> stages;  // up to the last one that is read
  void* workspace;
  std::vector<Tensor4> levels;  // what the decoder makes of each feature; the first is `a`
  Tensor4 a, b, c;              // of the decoder, one in each region
  Tensor4 logits;               // float32

 private:
  // New memory for so many elements.
  char* reserve(int64_t bytes);

  std::vector<Memory> memory_;
};

// The plans that are not in use, of the shapes that were used last.
class Plans {
 public:
  // Returns one to use, new if all of this shape are in use.
  std::unique_ptr<Plan> take(const Configuration& network, const Placement& placement, const ImageSize& size);
  void give_back(const ImageSize& size, std::unique_ptr<Plan> plan);

 private:
  struct OfShape {
    ImageSize size;
    std::vector<std::unique_ptr<Plan>> free;
  };
  std::list<OfShape> shapes_;  // the one used last in front
  std::mutex mutex_;
};

}  // namespace segnext::runtime
