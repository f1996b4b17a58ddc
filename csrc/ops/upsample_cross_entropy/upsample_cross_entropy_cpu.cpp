// upsample_cross_entropy on the CPU: neither the resized logits nor their gradient ever exist.
//
// With z the interpolated logits of a pixel, t its label, w the class weights and s the label smoothing:
//
// clang-format off
//   loss          = (1 - s) w_t (lse(z) - z_t) + s / K sum_k w_k (lse(z) - z_k)
//   d loss / d z  = (sum_k q_k) softmax(z) - q,   q_k = ((1 - s) [k = t] + s / K) w_k
// clang-format on
//
// A row of output pixels is interpolated between two source rows once (channels innermost, padded to whole vectors).
// Then every pixel takes two FMAs and one exponential per vector of classes. The backward computes the softmax again
// and adds the pixel's gradient to its two columns of a row buffer, and that buffer to its two source rows.
// Bytes: logits, target and the low-resolution gradient, once each.
//
// Sums run in the order of the rows, so results do not depend on the number of threads. A thread that owns a band of
// source rows repeats those output rows of the band above that reach into its own.

#include <cfloat>
#include <cmath>

#include "cpu/convert.h"
#include "cpu/exponential.h"
#include "cpu/memory.h"
#include "cpu/resize.h"
#include "cpu/vector.h"
#include "ops/upsample_cross_entropy/upsample_cross_entropy.h"

namespace segnext {
namespace SEGNEXT_ISA {
namespace {

using Params = UpsampleCrossEntropyParams;

constexpr Real kLargest = static_cast<Real>(sizeof(Real) == sizeof(float) ? FLT_MAX : DBL_MAX);

Real label_smoothing(const Params& p) { return static_cast<Real>(p.label_smoothing); }

struct LossSizes {
  int64_t batch, classes, height, width, out_height, out_width, padded_classes;

  explicit LossSizes(const Params& p)
      : batch(p.logits.size[0]),
        classes(p.logits.size[1]),
        height(p.logits.size[2]),
        width(p.logits.size[3]),
        out_height(p.target.size[1]),
        out_width(p.target.size[2]),
        padded_classes(padded(classes)) {}
};

// Memory that all threads share.
struct LossShared {
  Axis rows, columns;
  Real* weight;  // (padded classes) class weights, zero in the padding
  double* row_loss;
  double* row_weight;  // (batch * out_height) each

  LossShared(Arena& arena, const LossSizes& s)
      : rows(arena, s.out_height),
        columns(arena, s.out_width),
        weight(arena.take<Real>(s.padded_classes)),
        row_loss(arena.take<double>(s.batch * s.out_height)),
        row_weight(arena.take<double>(s.batch * s.out_height)) {}
};

void fill_shared(LossShared& shared, const Params& p, const LossSizes& s) {
  fill_axis(shared.rows, s.height, s.out_height, static_cast<Real>(s.height) / static_cast<Real>(s.out_height));
  fill_axis(shared.columns, s.width, s.out_width, static_cast<Real>(s.width) / static_cast<Real>(s.out_width));
  const Real* given = static_cast<const Real*>(p.class_weight);
  for (int64_t k = 0; k < s.padded_classes; ++k) {
    shared.weight[k] = k >= s.classes ? 0.0f : given == nullptr ? 1.0f : given[k];
  }
}

struct LogitRow {
  Real* values;   // (width, padded classes)
  int64_t index;  // number of the (image, source row) that it holds; -1: none
};

template <typename T>
void load_row(const Params& p, const LossSizes& s, int64_t n, int64_t y, LogitRow& row) {
  if (row.index == n * s.height + y) return;
  row.index = n * s.height + y;
  const T* source = static_cast<const T*>(p.logits.data) + n * p.logits.stride[0] + y * p.logits.stride[2];
  for (int64_t x = 0; x < s.width; ++x) {
    Real* out = row.values + x * s.padded_classes;
    const T* pixel = source + x * p.logits.stride[3];
    for (int64_t k = 0; k < s.classes; ++k) out[k] = to_real(pixel[k * p.logits.stride[1]]);
    for (int64_t k = s.classes; k < s.padded_classes; ++k) out[k] = -kLargest;  // its e^z is 0 beside any class
  }
}

int64_t label_at(const Params& p, int64_t index) {
  return p.target_is_byte ? static_cast<const uint8_t*>(p.target.data)[index]
                          : static_cast<const int64_t*>(p.target.data)[index];
}

struct LossScratch {
  LogitRow slot[2];
  Real* blended;   // (width, padded classes) the output row at the source's columns
  Real* z;         // (padded classes) one pixel
  Real* grad_row;  // (width, padded classes)

