// upsample_cross_entropy on a GPU, backward: neither the resized logits nor their gradient are ever stored.
//
// clang-format off
//   d loss / d z = (sum_k q_k) softmax(z) - q,  q_k = ((1 - s) [k = t] + s / K) w_k
// clang-format on
// Strips, peaks and sums are those of the forward (strips.cuh), recomputed. Then, 32 classes at a time:
//   columns  per class, a thread sums softmax 2^.. and softmax y 2^.. over its 8 pixels. These are the gradients of the
//            upper and lower corners before they are divided between left and right. The parts of labels and smoothing
//            are subtracted afterwards;
//   corners  a thread per corner and class adds the columns of the cells on both sides, from left to right, and writes
//            two numbers to the workspace: for the corners above the strip's cells and for those below.
// A last kernel adds the two strips above and below a source pixel (four at a seam of strips). There are no atomics;
// the order is fixed.
//
// Bytes: logits and target as in the forward; the workspace, 17/16 x 8 bytes per source pixel and class, written and
// read, and the gradient: 190 MB at the shape below, 0.045 ms.
// Model for an H200 (sm_90 machine code counted by hand), (16, 150, 64, 64) bf16 to 512 x 512, instructions per class
// and pixel: sums 3.75, columns 5.1, corners 2.6, strips to shared memory twice 1.9, peaks 0.8, labels 0.4, gathering
// 0.7, the rest 0.6: 15.9, or 0.34 ms by issue. Two exponentials per class and pixel take 0.35 ms.
// Versions: one block per tile of source pixels with a halo of cells, one lane per class, the gradient in shared
// memory: 66 instructions per class and pixel, 1.8 ms, and no more classes than a tile had room for.

#include "ops/upsample_cross_entropy/strips.cuh"

namespace segnext {
namespace {

constexpr int kClasses = 32;  // classes of a strip in shared memory at a time: 8.4 KB, and 41 KB of their gradients
constexpr int kWeightThreads = 128;

// Gradients of kClasses classes along each column, (kClasses, kPitch): of the upper and of the lower corners.
struct Gradients {
  float2* first;

  static constexpr int kPitch = kThreads + 1;  // classes of one column are in different banks
  static constexpr size_t kBytes = kClasses * kPitch * sizeof(float2);

  __device__ float2* of(int k, int column) const { return first + k * kPitch + column; }
  __device__ void add(int k, int column, float upper, float lower) const {
    const float2 old = load_shared(of(k, column));
    store_shared(of(k, column), make_float2(old.x + upper, old.y + lower));
  }
};

constexpr size_t kQuadsAt = Peaks::kBytes, kGradientsAt = kQuadsAt + Quads<kClasses>::kBytes;
constexpr size_t kWeightsAt = kGradientsAt + Gradients::kBytes;     // (kThreads): of the right corners
constexpr size_t kFirstAt = kWeightsAt + kThreads * sizeof(float);  // (kCells + 1): first column of each cell
constexpr size_t kSharedBytes = kFirstAt + (kCells + 1) * sizeof(int);

// The values of a thread's pixels that the gradients of all classes need.
template <int kRows>
struct PixelGradients {
  float softmax[kRows];     // d loss / d z_k = softmax 2^((z_k - U) log2(e)) - hit [k = label] - spread w_k
  int label[kRows];         // Task::kIgnored: the pixel has no gradient
  float spread, spread_y1;  // sums over the pixels that count: of 1 and of y1
  bool alone;               // a pixel's sum is too small, or a logit is not finite: each pixel is computed on its own

  __device__ PixelGradients(const Task& t, const Strip& strip, const Column<kRows>& column, const float (&sums)[kRows],
                            float scale, float all_weights)
      : spread(0.0f), spread_y1(0.0f), alone(false) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      softmax[r] = 0.0f;
      label[r] = r < column.count ? t.label(strip.n, column.y + r, column.x) : Task::kIgnored;
      if (label[r] == Task::kIgnored) continue;
      const float weight = t.weight_of_label(label[r]);
      softmax[r] = scale * (t.hit * weight + t.spread * all_weights);
      spread += scale * t.spread;
      spread_y1 += scale * t.spread * column.y1[r];
      alone = alone || !(sums[r] >= kSmallestSum);
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (!alone && label[r] != Task::kIgnored) softmax[r] /= sums[r];
    }
  }
};

