// group_norm_act on the CPU: y = act((x - mean) rstd w + b + residual), mean and rstd of each (image, group).
//
// Groups are independent, so the work is done in steps of whole groups of some images, 4 MiB of float per tensor: the
// second pass finds in the caches what the first has read. Within a step the threads divide chunks of an image's pixels
// among them. A chunk is 32 Ki elements, since 128 KiB of float stay in the second-level cache, and at most 256 pixels,
// to keep the sums short. Chunks are read as rows of channels (cpu/rows.h). Forward and backward have two passes:
//   1. For every chunk and channel: the mean m, then around m the sums q of (x - m)^2 and d of x - m (d is only m's
//      rounding error); the backward also sums a of g and b of g (x - m), where g is the gradient that ReLU passes.
//   2. Every chunk again, a thread's last one first: normalise, or compute grad_x.
// Between the passes each thread merges, in double and in the order of the chunks, the sums of the images it works on:
//
// clang-format off
//   mean           = sum(n m + d) / N
//   M2             = sum(q + 2 (m - mean) d + n (m - mean)^2)
//   sum g (x-mean) = sum(b + (m - mean) a)
// clang-format on
//
// So sums are taken around values close to the mean, and an offset of the data costs no digits. Steps and chunks depend
// on the shape alone and the order is fixed, so results do not depend on the number of threads.
//
// clang-format off
//   grad_x        = w rstd g - rstd mean(w g) - (x - mean) rstd^2 mean(w g xhat)
//   grad_residual = g
// clang-format on
//
// Bytes: x (and residual) and out once forward; x, g, out and grad_x (and grad_residual) once backward; as much again
// from the caches. With 6 operations per element forward and 14 backward, memory is the limit.
// Predicted for 256 channels at 64x64, float, all in a third-level cache that copies at 70 GB/s: 12 MiB in 0.18 ms
// forward, 28 MiB in 0.42 ms backward. For 512 channels in main memory at 22 GB/s: 0.7 and 1.5 ms, and more for the
// lines that are read in order to be written. Measured on a shared machine: 0.10 and 0.22 ms; 0.25 and 0.82 ms.
// Contiguous tensors take three times as long, because every chunk is transposed in both passes.

#include "cpu/convert.h"
#include "cpu/memory.h"
#include "cpu/rows.h"
#include "ops/group_norm_act/group_norm_act.h"
#include "ops/group_norm_act/statistics.h"
#include "ops/group_norm_act/steps.h"

namespace segnext {
namespace SEGNEXT_ISA {
namespace {

double parameter(const GroupNormActParams& p, const Tensor4& tensor, int64_t c) {
  const int64_t offset = c * tensor.stride[0];
  if (p.affine_dtype == DType::kBFloat16) return to_real(static_cast<const BFloat16*>(tensor.data)[offset]);
  return static_cast<const Real*>(tensor.data)[offset];
}

void set_parameter(const GroupNormActParams& p, const Tensor4& tensor, int64_t c, double value) {
  const Real rounded = static_cast<Real>(value);
  if (p.affine_dtype == DType::kBFloat16) {
    static_cast<BFloat16*>(tensor.data)[c] = from_real<BFloat16>(rounded);
  } else {
    static_cast<Real*>(tensor.data)[c] = rounded;
  }
}

// The chunks' sums of two steps.
struct TwoSums {
  Real* of[2];

  TwoSums(Arena& arena, int64_t reals) {
    for (Real*& sums : of) sums = arena.take<Real>(reals);
  }
};

// Runs both passes of Pass over the units of each step; each thread takes a contiguous range of units. Steps alternate
// between two sets of sums, because some threads begin the next step while others still read this step's sums.
template <typename Pass, typename Params>
bool run_steps(const Params& params, const GroupNormActParams& p, const Steps& steps, int arrays, int threads) {
  if (steps.count == 0) return true;
  const StepSizes largest = steps.sizes(p, 0);
  const int64_t reals = largest.units() * arrays * largest.row;
  const TeamMemory memory(bytes_of<TwoSums>(reals), bytes_of<typename Pass::State>(largest), threads);
  if (memory.is_exhausted()) return false;
  const auto sums = memory.shared<TwoSums>(reals);
#pragma omp parallel num_threads(threads)
  {
    const Member me;
    auto state = memory.own<typename Pass::State>(me, largest);
    for (int64_t step = 0; step < steps.count; ++step) {
      const Pass pass(params, steps, step, sums.of[step % 2]);
      const int64_t begin = me.begin(pass.s.units()), end = me.end(pass.s.units());
      for (int64_t unit = begin; unit < end; ++unit) pass.first(unit, state);
#pragma omp barrier
      for (int64_t unit = end - 1; unit >= begin; --unit) {
        const int64_t image = unit / pass.s.chunks;
        if (unit == end - 1 || image != (unit + 1) / pass.s.chunks) pass.prepare(image, state);
        pass.second(unit, state);
      }
    }
  }
  return true;
}

template <typename T>
struct ForwardPass {
  struct State {
    T *x, *residual, *out;
    ImageSums merged;
    Real *mean, *scale, *shift;  // per channel: y = (x - mean) scale + shift

