// depthwise_sum on the CPU: a = root(x); out = the branches' results of a, added up or side by side; all depthwise.
//
// A unit of work is kLanes channels of one image, in planes (cpu/planes.h); the convolutions are register tiles
// (cpu/plane_convolution.h). Every convolution reads a plane with a border of zeros, the zero padding of its *own*
// input. Forward: each thread takes a contiguous range of the rows of all units, by their cost. A unit is divided where
// two threads' ranges meet, and where its planes would leave the cache: rows that both parts reach are computed twice.
// Backward: whole units, recomputed; each writes its own partial gradients, which are added in a fixed order.
// Bytes: the forward moves x and out once, the backward x, grad and grad_x once.
// FMAs per element: all taps K forward (LKA 74, LSKNet 74, Strip R-CNN 63, PKINet 285, InceptionNeXt 4, SLaK 515 less
// those outside of the image); backward up to K recomputed, K for the gradient of the input, K for those of the
// weights. Floor: a Zen 4 core starts 16 FMAs of float32 per cycle. Tiles of 4 x 4 pixels reach 70 to 85 % of that in
// the first-level cache; rows of 8 pixels that share a weight, which this replaced, reach 50 %.

#include "cpu/convert.h"
#include "cpu/depthwise.h"
#include "ops/depthwise_sum/depthwise_sum.h"
#include "ops/depthwise_sum/units.h"

namespace segnext {
namespace SEGNEXT_ISA {
namespace {

constexpr int64_t kPlanesBytes = 4 << 20;  // for a thread's planes in the forward: its share of the third-level cache
constexpr int64_t kMostPartials = 16;      // partial gradients per block of channels: groups of images

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

// How the forward divides the rows of a unit.
struct Slabs {
  int64_t height, width, reach;  // of x; rows that an output reaches up and down
  int64_t root, branch;          // planes for the root's and for a branch's intermediate results
  int64_t slab;                  // rows of output that are computed together

  Slabs(const DepthwiseSumParams& p, const Blocks& all) : height(p.x.size[2]), width(p.x.size[3]) {
    int64_t most = 0;
    for (int b = 0; b < all.branches; ++b) most = larger(most, reach_of(p, all.branch[b]));
    reach = reach_of(p, all.root) + most;
    root = smaller(all.root.length(), 2);
    branch = smaller(larger(longest_branch(all) - 1, 0), 2);
    const int64_t row = (2 + root + branch) * (width + 2 * kBorder) * kLanes * static_cast<int64_t>(sizeof(Real));
    const int64_t fit = kPlanesBytes / row - 2 * kBorder;
    slab = fit >= height ? height : smaller(larger(fit - 2 * reach, larger(4 * reach, 8)), height);
  }
  int64_t rows() const { return smaller(height, slab + 2 * reach); }
};

struct ForwardScratch {
  Plane x, root[2], branch[2], out;
  PackedTaps packed;

  ForwardScratch(Arena& arena, const DepthwiseSumParams& p, const Slabs& slabs)
      : x(take_plane(arena, slabs.rows(), slabs.width)),
        out(take_plane(arena, slabs.rows(), slabs.width)),
        packed(arena, p) {
    for (int64_t i = 0; i < slabs.root; ++i) root[i] = take_plane(arena, slabs.rows(), slabs.width);
    for (int64_t i = 0; i < slabs.branch; ++i) branch[i] = take_plane(arena, slabs.rows(), slabs.width);
  }
};

// Rows [begin, end) of a block of one image.
template <typename T>
struct ForwardUnit {
  const DepthwiseSumParams& p;
  const Blocks& all;
  const Slabs& slabs;
  const ForwardScratch& s;
  Block block;
  int64_t image, begin, end;

  Plane here(const Plane& plane) const {
    const int64_t first = larger(smaller(begin - slabs.reach, slabs.height - plane.rows), 0);
    const Plane result = moved(plane, first);
    if (plane.rows < slabs.height) clear_border_rows(result, slabs.height);
    return result;
  }
  int64_t above(int64_t margin) const { return larger(begin - margin, 0); }
  int64_t below(int64_t margin) const { return smaller(end + margin, slabs.height); }

  void convolve_rows(const Plane& in, int i, const Plane& out, Into into, int64_t margin) const {
    convolve(in, s.packed.at(p, i, true), out, into, slabs.height, above(margin), below(margin));
  }

  // The chain's convolutions but the last one, alternating between two planes; returns the input of the last one.
  Plane through(const Plane& in, Chain chain, const Plane (&between)[2], int64_t margin) const {
    Plane now = in;
    for (int i = chain.begin; i < chain.end - 1; ++i) {
      const Plane next = here(between[(i - chain.begin) % 2]);
      convolve_rows(now, i, next, Into::kOverwrite, margin + reach_of(p, Chain{i + 1, chain.end}));
      now = next;
    }
    return now;
  }

  void store_result(const Plane& plane, int64_t channel) const {
    store_plane<T>(plane, p.out, Lanes{image, channel, block.lanes}, begin, end);
  }

  void run() const {
    int64_t margin = 0;  // rows of a that are needed above and below
    for (int b = block.first; b < block.last; ++b) margin = larger(margin, reach_of(p, all.branch[b]));
    const int64_t needed = margin + reach_of(p, all.root);
    const Plane x = here(s.x), out = here(s.out);
    load_plane<T>(p.x, Lanes{image, block.channel, block.lanes}, x, above(needed), below(needed));
    Plane a = x;
    if (all.root.length() > 0) {
      const Plane last = through(x, all.root, s.root, margin);
      a = here(s.root[(all.root.length() - 1) % 2]);
      convolve_rows(last, all.root.end - 1, a, Into::kOverwrite, margin);
    }
    if (p.combine == Combine::kSum) return add_up(a, out);
    for (int b = block.first; b < block.last; ++b) {
      const int64_t channel = block.channel + (p.combine == Combine::kCat ? b * all.channels : 0);
      store_result(result_of(a, b, out, Into::kOverwrite), channel);
    }
  }

