// Segments a photograph with a deployed SegNeXt: segment model.safetensors photo.ppm mask.pgm [--repeat N]
//
// Images are PPM and PGM, which need no library; `convert photo.jpg photo.ppm` of ImageMagick makes one of a JPEG.
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "segnext.h"

namespace {

struct Image {
  int64_t height, width;
  std::vector<uint8_t> pixels;  // (height, width, 3), red first
};

// A number of a PPM's header, in front of which there may be comments.
int64_t number(std::istream& file) {
  while ((file >> std::ws).peek() == '#') file.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
  int64_t value = -1;
  file >> value;
  return value;
}

Image read_ppm(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  char kind[2] = {};
  file.read(kind, 2);
  const int64_t width = number(file), height = number(file), most = number(file);
  const bool fits = width >= 1 && height >= 1 && width <= SEGNEXT_LARGEST_SIDE && height <= SEGNEXT_LARGEST_SIDE;
  if (!file || kind[0] != 'P' || kind[1] != '6' || !fits || most != 255) {
    throw std::runtime_error(path + " must be a binary PPM (P6) of 8 bits");
  }
  file.get();  // the one space in front of the pixels
  Image image{height, width, std::vector<uint8_t>(static_cast<size_t>(height * width * 3))};
  if (!file.read(reinterpret_cast<char*>(image.pixels.data()), static_cast<std::streamsize>(image.pixels.size()))) {
    throw std::runtime_error(path + " must have all of its pixels, got a file that ends before");
  }
  return image;
}

void write_pgm(const std::string& path, const Image& image, const std::vector<uint8_t>& mask) {
  std::ofstream file(path, std::ios::binary);
  file << "P5\n" << image.width << " " << image.height << "\n255\n";
  file.write(reinterpret_cast<const char*>(mask.data()), static_cast<std::streamsize>(mask.size()));
  if (!file.flush()) throw std::runtime_error(path + " could not be written");
}

void expect(segnext_status status) {
  if (status != SEGNEXT_OK) throw std::runtime_error(segnext_last_message());
}

void segment(const char* model_path, const char* photo_path, const char* mask_path, int repeat) {
  segnext_model* opened = nullptr;
  expect(segnext_open(model_path, SEGNEXT_DTYPE_OF_FILE, 0, &opened));
  const std::unique_ptr<segnext_model, void (*)(segnext_model*)> model(opened, segnext_close);
  if (segnext_mask_bytes(opened) != 1) throw std::runtime_error("a PGM holds up to 256 classes");
  const Image image = read_ppm(photo_path);
  std::vector<uint8_t> mask(static_cast<size_t>(image.height * image.width));
  std::printf("%lld x %lld pixels, %d classes\n", static_cast<long long>(image.width),
              static_cast<long long>(image.height), segnext_num_classes(opened));
  for (int i = 0; i < repeat; ++i) {
    const auto start = std::chrono::steady_clock::now();
    expect(segnext_predict(opened, image.pixels.data(), image.height, image.width, 0, mask.data()));
    const std::chrono::duration<double, std::milli> time = std::chrono::steady_clock::now() - start;
    std::printf("%.1f ms\n", time.count());
  }
  std::vector<int64_t> counts(256);
  for (const uint8_t label : mask) ++counts[label];
  for (int i = 0; i < segnext_num_classes(opened); ++i) {
    if (counts[i] > 0) std::printf("%5.1f %% %s\n", 100.0 * counts[i] / mask.size(), segnext_class_name(opened, i));
  }
  write_pgm(mask_path, image, mask);
}

}  // namespace

int main(int count, char** words) {
  const bool repeats = count == 6 && std::strcmp(words[4], "--repeat") == 0 && std::atoi(words[5]) >= 1;
  if (count != 4 && !repeats) {
    std::fprintf(stderr, "usage: segment model.safetensors photo.ppm mask.pgm [--repeat N]\n");
    return 2;
  }
  try {
    segment(words[1], words[2], words[3], repeats ? std::atoi(words[5]) : 1);
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "segment: %s\n", error.what());
    return 1;
  }
}
