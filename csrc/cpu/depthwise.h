// Depthwise convolutions on planes. A plane is kLanes channels of one image as Reals, with a halo of zeros.
//
// A depthwise network treats every channel alone, so a unit of work is (image, kLanes channels). The unit's input is
// read once into a plane, intermediate results are in planes that fit the second-level cache (56 x 56 pixels x 16
// channels: 200 KiB), and the result is written once. A tap costs one vector load and one FMA. Strides and element
// types matter only when planes are read and written.
#pragma once

#include "common/tensor.h"
#include "cpu/convert.h"
#include "cpu/memory.h"
#include "cpu/vector.h"

namespace segnext {
namespace SEGNEXT_ISA {

// Output pixels that are computed together: they use each loaded weight, and their accumulators hide the latency of
// FMAs.
constexpr int64_t kPixels = 8;

// (height, width, kLanes) inside a border of zeros, which is as wide as the reach of the convolutions that read the
// plane. Each row ends with kPixels spare pixels, so that a group of pixels may run past the right border.
struct Plane {
  Real* data;
  int64_t height, width, halo_y, halo_x;

  int64_t row_stride() const { return (width + 2 * halo_x + kPixels) * kLanes; }
  Real* at(int64_t y, int64_t x) const { return data + (y + halo_y) * row_stride() + (x + halo_x) * kLanes; }
};

// A plane of zeros. Nothing ever writes its border again.
static inline Plane take_plane(Arena& arena, int64_t height, int64_t width, int64_t halo_y, int64_t halo_x) {
  Plane plane{nullptr, height, width, halo_y, halo_x};
  const int64_t reals = (height + 2 * halo_y) * plane.row_stride();
  plane.data = arena.take<Real>(reals);
  if (plane.data != nullptr) std::memset(plane.data, 0, reals * sizeof(Real));
  return plane;
}

// A depthwise kernel of a unit's channels: (height * width, kLanes) weights and one vector of bias.
struct Taps {
  const Real* weight;
  const Real* bias;
  int64_t height, width;

