// upsample_argmax on the CPU.
//
// The resized logits of an output pixel are a convex combination of the four corners of its cell. So
//   1. a class that is the largest at all four corners is the largest in the whole cell, which is filled with it;
//   2. elsewhere a class can win only if its largest corner reaches the best smallest corner of any class, and only a
//      handful of candidates is interpolated.
// Interpolation in float is monotone in each corner, so rounding can make a discarded class tie, but not win.
// In a cell with a non-finite corner every class is interpolated with PyTorch's arithmetic (0 * inf is NaN, NaN wins).
//
// Each source row is converted once into a float row of (width, classes), channels innermost and padded to whole
// vectors. A thread moves down its rows and keeps two. Bytes: the logits once, the labels once. bench/ measures this
// against a plain resize and argmax: on real maps the conversion of the rows takes most of the time, not the
// interpolation.

#include <cfloat>

#include "cpu/convert.h"
#include "cpu/memory.h"
#include "cpu/resize.h"
#include "cpu/vector.h"
#include "ops/upsample_argmax/upsample_argmax.h"

namespace segnext {
namespace SEGNEXT_ISA {
namespace {

constexpr int32_t kNotFinite = -1;
constexpr float kInfinity = __builtin_inff();

struct LabelledRow {
  float* values;    // (width, padded classes)
  int32_t* labels;  // (width) the largest class, or kNotFinite
  int64_t index;    // number of the (image, source row) that it holds
};

// The index of the largest of the lanes' winners, the first one if several are equal.
inline int32_t first_of_best(Vec best, IntV index) {
  float value = best[0];
  int32_t winner = index[0];
  for (int lane = 1; lane < kLanes; ++lane) {
    if (best[lane] > value || (best[lane] == value && index[lane] < winner)) {
      value = best[lane];
      winner = index[lane];
    }
  }
  return winner;
}

inline bool any(IntV mask) {
  int64_t words[SEGNEXT_VECTOR_BYTES / 8];
  std::memcpy(words, &mask, sizeof words);
  int64_t all = 0;
  for (int64_t word : words) all |= word;
  return all != 0;
}

inline IntV lane_index() {
  IntV index;
  for (int lane = 0; lane < kLanes; ++lane) index[lane] = lane;
  return index;
}

template <typename T>
void load_row(const UpsampleArgmaxParams& p, int64_t n, int64_t y, int64_t row_size, LabelledRow& row) {
  const T* source = static_cast<const T*>(p.logits) + n * p.stride_n + y * p.stride_h;
  // Blocks of kLanes classes: each step writes one vector of the row, and reads at most kLanes streams when classes lie
  // far apart.
  for (int64_t k0 = 0; k0 < row_size; k0 += kLanes) {
    const int64_t k1 = smaller(k0 + kLanes, p.classes);
    for (int64_t x = 0; x < p.width; ++x) {
      const T* pixel = source + x * p.stride_w;
      float* out = row.values + x * row_size;
      for (int64_t k = k0; k < k1; ++k) out[k] = to_real(pixel[k * p.stride_c]);
      // The padding never beats a class: it has the lowest finite value and a higher index.
      for (int64_t k = k1; k < k0 + kLanes; ++k) out[k] = -FLT_MAX;
    }
  }
  for (int64_t x = 0; x < p.width; ++x) {
    const float* values = row.values + x * row_size;
    Vec best = load(values);
    IntV best_index = lane_index();
    IntV index = best_index;
    IntV not_finite = (best - best) != 0.0f;
    for (int64_t k = kLanes; k < row_size; k += kLanes) {
      const Vec value = load(values + k);
      index += kLanes;
      not_finite |= (value - value) != 0.0f;
      const IntV wins = value > best;
      best = wins ? value : best;
      best_index = wins ? index : best_index;
    }
    row.labels[x] = any(not_finite) ? kNotFinite : first_of_best(best, best_index);
  }
}

struct Corners {
  const float* top_left;
  const float* top_right;
  const float* bottom_left;
  const float* bottom_right;
};

// The classes that can be the largest somewhere inside the cell, in ascending order.
int64_t find_candidates(const Corners& c, int64_t row_size, float* largest, int32_t* candidates) {
  Vec best_smallest = broadcast(-kInfinity);
  for (int64_t k = 0; k < row_size; k += kLanes) {
    const Vec a = load(c.top_left + k), b = load(c.top_right + k);
    const Vec d = load(c.bottom_left + k), e = load(c.bottom_right + k);
    best_smallest = max(best_smallest, min(min(a, b), min(d, e)));
    store(largest + k, max(max(a, b), max(d, e)));
  }
  float threshold = best_smallest[0];
  for (int lane = 1; lane < kLanes; ++lane)
    threshold = best_smallest[lane] > threshold ? best_smallest[lane] : threshold;
  int64_t count = 0;
  for (int64_t k = 0; k < row_size; k += kLanes) {
    if (!any(load(largest + k) >= broadcast(threshold))) continue;
    for (int64_t i = k; i < k + kLanes; ++i) {
      candidates[count] = static_cast<int32_t>(i);
      count += largest[i] >= threshold;
    }
  }
  return count;
}

// The label by PyTorch's arithmetic over every class, for cells with a non-finite corner. NaN is the largest; the first
// NaN wins.
int32_t exact_label(const Corners& c, int64_t classes, int64_t row_size, float h0, float h1, float w0, float w1) {
  Vec best = broadcast(-kInfinity);
  IntV best_index = lane_index();
  IntV index = best_index;
  for (int64_t k = 0; k < row_size; k += kLanes, index += kLanes) {
    const Vec top = w0 * load(c.top_left + k) + w1 * load(c.top_right + k);
    const Vec bottom = w0 * load(c.bottom_left + k) + w1 * load(c.bottom_right + k);
    const Vec value = h0 * top + h1 * bottom;
    const IntV wins = ((value > best) | ((value != value) & (best == best))) & (index < static_cast<int32_t>(classes));
    best = wins ? value : best;
    best_index = wins ? index : best_index;
  }
  int32_t first_nan = INT32_MAX;
  for (int lane = 0; lane < kLanes; ++lane) {
    if (best[lane] != best[lane] && best_index[lane] < first_nan) first_nan = best_index[lane];
  }
  return first_nan != INT32_MAX ? first_nan : first_of_best(best, best_index);
}

template <typename Label>
struct Cell {
  const UpsampleArgmaxParams& p;
  const Axis& rows;
  const Axis& columns;
  int64_t row_size;
  float* largest;       // (row_size) scratch
  int32_t* candidates;  // (row_size + 1) scratch

