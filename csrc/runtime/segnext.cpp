// The C interface over Model: arguments are checked here, and no exception goes further.
#include "runtime/segnext.h"

#include <cstdio>
#include <exception>
#include <new>
#include <string>

#include "runtime/error.h"
#include "runtime/model.h"

using segnext::runtime::Error;
using segnext::runtime::ImageSize;
using segnext::runtime::joined;
using segnext::runtime::Model;
using segnext::runtime::one_line;

struct segnext_model {
  Model model;
};

namespace {

constexpr int kMostThreads = 1024;
constexpr int64_t kMostPixels = int64_t{1} << 36;  // of a batch: so that no number of bytes overflows

thread_local char message[1024];  // room for the longest line; none is allocated, for memory may be what lacks

segnext_status failed(segnext_status status, const char* function, const char* line) {
  std::snprintf(message, sizeof message, "%s: %s", function, line);
  return status;
}

// Runs a call. What it throws becomes a status and a line, which begins with the function's name.
template <typename Call>
segnext_status guarded(const char* function, Call call) noexcept {
  try {
    call();
    return SEGNEXT_OK;
  } catch (const Error& error) {
    return failed(error.status, function, error.what());
  } catch (const std::bad_alloc&) {
    return failed(SEGNEXT_OUT_OF_MEMORY, function, "there is not enough memory for a call of this size");
  } catch (const std::exception& error) {
    return failed(SEGNEXT_INTERNAL, function, error.what());
  } catch (...) {
    return failed(SEGNEXT_INTERNAL, function, "an unknown failure");
  }
}

void expect(bool valid, const char* name, const char* expected, int64_t got) {
  if (!valid) {
    throw Error(SEGNEXT_INVALID_ARGUMENT, joined({name, " must be ", expected, ", got ", std::to_string(got)}));
  }
}

void expect_pointer(const void* pointer, const char* name) {
  if (pointer == nullptr) throw Error(SEGNEXT_INVALID_ARGUMENT, joined({name, " must be given, got NULL"}));
}

void expect_size(const ImageSize& size) {
  const auto fits = [](int64_t side) { return side >= 1 && side <= SEGNEXT_LARGEST_SIDE; };
  expect(fits(size.batch), "batch", "from 1 to 65536", size.batch);
  expect(fits(size.height), "height", "from 1 to 65536", size.height);
  expect(fits(size.width), "width", "from 1 to 65536", size.width);
  const int64_t pixels = size.batch * size.height * size.width;
  expect(pixels <= kMostPixels, "the pixels of a batch", "at most 2^36", pixels);
}

}  // namespace

const char* segnext_runtime_version(void) { return SEGNEXT_VERSION; }

const char* segnext_last_message(void) { return message; }

segnext_status segnext_open(const char* path, segnext_dtype dtype, int threads, segnext_model** model) {
  return guarded("segnext_open", [&] {
    expect_pointer(path, "path");
    expect_pointer(model, "model");
    *model = nullptr;
    const int number = static_cast<int>(dtype);
    expect(number >= SEGNEXT_DTYPE_OF_FILE && number <= SEGNEXT_BFLOAT16, "dtype", "a segnext_dtype", number);
    expect(threads >= 0 && threads <= kMostThreads, "threads", "from 0 to 1024", threads);
    try {
      *model = new segnext_model{Model(path, dtype, threads)};
    } catch (const Error& error) {
      throw Error(error.status, joined({one_line(path, 240), " ", error.what()}));
    }
  });
}

void segnext_close(segnext_model* model) { delete model; }

int segnext_num_classes(const segnext_model* model) {
  return static_cast<int>(model->model.description().configuration.num_classes);
}

const char* segnext_class_name(const segnext_model* model, int index) {
  if (index < 0 || index >= segnext_num_classes(model)) return nullptr;
  return model->model.description().classes[static_cast<size_t>(index)].c_str();
}

const uint8_t* segnext_palette(const segnext_model* model) {
  const auto& palette = model->model.description().palette;
  return palette.empty() ? nullptr : palette.data();
}

int segnext_in_channels(const segnext_model* model) {
  return static_cast<int>(model->model.description().configuration.in_channels);
}

int segnext_mask_bytes(const segnext_model* model) { return segnext_num_classes(model) <= 256 ? 1 : 4; }

segnext_status segnext_logits_shape(const segnext_model* model, int64_t height, int64_t width, int64_t shape[3]) {
  return guarded("segnext_logits_shape", [&] {
    expect_pointer(model, "model");
    expect_pointer(shape, "shape");
    expect_size({1, height, width});
    const auto found = model->model.logits_shape({1, height, width});
    shape[0] = found.channels;
    shape[1] = found.height;
    shape[2] = found.width;
  });
}

segnext_status segnext_predict(segnext_model* model, const uint8_t* pixels, int64_t height, int64_t width,
                               int64_t row_bytes, void* mask) {
  return guarded("segnext_predict", [&] {
    expect_pointer(model, "model");
    expect_pointer(pixels, "pixels");
    expect_pointer(mask, "mask");
    expect_size({1, height, width});
    const int64_t least = width * segnext_in_channels(model);
    if (row_bytes != 0 && row_bytes < least) {
      expect(false, "row_bytes", ("0 or at least " + std::to_string(least)).c_str(), row_bytes);
    }
    model->model.predict(pixels, height, width, row_bytes == 0 ? least : row_bytes, mask);
  });
}

segnext_status segnext_logits(segnext_model* model, const float* images, int64_t batch, int64_t height, int64_t width,
                              float* logits) {
  return guarded("segnext_logits", [&] {
    expect_pointer(model, "model");
    expect_pointer(images, "images");
    expect_pointer(logits, "logits");
    expect_size({batch, height, width});
    model->model.logits(images, {batch, height, width}, logits);
  });
}
