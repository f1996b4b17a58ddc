// Opens each file of the command line, segments an image with what opens, and prints one line: for sanitizers.
#include <cstdint>
#include <cstdio>
#include <vector>

#include "segnext.h"

namespace {

// A mask and logits of two images, at sizes that are no multiple of anything.
segnext_status use(segnext_model* model) {
  constexpr int64_t kHeight = 37, kWidth = 53;
  const int64_t channels = segnext_in_channels(model);
  const std::vector<uint8_t> pixels(kHeight * kWidth * channels, 100);
  std::vector<uint8_t> mask(kHeight * kWidth * segnext_mask_bytes(model));
  const segnext_status status = segnext_predict(model, pixels.data(), kHeight, kWidth, 0, mask.data());
  if (status != SEGNEXT_OK) return status;
  int64_t shape[3];
  segnext_logits_shape(model, kHeight, kWidth, shape);
  const std::vector<float> images(2 * kHeight * kWidth * channels, 0.5f);
  std::vector<float> logits(2 * shape[0] * shape[1] * shape[2]);
  return segnext_logits(model, images.data(), 2, kHeight, kWidth, logits.data());
}

}  // namespace

int main(int count, char** paths) {
  for (int i = 1; i < count; ++i) {
    for (const segnext_dtype dtype : {SEGNEXT_FLOAT32, SEGNEXT_BFLOAT16}) {
      segnext_model* model = nullptr;
      segnext_status status = segnext_open(paths[i], dtype, 2, &model);
      if (status == SEGNEXT_OK) status = use(model);
      std::printf("%d %s\n", static_cast<int>(status), status == SEGNEXT_OK ? "" : segnext_last_message());
      segnext_close(model);
    }
  }
  return 0;
}