  LossScratch(Arena& arena, const LossSizes& s) {
    for (LogitRow& row : slot) {
      row.values = arena.take<Real>(s.width * s.padded_classes);
      row.index = -1;
    }
    blended = arena.take<Real>(s.width * s.padded_classes);
    z = arena.take<Real>(s.padded_classes);
    grad_row = arena.take<Real>(s.width * s.padded_classes);
  }
};

struct LossBackwardScratch : LossScratch {
  Real* band;  // (band_rows, width, padded classes) the gradient of a band of source rows

  LossBackwardScratch(Arena& arena, const LossSizes& s, int64_t band_rows)
      : LossScratch(arena, s), band(arena.take<Real>(band_rows * s.width * s.padded_classes)) {}
};

// Computes the output row y of image n at the source's columns.
template <typename T>
void blend_rows(const Params& p, const LossSizes& s, const Axis& rows, int64_t n, int64_t y, LossScratch& t) {
  const int64_t top = rows.source[y], bottom = top + rows.reach(top);
  load_row<T>(p, s, n, top, t.slot[top & 1]);
  load_row<T>(p, s, n, bottom, t.slot[bottom & 1]);
  const Real *a = t.slot[top & 1].values, *b = t.slot[bottom & 1].values;
  const Real w0 = rows.w0[y], w1 = rows.w1[y];
  for (int64_t i = 0; i < s.width * s.padded_classes; i += kLanes)
    store(t.blended + i, w0 * load(a + i) + w1 * load(b + i));
}

struct Softmax {
  Real largest, sum;  // sum of e^(z - largest)
};

// Computes z of the output pixel x, and its softmax's largest and sum.
Softmax pixel_softmax(const LossSizes& s, const Axis& columns, int64_t x, LossScratch& t) {
  const int64_t left = columns.source[x], right = left + columns.reach(left);
  const Real *a = t.blended + left * s.padded_classes, *b = t.blended + right * s.padded_classes;
  const Real w0 = columns.w0[x], w1 = columns.w1[x];
  Vec best = broadcast(-__builtin_inff());
  for (int64_t k = 0; k < s.padded_classes; k += kLanes) {
    const Vec z = w0 * load(a + k) + w1 * load(b + k);
    store(t.z + k, z);
    best = max(z, best);  // NaN is never the largest; it comes back through the sum
  }
  Real largest = best[0];
  for (int lane = 1; lane < kLanes; ++lane) largest = best[lane] > largest ? best[lane] : largest;
  Vec sums = {};
  for (int64_t k = 0; k < s.padded_classes; k += kLanes) sums += exp_negative(load(t.z + k) - largest);
  Real sum = 0.0f;
  for (int lane = 0; lane < kLanes; ++lane) sum += sums[lane];
  return {largest, sum};
}

template <typename T>
bool forward_row(const Params& p, const LossSizes& s, const LossShared& shared, int64_t n, int64_t y, LossScratch& t) {
  blend_rows<T>(p, s, shared.rows, n, y, t);
  const int64_t row = n * s.out_height + y;
  const Real smoothing = label_smoothing(p);
  double loss = 0.0, weight = 0.0;
  for (int64_t x = 0; x < s.out_width; ++x) {
    const int64_t label = label_at(p, row * s.out_width + x);
    if (label == p.ignore_index) continue;
    if (label < 0 || label >= s.classes) return false;
    const Softmax softmax = pixel_softmax(s, shared.columns, x, t);
    const Real lse = softmax.largest + std::log(softmax.sum);
    const Real hit = shared.weight[label] * (lse - t.z[label]);
    loss += (1.0f - smoothing) * hit;
    if (smoothing > 0.0f) {
      Real all = 0.0f;
      for (int64_t k = 0; k < s.classes; ++k) all += shared.weight[k] * (lse - t.z[k]);
      loss += smoothing / static_cast<Real>(s.classes) * all;
    }
    weight += shared.weight[label];
  }
  shared.row_loss[row] = loss;
  shared.row_weight[row] = weight;
  return true;
}

double total_of(const double* rows, int64_t count) {
  double total = 0.0;
  for (int64_t i = 0; i < count; ++i) total += rows[i];
  return total;
}

template <typename T>
CrossEntropyStatus forward(const Params& p, double* loss, int threads) {
  const LossSizes s(p);
  const TeamMemory memory(bytes_of<LossShared>(s), bytes_of<LossScratch>(s), threads);
  if (memory.is_exhausted()) return CrossEntropyStatus::kNoMemory;
  auto shared = memory.shared<LossShared>(s);
  fill_shared(shared, p, s);
  const int64_t rows = s.batch * s.out_height;
  bool in_range = true;
#pragma omp parallel num_threads(threads) reduction(&& : in_range)
  {
    const Member me;
    auto scratch = memory.own<LossScratch>(me, s);
    for (int64_t row = me.begin(rows); row < me.end(rows); ++row) {
      in_range = forward_row<T>(p, s, shared, row / s.out_height, row % s.out_height, scratch) && in_range;
    }
  }
  if (in_range) {
    const double divisor = p.mean_all ? static_cast<double>(rows * s.out_width) : total_of(shared.row_weight, rows);
    *loss = static_cast<Real>(total_of(shared.row_loss, rows) / divisor);
  }
  return in_range ? CrossEntropyStatus::kOk : CrossEntropyStatus::kClassOutOfRange;
}

// Adds scale * d loss / d (blended row) of the output row y to grad_row.
void backward_row(const Params& p, const LossSizes& s, const LossShared& shared, int64_t row, Real scale,
                  Real weight_sum, LossScratch& t) {
  const Real on = 1.0f - label_smoothing(p), spread = label_smoothing(p) / static_cast<Real>(s.classes);
  const Real spread_sum = spread * weight_sum;
  for (int64_t x = 0; x < s.out_width; ++x) {
    const int64_t label = label_at(p, row * s.out_width + x);
    if (label == p.ignore_index || label < 0 || label >= s.classes) continue;
    const Softmax softmax = pixel_softmax(s, shared.columns, x, t);
    const Real q_sum = spread_sum + on * shared.weight[label];
    const Real over_sum = q_sum / softmax.sum;
    const int64_t left = shared.columns.source[x], right = left + shared.columns.reach(left);
    Real *a = t.grad_row + left * s.padded_classes, *b = t.grad_row + right * s.padded_classes;
    const Real w0 = scale * shared.columns.w0[x], w1 = scale * shared.columns.w1[x];
    for (int64_t k = 0; k < s.padded_classes; k += kLanes) {
      // q first: added to the row one by one, the two terms of a label would leave their rounding, not their
      // difference's
      Vec q = spread * load(shared.weight + k);
      if (k <= label && label < k + kLanes) q[label - k] += on * shared.weight[label];
      const Vec g = over_sum * exp_negative(load(t.z + k) - softmax.largest) - q;
      store(a + k, load(a + k) + w0 * g);
      store(b + k, load(b + k) + w1 * g);
    }
  }
}

template <typename T>
void store_row(const Real* values, const LossSizes& s, const Tensor4& out, int64_t n, int64_t y) {
  T* target = static_cast<T*>(out.data) + n * out.stride[0] + y * out.stride[2];
  for (int64_t x = 0; x < s.width; ++x) {
    for (int64_t k = 0; k < s.classes; ++k) {
      target[x * out.stride[3] + k * out.stride[1]] = from_real<T>(values[x * s.padded_classes + k]);
    }
  }
}

// Computes the gradient of source rows [first, last) of image n.
template <typename T>
void backward_band(const Params& p, const LossSizes& s, const LossShared& shared, int64_t n, int64_t first,
                   int64_t last, Real scale, Real weight_sum, const Tensor4& grad_logits, LossBackwardScratch& t) {
  Real* const band = t.band;
  const int64_t row_reals = s.width * s.padded_classes;
  std::memset(band, 0, (last - first) * row_reals * sizeof(Real));
  for (int64_t y = 0; y < s.out_height; ++y) {
    const int64_t top = shared.rows.source[y], bottom = top + shared.rows.reach(top);
    if (bottom < first || top >= last) continue;
    blend_rows<T>(p, s, shared.rows, n, y, t);
    std::memset(t.grad_row, 0, row_reals * sizeof(Real));
    backward_row(p, s, shared, n * s.out_height + y, scale, weight_sum, t);
    const auto add = [&](int64_t row, Real weight) {
      if (row < first || row >= last) return;
      Real* out = band + (row - first) * row_reals;
      for (int64_t i = 0; i < row_reals; i += kLanes) store(out + i, load(out + i) + weight * load(t.grad_row + i));
    };
    add(top, shared.rows.w0[y]);
    add(bottom, shared.rows.w1[y]);
  }
  for (int64_t y = first; y < last; ++y) store_row<T>(band + (y - first) * row_reals, s, grad_logits, n, y);
}

double counted_weight(const Params& p, const LossSizes& s, const LossShared& shared) {
  double total = 0.0;
  for (int64_t row = 0; row < s.batch * s.out_height; ++row) {
    double in_row = 0.0;  // as in the forward: one long chain would show in float64
    for (int64_t x = 0; x < s.out_width; ++x) {
      const int64_t label = label_at(p, row * s.out_width + x);
      if (label != p.ignore_index && label >= 0 && label < s.classes) in_row += shared.weight[label];
    }
    total += in_row;
  }
  return total;
}

template <typename T>
CrossEntropyStatus backward(const Params& p, double grad, const Tensor4& grad_logits, int threads) {
  const LossSizes s(p);
  if (s.batch == 0) return CrossEntropyStatus::kOk;
  // A unit is a whole image if there are enough for all threads, else a band of source rows.
  const int64_t bands = blocks_of(threads, s.batch), band_rows = blocks_of(s.height, bands);
  const TeamMemory memory(bytes_of<LossShared>(s), bytes_of<LossBackwardScratch>(s, band_rows), threads);
  if (memory.is_exhausted()) return CrossEntropyStatus::kNoMemory;
  auto shared = memory.shared<LossShared>(s);
  fill_shared(shared, p, s);
  const double divisor =
      p.mean_all ? static_cast<double>(s.batch * s.out_height * s.out_width) : counted_weight(p, s, shared);
  const Real scale = static_cast<Real>(grad / divisor);
  Real weight_sum = 0.0f;
  for (int64_t k = 0; k < s.classes; ++k) weight_sum += shared.weight[k];
#pragma omp parallel num_threads(threads)
  {
    const Member me;
    auto scratch = memory.own<LossBackwardScratch>(me, s, band_rows);
    const int64_t units = s.batch * bands;
    for (int64_t unit = me.begin(units); unit < me.end(units); ++unit) {
      const int64_t first = unit % bands * band_rows;
      const int64_t last = smaller(first + band_rows, s.height);
      if (first < last) {
        backward_band<T>(p, s, shared, unit / bands, first, last, scale, weight_sum, grad_logits, scratch);
      }
    }
  }
  return CrossEntropyStatus::kOk;
}

}  // namespace

CrossEntropyStatus upsample_cross_entropy_forward_cpu(const Params& params, double* loss, int threads) {
  return SEGNEXT_WITH_ELEMENT(params.dtype, forward, params, loss, threads);
}

CrossEntropyStatus upsample_cross_entropy_backward_cpu(const Params& params, double grad, const Tensor4& grad_logits,
                                                       int threads) {
  return SEGNEXT_WITH_ELEMENT(params.dtype, backward, params, grad, grad_logits, threads);
}

}  // namespace SEGNEXT_ISA
}  // namespace segnext