// Gradients along one column whose pixels are computed on their own: slow, and rare.
template <typename T, typename Column>
__device__ inline void column_alone(const Task& t, const Strip& strip, const Column& column, float scale,
                                    float all_weights, int k0, int some, const Gradients& gradients) {
  for (int k = 0; k < some; ++k) store_shared(gradients.of(k, threadIdx.x), make_float2(0.0f, 0.0f));
  const Sample x = sample_axis(column.x, t.scale_w, t.width);
#pragma unroll 1
  for (int r = 0; r < column.count; ++r) {
    const int label = t.label(strip.n, column.y + r, column.x);
    if (label == Task::kIgnored) continue;
    const Sample y = sample_axis(column.y + r, t.scale_h, t.height);
    const GlobalCell<T> cell = t.cell<T>(strip.n, y, x);
    const float lse = pixel_softmax(t, cell, y, x, label).lse;
    const float softmax = scale * (t.hit * t.weight_of_label(label) + t.spread * all_weights);
    const float lower = y.next > y.source ? y.w1 : 0.0f;
    for (int k = 0; k < some; ++k) {
      const float g = softmax * __expf(cell.interpolate(k0 + k, y, x) - lse);
      gradients.add(k, threadIdx.x, g * (1.0f - lower), g * lower);
    }
  }
}

// Computes the gradients of the classes from k0 on along a thread's column.
template <typename T, int kRows>
__device__ inline void differentiate(const Task& t, const Strip& strip, const Column<kRows>& column,
                                     const PixelGradients<kRows>& pixels, float scale, float all_weights, int k0,
                                     const Quads<kClasses>& quads, const Gradients& gradients) {
  const int some = min(kClasses, t.classes - k0);
  if (pixels.alone) {
    column_alone<T>(t, strip, column, scale, all_weights, k0, some, gradients);
  } else {
    float softmax_y1[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) softmax_y1[r] = pixels.softmax[r] * column.y1[r];
    const float4* own = quads.of(column.cell);
#pragma unroll 2
    for (int k = 0; k < some; ++k) {
      const float4 quad = load_shared(own + k);
      const float top = fmaf(column.x1, quad.y, quad.x), slope = fmaf(column.x1, quad.w, quad.z);
      float sum = 0.0f, lower = 0.0f;
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const float e = exp2_approx(fmaf(column.y1[r], slope, top));
        sum = fmaf(pixels.softmax[r], e, sum);
        lower = fmaf(softmax_y1[r], e, lower);
      }
      store_shared(gradients.of(k, threadIdx.x), make_float2(sum - lower, lower));
    }
  }
  if (t.spread > 0.0f) {
    for (int k = 0; k < some; ++k) {
      const float weight = t.weight(k0 + k);
      gradients.add(k, threadIdx.x, (pixels.spread_y1 - pixels.spread) * weight, -pixels.spread_y1 * weight);
    }
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const int k = pixels.label[r] - k0;
    if (pixels.label[r] < 0 || k < 0 || k >= some) continue;
    const float hit = scale * t.hit * t.weight(pixels.label[r]);
    gradients.add(k, threadIdx.x, -hit * (1.0f - column.y1[r]), -hit * column.y1[r]);
  }
}

// Layout of the workspace: where a strip's gradients of a corner and class are. As in the output, the inner axis varies
// first.
struct GradientParts {
  float2* first;
  int corner, plane;  // steps
  int64_t strip;

  GradientParts(const Task& t, float2* workspace, bool classes_inner)
      : first(workspace),
        corner(classes_inner ? t.classes : 1),
        plane(classes_inner ? 1 : kCorners),
        strip(int64_t{kCorners} * t.classes) {}
  __device__ float2* of(int64_t index, int at, int k) const { return first + index * strip + at * corner + k * plane; }
};

