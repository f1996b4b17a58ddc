// dwconv_gelu on the CPU: y = w * x + b (depthwise 3x3), out = gelu(y).
//
// Where channels are innermost, rows move through a ring: ops/dwconv_gelu/moving_rows.h. Elsewhere units of work and
// planes are those of cpu/depthwise.h. The backward recomputes y.
// Bytes: the forward moves x and out once, the backward x, grad and grad_x once.
// Operations per element: 9 FMAs and about 20 operations of GELU forward; 9 + 9 + 9 FMAs (y again, the gradient of x,
// the gradient of the weights) and about 40 operations backward.

#include "cpu/convert.h"
#include "cpu/depthwise.h"
#include "cpu/gelu.h"
#include "ops/dwconv_gelu/dwconv_gelu.h"
#include "ops/dwconv_gelu/moving_rows.h"

namespace segnext {
namespace SEGNEXT_ISA {
namespace {

struct DwconvScratch {
  Plane x, y;
  Real *weight, *bias;

  DwconvScratch(Arena& arena, const Tensor4& shape)
      : x(take_plane(arena, shape.size[2], shape.size[3])),
        y(take_plane(arena, shape.size[2], shape.size[3])),
        weight(arena.take<Real>(kTaps * kLanes)),
        bias(arena.take<Real>(kLanes)) {}
};

struct DwconvBackwardScratch : DwconvScratch {
  Plane grad_y;
  Real* flipped;

  DwconvBackwardScratch(Arena& arena, const Tensor4& shape)
      : DwconvScratch(arena, shape),
        grad_y(take_plane(arena, shape.size[2], shape.size[3])),
        flipped(arena.take<Real>(kTaps * kLanes)) {}
};

template <typename T>
void load_and_convolve(const DwconvGeluParams& p, const Lanes& which, const DwconvScratch& s) {
  load_plane<T>(p.x, which, s.x);
  load_taps<T>(p.weight, which.channel, which.lanes, false, s.weight);
  load_bias<T>(p.bias, which.channel, which.lanes, s.bias);
  convolve(s.x, Taps{s.weight, s.bias, 3, 3, 1, 1}, s.y);
}

template <typename T>
bool forward(const DwconvGeluParams& p, int threads) {
  if (channels_innermost(p.x) && channels_innermost(p.out)) return moving::forward<T>(p, threads);
  const int64_t channels = p.x.size[1], blocks = vectors_of(channels);
  return for_each_unit<DwconvScratch>(
      p.x.size[0] * blocks, threads,
      [&](int64_t unit, const DwconvScratch& s) {
        const Lanes which = lanes_of(unit / blocks, unit % blocks, channels);
        load_and_convolve<T>(p, which, s);
        for (int64_t y = 0; y < s.y.rows; ++y) {
          Real* row = s.y.at(y, 0);
          for (int64_t x = 0; x < s.y.width; ++x) store(row + x * kLanes, gelu_for<T>(load(row + x * kLanes)));
        }
        store_plane<T>(s.y, p.out, which);
      },
      p.x);
}

template <typename T>
void backward_unit(const DwconvGeluBackwardParams& p, const Lanes& which, const DwconvBackwardScratch& s,
                   Real* partial) {
  const DwconvGeluParams& f = p.forward;
  load_and_convolve<T>(f, which, s);
  load_plane<T>(p.grad, which, s.grad_y);
  for (int64_t y = 0; y < s.y.rows; ++y) {
    Real* grad = s.grad_y.at(y, 0);
    const Real* row = s.y.at(y, 0);
    for (int64_t x = 0; x < s.y.width; ++x) {
      store(grad + x * kLanes, load(grad + x * kLanes) * gelu_derivative(load(row + x * kLanes)));
    }
  }
  std::memset(partial, 0, kRows * kLanes * sizeof(Real));
  load_taps<T>(f.weight, which.channel, which.lanes, true, s.flipped);
  const Taps flipped{s.flipped, nullptr, 3, 3, 1, 1};
  weight_gradient(s.grad_y, s.x, flipped, partial);
  plane_sum(s.grad_y, partial + kTaps * kLanes);
  convolve(s.grad_y, flipped, s.y);
  store_plane<T>(s.y, p.grad_x, which);
}

template <typename T>
bool backward(const DwconvGeluBackwardParams& p, int threads) {
  const DwconvGeluParams& f = p.forward;
  const int64_t channels = f.x.size[1], blocks = vectors_of(channels);
  const bool moves = channels_innermost(f.x) && channels_innermost(p.grad) && channels_innermost(p.grad_x);
  const moving::Bands bands(f.x);
  const int64_t strips = f.x.size[0] * (moves ? bands.bands : 1);
  const int64_t apart = blocks * kRows * kLanes;  // partial gradients: (strip, block, kRows, kLanes)
  const TeamMemory memory(bytes_of<Array<Real>>(strips * apart), 0, 0);
  if (memory.is_exhausted()) return false;
  Real* const partial = memory.shared<Array<Real>>(strips * apart).data;
  const auto by_rows = [&](int64_t index, const moving::BackwardScratch& s) {
    const moving::Unit unit(f.x, bands, index);
    moving::backward_unit<T>(p, unit, s, partial + unit.strip * apart + unit.channel * kRows);
  };
  const auto by_planes = [&](int64_t index, const DwconvBackwardScratch& s) {
    backward_unit<T>(p, lanes_of(index / blocks, index % blocks, channels), s, partial + index * kRows * kLanes);
  };
  const bool done = moves ? for_each_unit<moving::BackwardScratch>(bands.units(), threads, by_rows, f.x)
                          : for_each_unit<DwconvBackwardScratch>(strips * blocks, threads, by_planes, f.x);
  if (!done) return false;
  for_each_item(blocks, threads, [&](int64_t block) {
    const Lanes which = lanes_of(0, block, channels);
    const Real* own = partial + block * kRows * kLanes;
    reduce_parameter<T>(own, strips, apart, p.grad_weight, which.channel, which.lanes, kTaps);
    if (p.grad_bias.data == nullptr) return;
    reduce_parameter<T>(own + kTaps * kLanes, strips, apart, p.grad_bias, which.channel, which.lanes, 1);
  });
  return true;
}

}  // namespace

bool dwconv_gelu_forward_cpu(const DwconvGeluParams& params, int threads) {
  return SEGNEXT_WITH_ELEMENT(params.dtype, forward, params, threads);
}

bool dwconv_gelu_backward_cpu(const DwconvGeluBackwardParams& params, int threads) {
  return SEGNEXT_WITH_ELEMENT(params.forward.dtype, backward, params, threads);
}

}  // namespace SEGNEXT_ISA
}  // namespace segnext
