// msca_conv on the CPU: a = root(x); out = a + sum_k column_k(row_k(a)), all depthwise.
//
// The forward is in strips.h. The backward uses the units and planes of cpu/depthwise.h. Every convolution reads a
// plane with a border of zeros, the zero padding of its *own* input, even if a bias was added to the pixels inside.
// Bytes: the forward moves x and out once, the backward x, grad and grad_x once.
// FMAs per element with SegNeXt's kernels: 25 + 2 (7 + 11 + 21) = 103 forward; backward 25 + 39 recomputed, 103 for
// the gradients of the inputs and 103 for those of the weights.

#include "cpu/convert.h"
#include "cpu/depthwise.h"
#include "ops/msca_conv/msca_conv.h"
#include "ops/msca_conv/strips.h"

namespace segnext {
namespace SEGNEXT_ISA {
namespace {

int64_t taps_of(const Tensor4& weight) { return weight.size[2] * weight.size[3]; }

int64_t longest_strip(const MscaConvParams& p) {
  int64_t taps = 0;
  for (int i = 0; i < p.weights.strips; ++i) {
    taps = larger(taps, larger(taps_of(p.weights.row_weight[i]), taps_of(p.weights.column_weight[i])));
  }
  return taps;
}

// Taps of the largest kernel.
int64_t longest(const MscaConvParams& p) { return larger(taps_of(p.weights.root_weight), longest_strip(p)); }

struct StripBackwardScratch {
  Plane x, a, row, grad, grad_row, grad_a, grad_x;
  Real *weight, *bias;

  StripBackwardScratch(Arena& arena, const MscaConvParams& p)
      : x(take(arena, p)),
        a(take(arena, p)),
        row(take(arena, p)),
        grad(take(arena, p)),
        grad_row(take(arena, p)),
        grad_a(take(arena, p)),
        grad_x(take(arena, p)),
        weight(arena.take<Real>(longest(p) * kLanes)),
        bias(arena.take<Real>(kLanes)) {}
  static Plane take(Arena& arena, const MscaConvParams& p) { return take_plane(arena, p.x.size[2], p.x.size[3]); }
};

// Loads the unit's taps of one convolution into the scratch. Flipped taps have no bias.
template <typename T>
Taps taps_at(const Tensor4& weight, const Tensor4& bias, const Lanes& which, bool flipped,
             const StripBackwardScratch& s) {
  load_taps<T>(weight, which.channel, which.lanes, flipped, s.weight);
  if (!flipped) load_bias<T>(bias, which.channel, which.lanes, s.bias);
  return {s.weight, flipped ? nullptr : s.bias, weight.size[2], weight.size[3], 1, 1};
}

template <typename T>
bool forward(const MscaConvParams& p, int threads) {
  const StripKernels kernels = strip_kernels(p.weights);
  if (p.x.size[0] * p.x.size[1] * p.x.size[2] * p.x.size[3] == 0) return true;
  const StripTiles tiling(kernels, p.x.size[3]);
  const TeamMemory memory(bytes_of<Array<Real>>(kernels.packed_reals()), bytes_of<StripScratch>(kernels, tiling),
                          threads);
  if (memory.is_exhausted()) return false;
  Real* const packed = memory.shared<Array<Real>>(kernels.packed_reals()).data;
  pack_strips<T>(p.weights, packed);
#pragma omp parallel num_threads(threads)
  {
    const Member me;
    run_strips<T>(p.x, p.out, kernels, tiling, packed, memory.own<StripScratch>(me, kernels, tiling), me);
  }
  return true;
}

// The row (of kLanes) among a unit's partial gradients at which each parameter begins.
struct GradientRows {
  int64_t row[kMaxStrips], column[kMaxStrips];
  int64_t total;