    State(Arena& arena, const StepSizes& s)
        : x(arena.take<T>(s.chunk * s.row)),
          residual(arena.take<T>(s.chunk * s.row)),
          out(arena.take<T>(s.chunk * s.row)),
          merged(arena, s),
          mean(arena.take<Real>(s.row)),
          scale(arena.take<Real>(s.row)),
          shift(arena.take<Real>(s.row)) {}
  };

  const GroupNormActParams& p;
  Tensor4 x, residual, out;
  int64_t channel;
  StepSizes s;
  Real* sums;

  ForwardPass(const GroupNormActParams& p, const Steps& steps, int64_t step, Real* sums)
      : p(p),
        x(part_of<T>(p.x, steps, step)),
        residual(part_of<T>(p.residual, steps, step)),
        out(part_of<T>(p.out, steps, step)),
        channel(steps.channel(step)),
        s(steps.sizes(p, step)),
        sums(sums) {}

  Rows<const T> read(const Tensor4& tensor, int64_t unit, T* memory) const {
    return read_rows<T, T>(tensor, s.chunk_at(unit), kLanes, memory);
  }

  void first(int64_t unit, const State& state) const {
    const Rows<const T> rows = read(x, unit, state.x);
    const ChunkSums own = chunk_sums(sums, s, kForwardSums, unit);
    const int64_t count = s.count(unit);
    chunk_mean(rows, count, s, own.mean);
    clear(own.squares, 2 * s.row);
    for_each_pixel(count, [&](auto together, int64_t i) {
      Vec centred[decltype(together)::value];
      for (int64_t c = 0; c < s.row; c += kLanes) {
        add_deviations(rows.data + i * rows.stride, rows.stride, c, own, centred);
      }
    });
  }

  void prepare(int64_t image, State& state) const {
    const ImageSums& m = state.merged;
    merge_statistics(sums, s, kForwardSums, image, p.eps, m);
    for (int64_t c = 0; c < s.row; ++c) state.mean[c] = state.scale[c] = state.shift[c] = 0.0f;
    for (int64_t c = 0; c < s.channels; ++c) {
      const double scale = parameter(p, p.weight, channel + c) * m.rstd[c];
      state.mean[c] = static_cast<Real>(m.mean[c]);
      state.scale[c] = static_cast<Real>(scale);
      // corrects for the rounding of the mean
      state.shift[c] = static_cast<Real>(parameter(p, p.bias, channel + c) - (m.mean[c] - state.mean[c]) * scale);
    }
  }

  template <bool kResidual>
  void normalise(const State& state, int64_t count, const Rows<const T>& rows, const Rows<const T>& added,
                 const Rows<T>& result) const {
    const Vec lowest = broadcast(p.relu ? 0.0f : -__builtin_inff());
    for_each_pixel(count, [&](auto together, int64_t first) {
      for (int64_t c = 0; c < s.row; c += kLanes) {
        const Vec mean = load(state.mean + c), scale = load(state.scale + c), shift = load(state.shift + c);
        for (int64_t i = first; i < first + decltype(together)::value; ++i) {
          Vec y = (load_vector(rows.data + i * rows.stride + c) - mean) * scale + shift;
          if (kResidual) y += load_vector(added.data + i * added.stride + c);
          store_vector(result.data + i * result.stride + c, max(lowest, y));  // lowest > NaN is false: NaN stays
        }
      }
    });
  }

