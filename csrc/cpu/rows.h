// Vectors of channels to and from memory of any element type, and rows of pixels as matrix products read them.
#pragma once

#include "common/tensor.h"
#include "cpu/convert.h"
#include "cpu/gemm.h"
#include "cpu/memory.h"
#include "cpu/pixels.h"
#include "cpu/vector.h"

namespace segnext {
namespace SEGNEXT_ISA {

// The first `lanes` channels from a pixel whose channels lie `stride` apart; the rest are zero.
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

// A vector of parameters, widened and padded with zeros to whole vectors of lanes.
template <typename T>
static inline void load_parameter(const Tensor4& parameter, int64_t count, Real* out) {
  for (int64_t i = 0; i < padded(count); ++i) {
    const bool given = parameter.data != nullptr && i < count;
    out[i] = given ? to_real(static_cast<const T*>(parameter.data)[i * parameter.stride[0]]) : 0.0f;
  }
}

// Elements of a row of `channels` in scratch: padded so that a product may take whole steps of k.
template <typename Element>
static inline int64_t row_elements(int64_t channels) {
  return k_steps<Element>(channels) * k_step<Element>();
}

// True where a product may read this tensor's pixels as they lie: no conversion, no gap between channels.
template <typename T, typename Element>
static inline bool is_direct(const Tensor4& x) {
  return sizeof(T) == sizeof(Element) && x.size[1] % k_step<Element>() == 0 && (x.stride[1] == 1 || x.size[1] == 1);
}

// Copies `count` pixels (of `channels` at `source`, `pixel_stride` apart) to rows of a product; padding becomes zero.
template <typename T, typename Element>
static inline void gather_rows(const T* source, int64_t channels, int64_t channel_stride, int64_t pixel_stride,
                               int64_t count, Element* out) {
  const int64_t row = row_elements<Element>(channels);
  if (channel_stride == 1) {
    for (int64_t p = 0; p < count; ++p) {
      for (int64_t c = 0; c < row; ++c) {
        out[p * row + c] = from_real<Element>(c < channels ? to_real(source[p * pixel_stride + c]) : 0.0f);
      }
    }
  } else {
    for (int64_t c = 0; c < row; ++c) {
      for (int64_t p = 0; p < count; ++p) {
        out[p * row + c] =
            from_real<Element>(c < channels ? to_real(source[p * pixel_stride + c * channel_stride]) : 0.0f);
      }
    }
  }
}

static inline int64_t offset_in_image(const Tensor4& x, int64_t pixel) {
  return evenly_spaced(x) ? pixel * pixel_stride(x) : pixel_offset(x, 0, pixel);
}

// Pixels [first, first + count) of one image as rows of a product: where they lie, or gathered into `scratch`
// (count rows of row_elements).
template <typename T, typename Element>
static inline Pixels<Element> pixel_rows(const Tensor4& x, int64_t image, int64_t first, int64_t count,
                                         Element* scratch) {
  const T* source = static_cast<const T*>(x.data) + image * x.stride[0];
  if (is_direct<T, Element>(x) && evenly_spaced(x)) {
    return {reinterpret_cast<const Element*>(source + first * pixel_stride(x)), pixel_stride(x), 0};
  }
  const int64_t row = row_elements<Element>(x.size[1]);
  for (int64_t done = 0; done < count;) {  // a run within one row of the image at a time
    const int64_t pixel = first + done, left = x.size[3] - pixel % x.size[3];
    const int64_t run = smaller(count - done, left);
    gather_rows(source + offset_in_image(x, pixel), x.size[1], x.stride[1], x.stride[3], run, scratch + done * row);
    done += run;
  }
  return {scratch, row, 0};
}

// Runs work(image, first, count) on tiles of up to `tile` pixels, one thread's contiguous share of all images.
template <typename Work>
static inline void for_each_tile(int64_t images, int64_t pixels, int64_t tile, const Member& me, Work work) {
  const int64_t total = images * pixels, last = me.end(total);
  for (int64_t pixel = me.begin(total); pixel < last;) {
    const int64_t first = pixel % pixels, in_image = pixels - first, in_share = last - pixel;
    const int64_t count = smaller(smaller(in_image, in_share), tile);
    work(pixel / pixels, first, count);
    pixel += count;
  }
}

}  // namespace SEGNEXT_ISA
}  // namespace segnext