  explicit GradientRows(const MscaConvParams& p) : total(taps_of(p.weights.root_weight) + 1) {
    for (int i = 0; i < p.weights.strips; ++i) {
      row[i] = total;
      column[i] = row[i] + taps_of(p.weights.row_weight[i]) + 1;  // the bias's row follows those of the weights
      total = column[i] + taps_of(p.weights.column_weight[i]) + 1;
    }
  }
};

template <typename T>
void backward_unit(const MscaConvBackwardParams& p, const GradientRows& rows, const Lanes& which,
                   const StripBackwardScratch& s, Real* own) {
  const MscaConvParams& f = p.forward;
  const Tensor4& root = f.weights.root_weight;
  load_plane<T>(f.x, which, s.x);
  load_plane<T>(p.grad, which, s.grad);
  std::memset(own, 0, rows.total * kLanes * sizeof(Real));
  convolve(s.x, taps_at<T>(root, f.weights.root_bias, which, false, s), s.a);
  copy_pixels(s.grad, s.grad_a, 0, s.grad.rows);
  for (int i = 0; i < f.weights.strips; ++i) {
    const Tensor4 &row = f.weights.row_weight[i], &column = f.weights.column_weight[i];
    convolve(s.a, taps_at<T>(row, f.weights.row_bias[i], which, false, s), s.row);
    const Taps columns = taps_at<T>(column, {}, which, true, s);
    weight_gradient(s.grad, s.row, columns, own + rows.column[i] * kLanes);
    plane_sum(s.grad, own + (rows.column[i] + taps_of(column)) * kLanes);
    convolve(s.grad, columns, s.grad_row);
    const Taps rows_back = taps_at<T>(row, {}, which, true, s);
    weight_gradient(s.grad_row, s.a, rows_back, own + rows.row[i] * kLanes);
    plane_sum(s.grad_row, own + (rows.row[i] + taps_of(row)) * kLanes);
    convolve(s.grad_row, rows_back, s.grad_a, grid_of(s.grad_a));
  }
  const Taps flipped = taps_at<T>(root, {}, which, true, s);
  weight_gradient(s.grad_a, s.x, flipped, own);
  plane_sum(s.grad_a, own + taps_of(root) * kLanes);
  convolve(s.grad_a, flipped, s.grad_x);
  store_plane<T>(s.grad_x, p.grad_x, which);
}

template <typename T>
bool backward(const MscaConvBackwardParams& p, int threads) {
  const MscaConvParams& f = p.forward;
  const GradientRows rows(f);
  const int64_t images = f.x.size[0], channels = f.x.size[1], blocks = vectors_of(channels);
  const int64_t reals = images * blocks * rows.total * kLanes;
  const TeamMemory memory(bytes_of<Array<Real>>(reals), 0, 0);
  if (memory.is_exhausted()) return false;
  Real* const partial = memory.shared<Array<Real>>(reals).data;
  const bool done = for_each_unit<StripBackwardScratch>(
      images * blocks, threads,
      [&](int64_t unit, const StripBackwardScratch& s) {
        const Lanes which = lanes_of(unit / blocks, unit % blocks, channels);
        backward_unit<T>(p, rows, which, s, partial + unit * rows.total * kLanes);
      },
      f);
  if (!done) return false;
  for_each_item(blocks, threads, [&](int64_t block) {
    const Lanes which = lanes_of(0, block, channels);
    const int64_t apart = blocks * rows.total * kLanes;
    const Real* own = partial + block * rows.total * kLanes;
    const auto reduce = [&](int64_t row, const Tensor4& weight, const Tensor4& grad_weight, const Tensor4& grad_bias) {
      const int64_t taps = taps_of(weight), channel = which.channel, lanes = which.lanes;
      reduce_parameter<T>(own + row * kLanes, images, apart, grad_weight, channel, lanes, taps);
      if (grad_bias.data == nullptr) return;
      reduce_parameter<T>(own + (row + taps) * kLanes, images, apart, grad_bias, channel, lanes, 1);
    };
    reduce(0, f.weights.root_weight, p.grad_root_weight, p.grad_root_bias);
    for (int i = 0; i < f.weights.strips; ++i) {
      reduce(rows.row[i], f.weights.row_weight[i], p.grad_row_weight[i], p.grad_row_bias[i]);
      reduce(rows.column[i], f.weights.column_weight[i], p.grad_column_weight[i], p.grad_column_bias[i]);
    }
  });
  return true;
}

}  // namespace

bool msca_conv_forward_cpu(const MscaConvParams& params, int threads) {
  return SEGNEXT_WITH_ELEMENT(params.dtype, forward, params, threads);
}

bool msca_conv_backward_cpu(const MscaConvBackwardParams& params, int threads) {
  return SEGNEXT_WITH_ELEMENT(params.forward.dtype, backward, params, threads);
}

}  // namespace SEGNEXT_ISA
}  // namespace segnext