  int64_t count() const { return height * width; }
};

struct Overwrite {
  Vec operator()(Vec, Vec value) const { return value; }
};
struct Accumulate {
  Vec operator()(Vec old, Vec value) const { return old + value; }
};

// out (+)= conv(in) + bias over out's pixels. `in` needs a border of half the kernel or more. Reads past the right
// border stay inside the row's spare pixels, and their results are discarded.
template <typename Combine>
static inline void convolve(const Plane& in, const Taps& taps, const Plane& out, Combine combine) {
  const int64_t stride = in.row_stride();
  const Vec bias = taps.bias == nullptr ? Vec{} : load(taps.bias);
  for (int64_t y = 0; y < out.height; ++y) {
    for (int64_t x = 0; x < out.width; x += kPixels) {
      Vec sum[kPixels] = {};
      const Real* source = in.at(y - taps.height / 2, x - taps.width / 2);
      const Real* weight = taps.weight;
      for (int64_t i = 0; i < taps.height; ++i, source += stride) {
        const Real* pixel = source;
        for (int64_t j = 0; j < taps.width; ++j, pixel += kLanes, weight += kLanes) {
          const Vec w = load(weight);
          for (int p = 0; p < kPixels; ++p) sum[p] += w * load(pixel + p * kLanes);
        }
      }
      for (Vec& s : sum) s += bias;  // last: a large bias would round every partial sum
      Real* target = out.at(y, x);
      const int64_t pixels = smaller(out.width - x, kPixels);
      if (pixels == kPixels) {
        for (int p = 0; p < kPixels; ++p) store(target + p * kLanes, combine(load(target + p * kLanes), sum[p]));
      } else {
        for (int p = 0; p < pixels; ++p) store(target + p * kLanes, combine(load(target + p * kLanes), sum[p]));
      }
    }
  }
}

// The gradient of the weights: out (count, kLanes) = for each tap the sum over pixels of grad * (in shifted by the
// tap).
static inline void weight_gradient(const Plane& grad, const Plane& in, int64_t height, int64_t width, Real* out) {
  constexpr int kGroup = 8;  // taps summed together: enough chains to hide the latency of an FMA
  const int64_t count = height * width;
  for (int64_t first = 0; first < count; first += kGroup) {
    int64_t offset[kGroup];
    for (int i = 0; i < kGroup; ++i) {
      // past the end the last tap is repeated; its result is dropped below
      const int64_t tap = smaller(first + i, count - 1);
      offset[i] = (tap / width - height / 2) * in.row_stride() + (tap % width - width / 2) * kLanes;
    }
    Vec total[kGroup] = {};
    for (int64_t y = 0; y < grad.height; ++y) {
      Vec sum[kGroup] = {};  // per row: shorter chains of additions, smaller rounding errors
      const Real* g = grad.at(y, 0);
      const Real* source = in.at(y, 0);
      for (int64_t x = 0; x < grad.width; ++x, g += kLanes, source += kLanes) {
        const Vec value = load(g);
        for (int i = 0; i < kGroup; ++i) sum[i] += value * load(source + offset[i]);
      }
      for (int i = 0; i < kGroup; ++i) total[i] += sum[i];
    }
    for (int i = 0; i < kGroup && first + i < count; ++i) store(out + (first + i) * kLanes, total[i]);
  }
}

// The gradient of a bias: out (kLanes) = the sum of a plane.
static inline void plane_sum(const Plane& plane, Real* out) {
  Vec total = {};
  for (int64_t y = 0; y < plane.height; ++y) {
    Vec sum = {};
    for (int64_t x = 0; x < plane.width; ++x) sum += load(plane.at(y, x));
    total += sum;
  }
  store(out, total);
}

// Loads channels [channel, channel + kLanes) of one image into a plane; lanes past the last channel are zero.
template <typename T>
static inline void load_plane(const Tensor4& tensor, int64_t image, int64_t channel, const Plane& plane) {
  const T* source = static_cast<const T*>(tensor.data) + image * tensor.stride[0] + channel * tensor.stride[1];
  const int64_t lanes = smaller(tensor.size[1] - channel, kLanes);
  for (int64_t y = 0; y < plane.height; ++y) {
    const T* row = source + y * tensor.stride[2];
    if (lanes == kLanes && tensor.stride[1] == 1) {
      for (int64_t x = 0; x < plane.width; ++x) {
        Real* target = plane.at(y, x);
        const T* pixel = row + x * tensor.stride[3];
        for (int lane = 0; lane < kLanes; ++lane) target[lane] = to_real(pixel[lane]);
      }
    } else {
      for (int64_t lane = 0; lane < kLanes; ++lane) {
        Real* target = plane.at(y, 0) + lane;
        const T* pixel = row + lane * tensor.stride[1];
        for (int64_t x = 0; x < plane.width; ++x) {
          target[x * kLanes] = lane < lanes ? to_real(pixel[x * tensor.stride[3]]) : 0.0f;
        }
      }
    }
  }
}

template <typename T>
static inline void store_plane(const Plane& plane, const Tensor4& tensor, int64_t image, int64_t channel) {
  T* out = static_cast<T*>(tensor.data) + image * tensor.stride[0] + channel * tensor.stride[1];
  const int64_t lanes = smaller(tensor.size[1] - channel, kLanes);
  for (int64_t y = 0; y < plane.height; ++y) {
    T* row = out + y * tensor.stride[2];
    if (lanes == kLanes && tensor.stride[1] == 1) {
      for (int64_t x = 0; x < plane.width; ++x) {
        const Real* source = plane.at(y, x);
        T* pixel = row + x * tensor.stride[3];
        for (int lane = 0; lane < kLanes; ++lane) pixel[lane] = from_real<T>(source[lane]);
      }
    } else {
      for (int64_t lane = 0; lane < lanes; ++lane) {
        const Real* source = plane.at(y, 0) + lane;
        T* pixel = row + lane * tensor.stride[1];
        for (int64_t x = 0; x < plane.width; ++x) pixel[x * tensor.stride[3]] = from_real<T>(source[x * kLanes]);
      }
    }
  }
}

// Loads the weights (C, 1, height, width) of a unit's channels as (count, kLanes), flipped for the gradient of the
// input.
template <typename T>
static inline void load_taps(const Tensor4& weight, int64_t channel, bool flipped, Real* out) {
  const int64_t height = weight.size[2], width = weight.size[3];
  for (int64_t tap = 0; tap < height * width; ++tap) {
    const int64_t from = flipped ? height * width - 1 - tap : tap;
    const int64_t at = from / width * weight.stride[2] + from % width * weight.stride[3];
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      const int64_t c = channel + lane;
      out[tap * kLanes + lane] =
          c < weight.size[0] ? to_real(static_cast<const T*>(weight.data)[c * weight.stride[0] + at]) : 0.0f;
    }
  }
}

// Loads the bias (C) of a unit's channels; zeros if it is absent.
template <typename T>
static inline void load_bias(const Tensor4& bias, int64_t channel, Real* out) {
  for (int64_t lane = 0; lane < kLanes; ++lane) {
    const int64_t c = channel + lane;
    const bool given = bias.data != nullptr && c < bias.size[0];
    out[lane] = given ? to_real(static_cast<const T*>(bias.data)[c * bias.stride[0]]) : 0.0f;
  }
}

// Sums the units' partial gradients of one parameter over the images, in the order of the images whatever the
// number of threads. `partial` is (images, channel blocks, rows, kLanes); this parameter's rows are
// [row, row + count) and go to grad (C, count), contiguous.
template <typename T>
static inline void reduce_parameter(const Real* partial, int64_t images, int64_t blocks, int64_t rows, int64_t row,
                                    const Tensor4& grad, int64_t count) {
  T* out = static_cast<T*>(grad.data);
  for (int64_t c = 0; c < grad.size[0]; ++c) {
    for (int64_t i = 0; i < count; ++i) {
      Real sum = 0.0f;
      for (int64_t n = 0; n < images; ++n) {
        sum += partial[((n * blocks + c / kLanes) * rows + row + i) * kLanes + c % kLanes];
      }
      out[c * count + i] = from_real<T>(sum);
    }
  }
}

// Runs work(image, channel, scratch) for every unit; each thread takes a contiguous range of units. Returns false when
// memory is exhausted.
template <typename Scratch, typename Shape, typename Work>
static inline bool for_each_unit(int64_t images, int64_t channels, const Shape& shape, int threads, Work work) {
  const TeamMemory memory(0, bytes_of<Scratch>(shape), threads);
  if (memory.is_exhausted()) return false;
  const int64_t blocks = vectors_of(channels), units = images * blocks;
#pragma omp parallel num_threads(threads)
  {
    const Member me;
    const int64_t first = me.begin(units), last = me.end(units);
    if (first < last) {  // a thread without units skips the layout, which clears planes
      const Scratch scratch = memory.own<Scratch>(me, shape);
      for (int64_t unit = first; unit < last; ++unit) work(unit / blocks, unit % blocks * kLanes, scratch);
    }
  }
  return true;
}

}  // namespace SEGNEXT_ISA
}  // namespace segnext
