// Depthwise convolution of planes by register tiles.
//
// One axis of the kernel, the longer one, is *along* the tile, the other one across it. A tile has up to kAlongTile
// outputs along (a dilation apart) and kTile outputs across (side by side). For each of the kernel's lines the tile
// walks over the input's positions along: an input pixel at position i meets output r with tap i - r. So 4 input
// vectors and 6 weights serve 24 FMAs: 0.4 loads per FMA, where a kernel that keeps one weight for a row of pixels
// needs more than one, and an AMD Zen 4 core has one load and one FMA of 64 bytes per cycle. Tiles of 4 x 4 are up to
// 13 % slower.
//
// Positions outside of the image are skipped along exactly, and across where a whole tile lies outside; a kernel of
// 51 taps on a map of 7 pixels costs 7 taps. An output's products are added in one order, wherever its tile begins.
#pragma once

#include "cpu/planes.h"

namespace segnext {
namespace SEGNEXT_ISA {

// A depthwise kernel of a unit's channels. Its vectors of weights lie line by line: `across` lines of `along` taps.
struct Taps {
  const Real* weight;
  const Real* bias;  // one vector, or null
  int64_t height, width, dilation_y, dilation_x;

  int64_t count() const { return height * width; }
  // Whether the columns of the kernel are along, which is the case unless it is wider than high.
  bool is_down() const { return height >= width; }
};

// Outputs along of a tile: with kTile across, its sums fill three quarters of the vector registers.
constexpr int kAlongTile = 6;

// Where vectors of pixels lie: in a plane, or in a float32 tensor whose channels are side by side. Strides in Reals.
struct Grid {
  Real* data = nullptr;  // row 0, column 0 of the image
  int64_t row = 0, pixel = 0;
};

static inline Grid grid_of(const Plane& plane) { return {plane.at(0, 0), plane.row_stride(), kLanes}; }

// One convolution in terms of the axes along and across.
struct TileWalk {
  const Real *in, *weight, *bias;
  int64_t in_along, in_across;  // strides of the input
  Real* out;
  int64_t out_along, out_across;
  const Real* base;  // is added to the result, if there is one
  int64_t base_along, base_across;
  int64_t size_along, size_across;  // of the image
  int64_t taps_along, taps_across;  // of the kernel
  int64_t step_along, step_across;  // dilations
};

// Adds one position to outputs kLow to kHigh. `weight` is the position's tap for output 0.
template <int kLow, int kHigh, int kAlong, int kAcross>
SEGNEXT_INLINE void tile_step(Vec (&sum)[kAlong][kAcross], const Real* pixel, int64_t across, const Real* weight) {
  Vec x[kAcross];
#pragma GCC unroll 4
  for (int p = 0; p < kAcross; ++p) x[p] = load(pixel + p * across);
#pragma GCC unroll 6
  for (int r = kLow; r <= kHigh; ++r) {
    const Vec w = load(weight - r * kLanes);
#pragma GCC unroll 4
    for (int p = 0; p < kAcross; ++p) sum[r][p] += w * x[p];
  }
}

// Position kNext, and those behind it, up to where all outputs take part: output r joins at position r.
template <int kNext, int kAlong, int kAcross>
SEGNEXT_INLINE void tile_head(Vec (&sum)[kAlong][kAcross], const Real*& pixel, int64_t along, int64_t across,
                              const Real* weight, int64_t& i, int64_t end) {
  if constexpr (kNext < kAlong - 1) {
    if (i == kNext && i < end) {
      tile_step<0, kNext>(sum, pixel, across, weight + i * kLanes);
      pixel += along;
      ++i;
    }
    tile_head<kNext + 1>(sum, pixel, along, across, weight, i, end);
  }
}

// The positions behind the last tap of output 0, then of output 1, and so on.
template <int kDone, int kAlong, int kAcross>
SEGNEXT_INLINE void tile_tail(Vec (&sum)[kAlong][kAcross], const Real*& pixel, int64_t along, int64_t across,
                              const Real* weight, int64_t& i, int64_t end) {
  if constexpr (kDone < kAlong) {
    if (i < end) {
      tile_step<kDone, kAlong - 1>(sum, pixel, across, weight + i * kLanes);
      pixel += along;
      ++i;
    }
    tile_tail<kDone + 1>(sum, pixel, along, across, weight, i, end);
  }
}

// kAlong outputs along, from `first` on, and those in [begin, end) across, kAcross at a time. kAlong is at most the
// number of taps along. This is a function of its own: in one with several, the compiler hoists products that two of
// them share and adds them without an FMA.
template <int kAlong, int kAcross>
__attribute__((noinline)) static void walk_tiles(const TileWalk& walk, int64_t first, int64_t begin, int64_t end) {
  // Positions inside of the image: output r meets tap t at position r + t, which is the pixel
  // first + (position - taps_along / 2) * step_along.
  const int64_t middle = walk.taps_along / 2, taps = walk.taps_along;
  const int64_t low = larger(0, middle - first / walk.step_along);
  const int64_t high = smaller(taps + kAlong - 1, middle + (walk.size_along - 1 - first) / walk.step_along + 1);
  const int64_t along = walk.step_along * walk.in_along, across = walk.in_across;
  const Real* const source = walk.in + first * walk.in_along + (low - middle) * along;
  const Vec bias = walk.bias == nullptr ? Vec{} : load(walk.bias);
  for (int64_t p0 = begin; p0 < end; p0 += kAcross) {
    Vec sum[kAlong][kAcross] = {};
    for (int64_t line = 0; line < walk.taps_across; ++line) {
      const int64_t p = p0 + (line - walk.taps_across / 2) * walk.step_across;
      if (p + kAcross <= 0 || p >= walk.size_across) continue;
      const Real* pixel = source + p * across;
      const Real* weight = walk.weight + line * taps * kLanes;
      int64_t i = low;
      tile_head<0>(sum, pixel, along, across, weight, i, high);
      const int64_t full = smaller(taps, high);
      for (; i < full; ++i, pixel += along) tile_step<0, kAlong - 1>(sum, pixel, across, weight + i * kLanes);
      tile_tail<1>(sum, pixel, along, across, weight, i, high);
    }
    Real* target = walk.out + first * walk.out_along + p0 * walk.out_across;
    const Real* base = walk.base == nullptr ? nullptr : walk.base + first * walk.base_along + p0 * walk.base_across;
#pragma GCC unroll 6
    for (int r = 0; r < kAlong; ++r) {
      const int64_t row = r * walk.step_along;
#pragma GCC unroll 4
      for (int p = 0; p < kAcross; ++p) {
        // The bias is last: a large one would round every partial sum.
        Vec value = sum[r][p] + bias;
        if (base != nullptr) value += load(base + row * walk.base_along + p * walk.base_across);
        store(target + row * walk.out_along + p * walk.out_across, value);
      }
    }
  }
}

// kAlong outputs along, and all of [begin, end) across.
template <int kAlong>
static inline void walk_line(const TileWalk& walk, int64_t first, int64_t begin, int64_t end) {
  const int64_t rest = end - (end - begin) % kTile;
  walk_tiles<kAlong, kTile>(walk, first, begin, rest);
  if constexpr (kTile == 4) {
    if (end - rest == 3) walk_tiles<kAlong, 3>(walk, first, rest, end);
    if (end - rest == 2) walk_tiles<kAlong, 2>(walk, first, rest, end);
  }
  if (end - rest == 1) walk_tiles<kAlong, 1>(walk, first, rest, end);
}

// Outputs [begin, end) along that lie `step` apart, in groups of nearly equal sizes up to `most`: visit(first, count).
template <typename Visit>
static inline void for_each_group(int64_t begin, int64_t end, int64_t step, int64_t most, const Visit& visit) {
  for (int64_t phase = begin; phase < smaller(begin + step, end); ++phase) {
    const int64_t outputs = blocks_of(end - phase, step), groups = blocks_of(outputs, most);
    for (int64_t group = 0; group < groups; ++group) {
      const int64_t from = outputs * group / groups, to = outputs * (group + 1) / groups;
      visit(phase + from * step, to - from);
    }
  }
}

// `count` outputs along, of at most kAlong.
template <int kAlong>
static inline void walk_lines(const TileWalk& walk, int64_t count, int64_t first, int64_t begin, int64_t end) {
  if (count == kAlong) return walk_line<kAlong>(walk, first, begin, end);
  if constexpr (kAlong > 1) walk_lines<kAlong - 1>(walk, count, first, begin, end);
}

// Rows [begin, end) of out = conv(in) + bias + base. `in` holds all rows of the image that they reach; base may be out,
// or have no data.
static inline void convolve(const Plane& in, const Taps& taps, const Grid& out, const Grid& base, int64_t height,
                            int64_t begin, int64_t end) {
  TileWalk walk{};
  walk.in = in.at(0, 0), walk.weight = taps.weight, walk.bias = taps.bias, walk.out = out.data, walk.base = base.data;
  if (taps.is_down()) {
    walk.in_along = in.row_stride(), walk.in_across = kLanes;
    walk.out_along = out.row, walk.out_across = out.pixel;
    walk.base_along = base.row, walk.base_across = base.pixel;
    walk.size_along = height, walk.size_across = in.width;
    walk.taps_along = taps.height, walk.taps_across = taps.width;
    walk.step_along = taps.dilation_y, walk.step_across = taps.dilation_x;
  } else {
    walk.in_along = kLanes, walk.in_across = in.row_stride();
    walk.out_along = out.pixel, walk.out_across = out.row;
    walk.base_along = base.pixel, walk.base_across = base.row;
    walk.size_along = in.width, walk.size_across = height;
    walk.taps_along = taps.width, walk.taps_across = taps.height;
    walk.step_along = taps.dilation_x, walk.step_across = taps.dilation_y;
  }
  const int64_t along_begin = taps.is_down() ? begin : 0, along_end = taps.is_down() ? end : in.width;
  const int64_t across_begin = taps.is_down() ? 0 : begin, across_end = taps.is_down() ? in.width : end;
  const int64_t most = smaller(kAlongTile, walk.taps_along);
  for_each_group(along_begin, along_end, walk.step_along, most, [&](int64_t first, int64_t count) {
    walk_lines<kAlongTile>(walk, count, first, across_begin, across_end);
  });
}

// The whole image from plane to plane: out = conv(in) + bias + base.
static inline void convolve(const Plane& in, const Taps& taps, const Plane& out, const Grid& base = {}) {
  convolve(in, taps, grid_of(out), base, in.rows, 0, in.rows);
}

}  // namespace SEGNEXT_ISA
}  // namespace segnext
