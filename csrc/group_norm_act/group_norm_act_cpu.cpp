// group_norm_act on the CPU: y = act((x - mean) rstd w + b + residual), mean and rstd of each (image, group).
//
// Work is cut into chunks of an image's pixels (32 Ki elements: 128 KiB of float stay in the second-level cache; at
// most 256 pixels: the sums are short), read as rows of channels (common/pixels.h). Two passes over memory, forward and
// backward alike:
//   1. every chunk: per channel its mean m, then around m the sums q of (x - m)^2 and d of x - m (nothing but m's own
//      rounding), backward also a of g and b of g (x - m), g being the gradient that ReLU lets through;
//   2. every chunk again, its thread's last one first as that is still in the caches: normalise, or grad_x.
// Between them each thread merges, in double and in the order of the chunks, those of the images it works on:
//   mean = sum(n m + d) / N,  M2 = sum(q + 2 (m - mean) d + n (m - mean)^2),  sum g (x - mean) = sum(b + (m - mean) a).
// Sums are thus taken around values close to the mean: an offset of the data costs no digits. The chunks depend on the
// shape alone and the order is fixed: results do not depend on the number of threads.
//
//   grad_x = w rstd g - rstd mean(w g) - (x - mean) rstd^2 mean(w g xhat),   grad_residual = g
//
// Bytes: x twice and out (and residual) once forward; x, g and out twice, grad_x (and grad_residual) once backward.
// 6 operations an element forward, 14 backward: bound by memory. Predicted for 256 channels at 64x64, float: 12 MiB
// forward and 28 MiB backward at the 70 GB/s of a copy in the third-level cache: 0.18 and 0.42 ms.

#include <omp.h>

#include "common/arena.h"
#include "common/pixels.h"
#include "common/scratch.h"
#include "group_norm_act/group_norm_act.h"

namespace segnext {
namespace SEGNEXT_ISA {
namespace {

constexpr int64_t kChunkElements = 32768, kChunkPixels = 256;
constexpr int64_t kUnroll = 4;  // pixels taken together: they share the loads and stores of the channels' sums
constexpr int kForwardSums = 3, kBackwardSums = 5;

struct Sizes {
  int64_t images, channels, padded, pixels, chunk, chunks;

  explicit Sizes(const Tensor4& x)
      : images(x.size[0]), channels(x.size[1]), padded(whole_vectors(x.size[1])), pixels(x.size[2] * x.size[3]) {
    chunk = kChunkElements / (padded > 0 ? padded : 1);
    if (chunk < 2 * kUnroll) chunk = 2 * kUnroll;
    if (chunk > kChunkPixels) chunk = kChunkPixels;
    chunks = (pixels + chunk - 1) / chunk;
    if (channels == 0 || pixels == 0) images = 0;
  }

