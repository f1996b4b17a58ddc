// depthwise_sum on the CPU: a = root(x); out = the branches' results of a, added up or side by side; all depthwise.
//
// A unit of work is kLanes channels of one image, in planes (cpu/planes.h); the convolutions are register tiles
// (cpu/plane_convolution.h). Every convolution reads a plane with a border of zeros, the zero padding of its *own*
// input.
//
// Forward: each thread takes a contiguous range of the rows of all units, by their cost; where two threads' ranges meet
// inside of a unit, rows that both parts reach are computed twice. It streams down the image as schedule.h says.
// Backward: whole units, recomputed; each writes its own partial gradients, which are added in a fixed order.
//
// Bytes: the forward moves x and out once, the backward x, grad and grad_x once.
// FMAs per element: all taps K forward (LKA and LSKNet 74, Strip R-CNN 63, PKINet 285, InceptionNeXt 4, SLaK 515 less
// those outside of the image); backward up to K recomputed, K for the gradient of the input, K for the weights'.
// Floor: 16 FMAs of float32 per cycle, which bench.roofline measures as 100 GFLOP/s per Zen 4 core. In one thread
// PKINet and SLaK reach 96, LKA on 32 x 32 pixels 100, Strip R-CNN on 64 x 64 pixels 80. Tried without gain: bands
// whose planes fit the second-level cache (moving their margins costs more than the third level does), and tiles that
// proceed along first, which keeps the rows of long columns in the first level.

#include <type_traits>

#include "cpu/convert.h"
#include "cpu/depthwise.h"
#include "ops/depthwise_sum/depthwise_sum.h"
#include "ops/depthwise_sum/schedule.h"
#include "ops/depthwise_sum/units.h"

namespace segnext {
namespace SEGNEXT_ISA {
namespace {

constexpr int64_t kMostPartials = 16;  // partial gradients per block of channels: groups of images

int64_t longest_branch(const Blocks& all) {
  int64_t most = 0;
  for (int b = 0; b < all.branches; ++b) most = larger(most, all.branch[b].length());
  return most;
}

// The taps of a block's convolutions, packed one convolution after the other.
struct PackedTaps {
  Real* taps[kMaxConvolutions];

  PackedTaps(Arena& arena, const DepthwiseSumParams& p) {
    for (int i = 0; i < p.convolutions; ++i) taps[i] = arena.take<Real>((taps_of(p.weight[i]) + 1) * kLanes);
  }
  template <typename T>
  void load(const DepthwiseSumParams& p, const Blocks& all, const Block& block, bool flipped) const {
    for_each_convolution(all, block, [&](int i, int64_t channel) {
      load_taps<T>(p.weight[i], channel, block.lanes, flipped, taps[i]);
      load_bias<T>(p.bias[i], channel, block.lanes, taps[i] + taps_of(p.weight[i]) * kLanes);
    });
  }
  // One convolution; without its bias for a gradient.
  Taps at(const DepthwiseSumParams& p, int i, bool with_bias) const {
    const Tensor4& w = p.weight[i];
    const Real* bias = with_bias && p.bias[i].data != nullptr ? taps[i] + taps_of(w) * kLanes : nullptr;
    return {taps[i], bias, w.size[2], w.size[3], p.dilation[i][0], p.dilation[i][1]};
  }
};

struct ForwardScratch {
  Plane plane[kMaxPlanes];
  PackedTaps packed;

  ForwardScratch(Arena& arena, const DepthwiseSumParams& p, const Schedules& schedules) : packed(arena, p) {
    for (int i = 0; i < schedules.planes; ++i) plane[i] = take_plane(arena, schedules.rows[i], p.x.size[3]);
  }
};

// Rows [begin, end) of a block of one image, band by band.
template <typename T>
struct ForwardUnit {
  const DepthwiseSumParams& p;
  const Blocks& all;
  const Schedule& schedule;
  const ForwardScratch& s;
  Block block;
  int64_t image, begin, end;
  Plane plane[kMaxPlanes];
  int64_t ready[kMaxPlanes];  // the row behind the last one that a plane holds

