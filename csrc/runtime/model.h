// A model that is ready to run: a file's description, its packed network, and memory for calls.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "runtime/configuration.h"
#include "runtime/network.h"
#include "runtime/placement.h"
#include "runtime/plan.h"
#include "runtime/safetensors.h"
#include "runtime/segnext.h"

namespace segnext::runtime {

class Model {
 public:
  // Throws Error; the message follows the file's name.
  Model(const std::string& path, segnext_dtype dtype, int threads);

  const Description& description() const { return description_; }
  Shape logits_shape(const ImageSize& size) const;

  // images: (N, C, H, W) without gaps; logits: (N, K, h, w) without gaps.
  void logits(const float* images, const ImageSize& size, float* logits);
  // pixels: (H, W, C); labels: (H, W), uint8 up to 256 classes, else int32. Throws Error with SEGNEXT_NON_FINITE.
  void predict(const uint8_t* pixels, int64_t height, int64_t width, int64_t row_bytes, void* labels);

 private:
  Model(SafetensorsFile file, segnext_dtype dtype, int threads);

  void normalise(const uint8_t* pixels, int64_t row_bytes, const Tensor4& images) const;
  // The label of each pixel of an image of this size.
  void label(const Tensor4& logits, int64_t height, int64_t width, void* labels) const;

  Description description_;
  Placement placement_;
  Network network_;
  std::vector<float> normalised_;  // (C, 256), what becomes of each value of a channel
  Plans plans_;
};

}  // namespace segnext::runtime