  // Labels of output rows [y0, y1) and columns [x0, x1), all inside the cell of these corners.
  void fill(Label* out, int64_t y0, int64_t y1, int64_t x0, int64_t x1, const Corners& c, bool finite) {
    if (!finite) {
      for (int64_t y = y0; y < y1; ++y) {
        for (int64_t x = x0; x < x1; ++x) {
          out[y * p.out_width + x] = static_cast<Label>(
              exact_label(c, p.classes, row_size, rows.w0[y], rows.w1[y], columns.w0[x], columns.w1[x]));
        }
      }
      return;
    }
    const int64_t count = find_candidates(c, row_size, largest, candidates);
    for (int64_t y = y0; y < y1; ++y) {
      const float h0 = rows.w0[y], h1 = rows.w1[y];
      for (int64_t x = x0; x < x1; x += kLanes) {
        const Vec w0 = load(columns.w0 + x), w1 = load(columns.w1 + x);  // padded by a vector
        Vec best = broadcast(-kInfinity);
        IntV label = broadcast(candidates[0]);
        for (int64_t i = 0; i < count; ++i) {
          const int32_t k = candidates[i];
          const float left = h0 * c.top_left[k] + h1 * c.bottom_left[k];
          const float right = h0 * c.top_right[k] + h1 * c.bottom_right[k];
          const Vec value = left * w0 + right * w1;
          const IntV wins = value > best;
          best = wins ? value : best;
          label = wins ? broadcast(k) : label;
        }
        Label* target = out + y * p.out_width + x;
        const int64_t lanes = smaller(x1 - x, kLanes);
        for (int64_t lane = 0; lane < lanes; ++lane) target[lane] = static_cast<Label>(label[lane]);
      }
    }
  }
};

struct ArgmaxAxes {
  Axis rows, columns;