  int64_t height() const { return p.x.size[2]; }
  int64_t below(int64_t row, int64_t margin) const { return smaller(row + margin, height()); }

  void run() {
    for (int i = 0; i < schedule.planes; ++i) {
      const int64_t first = larger(begin - schedule.margin[i], 0);
      plane[i] = moved(s.plane[i], s.plane[i].rows < height() ? first : 0);
      ready[i] = first;
    }
    for (int64_t row = begin; row < end; row += schedule.band) run_band(row, smaller(row + schedule.band, end));
  }

  // Keeps the rows that the band from `row` on needs, and makes room behind them.
  void slide(int i, int64_t row) {
    if (plane[i].rows >= height()) return;
    const Plane before = plane[i];
    plane[i].first = larger(row - schedule.margin[i], 0);
    const int64_t kept = ready[i] - plane[i].first;
    if (kept > 0 && before.first < plane[i].first) {
      std::memmove(plane[i].at(plane[i].first, -kBorder), before.at(plane[i].first, -kBorder),
                   kept * before.row_stride() * sizeof(Real));
    }
    clear_border_rows(plane[i], height());
  }

  void run_band(int64_t row, int64_t last) {
    for (int i = 0; i < schedule.planes; ++i) slide(i, row);
    const Lanes here{image, block.channel, block.lanes};
    const int64_t needed = below(last, schedule.margin[kX]);
    load_plane<T>(p.x, here, plane[kX], ready[kX], needed);
    ready[kX] = needed;
    for (int i = 0; i < schedule.count; ++i) run_stage(schedule.stage[i], row, last);
  }

  void run_stage(const Stage& stage, int64_t row, int64_t last) {
    const Plane &from = plane[stage.from], &to = plane[stage.to];
    const int64_t channel = block.channel + (p.combine == Combine::kCat ? stage.stored * all.channels : 0);
    const Grid tensor = stage.stored < 0 ? Grid{} : grid_in(p.out, channel);
    if (stage.convolution >= 0) {
      const int64_t first = stage.to == kOut ? row : ready[stage.to], behind = below(last, schedule.margin[stage.to]);
      const Grid base = stage.base < 0 ? Grid{} : grid_of(plane[stage.base]);
      const Taps taps = s.packed.at(p, stage.convolution, true);
      convolve(from, taps, tensor.data == nullptr ? grid_of(to) : tensor, base, height(), first, behind);
      ready[stage.to] = behind;
      if (tensor.data != nullptr) return;
    } else if (stage.base >= 0) {
      add_pixels(from, plane[stage.base], to, row, last);
    }
    if (stage.stored >= 0) store_plane<T>(to, p.out, Lanes{image, channel, block.lanes}, row, last);
  }

  // The block's pixels in a tensor that takes vectors as they are; else without data.
  Grid grid_in(const Tensor4& tensor, int64_t channel) const {
    if constexpr (std::is_same_v<T, Real>) {
      if (tensor.stride[1] == 1 && block.lanes == kLanes) {
        return {static_cast<T*>(tensor.data) + image * tensor.stride[0] + channel, tensor.stride[2], tensor.stride[3]};
      }
    }
    return {};
  }