  int64_t count(int64_t index) const { return pixels - index * chunk < chunk ? pixels - index * chunk : chunk; }
};

// One chunk's sums per channel, an array of `padded` floats each.
struct Sums {
  float *mean, *squares, *deviation;  // m, q, d
  float *grad, *product;              // a, b: backward only
};

Sums sums_at(float* all, const Sizes& s, int arrays, int64_t unit) {
  float* own = all + unit * arrays * s.padded;
  return {own, own + s.padded, own + 2 * s.padded, own + 3 * s.padded, own + 4 * s.padded};
}

// visit(integral constant of pixels taken together, pixel) over `count` pixels.
template <int64_t kCount>
struct Together {
  static constexpr int64_t value = kCount;
};
template <typename Visit>
void for_each_pixel(int64_t count, const Visit& visit) {
  int64_t i = 0;
  for (; i + kUnroll <= count; i += kUnroll) visit(Together<kUnroll>{}, i);
  for (; i < count; ++i) visit(Together<1>{}, i);
}

void clear(float* values, int64_t count) { std::memset(values, 0, count * sizeof(float)); }

template <typename T>
void chunk_mean(const Rows<const T>& x, int64_t count, const Sizes& s, float* mean) {
  clear(mean, s.padded);
  for_each_pixel(count, [&](auto together, int64_t i) {
    const T* row = x.data + i * x.stride;
    for (int64_t c = 0; c < s.padded; c += kLanes) {
      FloatV sum = load(mean + c);
      for (int64_t p = 0; p < decltype(together)::value; ++p) sum += load_vector(row + p * x.stride + c);
      store(mean + c, sum);
    }
  });
  const float share = 1.0f / static_cast<float>(count);
  for (int64_t c = 0; c < s.padded; c += kLanes) store(mean + c, load(mean + c) * share);
}

// Adds to `squares` and `deviation`.
template <int64_t kCount, typename T>
inline void add_deviations(const T* x, int64_t stride, int64_t c, const Sums& sums, FloatV (&centred)[kCount]) {
  const FloatV mean = load(sums.mean + c);
  FloatV squares = load(sums.squares + c), deviation = load(sums.deviation + c);
  for (int64_t p = 0; p < kCount; ++p) {
    centred[p] = load_vector(x + p * stride + c) - mean;
    squares += centred[p] * centred[p];
    deviation += centred[p];
  }
  store(sums.squares + c, squares);
  store(sums.deviation + c, deviation);
}

// The gradient behind the activation, as PyTorch: zero where out <= 0, so that NaN lets it through.
template <bool kRelu, typename T>
inline FloatV masked(const T* grad, const T* out) {
  const FloatV g = load_vector(grad);
  if constexpr (!kRelu) return g;
  return load_vector(out) <= FloatV{} ? FloatV{} : g;
}

// An image's statistics and gradient sums, per channel, merged from its chunks.
struct Merged {
  double *mean, *rstd;     // the group's
  double *grad, *product;  // sum of g, of g (x - mean): backward only
  double* sum;