  ArgmaxAxes(Arena& arena, const UpsampleArgmaxParams& p) : rows(arena, p.out_height), columns(arena, p.out_width) {}
};

struct ArgmaxScratch {
  LabelledRow slot[2];
  float* largest;
  int32_t* candidates;

  ArgmaxScratch(Arena& arena, int64_t width, int64_t row_size) {
    for (LabelledRow& row : slot) {
      row.values = arena.take<float>(width * row_size);
      row.labels = arena.take<int32_t>(width);
      row.index = -1;
    }
    largest = arena.take<float>(row_size);
    candidates = arena.take<int32_t>(row_size + 1);
  }
};

template <typename T, typename Label>
bool run(const UpsampleArgmaxParams& p, int threads) {
  const int64_t row_size = padded(p.classes);
  const TeamMemory memory(bytes_of<ArgmaxAxes>(p), bytes_of<ArgmaxScratch>(p.width, row_size), threads);
  if (memory.is_exhausted()) return false;
  auto axes = memory.shared<ArgmaxAxes>(p);
  Axis &rows = axes.rows, &columns = axes.columns;
  fill_axis(rows, p.height, p.out_height, p.scale_h);
  fill_axis(columns, p.width, p.out_width, p.scale_w);
  for (int lane = 0; lane < kLanes; ++lane) columns.w0[p.out_width + lane] = columns.w1[p.out_width + lane] = 0.0f;

  const int64_t units = p.batch * rows.runs;
#pragma omp parallel num_threads(threads)
  {
    const Member me;
    auto own = memory.own<ArgmaxScratch>(me, p.width, row_size);
    LabelledRow(&slot)[2] = own.slot;
    Cell<Label> cell{p, rows, columns, row_size, own.largest, own.candidates};
    for (int64_t unit = me.begin(units); unit < me.end(units); ++unit) {
      const int64_t n = unit / rows.runs, run = unit % rows.runs;
      const int64_t y0 = rows.run[run], y1 = rows.run[run + 1];
      const int64_t top_y = rows.source[y0], bottom_y = top_y + rows.reach(top_y);
      // Neighbouring source rows have different parity, so two slots by parity keep both.
      for (int64_t y = top_y; y <= bottom_y; ++y) {
        LabelledRow& row = slot[y & 1];
        if (row.index != n * p.height + y) {
          load_row<T>(p, n, y, row_size, row);
          row.index = n * p.height + y;
        }
      }
      const LabelledRow &top = slot[top_y & 1], &bottom = slot[bottom_y & 1];
      Label* out = static_cast<Label*>(p.labels) + n * p.out_height * p.out_width;
      for (int64_t i = 0; i < columns.runs; ++i) {
        const int64_t x0 = columns.run[i], x1 = columns.run[i + 1];
        const int64_t left = columns.source[x0], right = left + columns.reach(left);
        const int32_t a = top.labels[left], b = top.labels[right], c = bottom.labels[left], d = bottom.labels[right];
        if (a == b && a == c && a == d && a != kNotFinite) {
          for (int64_t y = y0; y < y1; ++y) {
            Label* target = out + y * p.out_width;
            for (int64_t x = x0; x < x1; ++x) target[x] = static_cast<Label>(a);
          }
          continue;
        }
        const Corners corners{top.values + left * row_size, top.values + right * row_size,
                              bottom.values + left * row_size, bottom.values + right * row_size};
        cell.fill(out, y0, y1, x0, x1, corners, (a | b | c | d) >= 0);
      }
    }
  }
  return true;
}

template <typename T>
bool run_label(const UpsampleArgmaxParams& p, int threads) {
  return p.classes <= 256 ? run<T, uint8_t>(p, threads) : run<T, int32_t>(p, threads);
}

}  // namespace

bool upsample_argmax_cpu(const UpsampleArgmaxParams& params, int threads) {
  switch (params.dtype) {
    case DType::kFloat32:
      return run_label<float>(params, threads);
    case DType::kBFloat16:
      return run_label<BFloat16>(params, threads);
    case DType::kFloat16:
      return run_label<Float16>(params, threads);
    case DType::kFloat64:
      return run_label<double>(params, threads);
  }
  return false;
}

}  // namespace SEGNEXT_ISA
}  // namespace segnext