// Adds the columns of both cells beside a corner, in order. `fresh`: these are the strip's first pixels.
__device__ inline void sum_columns(const Task& t, const Strip& strip, int k0, int columns, const Gradients& gradients,
                                   const float* weights, const int* first, const GradientParts& parts, bool fresh) {
  const bool neighbours = t.scale_w != 1.0f;
  for (int i = threadIdx.x; i < (strip.cells + 1) * kClasses; i += kThreads) {
    const int k = i % kClasses, corner = i / kClasses;
    if (k0 + k >= t.classes) continue;
    const int begin = load_shared(first + (corner > 0 ? corner - 1 : 0)), middle = load_shared(first + corner);
    const int end = corner < strip.cells ? load_shared(first + corner + 1) : middle;
    float2 sum = make_float2(0.0f, 0.0f);
#pragma unroll 4
    for (int x = neighbours ? begin : middle; x < middle; ++x) {
      const float2 gradient = load_shared(gradients.of(k, x));
      const float weight = load_shared(weights + x);
      sum.x = fmaf(weight, gradient.x, sum.x);
      sum.y = fmaf(weight, gradient.y, sum.y);
    }
#pragma unroll 4
    for (int x = middle; x < end; ++x) {
      const float2 gradient = load_shared(gradients.of(k, x));
      const float weight = 1.0f - load_shared(weights + x);
      sum.x = fmaf(weight, gradient.x, sum.x);
      sum.y = fmaf(weight, gradient.y, sum.y);
    }
    float2* place = parts.of(blockIdx.x, corner, k0 + k);
    if (!fresh) {
      const float2 old = load_global(place);
      sum = make_float2(old.x + sum.x, old.y + sum.y);
    }
    store_global(place, sum);
  }
}

template <typename T, int kRows>
__global__ void __launch_bounds__(kThreads, 3)
    upsample_cross_entropy_gradient_kernel(Task t, int strips, const float* scale_at, GradientParts parts) {
  const Strip strip(t, strips, static_cast<int>(blockIdx.x));
  const Peaks peaks(shared_memory());
  const Quads<kClasses> quads{reinterpret_cast<float4*>(shared_memory() + kQuadsAt)};
  const Gradients gradients{reinterpret_cast<float2*>(shared_memory() + kGradientsAt)};
  float* weights = reinterpret_cast<float*>(shared_memory() + kWeightsAt);
  int* first = reinterpret_cast<int*>(shared_memory() + kFirstAt);
  const float scale = load_global(scale_at), all_weights = weight_sum(t);
  find_peaks<T>(t, strip, peaks);
  bool fresh = true;
  // At least one pass: a strip without pixels has gradients of 0.
  for (int row = 0; row == 0 || row < strip.rows; row += kRows) {
    for (int begin = 0; begin == 0 || begin < strip.columns; begin += kThreads) {
      const Column<kRows> column(t, strip, begin + static_cast<int>(threadIdx.x), row);
      const int columns = min(kThreads, strip.columns - begin);
      store_shared(weights + threadIdx.x, column.x1);
      if (static_cast<int>(threadIdx.x) <= strip.cells) {
        const int x = first_output(strip.cx + static_cast<int>(threadIdx.x), t.scale_w, t.width, t.out_width);
        store_shared(first + threadIdx.x, strip.rows > row ? max(0, min(x - strip.x0 - begin, columns)) : 0);
      }
      float sums[kRows];
      sum_classes<T>(t, strip, peaks, quads, column, sums);
      const PixelGradients<kRows> pixels(t, strip, column, sums, scale, all_weights);
      for (int k0 = 0; k0 < t.classes; k0 += kClasses) {
        quads.template stage<T>(t, strip, peaks, k0);
        __syncthreads();
        if (column.count > 0) differentiate<T>(t, strip, column, pixels, scale, all_weights, k0, quads, gradients);
        __syncthreads();
        sum_columns(t, strip, k0, columns, gradients, weights, first, parts, fresh);
      }
      fresh = false;
      __syncthreads();  // weights are overwritten next
    }
  }
}