  void second(int64_t unit, const State& state) const {
    const Pixels chunk = s.chunk_at(unit);
    const Rows<const T> rows = read(x, unit, state.x);
    const Rows<T> result = rows_to_write(out, chunk, state.out);
    if (residual.data == nullptr) {
      normalise<false>(state, chunk.count, rows, rows, result);
    } else {
      normalise<true>(state, chunk.count, rows, read(residual, unit, state.residual), result);
    }
    finish_rows(result, out, chunk, state.out);
  }
};

template <bool kRelu, bool kResidual, typename T>
struct BackwardPass {
  struct State {
    T *x, *out, *grad, *grad_x, *grad_residual;
    ImageSums merged;
    Real *mean, *scale, *slope, *shift;  // per channel: grad_x = g scale + shift - (x - mean) slope

    State(Arena& arena, const StepSizes& s)
        : x(arena.take<T>(s.chunk * s.row)),
          out(arena.take<T>(s.chunk * s.row)),
          grad(arena.take<T>(s.chunk * s.row)),
          grad_x(arena.take<T>(s.chunk * s.row)),
          grad_residual(arena.take<T>(s.chunk * s.row)),
          merged(arena, s),
          mean(arena.take<Real>(s.row)),
          scale(arena.take<Real>(s.row)),
          slope(arena.take<Real>(s.row)),
          shift(arena.take<Real>(s.row)) {}
  };
  struct Params {
    const GroupNormActBackwardParams& p;
    double* weight_sums;  // (N, C, 2): the sums of g xhat and of g
  };

  const GroupNormActParams& p;
  double* weight_sums;
  Tensor4 x, out, grad, grad_x, grad_residual;
  int64_t image, channel;
  StepSizes s;
  Real* sums;

  BackwardPass(const Params& all, const Steps& steps, int64_t step, Real* sums)
      : p(all.p.forward),
        weight_sums(all.weight_sums),
        x(part_of<T>(p.x, steps, step)),
        out(part_of<T>(p.out, steps, step)),
        grad(part_of<T>(all.p.grad, steps, step)),
        grad_x(part_of<T>(all.p.grad_x, steps, step)),
        grad_residual(part_of<T>(all.p.grad_residual, steps, step)),
        image(steps.image(step)),
        channel(steps.channel(step)),
        s(steps.sizes(p, step)),
        sums(sums) {}

  struct Read {
    Rows<const T> x, grad, out;

    // The gradient before the activation, as in PyTorch: zero where out <= 0, so a NaN passes it.
    Vec masked(int64_t pixel, int64_t c) const {
      const Vec g = load_vector(grad.data + pixel * grad.stride + c);
      if constexpr (!kRelu) return g;
      return load_vector(out.data + pixel * out.stride + c) <= Vec{} ? Vec{} : g;
    }
  };

  Read read(int64_t unit, const State& state) const {
    const auto rows = [&](const Tensor4& tensor, T* memory) {
      return read_rows<T, T>(tensor, s.chunk_at(unit), kLanes, memory);
    };
    const Rows<const T> grads = rows(grad, state.grad);
    return {rows(x, state.x), grads, kRelu ? rows(out, state.out) : grads};  // without ReLU `out` is not read
  }

  void first(int64_t unit, const State& state) const {
    const Read in = read(unit, state);
    const ChunkSums own = chunk_sums(sums, s, kBackwardSums, unit);
    const int64_t count = s.count(unit);
    chunk_mean(in.x, count, s, own.mean);
    clear(own.squares, 4 * s.row);
    for_each_pixel(count, [&](auto together, int64_t i) {
      Vec centred[decltype(together)::value];
      for (int64_t c = 0; c < s.row; c += kLanes) {
        add_deviations(in.x.data + i * in.x.stride, in.x.stride, c, own, centred);
        Vec sum = load(own.grad + c), product = load(own.product + c);
        for (int64_t k = 0; k < decltype(together)::value; ++k) {
          const Vec g = in.masked(i + k, c);
          sum += g;
          product += g * centred[k];
        }
        store(own.grad + c, sum);
        store(own.product + c, product);
      }
    });
  }

  void prepare(int64_t index, State& state) const {
    const ImageSums& m = state.merged;
    merge_statistics(sums, s, kBackwardSums, index, p.eps, m);
    merge_gradients(sums, s, index, m);
    for (int64_t c = 0; c < s.row; ++c) {
      state.mean[c] = state.scale[c] = state.slope[c] = state.shift[c] = 0.0f;
    }
    for (int64_t c = 0; c < s.channels; ++c) {
      const double weight = parameter(p, p.weight, channel + c);
      m.sum[c] = weight * m.grad[c];
      m.weighted[c] = weight * m.product[c];
    }
    spread_group_sums(m.sum, s, m.sum);
    spread_group_sums(m.weighted, s, m.weighted);
    for (int64_t c = 0; c < s.channels; ++c) {
      const double rstd = m.rstd[c], slope = rstd * rstd * rstd * s.share() * m.weighted[c];
      state.mean[c] = static_cast<Real>(m.mean[c]);
      state.scale[c] = static_cast<Real>(parameter(p, p.weight, channel + c) * rstd);
      state.slope[c] = static_cast<Real>(slope);
      state.shift[c] = static_cast<Real>((m.mean[c] - state.mean[c]) * slope - rstd * s.share() * m.sum[c]);
    }
  }

