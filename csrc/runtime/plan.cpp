#include "runtime/plan.h"

#include <algorithm>
#include <utility>

#include "runtime/layers.h"

namespace segnext::runtime {
namespace {

constexpr size_t kShapes = 2;  // whose plans are kept

}  // namespace

Plan::Plan(const Configuration& network, const Placement& placement, const ImageSize& size) {
  const int64_t bytes = size_of(placement.dtype);
  const Shape stem_shape = size.shape(network.channels[0] / 2, 2);
  std::vector<Shape> shapes, level_shapes;
  for (int stage = 0; stage <= network.stages.back(); ++stage) {
    shapes.push_back(size.shape(network.channels[stage], Configuration::stride(stage)));
  }
  for (const int stage : network.stages) {
    level_shapes.push_back(size.shape(network.decoder_channels, Configuration::stride(stage)));
  }
  const int64_t decoder = level_shapes.front().elements() * bytes;
  int64_t most = decoder, work = decoder;
  for (const Shape& shape : shapes) {
    most = std::max(most, shape.elements() * bytes);
    work = std::max(work, MscaBlock::workspace_bytes(shape, placement));
  }
  char* const x = reserve(most);
  char* const y = reserve(std::max(most, stem_shape.elements() * bytes));
  workspace = reserve(work);
  stem = view(y, stem_shape);
  for (int stage = 0; stage <= network.stages.back(); ++stage) {
    // A feature that only feeds the next stage stays in the second region.
    const bool is_read = std::count(network.stages.begin(), network.stages.end(), stage) > 0;
    char* const own = is_read ? reserve(shapes[stage].elements() * bytes) : y;
    stages.push_back({view(x, shapes[stage]), view(y, shapes[stage]), view(own, shapes[stage])});
  }
  a = view(x, level_shapes.front());
  b = view(y, level_shapes.front());
  c = view(workspace, level_shapes.front());
  levels.push_back(a);
  for (size_t i = 1; i < level_shapes.size(); ++i) {
    levels.push_back(view(reserve(level_shapes[i].elements() * bytes), level_shapes[i]));
  }
  const Shape logits_shape = size.shape(network.logits(), Configuration::stride(network.stages.front()));
  logits = view(reserve(logits_shape.elements() * sizeof(float)), logits_shape);
  const Shape image_shape = size.shape(network.in_channels, 1);
  images = view(reserve(image_shape.elements() * sizeof(float)), image_shape);
}

char* Plan::reserve(int64_t bytes) { return memory_.emplace_back(bytes).data(); }

std::unique_ptr<Plan> Plans::take(const Configuration& network, const Placement& placement, const ImageSize& size) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (OfShape& shape : shapes_) {
      if (shape.size == size && !shape.free.empty()) {
        std::unique_ptr<Plan> plan = std::move(shape.free.back());
        shape.free.pop_back();
        return plan;
      }
    }
  }
  return std::make_unique<Plan>(network, placement, size);
}

void Plans::give_back(const ImageSize& size, std::unique_ptr<Plan> plan) {
  const std::lock_guard<std::mutex> lock(mutex_);
  auto found = std::find_if(shapes_.begin(), shapes_.end(), [&](const OfShape& shape) { return shape.size == size; });
  if (found == shapes_.end()) found = shapes_.insert(found, OfShape{size, {}});
  found->free.push_back(std::move(plan));
  shapes_.splice(shapes_.begin(), shapes_, found);
  while (shapes_.size() > kShapes) shapes_.pop_back();
}

}  // namespace segnext::runtime