// Adds the gradient of a source pixel and class from the strips of the row of cells below it and of the row above.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    upsample_cross_entropy_gather_kernel(Task t, int strips, GradientParts parts, Tensor4 grad_logits) {
  const bool classes_inner = parts.plane == 1;
  const int64_t count = static_cast<int64_t>(t.width) * t.classes;
  const int row = static_cast<int>(blockIdx.x), n = row / t.height, y = row % t.height;
  T* out = static_cast<T*>(grad_logits.data) + n * grad_logits.stride[0] + y * grad_logits.stride[2];
  for (int64_t i = threadIdx.x; i < count; i += kThreads) {
    const int outer = static_cast<int>(i / (classes_inner ? t.classes : t.width));
    const int inner = static_cast<int>(i - static_cast<int64_t>(outer) * (classes_inner ? t.classes : t.width));
    const int x = classes_inner ? outer : inner, k = classes_inner ? inner : outer;
    const int64_t strip = int64_t{row} * strips + x / kCells;
    const int corner = x % kCells;
    const bool seam = corner == 0 && x > 0;  // it is also the last corner of the strip to the left
    float sum = load_global(parts.of(strip, corner, k)).x;
    if (seam) sum += load_global(parts.of(strip - 1, kCells, k)).x;
    if (y > 0 && t.scale_h != 1.0f) {
      sum += load_global(parts.of(strip - strips, corner, k)).y;
      if (seam) sum += load_global(parts.of(strip - strips - 1, kCells, k)).y;
    }
    store_global(out + k * grad_logits.stride[1] + x * grad_logits.stride[3], from_float<T>(sum));
  }
}

// Sums the weights of the labels, the divisor of the mean, with one block per row of the target.
__global__ void __launch_bounds__(kWeightThreads) upsample_cross_entropy_weights_kernel(Task t, float2* parts) {
  const int n = static_cast<int>(blockIdx.x) / t.out_height, y = static_cast<int>(blockIdx.x) % t.out_height;
  float sum = 0.0f;
  for (int x = threadIdx.x; x < t.out_width; x += kWeightThreads) sum += t.weight_of_label(t.label(n, y, x));
  sum = block_sum(sum, reinterpret_cast<float*>(shared_memory()));
  if (threadIdx.x == 0) store_global(parts + blockIdx.x, make_float2(0.0f, sum));
}

int64_t strips_in_all(const Task& t) { return int64_t{t.batch} * t.height * strips_of(t); }
int64_t parts_of(const Task& t) { return strips_in_all(t) * kCorners * t.classes; }
int64_t target_rows(const Task& t) { return int64_t{t.batch} * t.out_height; }

}  // namespace

int64_t upsample_cross_entropy_backward_workspace(const UpsampleCrossEntropyParams& params) {
  const Task t(params);  // the strips' gradients, the rows' weights, the scale
  return (parts_of(t) + target_rows(t) + 1) * static_cast<int64_t>(sizeof(float2));
}

int launch_upsample_cross_entropy_backward(const UpsampleCrossEntropyParams& params, const float* grad,
                                           const Tensor4& grad_logits, void* workspace, void* stream) {
  const Task t(params);
  const int64_t blocks = strips_in_all(t), rows = target_rows(t);
  if (blocks > INT32_MAX || rows > INT32_MAX) return static_cast<int>(cudaErrorInvalidConfiguration);
  if (blocks == 0) return 0;
  const GradientParts parts(t, static_cast<float2*>(workspace), grad_logits.stride[1] == 1);
  float2* weights = parts.first + parts_of(t);
  float* scale = reinterpret_cast<float*>(weights + rows);
  if (!params.mean_all) {
    if (const int status = launch(upsample_cross_entropy_weights_kernel, static_cast<unsigned>(rows), kWeightThreads,
                                  kWarp * sizeof(float), stream, t, weights)) {
      return status;
    }
  }
  const int64_t summed = params.mean_all ? 0 : rows;
  if (const int status = launch_sum(t, weights, summed, params.mean_all, grad, scale, stream)) return status;
  return with_element_type(params.dtype, [&](auto element) {
    using T = decltype(element);
    const auto kernel =
        tall(t) ? upsample_cross_entropy_gradient_kernel<T, 8> : upsample_cross_entropy_gradient_kernel<T, 4>;
    if (const int status = launch(kernel, static_cast<unsigned>(blocks), kThreads, kSharedBytes, stream, t,
                                  strips_of(t), static_cast<const float*>(scale), parts)) {
      return status;
    }
    return launch(upsample_cross_entropy_gather_kernel<T>, static_cast<unsigned>(t.batch * t.height), kThreads, 0,
                  stream, t, strips_of(t), parts, grad_logits);
  });
}

}  // namespace segnext