  void input_gradient(const State& state, int64_t count, const Read& in, const Rows<T>& result,
                      const Rows<T>& residual) const {
    for_each_pixel(count, [&](auto together, int64_t first) {
      for (int64_t c = 0; c < s.row; c += kLanes) {
        const Vec mean = load(state.mean + c), scale = load(state.scale + c);
        const Vec slope = load(state.slope + c), shift = load(state.shift + c);
        for (int64_t i = first; i < first + decltype(together)::value; ++i) {
          const Vec g = in.masked(i, c), centred = load_vector(in.x.data + i * in.x.stride + c) - mean;
          store_vector(result.data + i * result.stride + c, (g * scale + shift) - centred * slope);
          if (kResidual) store_vector(residual.data + i * residual.stride + c, g);
        }
      }
    });
  }

  void second(int64_t unit, const State& state) const {
    const Pixels chunk = s.chunk_at(unit);
    const Rows<T> result = rows_to_write(grad_x, chunk, state.grad_x);
    Rows<T> residual = result;
    if (kResidual) residual = rows_to_write(grad_residual, chunk, state.grad_residual);
    input_gradient(state, chunk.count, read(unit, state), result, residual);
    finish_rows(result, grad_x, chunk, state.grad_x);
    if (kResidual) finish_rows(residual, grad_residual, chunk, state.grad_residual);
    if (chunk.first > 0) return;
    double* own = weight_sums + 2 * ((image + chunk.image) * p.x.size[1] + channel);
    for (int64_t c = 0; c < s.channels; ++c) {
      own[2 * c] = state.merged.product[c] * state.merged.rstd[c];
      own[2 * c + 1] = state.merged.grad[c];
    }
  }
};

template <bool kRelu, bool kResidual, typename T>
bool backward(const GroupNormActBackwardParams& p, int threads) {
  using Pass = BackwardPass<kRelu, kResidual, T>;
  const Steps steps(p.forward.x, p.forward.groups);
  const int64_t channels = p.forward.x.size[1], images = steps.count > 0 ? p.forward.x.size[0] : 0;
  const TeamMemory memory(bytes_of<Array<double>>(images * channels * 2), 0, 0);
  if (memory.is_exhausted()) return false;
  double* const weight_sums = memory.shared<Array<double>>(images * channels * 2).data;
  const typename Pass::Params all{p, weight_sums};
  if (!run_steps<Pass>(all, p.forward, steps, kBackwardSums, threads)) return false;
  for (int64_t c = 0; c < channels; ++c) {  // in the order of the images
    double weight = 0.0, bias = 0.0;
    for (int64_t n = 0; n < images; ++n) {
      weight += weight_sums[2 * (n * channels + c)];
      bias += weight_sums[2 * (n * channels + c) + 1];
    }
    set_parameter(p.forward, p.grad_weight, c, weight);
    set_parameter(p.forward, p.grad_bias, c, bias);
  }
  return true;
}

template <typename T>
bool forward(const GroupNormActParams& p, int threads) {
  return run_steps<ForwardPass<T>>(p, p, Steps(p.x, p.groups), kForwardSums, threads);
}

template <typename T>
bool backward(const GroupNormActBackwardParams& p, int threads) {
  const bool residual = p.grad_residual.data != nullptr;
  if (p.forward.relu) return residual ? backward<true, true, T>(p, threads) : backward<true, false, T>(p, threads);
  return residual ? backward<false, true, T>(p, threads) : backward<false, false, T>(p, threads);
}

}  // namespace

bool group_norm_act_forward_cpu(const GroupNormActParams& params, int threads) {
  return SEGNEXT_WITH_ELEMENT(params.dtype, forward, params, threads);
}

bool group_norm_act_backward_cpu(const GroupNormActBackwardParams& params, int threads) {
  return SEGNEXT_WITH_ELEMENT(params.forward.dtype, backward, params, threads);
}

}  // namespace SEGNEXT_ISA
}  // namespace segnext
