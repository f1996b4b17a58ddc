// Shared by forward and backward of upsample_cross_entropy: their task, and strips of cells in shared memory.
//
// A strip is kCells cells of one row of cells. A block works on one strip, and a thread on a column of output pixels,
// kRows of them at a time in registers. With a_k, b_k, c_k, d_k a cell's corners and P the largest class of each
// corner, the strip holds for each class
// clang-format off
//   p = a' , q = b' - a', r = c' - a', s = (d' - c') - (b' - a')    with a' = (a_k - P_a) log2(e) and so on,
// clang-format on
// so that (z_k - U) log2(e) = (p + x q) + y (r + x s), with U the interpolated P. This is never above 0, because U
// bounds every z. A class costs a column two FMA and each pixel one; 2^.. is one more instruction, and the sum of a
// softmax another. Nothing overflows. If all classes of a pixel are far below U (corners that disagree by more than 50
// nats), or if a logit is not finite, the sum is below kSmallestSum or NaN, and pixel_softmax() computes the pixel on
// its own.
//
// Error of the exponential: exp2_approx is within 2 units in the last place (2^-22 of its value) for every argument.
// The argument itself is off by at most 2^-24 of its size, which is small where the term is large. A sum of K positive
// terms is off by the same 2^-22 and by the K roundings of the additions; its logarithm, and so the loss, by 2^-22
// absolutely. A softmax is off by 2^-21 of its value, which is below the bounds of oracle/accuracy.py, 2 eps of the
// largest value.
#pragma once

#include <cfloat>

#include "cuda/ptx.cuh"
#include "cuda/resize.cuh"
#include "ops/upsample_cross_entropy/upsample_cross_entropy.h"

namespace segnext {
namespace {

constexpr int kCells = 16;
constexpr int kThreads = 160;  // columns: 16 cells of 8, and half a cell more at the image's left border
constexpr int kCorners = kCells + 1;
constexpr float kLog2E = 1.4426950408889634f, kLn2 = 0.6931471805599453f;
constexpr float kSmallestSum = 0x1p-80f;  // terms that vanish are then 2^-46 of it

struct Task {
  Tensor4 logits;
  const void* target;
  const float* class_weight;
  int64_t ignore_index;
  int batch, classes, height, width, out_height, out_width;
  float scale_h, scale_w;
  float hit, spread;  // 1 - s and s / K
  bool target_is_byte;

  explicit Task(const UpsampleCrossEntropyParams& p)
      : logits(p.logits),
        target(p.target.data),
        class_weight(static_cast<const float*>(p.class_weight)),
        ignore_index(p.ignore_index),
        batch(static_cast<int>(p.logits.size[0])),
        classes(static_cast<int>(p.logits.size[1])),
        height(static_cast<int>(p.logits.size[2])),
        width(static_cast<int>(p.logits.size[3])),
        out_height(static_cast<int>(p.target.size[1])),
        out_width(static_cast<int>(p.target.size[2])),
        scale_h(static_cast<float>(p.logits.size[2]) / static_cast<float>(p.target.size[1])),
        scale_w(static_cast<float>(p.logits.size[3]) / static_cast<float>(p.target.size[2])),
        hit(1.0f - static_cast<float>(p.label_smoothing)),
        spread(static_cast<float>(p.label_smoothing) / static_cast<float>(p.logits.size[1])),
        target_is_byte(p.target_is_byte) {}

  // Values that no label has: for pixels that do not count, and for labels out of range.
  static constexpr int kIgnored = -1, kOutOfRange = -2;

