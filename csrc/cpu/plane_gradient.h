// The gradient of a depthwise kernel's weights, by register tiles.
//
// grad_weight[tap] is the sum over pixels of grad[pixel] * in[pixel shifted by the tap]. As in cpu/plane_convolution.h
// one axis of the kernel is along. A tile holds up to kSums sums of neighbouring taps, and up to kTile pixels of the
// gradient, which lie a dilation apart along: an input vector at position k meets pixel p with tap k - p. So
// kTile + kSums - 1 input vectors and kTile of the gradient serve kTile * kSums FMAs. Across, it walks over the pixels
// whose shifted place is inside of the image; along, positions outside are skipped.
#pragma once

#include "cpu/plane_convolution.h"

namespace segnext {
namespace SEGNEXT_ISA {

constexpr int kSums = 8;          // sums in registers: enough chains to hide the latency of an FMA
constexpr int64_t kStretch = 16;  // pixels across that are added in registers: short chains, and rows that stay in L1

// One weight gradient in terms of the axes along and across. Strides are in Reals.
struct GradientWalk {
  const Real *grad, *in;            // planes at row 0, column 0
  int64_t along, across;            // strides of both
  int64_t size_along, size_across;  // of the image
  int64_t taps_along, taps_across;  // of the kernel
  int64_t step_along, step_across;  // dilations
  Real* out;                        // sums of all taps
  int64_t out_along, out_across;    // between two taps
};

// Adds to kCount taps, from `tap` on in line `line`, the products with kPixels pixels along, from `first` on, and those
// of [begin, end) across. Bit k of `inside` says whether position k is inside of the image.
template <int kCount, int kPixels>
__attribute__((noinline)) static void add_products(const GradientWalk& walk, int64_t first, int64_t tap, int64_t line,
                                                   int64_t begin, int64_t end, unsigned inside) {
  const int64_t along = walk.step_along * walk.along, across = walk.across;
  const Real* grad = walk.grad + first * walk.along + begin * across;
  const Real* in = walk.in + first * walk.along + (tap - walk.taps_along / 2) * along +
                   (begin + (line - walk.taps_across / 2) * walk.step_across) * across;
  Vec sum[kCount] = {};
  for (int64_t x = begin; x < end; ++x, grad += across, in += across) {
    Vec g[kPixels];
#pragma GCC unroll 4
    for (int p = 0; p < kPixels; ++p) g[p] = load(grad + p * along);
#pragma GCC unroll 16
    for (int k = 0; k < kCount + kPixels - 1; ++k) {
      if ((inside >> k & 1u) == 0) continue;
      const Vec value = load(in + k * along);
#pragma GCC unroll 4
      for (int p = 0; p < kPixels; ++p) {
        if (k - p >= 0 && k - p < kCount) sum[k - p] += g[p] * value;
      }
    }
  }
  Real* out = walk.out + tap * walk.out_along + line * walk.out_across;
#pragma GCC unroll 8
  for (int t = 0; t < kCount; ++t) store(out + t * walk.out_along, load(out + t * walk.out_along) + sum[t]);
}

// `pixels` pixels along, of at most kPixels.
template <int kCount, int kPixels>
static inline void add_pixels_products(const GradientWalk& walk, int64_t pixels, int64_t first, int64_t tap,
                                       int64_t line, int64_t begin, int64_t end, unsigned inside) {
  if (pixels == kPixels) return add_products<kCount, kPixels>(walk, first, tap, line, begin, end, inside);
  if constexpr (kPixels > 1) {
    add_pixels_products<kCount, kPixels - 1>(walk, pixels, first, tap, line, begin, end, inside);
  }
}

// `count` taps, of at most kCount.
template <int kCount>
static inline void add_taps_products(const GradientWalk& walk, int64_t count, int64_t pixels, int64_t first,
                                     int64_t tap, int64_t line, int64_t begin, int64_t end, unsigned inside) {
  if (count == kCount) return add_pixels_products<kCount, kTile>(walk, pixels, first, tap, line, begin, end, inside);
  if constexpr (kCount > 1) {
    add_taps_products<kCount - 1>(walk, count, pixels, first, tap, line, begin, end, inside);
  }
}

// `count` taps of every line, `pixels` pixels along, and those of [begin, end) across.
static inline void add_lines(const GradientWalk& walk, int64_t first, int64_t pixels, int64_t tap, int64_t count,
                             int64_t begin, int64_t end) {
  unsigned inside = 0;
  for (int64_t k = 0; k < count + pixels - 1; ++k) {
    const int64_t place = first + (tap + k - walk.taps_along / 2) * walk.step_along;
    inside |= static_cast<unsigned>(place >= 0 && place < walk.size_along) << k;
  }
  if (inside == 0) return;
  for (int64_t line = 0; line < walk.taps_across; ++line) {
    const int64_t shift = (line - walk.taps_across / 2) * walk.step_across;
    const int64_t from = larger(begin, -shift), to = smaller(end, walk.size_across - shift);
    if (from >= to) continue;
    add_taps_products<kSums>(walk, count, pixels, first, tap, line, from, to, inside);
  }
}

// out (taps.count(), kLanes), row by row of the kernel, += for each tap the sum over pixels of grad * (in shifted by
// the tap). Both planes hold the whole image.
static inline void weight_gradient(const Plane& grad, const Plane& in, const Taps& taps, Real* out) {
  const int64_t row = in.row_stride(), height = in.rows, width = in.width;
  GradientWalk walk{grad.at(0, 0), in.at(0, 0),         row,        kLanes,          height,
                    width,         taps.height,         taps.width, taps.dilation_y, taps.dilation_x,
                    out,           taps.width * kLanes, kLanes};
  if (!taps.is_down()) {
    walk = {grad.at(0, 0),
            in.at(0, 0),
            kLanes,
            row,
            width,
            height,
            taps.width,
            taps.height,
            taps.dilation_x,
            taps.dilation_y,
            out,
            kLanes,
            taps.width * kLanes};
  }
  for_each_group(0, walk.size_along, walk.step_along, kTile, [&](int64_t first, int64_t pixels) {
    for (int64_t begin = 0; begin < walk.size_across; begin += kStretch) {
      const int64_t end = smaller(begin + kStretch, walk.size_across);
      for_each_group(0, walk.taps_along, 1, kSums,
                     [&](int64_t tap, int64_t count) { add_lines(walk, first, pixels, tap, count, begin, end); });
    }
  });
}

// The gradient of a bias: out (kLanes) += the sum of a plane.
static inline void plane_sum(const Plane& plane, Real* out) {
  Vec total = {};
  for (int64_t y = 0; y < plane.rows; ++y) {
    Vec sum = {};
    for (int64_t x = 0; x < plane.width; ++x) sum += load(plane.at(y, x));
    total += sum;
  }
  store(out, load(out) + total);
}

}  // namespace SEGNEXT_ISA
}  // namespace segnext
