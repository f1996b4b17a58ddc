// Pixels of a tensor as rows of channels: used in place if channels are innermost, else copied to scratch and back.
//
// Kernels take a pixel's channels as a vector or as a row of a matrix: Rows (cpu/gemm.h). A row in scratch is padded to
// whole vectors with zeros. Rows are used in place only where they need no padding. Contiguous (N, C, H, W) tensors
// are transposed in registers.
#pragma once

#include <type_traits>

#include "common/tensor.h"
#include "cpu/convert.h"
#include "cpu/gemm.h"
#include "cpu/memory.h"
#include "cpu/transpose.h"
#include "cpu/vector.h"

namespace segnext {
namespace SEGNEXT_ISA {

// Pixels [first, first + count) of an image, counted along its rows: pixel = y * W + x.
struct Pixels {
  int64_t image, first, count;
};

// Runs work(pixels) on tiles of up to `tile` pixels, none across two images. [begin, end) counts the pixels of all
// images, `in_image` per image.
template <typename Work>
static inline void for_each_tile(int64_t in_image, int64_t begin, int64_t end, int64_t tile, const Work& work) {
  while (begin < end) {
    const int64_t first = begin % in_image;
    const int64_t count = smaller(smaller(end - begin, tile), in_image - first);
    work(Pixels{begin / in_image, first, count});
    begin += count;
  }
}

// Elements between one pixel and the next in a row of the image.
static inline int64_t pixel_stride(const Tensor4& x) { return x.size[3] == 1 ? x.stride[2] : x.stride[3]; }

// Whether all pixels of an image are pixel_stride apart.
static inline bool evenly_spaced(const Tensor4& x) {
  return x.size[2] == 1 || x.size[3] == 1 || x.stride[2] == x.size[3] * x.stride[3];
}

static inline bool channels_innermost(const Tensor4& x) { return x.stride[1] == 1 || x.size[1] == 1; }

static inline int64_t offset_in_image(const Tensor4& x, int64_t pixel) {
  if (evenly_spaced(x)) return pixel * pixel_stride(x);
  return pixel / x.size[3] * x.stride[2] + pixel % x.size[3] * x.stride[3];
}

template <typename T>
static inline T* pixel_at(const Tensor4& x, int64_t image, int64_t pixel) {
  return static_cast<T*>(x.data) + image * x.stride[0] + offset_in_image(x, pixel);
}

// Calls visit(first, start, count) for the longest runs of evenly spaced pixels. A run has `count` pixels; it begins at
// pixel `first` of the image, which is number `start` of `pixels`.
template <typename Visit>
static inline void for_each_run(const Tensor4& x, const Pixels& pixels, const Visit& visit) {
  const int64_t width = evenly_spaced(x) ? x.size[2] * x.size[3] : x.size[3];
  for (int64_t start = 0; start < pixels.count;) {
    const int64_t first = pixels.first + start;
    const int64_t count = smaller(width - first % width, pixels.count - start);
    visit(first, start, count);
    start += count;
  }
}

// The first `lanes` channels of a pixel whose channels lie `stride` apart; zeros behind them.
template <typename T>
static inline Vec load_channels(const T* p, int64_t stride, int64_t lanes) {
  if (stride == 1 && lanes >= kLanes) return load_vector(p);
  Real values[kLanes] = {};
  for (int64_t i = 0; i < kLanes && i < lanes; ++i) values[i] = to_real(p[i * stride]);
  return load(values);
}

template <typename T>
static inline void store_channels(T* p, int64_t stride, int64_t lanes, Vec v) {
  if (stride == 1 && lanes >= kLanes) {
    store_vector(p, v);
    return;
  }
  Real values[kLanes];
  store(values, v);
  for (int64_t i = 0; i < kLanes && i < lanes; ++i) p[i * stride] = from_real<T>(values[i]);
}

// A parameter (count), widened and padded with zeros to whole vectors; all zeros if it is absent.
template <typename T>
static inline void load_parameter(const Tensor4& parameter, int64_t count, Real* out) {
  for (int64_t i = 0; i < padded(count); ++i) {
    const bool given = parameter.data != nullptr && i < count;
    out[i] = given ? to_real(static_cast<const T*>(parameter.data)[i * parameter.stride[0]]) : 0.0f;
  }
}

// rows[i] = the channels of pixel i of `pixels`, then zeros up to whole vectors.
template <typename E, typename T>
static inline void load_pixels(const Tensor4& x, const Pixels& pixels, E* rows) {
  const int64_t channels = x.size[1], row = padded(channels), apart = x.stride[1], next = pixel_stride(x);
  for_each_run(x, pixels, [=](int64_t first, int64_t start, int64_t count) {
    const T* source = pixel_at<const T>(x, pixels.image, first);
    E* target = rows + start * row;
    if (next == 1 && !channels_innermost(x)) {
      for (int64_t c = 0; c < row; c += kLanes) {
        for (int64_t i = 0; i < count; i += kLanes) {
          Vec square[kLanes];
#pragma GCC unroll 16
          for (int lane = 0; lane < kLanes; ++lane) {
            square[lane] = load_first(source + (c + lane) * apart + i, c + lane < channels ? count - i : 0);
          }
          transpose(square);
#pragma GCC unroll 16
          for (int lane = 0; lane < kLanes; ++lane) {
            if (i + lane < count) store_vector(target + (i + lane) * row + c, square[lane]);
          }
        }
      }
      return;
    }
    for (int64_t i = 0; i < count; ++i, source += next, target += row) {
      if (channels_innermost(x)) {
        for (int64_t c = 0; c < row; c += kLanes) store_vector(target + c, load_first(source + c, channels - c));
      } else {
        for (int64_t c = 0; c < channels; ++c) target[c] = from_real<E>(to_real(source[c * apart]));
        for (int64_t c = channels; c < row; ++c) target[c] = from_real<E>(0.0f);
      }
    }
  });
}

// The inverse of load_pixels.
template <typename T>
static inline void store_pixels(const T* rows, const Tensor4& out, const Pixels& pixels) {
  const int64_t channels = out.size[1], row = padded(channels);
  const int64_t apart = out.stride[1], next = pixel_stride(out);
  for_each_run(out, pixels, [=](int64_t first, int64_t start, int64_t count) {
    T* target = pixel_at<T>(out, pixels.image, first);
    const T* source = rows + start * row;
    if (next == 1 && !channels_innermost(out)) {
      for (int64_t c = 0; c < row; c += kLanes) {
        for (int64_t i = 0; i < count; i += kLanes) {
          Vec square[kLanes];
#pragma GCC unroll 16
          for (int lane = 0; lane < kLanes; ++lane) {
            square[lane] = load_first(source + (i + lane) * row + c, i + lane < count ? kLanes : 0);
          }
          transpose(square);
#pragma GCC unroll 16
          for (int lane = 0; lane < kLanes; ++lane) {
            if (c + lane < channels) store_first(target + (c + lane) * apart + i, square[lane], count - i);
          }
        }
      }
      return;
    }
    for (int64_t i = 0; i < count; ++i, source += row, target += next) {
      for (int64_t c = 0; c < channels; ++c) target[c * apart] = source[c];
    }
  });
}

// Whether code that takes `granule` channels at a time can use a pixel's channels in place as a row of E.
template <typename E, typename T>
static inline bool pixels_are_rows(const Tensor4& x, int64_t granule) {
  return std::is_same_v<E, T> && channels_innermost(x) && x.size[1] % granule == 0;
}

// Rows of E for code that takes `granule` channels at a time: in place, or copied to `scratch` (count, whole vectors).
template <typename E, typename T>
static inline Rows<const E> read_rows(const Tensor4& x, const Pixels& pixels, int64_t granule, E* scratch) {
  if constexpr (std::is_same_v<E, T>) {
    if (pixels_are_rows<E, T>(x, granule) && evenly_spaced(x)) {
      return {pixel_at<const T>(x, pixels.image, pixels.first), pixel_stride(x)};
    }
  }
  load_pixels<E, T>(x, pixels, scratch);
  return {scratch, padded(x.size[1])};
}

// Rows for whole vectors of results; finish_rows stores those that lie in `scratch`.
template <typename T>
static inline Rows<T> rows_to_write(const Tensor4& out, const Pixels& pixels, T* scratch) {
  if (pixels_are_rows<T, T>(out, kLanes) && evenly_spaced(out)) {
    return {pixel_at<T>(out, pixels.image, pixels.first), pixel_stride(out)};
  }
  return {scratch, padded(out.size[1])};
}

template <typename T>
static inline void finish_rows(const Rows<T>& rows, const Tensor4& out, const Pixels& pixels, const T* scratch) {
  if (rows.data == scratch) store_pixels(scratch, out, pixels);
}

}  // namespace SEGNEXT_ISA
}  // namespace segnext