  // The rows of a block that goes through no convolution.
  void copy() const {
    const int64_t apart_in = p.x.stride[1], apart_out = p.out.stride[1], width = p.x.size[3];
    const T* in = static_cast<const T*>(p.x.data) + image * p.x.stride[0] + block.channel * apart_in;
    T* out = static_cast<T*>(p.out.data) + image * p.out.stride[0] + block.channel * apart_out;
    const bool by_pixels = apart_in == 1 && apart_out == 1, by_rows = p.x.stride[3] == 1 && p.out.stride[3] == 1;
    for (int64_t y = begin; y < end; ++y) {
      const T* from = in + y * p.x.stride[2];
      T* to = out + y * p.out.stride[2];
      for (int64_t x = 0; by_pixels && x < width; ++x) {
        std::memcpy(to + x * p.out.stride[3], from + x * p.x.stride[3], block.lanes * sizeof(T));
      }
      for (int64_t c = 0; !by_pixels && c < block.lanes; ++c) {
        if (by_rows) {
          std::memcpy(to + c * apart_out, from + c * apart_in, width * sizeof(T));
        } else {
          for (int64_t x = 0; x < width; ++x) {
            to[c * apart_out + x * p.out.stride[3]] = from[c * apart_in + x * p.x.stride[3]];
          }
        }
      }
    }
  }
};

// A thread's share of the rows of all images, block after block: from a place to the next thread's.
struct Place {
  int64_t block, row;
};

Place place_of(const DepthwiseSumParams& p, const Blocks& all, int64_t part, int64_t parts) {
  const int64_t rows = p.x.size[0] * p.x.size[2];
  int64_t total = 0;
  for (int64_t b = 0; b < all.count; ++b) total += cost_of(p, all, all.at(b)) * rows;
  int64_t left = total * part / parts;
  for (int64_t b = 0; b < all.count; ++b) {
    const int64_t cost = cost_of(p, all, all.at(b));
    if (left < cost * rows) return {b, left / cost};
    left -= cost * rows;
  }
  return {all.count, 0};
}

template <typename T>
void forward_rows(const DepthwiseSumParams& p, const Blocks& all, const Schedules& schedules, const ForwardScratch& s,
                  Place from, Place to) {
  const int64_t height = p.x.size[2], rows = p.x.size[0] * height;
  for (int64_t b = from.block; b < all.count && b <= to.block; ++b) {
    const Block block = all.at(b);
    const bool is_copy = all.is_copy(block.first);
    const int64_t last = b == to.block ? to.row : rows;
    int64_t row = b == from.block ? from.row : 0;
    if (row < last && !is_copy) s.packed.load<T>(p, all, block, false);
    while (row < last) {
      const int64_t y = row % height, end = smaller(height, y + last - row);
      ForwardUnit<T> unit{p, all, schedules.of(all, block), s, block, row / height, y, end, {}, {}};
      if (is_copy) {
        unit.copy();
      } else {
        unit.run();
      }
      row += end - y;
    }
  }
}

template <typename T>
bool forward(const DepthwiseSumParams& p, int threads) {
  if (p.x.size[0] == 0) return true;
  const Blocks all(p);
  const Schedules schedules(p, all);
  const TeamMemory memory(0, bytes_of<ForwardScratch>(p, schedules), threads);
  if (memory.is_exhausted()) return false;
#pragma omp parallel num_threads(threads)
  {
    const Member me;
    const Place from = place_of(p, all, me.index, me.team), to = place_of(p, all, me.index + 1, me.team);
    if (from.block < to.block || from.row < to.row) {
      forward_rows<T>(p, all, schedules, memory.own<ForwardScratch>(me, p, schedules), from, to);
    }
  }
  return true;
}

// Where each unit's partial gradients lie: a row of kLanes for each tap, then one for the bias, convolution by
// convolution. Units are (block, group of images); the groups of a block follow each other.
struct Partials {
  int64_t images, groups, rows;  // rows: of the block with the most convolutions

  Partials(const DepthwiseSumParams& p, const Blocks& all)
      : images(p.x.size[0]), groups(smaller(p.x.size[0], kMostPartials)), rows(0) {
    for (int64_t b = 0; b < all.count; ++b) rows = larger(rows, rows_of(p, all, all.at(b)));
  }
  static int64_t rows_of(const DepthwiseSumParams& p, const Blocks& all, const Block& block) {
    int64_t count = 0;
    for_each_convolution(all, block, [&](int i, int64_t) { count += taps_of(p.weight[i]) + 1; });
    return count;
  }
  int64_t reals(const Blocks& all) const { return all.count * groups * rows * kLanes; }
  Real* at(Real* data, int64_t block, int64_t group) const { return data + (block * groups + group) * rows * kLanes; }
};

struct BackwardScratch {
  Plane x, root[kMaxConvolutions], branch[kMaxConvolutions];  // the inputs of all convolutions
  Plane grad, grad_a, between[2];
  PackedTaps packed, flipped;