  // The plane of a branch's result: `out`, or a if the branch is empty.
  Plane result_of(const Plane& a, int b, const Plane& out, Into into) const {
    const Chain chain = all.branch[b];
    if (chain.length() == 0) return a;
    convolve_rows(through(a, chain, s.branch, 0), chain.end - 1, out, into, 0);
    return out;
  }

  void add_up(const Plane& a, const Plane& out) const {
    if (all.branches == 1) return store_result(result_of(a, 0, out, Into::kOverwrite), block.channel);
    for (int b = 0; b < all.branches; ++b) {
      const Into into = b == 0 ? Into::kOverwrite : Into::kAdd;
      if (all.branch[b].length() > 0) {
        result_of(a, b, out, into);
      } else if (into == Into::kAdd) {
        add_pixels(a, out, begin, end);
      } else {
        copy_pixels(a, out, begin, end);
      }
    }
    store_result(out, block.channel);
  }

  // The rows of a block that goes through no convolution.
  void copy() const {
    const int64_t apart_in = p.x.stride[1], apart_out = p.out.stride[1];
    const T* in = static_cast<const T*>(p.x.data) + image * p.x.stride[0] + block.channel * apart_in;
    T* out = static_cast<T*>(p.out.data) + image * p.out.stride[0] + block.channel * apart_out;
    const bool by_pixels = apart_in == 1 && apart_out == 1, by_rows = p.x.stride[3] == 1 && p.out.stride[3] == 1;
    for (int64_t y = begin; y < end; ++y) {
      const T* from = in + y * p.x.stride[2];
      T* to = out + y * p.out.stride[2];
      for (int64_t x = 0; by_pixels && x < slabs.width; ++x) {
        std::memcpy(to + x * p.out.stride[3], from + x * p.x.stride[3], block.lanes * sizeof(T));
      }
      for (int64_t c = 0; !by_pixels && c < block.lanes; ++c) {
        if (by_rows) {
          std::memcpy(to + c * apart_out, from + c * apart_in, slabs.width * sizeof(T));
        } else {
          for (int64_t x = 0; x < slabs.width; ++x) {
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
void forward_rows(const DepthwiseSumParams& p, const Blocks& all, const Slabs& slabs, const ForwardScratch& s,
                  Place from, Place to) {
  const int64_t height = p.x.size[2], rows = p.x.size[0] * height;
  for (int64_t b = from.block; b < all.count && b <= to.block; ++b) {
    const Block block = all.at(b);
    const bool is_copy = all.is_copy(block.first);
    const int64_t last = b == to.block ? to.row : rows;
    int64_t row = b == from.block ? from.row : 0;
    if (row < last && !is_copy) s.packed.load<T>(p, all, block, false);
    while (row < last) {
      const int64_t y = row % height, end = smaller(smaller(y + slabs.slab, height), y + last - row);
      const ForwardUnit<T> unit{p, all, slabs, s, block, row / height, y, end};
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
  const Slabs slabs(p, all);
  const TeamMemory memory(0, bytes_of<ForwardScratch>(p, slabs), threads);
  if (memory.is_exhausted()) return false;
#pragma omp parallel num_threads(threads)
  {
    const Member me;
    const Place from = place_of(p, all, me.index, me.team), to = place_of(p, all, me.index + 1, me.team);
    if (from.block < to.block || from.row < to.row) {
      forward_rows<T>(p, all, slabs, memory.own<ForwardScratch>(me, p, slabs), from, to);
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
      convolve(now, s.packed.at(f(), i, true), results[i - chain.begin], Into::kOverwrite);
    }
  }

  // From the gradient of a chain's result to those of its parameters and its input, which goes to `to`.
  void back_through(const Plane& grad, Chain chain, const Plane& in, const Plane* results, const Plane& to,
                    Into into) const {
    Plane now = grad;
    for (int i = chain.end - 1; i >= chain.begin; --i) {
      const bool is_first = i == chain.begin;
      const Taps flipped = s.flipped.at(f(), i, false);
      weight_gradient(now, is_first ? in : results[i - chain.begin - 1], flipped, rows[i]);
      if (f().bias[i].data != nullptr) plane_sum(now, rows[i] + flipped.count() * kLanes);
      const Plane next = is_first ? to : s.between[(chain.end - i) % 2];
      convolve(now, flipped, next, is_first ? into : Into::kOverwrite);
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
      const Into into = b == block.first ? Into::kOverwrite : Into::kAdd;
      if (f().combine == Combine::kCat) {
        load_grad(block.channel + b * all.channels);
      } else if (into == Into::kOverwrite) {
        load_grad(block.channel);
      }
      if (chain.length() > 0) {
        forward_to(a, chain, chain.end - 1, s.branch);
        back_through(s.grad, chain, a, s.branch, s.grad_a, into);
      } else if (into == Into::kAdd) {
        add_pixels(s.grad, s.grad_a, 0, s.grad.rows);
      } else {
        copy_pixels(s.grad, s.grad_a, 0, s.grad.rows);
      }
    }
    if (all.root.length() == 0) return store_plane<T>(s.grad_a, p.grad_x, here);
    // x's gradient takes the place of out's, which nothing reads any more.
    back_through(s.grad_a, all.root, s.x, s.root, s.grad, Into::kOverwrite);
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