  Merged(Arena& arena, const Sizes& s)
      : mean(arena.take<double>(s.padded)),
        rstd(arena.take<double>(s.padded)),
        grad(arena.take<double>(s.padded)),
        product(arena.take<double>(s.padded)),
        sum(arena.take<double>(s.padded)) {}
};

// target[c] = the sum of values over the channels of c's group.
void spread_group_sums(const double* values, const Sizes& s, int64_t groups, double* target) {
  const int64_t width = s.channels / groups;
  for (int64_t first = 0; first < s.channels; first += width) {
    double total = 0.0;
    for (int64_t c = first; c < first + width; ++c) total += values[c];
    for (int64_t c = first; c < first + width; ++c) target[c] = total;
  }
}

void merge_statistics(float* all, const Sizes& s, int arrays, int64_t image, int64_t groups, double eps, Merged& m) {
  const double share = 1.0 / (static_cast<double>(s.channels / groups) * static_cast<double>(s.pixels));
  for (int64_t c = 0; c < s.channels; ++c) m.sum[c] = 0.0;
  for (int64_t i = 0; i < s.chunks; ++i) {
    const Sums part = sums_at(all, s, arrays, image * s.chunks + i);
    const double count = static_cast<double>(s.count(i));
    for (int64_t c = 0; c < s.channels; ++c) m.sum[c] += count * part.mean[c] + part.deviation[c];
  }
  spread_group_sums(m.sum, s, groups, m.mean);
  for (int64_t c = 0; c < s.channels; ++c) {
    m.mean[c] *= share;
    m.sum[c] = 0.0;
  }
  for (int64_t i = 0; i < s.chunks; ++i) {
    const Sums part = sums_at(all, s, arrays, image * s.chunks + i);
    const double count = static_cast<double>(s.count(i));
    for (int64_t c = 0; c < s.channels; ++c) {
      const double apart = part.mean[c] - m.mean[c];
      m.sum[c] += part.squares[c] + apart * (2.0 * part.deviation[c] + count * apart);
    }
  }
  spread_group_sums(m.sum, s, groups, m.rstd);
  for (int64_t c = 0; c < s.channels; ++c) {
    const double variance = m.rstd[c] * share;
    m.rstd[c] = 1.0 / __builtin_sqrt((variance < 0.0 ? 0.0 : variance) + eps);  // below zero by rounding; NaN stays
  }
}

void merge_gradients(float* all, const Sizes& s, int64_t image, Merged& m) {
  for (int64_t c = 0; c < s.channels; ++c) m.grad[c] = m.product[c] = 0.0;
  for (int64_t i = 0; i < s.chunks; ++i) {
    const Sums part = sums_at(all, s, kBackwardSums, image * s.chunks + i);
    for (int64_t c = 0; c < s.channels; ++c) {
      m.grad[c] += part.grad[c];
      m.product[c] += part.product[c] + (part.mean[c] - m.mean[c]) * part.grad[c];
    }
  }
}

float parameter(const GroupNormActParams& p, const Tensor4& tensor, int64_t c) {
  if (p.affine_dtype == DType::kBFloat16)
    return to_float(static_cast<const BFloat16*>(tensor.data)[c * tensor.stride[0]]);
  return static_cast<const float*>(tensor.data)[c * tensor.stride[0]];
}

void set_parameter(const GroupNormActParams& p, const Tensor4& tensor, int64_t c, double value) {
  const float rounded = static_cast<float>(value);
  if (p.affine_dtype == DType::kBFloat16) {
    static_cast<BFloat16*>(tensor.data)[c] = from_float<BFloat16>(rounded);
  } else {
    static_cast<float*>(tensor.data)[c] = rounded;
  }
}

// Runs first(unit), and when every unit is done second(unit), on contiguous shares of the threads.
template <typename ThreadState, typename First, typename Second>
bool two_passes(const Sizes& s, int threads, const First& first, const Second& second) {
  Arena measure{nullptr};
  ThreadState{measure, s};
  const Scratch scratch(threads * measure.used);
  if (scratch.base() == nullptr) return false;
#pragma omp parallel num_threads(threads)
  {
    const int64_t team = omp_get_num_threads(), member = omp_get_thread_num(), units = s.images * s.chunks;
    const int64_t begin = units * member / team, end = units * (member + 1) / team;
    Arena arena{scratch.base() + member * measure.used};
    ThreadState state{arena, s};
    for (int64_t unit = begin; unit < end; ++unit) first(unit, state);
#pragma omp barrier
    for (int64_t unit = end - 1; unit >= begin; --unit) second(unit, state);
  }
  return true;
}

template <typename T>
struct ForwardState {
  T *x, *residual, *out;
  Merged merged;
  float *mean, *scale, *shift;  // per channel: y = (x - mean) scale + shift
  int64_t image = -1;           // whose they are

  ForwardState(Arena& arena, const Sizes& s)
      : x(arena.take<T>(s.chunk * s.padded)),
        residual(arena.take<T>(s.chunk * s.padded)),
        out(arena.take<T>(s.chunk * s.padded)),
        merged(arena, s),
        mean(arena.take<float>(s.padded)),
        scale(arena.take<float>(s.padded)),
        shift(arena.take<float>(s.padded)) {}