  BackwardScratch(Arena& arena, const DepthwiseSumParams& p, const Blocks& all)
      : x(take(arena, p)),
        grad(take(arena, p)),
        grad_a(take(arena, p)),
        between{take(arena, p), take(arena, p)},
        packed(arena, p),
        flipped(arena, p) {
    for (int i = 0; i < all.root.length(); ++i) root[i] = take(arena, p);
    for (int i = 0; i < longest_branch(all) - 1; ++i) branch[i] = take(arena, p);
  }
  static Plane take(Arena& arena, const DepthwiseSumParams& p) { return take_plane(arena, p.x.size[2], p.x.size[3]); }
};

template <typename T>
struct BackwardUnit {
  const DepthwiseSumBackwardParams& p;
  const Blocks& all;
  const BackwardScratch& s;
  Block block;
  int64_t image;
  Real* rows[kMaxConvolutions];  // of this unit's partial gradients

  const DepthwiseSumParams& f() const { return p.forward; }

  // The inputs of the chain's convolutions behind the first, and of what follows the chain if there is room for it.
  void forward_to(const Plane& in, Chain chain, int last, const Plane* results) const {
    for (int i = chain.begin; i < last; ++i) {
      const Plane& now = i == chain.begin ? in : results[i - chain.begin - 1];
      convolve(now, s.packed.at(f(), i, true), results[i - chain.begin]);
    }
  }

  // From the gradient of a chain's result to those of its parameters and its input, which goes to `to`.
  void back_through(const Plane& grad, Chain chain, const Plane& in, const Plane* results, const Plane& to,
                    bool adds) const {
    Plane now = grad;
    for (int i = chain.end - 1; i >= chain.begin; --i) {
      const bool is_first = i == chain.begin;
      const Taps flipped = s.flipped.at(f(), i, false);
      weight_gradient(now, is_first ? in : results[i - chain.begin - 1], flipped, rows[i]);
      if (f().bias[i].data != nullptr) plane_sum(now, rows[i] + flipped.count() * kLanes);
      const Plane next = is_first ? to : s.between[(chain.end - i) % 2];
      convolve(now, flipped, next, is_first && adds ? grid_of(to) : Grid{});
      now = next;
    }
  }

  void load_grad(int64_t channel) const { load_plane<T>(p.grad, Lanes{image, channel, block.lanes}, s.grad); }

