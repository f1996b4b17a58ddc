#include "runtime/model.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <utility>

#include "ops/upsample_argmax/upsample_argmax.h"
#include "runtime/error.h"
#include "runtime/layers.h"

namespace segnext::runtime {
namespace {

constexpr int kLevels = 256;  // of a pixel's channel

DType chosen(segnext_dtype dtype, DType of_file) {
  if (dtype == SEGNEXT_DTYPE_OF_FILE) return of_file;
  return dtype == SEGNEXT_BFLOAT16 ? DType::kBFloat16 : DType::kFloat32;
}

Network network_of(SafetensorsFile& file, const Description& description, const Placement& placement) {
  Weights weights(file);
  return Network(weights, description.configuration, placement);
}

// (N, K, H, W) without gaps, rows of pixels inside
Tensor4 planes(void* data, const Shape& s) {
  return {data,
          {s.batch, s.channels, s.height, s.width},
          {s.channels * s.height * s.width, s.height * s.width, s.width, 1}};
}

void expect_finite(const Tensor4& logits) {
  const float* values = static_cast<const float*>(logits.data);
  const int64_t count = shape_of(logits).elements();
  const int64_t bad = std::count_if(values, values + count, [](float value) { return !std::isfinite(value); });
  if (bad > 0) {
    throw Error(SEGNEXT_NON_FINITE,
                joined({"logits must be finite, got ", std::to_string(bad), " of ", std::to_string(count),
                        " that are NaN or Inf; use float32 if the activations overflowed in a lower precision"}));
  }
}

}  // namespace

Model::Model(const std::string& path, segnext_dtype dtype, int threads)
    : Model(SafetensorsFile(path), dtype, threads) {}

Model::Model(SafetensorsFile file, segnext_dtype dtype, int threads)
    : description_(runtime::description(file.metadata())),
      placement_(placement(chosen(dtype, description_.dtype), threads)),
      network_(network_of(file, description_, placement_)) {
  for (size_t c = 0; c < description_.mean.size(); ++c) {
    for (int value = 0; value < kLevels; ++value) {
      normalised_.push_back((static_cast<float>(value) - description_.mean[c]) / description_.std[c]);
    }
  }
}

Shape Model::logits_shape(const ImageSize& size) const {
  const Configuration& network = description_.configuration;
  return size.shape(network.logits(), Configuration::stride(network.stages.front()));
}

void Model::logits(const float* images, const ImageSize& size, float* logits) {
  std::unique_ptr<Plan> plan = plans_.take(description_.configuration, placement_, size);
  const Shape shape{size.batch, description_.configuration.in_channels, size.height, size.width};
  network_.run(planes(const_cast<float*>(images), shape), *plan, planes(logits, logits_shape(size)));
  plans_.give_back(size, std::move(plan));
}

void Model::predict(const uint8_t* pixels, int64_t height, int64_t width, int64_t row_bytes, void* labels) {
  if (normalised_.empty()) {
    throw Error(SEGNEXT_UNSUPPORTED, joined({"the file must say mean and std of its ",
                                             std::to_string(description_.configuration.in_channels),
                                             " channels, got 3; normalise the image and call segnext_logits"}));
  }
  const ImageSize size{1, height, width};
  std::unique_ptr<Plan> plan = plans_.take(description_.configuration, placement_, size);
  normalise(pixels, row_bytes, plan->images);
  network_.run(plan->images, *plan, plan->logits);
  expect_finite(plan->logits);
  label(plan->logits, height, width, labels);
  plans_.give_back(size, std::move(plan));
}

void Model::normalise(const uint8_t* pixels, int64_t row_bytes, const Tensor4& images) const {
  const int64_t channels = images.size[1], height = images.size[2], width = images.size[3];
  float* const out = static_cast<float*>(images.data);
#pragma omp parallel for num_threads(placement_.threads)
  for (int64_t y = 0; y < height; ++y) {
    const uint8_t* row = pixels + y * row_bytes;
    float* to = out + y * width * channels;
    for (int64_t x = 0; x < width; ++x) {
      for (int64_t c = 0; c < channels; ++c) *to++ = normalised_[c * kLevels + *row++];
    }
  }
}

void Model::label(const Tensor4& logits, int64_t height, int64_t width, void* labels) const {
  Tensor4 scores = logits;
  std::vector<float> two;
  if (const std::optional<double> threshold = description_.configuration.threshold) {
    // two classes, of which the second wins exactly where the sigmoid of the one logit is above the threshold
    const float border = static_cast<float>(std::log(*threshold / (1 - *threshold)));
    const float* one = static_cast<const float*>(logits.data);
    const int64_t count = shape_of(logits).elements();
    for (int64_t i = 0; i < count; ++i) two.insert(two.end(), {border, one[i]});
    scores = view(two.data(), {1, 2, logits.size[2], logits.size[3]});
  }
  const UpsampleArgmaxParams params{scores.data,
                                    DType::kFloat32,
                                    1,
                                    scores.size[1],
                                    scores.size[2],
                                    scores.size[3],
                                    scores.stride[0],
                                    scores.stride[1],
                                    scores.stride[2],
                                    scores.stride[3],
                                    labels,
                                    height,
                                    width,
                                    static_cast<float>(scores.size[2]) / static_cast<float>(height),
                                    static_cast<float>(scores.size[3]) / static_cast<float>(width)};
  throw_unless(SEGNEXT_DISPATCH(placement_.vectors, upsample_argmax_cpu, params, placement_.threads));
}

}  // namespace segnext::runtime