  void prepare(const GroupNormActParams& p, const Sizes& s, float* all, int64_t which) {
    if (image == which) return;
    image = which;
    merge_statistics(all, s, kForwardSums, image, p.groups, p.eps, merged);
    for (int64_t c = 0; c < s.padded; ++c) mean[c] = scale[c] = shift[c] = 0.0f;
    for (int64_t c = 0; c < s.channels; ++c) {
      const double factor = parameter(p, p.weight, c) * merged.rstd[c];
      mean[c] = static_cast<float>(merged.mean[c]);
      scale[c] = static_cast<float>(factor);
      // what rounding took from the mean is given back here
      shift[c] = static_cast<float>(parameter(p, p.bias, c) - (merged.mean[c] - mean[c]) * factor);
    }
  }
};

template <bool kResidual, typename T>
void normalise(const GroupNormActParams& p, const Sizes& s, const ForwardState<T>& state, int64_t count,
               const Rows<const T>& x, const Rows<const T>& residual, const Rows<T>& out) {
  const FloatV lowest = broadcast(p.relu ? 0.0f : -__builtin_inff());
  for_each_pixel(count, [&](auto together, int64_t i) {
    for (int64_t c = 0; c < s.padded; c += kLanes) {
      const FloatV mean = load(state.mean + c), scale = load(state.scale + c), shift = load(state.shift + c);
      for (int64_t p = i; p < i + decltype(together)::value; ++p) {
        FloatV y = (load_vector(x.data + p * x.stride + c) - mean) * scale + shift;
        if (kResidual) y += load_vector(residual.data + p * residual.stride + c);
        store_vector(out.data + p * out.stride + c, max(lowest, y));  // NaN is never below: it stays
      }
    }
  });
}

template <typename T>
bool forward(const GroupNormActParams& p, int threads) {
  const Sizes s(p.x);
  const Scratch sums(s.images * s.chunks * kForwardSums * s.padded * static_cast<int64_t>(sizeof(float)));
  float* all = reinterpret_cast<float*>(sums.base());
  if (all == nullptr) return false;
  return two_passes<ForwardState<T>>(
      s, threads,
      [&](int64_t unit, const ForwardState<T>& state) {
        const int64_t image = unit / s.chunks, index = unit % s.chunks, count = s.count(index);
        const Rows<const T> x = read_rows<T, T>(p.x, image, index * s.chunk, count, kLanes, state.x);
        const Sums own = sums_at(all, s, kForwardSums, unit);
        chunk_mean(x, count, s, own.mean);
        clear(own.squares, 2 * s.padded);
        for_each_pixel(count, [&](auto together, int64_t i) {
          FloatV centred[decltype(together)::value];
          for (int64_t c = 0; c < s.padded; c += kLanes)
            add_deviations(x.data + i * x.stride, x.stride, c, own, centred);
        });
      },
      [&](int64_t unit, ForwardState<T>& state) {
        const int64_t image = unit / s.chunks, index = unit % s.chunks, count = s.count(index);
        const int64_t first = index * s.chunk;
        state.prepare(p, s, all, image);
        const Rows<const T> x = read_rows<T, T>(p.x, image, first, count, kLanes, state.x);
        const Rows<T> out = rows_to_write(p.out, image, first, state.out);
        if (p.residual.data == nullptr) {
          normalise<false>(p, s, state, count, x, x, out);
        } else {
          const Rows<const T> residual = read_rows<T, T>(p.residual, image, first, count, kLanes, state.residual);
          normalise<true>(p, s, state, count, x, residual, out);
        }
        finish_rows(out, p.out, image, first, count, state.out);
      });
}

template <typename T>
struct BackwardState {
  T *x, *out, *grad, *grad_x, *grad_residual;
  Merged merged;
  float *mean, *scale, *slope, *shift;  // per channel: grad_x = g scale - (x - mean) slope + shift
  int64_t image = -1;

  BackwardState(Arena& arena, const Sizes& s)
      : x(arena.take<T>(s.chunk * s.padded)),
        out(arena.take<T>(s.chunk * s.padded)),
        grad(arena.take<T>(s.chunk * s.padded)),
        grad_x(arena.take<T>(s.chunk * s.padded)),
        grad_residual(arena.take<T>(s.chunk * s.padded)),
        merged(arena, s),
        mean(arena.take<float>(s.padded)),
        scale(arena.take<float>(s.padded)),
        slope(arena.take<float>(s.padded)),
        shift(arena.take<float>(s.padded)) {}

