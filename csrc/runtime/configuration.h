// What the header of a deployed file says about the network and its images, checked.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "common/dtype.h"

namespace segnext::runtime {

constexpr int kStages = 4;

// The fields of segnext.models.SegNeXtConfig on which inference depends.
struct Configuration {
  std::array<int64_t, kStages> channels, depths, expansions;
  std::vector<int64_t> strips;
  int64_t root, in_channels, num_classes;
  std::optional<double> threshold;
  std::vector<int> stages;  // that the decoder reads, in rising order; the first sets the size of the logits
  bool has_hamburger;       // between squeeze and align
  int64_t decoder_channels, rank, steps;

  int64_t logits() const { return threshold ? 1 : num_classes; }
  // Pixels of the image per pixel of stage `stage`, along one side.
  static int64_t stride(int stage) { return int64_t{4} << stage; }
};

struct Description {
  Configuration configuration;
  DType dtype;
  std::vector<std::string> classes;  // one name per class
  std::vector<uint8_t> palette;      // red, green, blue of each class, or empty
  std::vector<float> mean, std;      // of the image's channels, on the scale of 0 to 255
};

// Reads what `segnext.deployment.files.write` wrote beside the tensors. Throws Error with SEGNEXT_BAD_FILE, or
// SEGNEXT_UNSUPPORTED for a network that this library cannot run; the message follows the file's name.
Description description(const std::map<std::string, std::string>& header);

}  // namespace segnext::runtime