  __device__ int label(int n, int y, int x) const {
    const int64_t at = (static_cast<int64_t>(n) * out_height + y) * out_width + x;
    const int64_t id = target_is_byte ? load_global(static_cast<const uint8_t*>(target) + at)
                                      : load_global(static_cast<const int64_t*>(target) + at);
    if (id == ignore_index) return kIgnored;
    return id >= 0 && id < classes ? static_cast<int>(id) : kOutOfRange;
  }
  __device__ float weight(int k) const { return class_weight == nullptr ? 1.0f : load_global(class_weight + k); }
  // NaN if the label is out of range, 0 if it is ignored.
  __device__ float weight_of_label(int label) const {
    return label >= 0 ? weight(label) : label == kIgnored ? 0.0f : NAN;
  }
  template <typename T>
  __device__ const T* corner(int n, int y, int x) const {
    return static_cast<const T*>(logits.data) + n * logits.stride[0] + y * logits.stride[2] + x * logits.stride[3];
  }
  template <typename T>
  __device__ GlobalCell<T> cell(int n, const Sample& y, const Sample& x) const {
    return {corner<T>(n, y.source, x.source), corner<T>(n, y.source, x.next), corner<T>(n, y.next, x.source),
            corner<T>(n, y.next, x.next), logits.stride[1]};
  }
};

struct PixelSoftmax {
  float lse;
  float at_label;  // z of the label
  float weighted;  // sum of w z; only with smoothing
};

// The softmax of one pixel on its own, for pixels that the strip's sums cannot serve. It needs one exponential per
// class: that of the distance between the logit and the largest so far, whichever of them is larger.
template <typename T>
__device__ inline PixelSoftmax pixel_softmax(const Task& t, const GlobalCell<T>& cell, const Sample& y, const Sample& x,
                                             int label) {
  float largest = -FLT_MAX, sum = 0.0f, at_label = 0.0f, weighted = 0.0f;
#pragma unroll 4
  for (int k = 0; k < t.classes; ++k) {
    const float z = cell.interpolate(k, y, x);
    const float e = __expf(-fabsf(z - largest));
    const bool larger = z > largest;
    sum = larger ? sum * e + 1.0f : sum + e;
    largest = larger ? z : largest;
    if (k == label) at_label = z;
    if (t.spread > 0.0f) weighted += t.weight(k) * z;
  }
  // +inf among the classes is NaN in PyTorch, wherever the label is
  const float lse = largest == INFINITY ? NAN : largest + logf(sum);
  return {lse, at_label, weighted};
}

// The sum of the weights of all classes; used only with smoothing.
__device__ inline float weight_sum(const Task& t) {
  if (t.class_weight == nullptr || t.spread == 0.0f) return static_cast<float>(t.classes);
  float sum = 0.0f;
  for (int k = 0; k < t.classes; ++k) sum += t.weight(k);
  return sum;
}

struct Strip {
  int n, cy, cx, cells;       // its first cell, and its number of cells
  int below;                  // the row of the lower corners
  int x0, columns, y0, rows;  // its output pixels

  __device__ Strip(const Task& t, int strips, int block) {
    const int row = block / strips;
    n = row / t.height;
    cy = row % t.height;
    cx = block % strips * kCells;
    cells = min(kCells, t.width - cx);
    below = cy + reach(cy, t.scale_h, t.height);
    x0 = first_output(cx, t.scale_w, t.width, t.out_width);
    columns = first_output(cx + cells, t.scale_w, t.width, t.out_width) - x0;
    y0 = first_output(cy, t.scale_h, t.height, t.out_height);
    rows = first_output(cy + 1, t.scale_h, t.height, t.out_height) - y0;
  }
};

inline int strips_of(const Task& t) { return (t.width + kCells - 1) / kCells; }

// Per corner of the strip: the largest class and, with smoothing, the sum of w_k z_k. Both tables are (2, kCorners).
struct Peaks {
  float* largest;
  float* weighted;

  static constexpr size_t kBytes = 2 * 2 * kCorners * sizeof(float);  // a multiple of 16

