// Depthwise networks: units of work, their parameters, and the gradients of these.
//
// A depthwise network treats every channel alone, so a unit of work is (image, kLanes channels). The unit's input is
// read once into a plane (cpu/planes.h), intermediate results are in planes that fit the second-level cache (56 x 56
// pixels x 16 channels: 246 KB), and the result is written once.
#pragma once

#include "cpu/plane_convolution.h"
#include "cpu/plane_gradient.h"
#include "cpu/planes.h"

namespace segnext {
namespace SEGNEXT_ISA {

// Loads the weights (C, 1, height, width) of `lanes` channels, from `channel` on, as vectors in the order of Taps,
// flipped for the gradient of the input. Lanes past the last channel are zero.
template <typename T>
static inline void load_taps(const Tensor4& weight, int64_t channel, int64_t lanes, bool flipped, Real* out) {
  const int64_t height = weight.size[2], width = weight.size[3], count = height * width;
  const bool is_down = height >= width;
  const T* source = static_cast<const T*>(weight.data) + channel * weight.stride[0];
  const auto place = [=](int64_t i, int64_t j) {
    if (flipped) i = height - 1 - i, j = width - 1 - j;
    return out + (is_down ? j * height + i : i * width + j) * kLanes;
  };
  if (weight.stride[3] == 1 && (weight.stride[2] == width || height == 1)) {
    int64_t i = 0, j = 0;
    for (int64_t tap = 0; tap < count; tap += kLanes) {
      Vec square[kLanes];
#pragma GCC unroll 16
      for (int lane = 0; lane < kLanes; ++lane) {
        square[lane] = load_first(source + lane * weight.stride[0] + tap, lane < lanes ? count - tap : 0);
      }
      transpose(square);
#pragma GCC unroll 16
      for (int next = 0; next < kLanes; ++next) {
        if (tap + next >= count) break;
        store(place(i, j), square[next]);
        if (++j == width) ++i, j = 0;
      }
    }
    return;
  }
  for (int64_t i = 0; i < height; ++i) {
    for (int64_t j = 0; j < width; ++j) {
      Real* to = place(i, j);
      const T* from = source + i * weight.stride[2] + j * weight.stride[3];
      for (int64_t lane = 0; lane < kLanes; ++lane)
        to[lane] = lane < lanes ? to_real(from[lane * weight.stride[0]]) : 0.0f;
    }
  }
}

// Loads the bias (C) of the same channels; zeros if it is absent.
template <typename T>
static inline void load_bias(const Tensor4& bias, int64_t channel, int64_t lanes, Real* out) {
  for (int64_t lane = 0; lane < kLanes; ++lane) {
    const bool given = bias.data != nullptr && lane < lanes;
    out[lane] = given ? to_real(static_cast<const T*>(bias.data)[(channel + lane) * bias.stride[0]]) : 0.0f;
  }
}

// Sums partial gradients of one parameter's `lanes` channels over the images, in the order of the images whatever the
// number of threads. The first image's are (count, kLanes) at `partial`, the next image's `apart` Reals further. They
// go to grad (C, count), contiguous, from `channel` on.
template <typename T>
static inline void reduce_parameter(const Real* partial, int64_t images, int64_t apart, const Tensor4& grad,
                                    int64_t channel, int64_t lanes, int64_t count) {
  T* out = static_cast<T*>(grad.data) + channel * count;
  for (int64_t i = 0; i < count; i += kLanes) {
    Vec square[kLanes];
#pragma GCC unroll 16
    for (int next = 0; next < kLanes; ++next) {
      Vec sum = {};
      for (int64_t n = 0; n < images && i + next < count; ++n) sum += load(partial + n * apart + (i + next) * kLanes);
      square[next] = sum;
    }
    transpose(square);
#pragma GCC unroll 16
    for (int lane = 0; lane < kLanes; ++lane) {
      if (lane < lanes) store_first(out + lane * count + i, square[lane], count - i);
    }
  }
}

// The channels of a block of kLanes.
static inline Lanes lanes_of(int64_t image, int64_t block, int64_t channels) {
  const int64_t channel = block * kLanes;
  return {image, channel, smaller(channels - channel, kLanes)};
}

// Runs work(unit, scratch) for every unit; each thread takes a contiguous range of units, and lays out its scratch by
// `shape`. Returns false when memory is exhausted.
template <typename Scratch, typename Work, typename... Shape>
static inline bool for_each_unit(int64_t units, int threads, const Work& work, const Shape&... shape) {
  const TeamMemory memory(0, bytes_of<Scratch>(shape...), threads);
  if (memory.is_exhausted()) return false;
#pragma omp parallel num_threads(threads)
  {
    const Member me;
    const int64_t first = me.begin(units), last = me.end(units);
    if (first < last) {  // a thread without units skips the layout, which clears planes
      const Scratch scratch = memory.own<Scratch>(me, shape...);
      for (int64_t unit = first; unit < last; ++unit) work(unit, scratch);
    }
  }
  return true;
}

// Runs work(item) for every item; each thread takes a contiguous range.
template <typename Work>
static inline void for_each_item(int64_t items, [[maybe_unused]] int threads, Work work) {
#pragma omp parallel num_threads(threads)
  {
    const Member me;
    for (int64_t item = me.begin(items); item < me.end(items); ++item) work(item);
  }
}

}  // namespace SEGNEXT_ISA
}  // namespace segnext
