// dwconv_gelu on the CPU: y = w * x + b (depthwise 3x3), out = gelu(y).
//
// Units of work and planes are those of cpu/depthwise.h. The backward recomputes y.
// Bytes: the forward moves x and out once, the backward x, grad and grad_x once.
// Operations per element: 9 FMAs and about 20 operations of GELU forward; 9 + 9 + 9 FMAs (y again, the gradient of x,
// the gradient of the weights) and about 40 operations backward.

#include "cpu/convert.h"
#include "cpu/depthwise.h"
#include "cpu/gelu.h"
#include "ops/dwconv_gelu/dwconv_gelu.h"

namespace segnext {
namespace SEGNEXT_ISA {
namespace {

constexpr int64_t kTaps = 9;
constexpr int64_t kRows = kTaps + 1;  // rows of a unit's partial gradients: the weights', then the bias's

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
bool backward(const DwconvGeluBackwardParams& p, int threads) {
  const DwconvGeluParams& f = p.forward;
  const int64_t images = f.x.size[0], channels = f.x.size[1], blocks = vectors_of(channels);
  const int64_t reals = images * blocks * kRows * kLanes;
  const TeamMemory memory(bytes_of<Array<Real>>(reals), 0, 0);
  if (memory.is_exhausted()) return false;
  Real* const partial = memory.shared<Array<Real>>(reals).data;
  const bool done = for_each_unit<DwconvBackwardScratch>(
      images * blocks, threads,
      [&](int64_t unit, const DwconvBackwardScratch& s) {
        const Lanes which = lanes_of(unit / blocks, unit % blocks, channels);
        load_and_convolve<T>(f, which, s);
        load_plane<T>(p.grad, which, s.grad_y);
        for (int64_t y = 0; y < s.y.rows; ++y) {
          Real* grad = s.grad_y.at(y, 0);
          const Real* row = s.y.at(y, 0);
          for (int64_t x = 0; x < s.y.width; ++x) {
            store(grad + x * kLanes, load(grad + x * kLanes) * gelu_derivative(load(row + x * kLanes)));
          }
        }
        Real* own = partial + unit * kRows * kLanes;
        std::memset(own, 0, kRows * kLanes * sizeof(Real));
        load_taps<T>(f.weight, which.channel, which.lanes, true, s.flipped);
        const Taps flipped{s.flipped, nullptr, 3, 3, 1, 1};
        weight_gradient(s.grad_y, s.x, flipped, own);
        plane_sum(s.grad_y, own + kTaps * kLanes);
        convolve(s.grad_y, flipped, s.y);
        store_plane<T>(s.y, p.grad_x, which);
      },
      f.x);
  if (!done) return false;
  for_each_item(blocks, threads, [&](int64_t block) {
    const Lanes which = lanes_of(0, block, channels);
    const int64_t apart = blocks * kRows * kLanes;
    const Real* own = partial + block * kRows * kLanes;
    reduce_parameter<T>(own, images, apart, p.grad_weight, which.channel, which.lanes, kTaps);
    if (p.grad_bias.data == nullptr) return;
    reduce_parameter<T>(own + kTaps * kLanes, images, apart, p.grad_bias, which.channel, which.lanes, 1);
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