  __device__ explicit Peaks(unsigned char* shared)
      : largest(reinterpret_cast<float*>(shared)), weighted(largest + 2 * kCorners) {}
};

// Fills the tables; a barrier must follow. One warp per corner. If planes of classes are contiguous, lanes are corners
// instead, which are then adjacent.
template <typename T>
__device__ inline void find_peaks(const Task& t, const Strip& strip, const Peaks& peaks) {
  const bool classes_inner = t.logits.stride[1] == 1;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, warps = kThreads / kWarp;
  const int corners = 2 * (strip.cells + 1), step = classes_inner ? warps : kThreads;
  for (int i = classes_inner ? warp : static_cast<int>(threadIdx.x); i < corners; i += step) {
    const int row = i / (strip.cells + 1), column = i % (strip.cells + 1);
    const T* logit = t.corner<T>(strip.n, row == 0 ? strip.cy : strip.below, min(strip.cx + column, t.width - 1));
    float largest = -FLT_MAX, weighted = 0.0f;
#pragma unroll 4
    for (int k = classes_inner ? lane : 0; k < t.classes; k += classes_inner ? kWarp : 1) {
      const float value = to_float(load_global(logit + k * t.logits.stride[1]));
      largest = fmaxf(largest, value);
      if (t.spread > 0.0f) weighted += t.weight(k) * value;
    }
    if (classes_inner) {
      largest = warp_max(largest);
      if (t.spread > 0.0f) weighted = warp_sum(weighted);
    }
    if (!classes_inner || lane == 0) {
      store_shared(peaks.largest + row * kCorners + column, largest);
      store_shared(peaks.weighted + row * kCorners + column, weighted);
    }
  }
}

// p, q, r, s of kClasses classes from k0 on, by cell. Cells are an odd number of vectors apart.
template <int kClasses>
struct Quads {
  float4* first;

  static constexpr int kPitch = kClasses + 1;
  static constexpr size_t kBytes = kCells * kPitch * sizeof(float4);

  __device__ float4* of(int cell) const { return first + cell * kPitch; }

  // Lanes are classes, or cells if cells are adjacent in memory. The caller needs barriers before and after.
  template <typename T>
  __device__ void stage(const Task& t, const Strip& strip, const Peaks& peaks, int k0) const {
    static_assert(kThreads % kClasses == 0 && kThreads % kCells == 0, "a thread keeps its class, or its cell");
    const bool classes_inner = t.logits.stride[1] == 1;
    const int thread = static_cast<int>(threadIdx.x), some = min(kClasses, t.classes - k0);
    const int cell_step = classes_inner ? kThreads / kClasses : 0, k_step = classes_inner ? 0 : kThreads / kCells;
    int cell = classes_inner ? thread / kClasses : thread % kCells;
    int k = classes_inner ? thread % kClasses : thread / kCells;
    const T* top = t.corner<T>(strip.n, strip.cy, strip.cx + cell) + (k0 + k) * t.logits.stride[1];
    const int64_t down = (strip.below - strip.cy) * t.logits.stride[2], right = t.logits.stride[3];
    const int64_t step = cell_step * t.logits.stride[3] + k_step * t.logits.stride[1];
    const int blended = t.scale_w != 1.0f ? t.width - 1 - strip.cx : 0;  // cells with a neighbour to the right
#pragma unroll 1                                                         // saves registers
    for (; cell < strip.cells && k < some; cell += cell_step, k += k_step, top += step) {
      const int next = cell < blended;
      const T *bottom = top + down, *across = top + (next ? right : 0);
      const float* peak = peaks.largest + cell;
      const float a = (to_float(load_global(top)) - load_shared(peak)) * kLog2E;
      const float b = (to_float(load_global(across)) - load_shared(peak + next)) * kLog2E;
      const float c = (to_float(load_global(bottom)) - load_shared(peak + kCorners)) * kLog2E;
      const float d = (to_float(load_global(across + down)) - load_shared(peak + kCorners + next)) * kLog2E;
      store_shared(of(cell) + k, make_float4(a, b - a, c - a, (d - c) - (b - a)));
    }
  }
};

// A thread's column: up to kRows consecutive output pixels.
template <int kRows>
struct Column {
  int x, y, count;  // of the output; count 0: no pixels
  int cell;         // in the strip
  float x1;         // weight of the right corners
  float y1[kRows];  // weights of the lower corners