  void prepare(const GroupNormActParams& p, const Sizes& s, float* all, int64_t which) {
    if (image == which) return;
    image = which;
    Merged& m = merged;
    merge_statistics(all, s, kBackwardSums, image, p.groups, p.eps, m);
    merge_gradients(all, s, image, m);
    const double share = 1.0 / (static_cast<double>(s.channels / p.groups) * static_cast<double>(s.pixels));
    for (int64_t c = 0; c < s.padded; ++c) mean[c] = scale[c] = slope[c] = shift[c] = 0.0f;
    for (int64_t c = 0; c < s.channels; ++c) m.sum[c] = m.grad[c] * parameter(p, p.weight, c);
    spread_group_sums(m.sum, s, p.groups, m.sum);
    for (int64_t c = 0; c < s.channels; ++c) shift[c] = static_cast<float>(-m.rstd[c] * share * m.sum[c]);
    for (int64_t c = 0; c < s.channels; ++c) m.sum[c] = m.product[c] * parameter(p, p.weight, c);
    spread_group_sums(m.sum, s, p.groups, m.sum);
    for (int64_t c = 0; c < s.channels; ++c) {
      const double factor = m.rstd[c] * m.rstd[c] * m.rstd[c] * share * m.sum[c];
      mean[c] = static_cast<float>(m.mean[c]);
      scale[c] = static_cast<float>(parameter(p, p.weight, c) * m.rstd[c]);
      slope[c] = static_cast<float>(factor);
      shift[c] += static_cast<float>((m.mean[c] - mean[c]) * factor);
    }
  }
};

template <bool kRelu, typename T>
void gradient_sums(const Sizes& s, int64_t count, const Rows<const T>& x, const Rows<const T>& out,
                   const Rows<const T>& grad, const Sums& own) {
  chunk_mean(x, count, s, own.mean);
  clear(own.squares, 4 * s.padded);
  for_each_pixel(count, [&](auto together, int64_t i) {
    FloatV centred[decltype(together)::value];
    for (int64_t c = 0; c < s.padded; c += kLanes) {
      add_deviations(x.data + i * x.stride, x.stride, c, own, centred);
      FloatV sum = load(own.grad + c), product = load(own.product + c);
      for (int64_t p = 0; p < decltype(together)::value; ++p) {
        const FloatV g = masked<kRelu>(grad.data + (i + p) * grad.stride + c, out.data + (i + p) * out.stride + c);
        sum += g;
        product += g * centred[p];
      }
      store(own.grad + c, sum);
      store(own.product + c, product);
    }
  });
}

template <bool kRelu, bool kResidual, typename T>
void input_gradient(const Sizes& s, const BackwardState<T>& state, int64_t count, const Rows<const T>& x,
                    const Rows<const T>& out, const Rows<const T>& grad, const Rows<T>& grad_x,
                    const Rows<T>& grad_residual) {
  for_each_pixel(count, [&](auto together, int64_t i) {
    for (int64_t c = 0; c < s.padded; c += kLanes) {
      const FloatV mean = load(state.mean + c), scale = load(state.scale + c);
      const FloatV slope = load(state.slope + c), shift = load(state.shift + c);
      for (int64_t p = i; p < i + decltype(together)::value; ++p) {
        const FloatV g = masked<kRelu>(grad.data + p * grad.stride + c, out.data + p * out.stride + c);
        const FloatV centred = load_vector(x.data + p * x.stride + c) - mean;
        store_vector(grad_x.data + p * grad_x.stride + c, (g * scale + shift) - centred * slope);
        if (kResidual) store_vector(grad_residual.data + p * grad_residual.stride + c, g);
      }
    }
  });
}

// Gradients of the parameters from each image's sums (images, 2, padded), in the order of the images.
void parameter_gradients(const GroupNormActBackwardParams& p, const Sizes& s, const double* image_sums) {
  for (int64_t c = 0; c < p.forward.x.size[1]; ++c) {
    double weight = 0.0, bias = 0.0;
    for (int64_t n = 0; n < s.images; ++n) {
      weight += image_sums[2 * n * s.padded + c];
      bias += image_sums[(2 * n + 1) * s.padded + c];
    }
    set_parameter(p.forward, p.grad_weight, c, weight);
    set_parameter(p.forward, p.grad_bias, c, bias);
  }
}

template <bool kRelu, bool kResidual, typename T>
bool backward(const GroupNormActBackwardParams& p, int threads) {
  const GroupNormActParams& f = p.forward;
  const Sizes s(f.x);
  Arena measure{nullptr};
  measure.take<double>(s.images * 2 * s.padded);
  measure.take<float>(s.images * s.chunks * kBackwardSums * s.padded);
  const Scratch scratch(measure.used);
  if (scratch.base() == nullptr) return false;
  Arena arena{scratch.base()};
  double* image_sums = arena.take<double>(s.images * 2 * s.padded);
  float* all = arena.take<float>(s.images * s.chunks * kBackwardSums * s.padded);

  const auto read = [&](const Tensor4& tensor, int64_t unit, T* memory) {
    const int64_t index = unit % s.chunks;
    return read_rows<T, T>(tensor, unit / s.chunks, index * s.chunk, s.count(index), kLanes, memory);
  };
  // without ReLU the output is not looked at
  const Tensor4& mask = kRelu ? f.out : p.grad;
  const bool done = two_passes<BackwardState<T>>(
      s, threads,
      [&](int64_t unit, const BackwardState<T>& state) {
        const Rows<const T> x = read(f.x, unit, state.x), grad = read(p.grad, unit, state.grad);
        const Rows<const T> out = kRelu ? read(mask, unit, state.out) : grad;
        gradient_sums<kRelu>(s, s.count(unit % s.chunks), x, out, grad, sums_at(all, s, kBackwardSums, unit));
      },
      [&](int64_t unit, BackwardState<T>& state) {
        const int64_t image = unit / s.chunks, index = unit % s.chunks, count = s.count(index);
        const int64_t first = index * s.chunk;
        state.prepare(f, s, all, image);
        const Rows<const T> x = read(f.x, unit, state.x), grad = read(p.grad, unit, state.grad);
        const Rows<const T> out = kRelu ? read(mask, unit, state.out) : grad;
        const Rows<T> grad_x = rows_to_write(p.grad_x, image, first, state.grad_x);
        Rows<T> grad_residual = grad_x;
        if (kResidual) grad_residual = rows_to_write(p.grad_residual, image, first, state.grad_residual);
        input_gradient<kRelu, kResidual>(s, state, count, x, out, grad, grad_x, grad_residual);
        finish_rows(grad_x, p.grad_x, image, first, count, state.grad_x);
        if (kResidual) finish_rows(grad_residual, p.grad_residual, image, first, count, state.grad_residual);
        if (index > 0) return;
        double* own = image_sums + 2 * image * s.padded;
        for (int64_t c = 0; c < s.channels; ++c) {
          own[c] = state.merged.product[c] * state.merged.rstd[c];
          own[s.padded + c] = state.merged.grad[c];
        }
      });
  if (done) parameter_gradients(p, s, image_sums);
  return done;
}

template <typename T>
bool backward(const GroupNormActBackwardParams& p, int threads) {
  const bool residual = p.grad_residual.data != nullptr;
  if (p.forward.relu) return residual ? backward<true, true, T>(p, threads) : backward<true, false, T>(p, threads);
  return residual ? backward<false, true, T>(p, threads) : backward<false, false, T>(p, threads);
}

}  // namespace

bool group_norm_act_forward_cpu(const GroupNormActParams& params, int threads) {
  return params.dtype == DType::kBFloat16 ? forward<BFloat16>(params, threads) : forward<float>(params, threads);
}

bool group_norm_act_backward_cpu(const GroupNormActBackwardParams& params, int threads) {
  return params.forward.dtype == DType::kBFloat16 ? backward<BFloat16>(params, threads)
                                                  : backward<float>(params, threads);
}

}  // namespace SEGNEXT_ISA
}  // namespace segnext