  void run() const {
    const Lanes here{image, block.channel, block.lanes};
    load_plane<T>(f().x, here, s.x);
    forward_to(s.x, all.root, all.root.end, s.root);
    const Plane& a = all.root.length() > 0 ? s.root[all.root.length() - 1] : s.x;
    for (int b = block.first; b < block.last; ++b) {
      const Chain chain = all.branch[b];
      const bool adds = b > block.first;
      if (f().combine == Combine::kCat) {
        load_grad(block.channel + b * all.channels);
      } else if (!adds) {
        load_grad(block.channel);
      }
      if (chain.length() > 0) {
        forward_to(a, chain, chain.end - 1, s.branch);
        back_through(s.grad, chain, a, s.branch, s.grad_a, adds);
      } else if (adds) {
        add_pixels(s.grad, s.grad_a, s.grad_a, 0, s.grad.rows);
      } else {
        copy_pixels(s.grad, s.grad_a, 0, s.grad.rows);
      }
    }
    if (all.root.length() == 0) return store_plane<T>(s.grad_a, p.grad_x, here);
    // x's gradient takes the place of out's, which nothing reads any more.
    back_through(s.grad_a, all.root, s.x, s.root, s.grad, false);
    store_plane<T>(s.grad, p.grad_x, here);
  }
};

template <typename T>
void copy_gradient(const DepthwiseSumBackwardParams& p, const Block& block, int64_t image, const BackwardScratch& s) {
  for (int64_t c = 0; c < block.lanes; c += kLanes) {
    const Lanes lanes{image, block.channel + c, smaller(block.lanes - c, kLanes)};
    load_plane<T>(p.grad, lanes, s.grad);
    store_plane<T>(s.grad, p.grad_x, lanes);
  }
}

template <typename T>
void backward_unit(const DepthwiseSumBackwardParams& p, const Blocks& all, const Partials& partials, int64_t index,
                   int64_t group, const BackwardScratch& s, Real* own) {
  const Block block = all.at(index);
  const int64_t first = partials.images * group / partials.groups;
  const int64_t last = partials.images * (group + 1) / partials.groups;
  if (all.is_copy(block.first)) {
    for (int64_t image = first; image < last; ++image) copy_gradient<T>(p, block, image, s);
    return;
  }
  s.packed.load<T>(p.forward, all, block, false);
  s.flipped.load<T>(p.forward, all, block, true);
  std::memset(own, 0, Partials::rows_of(p.forward, all, block) * kLanes * sizeof(Real));
  BackwardUnit<T> unit{p, all, s, block, 0, {}};
  Real* next = own;
  for_each_convolution(all, block, [&](int i, int64_t) {
    unit.rows[i] = next;
    next += (taps_of(p.forward.weight[i]) + 1) * kLanes;
  });
  for (unit.image = first; unit.image < last; ++unit.image) unit.run();
}

// Adds up the partial gradients of one block's parameters.
template <typename T>
void reduce_block(const DepthwiseSumBackwardParams& p, const Blocks& all, const Partials& partials, int64_t index,
                  const Real* own) {
  const Block block = all.at(index);
  if (all.is_copy(block.first)) return;
  const int64_t apart = partials.rows * kLanes;
  for_each_convolution(all, block, [&](int i, int64_t channel) {
    const int64_t taps = taps_of(p.forward.weight[i]);
    reduce_parameter<T>(own, partials.groups, apart, p.grad_weight[i], channel, block.lanes, taps);
    own += taps * kLanes;
    if (p.forward.bias[i].data != nullptr) {
      reduce_parameter<T>(own, partials.groups, apart, p.grad_bias[i], channel, block.lanes, 1);
    }
    own += kLanes;
  });
}

template <typename T>
bool backward(const DepthwiseSumBackwardParams& p, int threads) {
  const Blocks all(p.forward);
  const Partials partials(p.forward, all);
  const int64_t reals = partials.reals(all);
  const TeamMemory memory(bytes_of<Array<Real>>(reals), 0, 0);
  if (memory.is_exhausted()) return false;
  Real* const data = memory.shared<Array<Real>>(reals).data;
  const int64_t groups = partials.groups;
  const bool done = for_each_unit<BackwardScratch>(
      all.count * groups, threads,
      [&](int64_t unit, const BackwardScratch& s) {
        const int64_t index = unit / groups, group = unit % groups;
        backward_unit<T>(p, all, partials, index, group, s, partials.at(data, index, group));
      },
      p.forward, all);
  if (!done) return false;
  for_each_item(all.count, threads,
                [&](int64_t index) { reduce_block<T>(p, all, partials, index, partials.at(data, index, 0)); });
  return true;
}

}  // namespace

bool depthwise_sum_forward_cpu(const DepthwiseSumParams& params, int threads) {
  return SEGNEXT_WITH_ELEMENT(params.dtype, forward, params, threads);
}

bool depthwise_sum_backward_cpu(const DepthwiseSumBackwardParams& params, int threads) {
  return SEGNEXT_WITH_ELEMENT(params.forward.dtype, backward, params, threads);
}

}  // namespace SEGNEXT_ISA
}  // namespace segnext