  __device__ Column(const Task& t, const Strip& strip, int column, int row)
      : x(strip.x0 + column), y(strip.y0 + row), count(column < strip.columns ? min(kRows, strip.rows - row) : 0) {
    const Sample across = sample_axis(min(x, t.out_width - 1), t.scale_w, t.width);
    cell = min(across.source - strip.cx, strip.cells - 1);
    x1 = across.next > across.source ? across.w1 : 0.0f;
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const Sample down = sample_axis(min(y + r, t.out_height - 1), t.scale_h, t.height);
      y1[r] = down.next > down.source ? down.w1 : 0.0f;
    }
  }

  // Interpolates a table of corners at a row of the output.
  __device__ float interpolate(const float* table, const Sample& row) const {
    const float *top = table + cell, *bottom = top + kCorners;
    const int next = x1 > 0.0f;
    const float upper = (1.0f - x1) * load_shared(top) + x1 * load_shared(top + next);
    const float lower = (1.0f - x1) * load_shared(bottom) + x1 * load_shared(bottom + next);
    return row.w0 * upper + row.w1 * lower;
  }
};

// sums[r] = sum over the classes of 2^((z_k - U) log2(e)). Begins with a barrier and ends with one.
template <typename T, int kClasses, int kRows>
__device__ inline void sum_classes(const Task& t, const Strip& strip, const Peaks& peaks, const Quads<kClasses>& quads,
                                   const Column<kRows>& column, float (&sums)[kRows]) {
#pragma unroll
  for (float& sum : sums) sum = 0.0f;
  for (int k0 = 0; k0 < t.classes; k0 += kClasses) {
    __syncthreads();
    quads.template stage<T>(t, strip, peaks, k0);
    __syncthreads();
    if (column.count == 0) continue;
    const int some = min(kClasses, t.classes - k0);
    const float4* own = quads.of(column.cell);
#pragma unroll 2
    for (int k = 0; k < some; ++k) {
      const float4 quad = load_shared(own + k);
      const float top = fmaf(column.x1, quad.y, quad.x), slope = fmaf(column.x1, quad.w, quad.z);
#pragma unroll
      for (int r = 0; r < kRows; ++r) sums[r] += exp2_approx(fmaf(column.y1[r], slope, top));
    }
  }
  __syncthreads();
}

// Whether a thread has 8 rows of a column instead of 4. It has if cells have more than 5 rows.
inline bool tall(const Task& t) { return t.out_height > 5 * static_cast<int64_t>(t.height); }

constexpr int kSumThreads = 256;

// One block computes *result = numerator / divisor. The numerator is *grad, or the sum of the losses if grad is null.
// The divisor is `pixels` if mean_all, else the sum of the weights.
__global__ void __launch_bounds__(kSumThreads)
    upsample_cross_entropy_sum_kernel(const float2* parts, int64_t count, double pixels, bool mean_all,
                                      const float* grad, float* result) {
  double2* sums = reinterpret_cast<double2*>(shared_memory());
  double2 own{0.0, 0.0};
  for (int64_t i = threadIdx.x; i < count; i += kSumThreads) {
    const float2 part = load_global(parts + i);
    own.x += part.x;
    own.y += part.y;
  }
  store_shared(sums + threadIdx.x, own);
  for (int half = kSumThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (static_cast<int>(threadIdx.x) >= half) continue;
    const double2 other = load_shared(sums + threadIdx.x + half);
    own.x += other.x;
    own.y += other.y;
    store_shared(sums + threadIdx.x, own);
  }
  if (threadIdx.x != 0) return;
  const double numerator = grad == nullptr ? own.x : static_cast<double>(load_global(grad));
  store_global(result, static_cast<float>(numerator / (mean_all ? pixels : own.y)));
}

// *result = *grad, or the sum of the losses if grad is null, over the divisor of the kernel above.
int launch_sum(const Task& t, const float2* parts, int64_t count, bool mean_all, const float* grad, float* result,
               void* stream) {
  const double pixels = mean_all ? static_cast<double>(t.batch) * t.out_height * t.out_width : 0.0;
  return launch(upsample_cross_entropy_sum_kernel, 1, kSumThreads, kSumThreads * sizeof(double2), stream, parts, count,
                pixels, mean_all, grad, result);
}

}  // namespace
}  // namespace segnext
