// upsample_cross_entropy on a GPU: neither the resized logits nor their gradient ever exist.
//
// With z the interpolated logits of a pixel, t its label, w the class weights, s the label smoothing:
//   loss = (1 - s) w_t (lse(z) - z_t) + s / K sum_k w_k (lse(z) - z_k)
//   d loss / d z = (sum_k q_k) softmax(z) - q,  q_k = ((1 - s) [k = t] + s / K) w_k
// Forward: a thread an output pixel, neighbours in a row by neighbouring threads, one exponential a class (the largest
// so far and the sum around it); sums of blocks, then one block adds them in double.
// Backward: a block owns kTile x kTile source pixels and their gradients, in shared memory, and goes through the
// (kTile + 1)^2 cells that touch them, a warp a cell. Of 32 output pixels of the cell a warp first takes the softmax's
// sum, a lane a pixel; then the gradient, a lane a class: it interpolates from its four corners, in registers, and adds
// to four sums. Cells that share a corner come in different passes (four, as the squares of a 2 x 2 pattern): no
// atomics, a fixed order. The halo repeats (9/8)^2 - 1 = 27 % of the work for a tile of 8; smaller tiles where images
// are few or classes many.
//
// An out-of-range label gives NaN, in the loss and in the gradient: an error that needs no host synchronisation and no
// trap, and that a training loop sees in its next look at the loss. The CPU raises IndexError.
//
// Bytes: logits and target forward; backward both, the target twice, and the low-resolution gradient once.
// FLOPs an output pixel and class: 6 + exp forward; twice that and 8 backward, with the halo some 2.5 x forward.
// MODEL for an H200, not yet measured on a GPU, (16, 150, 64, 64) bf16 to 512 x 512: 6.3e8 exponentials at 16 a clock
// of a multiprocessor are 0.17 ms; the 4 loads a class that a warp shares take twice that: 0.35 ms forward, 0.8 ms
// backward. Bytes: 54 MB, 0.01 ms. Registers and shared memory: tests/kernels/nvcc_gate.json.

#include <algorithm>
#include <cfloat>

#include "common/resize.cuh"
#include "upsample_cross_entropy/upsample_cross_entropy.h"

namespace segnext {
namespace {

constexpr int kRowThreads = 128;   // output pixels of a row
constexpr int kTileThreads = 256;  // 8 warps, 8 cells at a time
constexpr int kTileWarps = kTileThreads / kWarp;
constexpr int kSumThreads = 256;
constexpr int kLargestTile = 8;
constexpr size_t kGradientBytes = 96 * 1024;  // of a tile: two blocks a multiprocessor
constexpr int64_t kEnoughBlocks = 264;        // two for each multiprocessor of an H200

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

  // Kept apart from any id: pixels that do not count, and labels out of range.
  static constexpr int kIgnored = -1, kOutOfRange = -2;

  __device__ int label(int n, int y, int x) const {
    const int64_t at = (static_cast<int64_t>(n) * out_height + y) * out_width + x;
    const int64_t id = target_is_byte ? load_global(static_cast<const uint8_t*>(target) + at)
                                      : load_global(static_cast<const int64_t*>(target) + at);
    if (id == ignore_index) return kIgnored;
    return id >= 0 && id < classes ? static_cast<int>(id) : kOutOfRange;
  }
  __device__ float weight(int k) const { return class_weight == nullptr ? 1.0f : load_global(class_weight + k); }
  // NaN out of range, 0 where ignored.
  __device__ float weight_of_label(int label) const {
    return label >= 0 ? weight(label) : label == kIgnored ? 0.0f : NAN;
  }
  template <typename T>
  __device__ Cell<T> cell(int n, int64_t y0, int64_t y1, int64_t x0, int64_t x1) const {
    const T* image = static_cast<const T*>(logits.data) + n * logits.stride[0];
    const T *top = image + y0 * logits.stride[2], *bottom = image + y1 * logits.stride[2];
    const int64_t left = x0 * logits.stride[3], right = x1 * logits.stride[3];
    return {top + left, top + right, bottom + left, bottom + right, logits.stride[1]};
  }
};

struct Softmax {
  float lse;
  float at_label;  // z of the label
  float weighted;  // sum of w z; only with smoothing
};

// One exponential a class: of the distance to the largest so far, whichever of the two it is.
template <typename T>
__device__ inline Softmax pixel_softmax(const Task& t, const Cell<T>& cell, const Sample& y, const Sample& x,
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

// Sums of the weights of all classes; only with smoothing.
__device__ inline float weight_sum(const Task& t) {
  if (t.class_weight == nullptr || t.spread == 0.0f) return static_cast<float>(t.classes);
  float sum = 0.0f;
  for (int k = 0; k < t.classes; ++k) sum += t.weight(k);
  return sum;
}

// A block's sums of loss and weight to parts; a block is up to kRowThreads pixels of a row.
template <typename T>
__global__ void __launch_bounds__(kRowThreads) upsample_cross_entropy_loss_kernel(Task t, int tiles, float2* parts) {
  const int row = static_cast<int>(blockIdx.x) / tiles;
  const int out_x = static_cast<int>(blockIdx.x) % tiles * kRowThreads + static_cast<int>(threadIdx.x);
  const int n = row / t.out_height, out_y = row % t.out_height;
  const int label = out_x < t.out_width ? t.label(n, out_y, out_x) : Task::kIgnored;
  float sums[2] = {0.0f, t.weight_of_label(label)};
  if (label >= 0) {
    const Sample y = sample_axis(out_y, t.scale_h, t.height), x = sample_axis(out_x, t.scale_w, t.width);
    const Cell<T> cell = t.cell<T>(n, y.source, y.next, x.source, x.next);
    const Softmax softmax = pixel_softmax(t, cell, y, x, label);
    sums[0] = t.hit * sums[1] * (softmax.lse - softmax.at_label);
    if (t.spread > 0.0f) sums[0] += t.spread * (weight_sum(t) * softmax.lse - softmax.weighted);
  } else if (label == Task::kOutOfRange) {
    sums[0] = NAN;
  }
  block_sum(sums, reinterpret_cast<float*>(shared_memory()));
  if (threadIdx.x == 0) store_global(parts + blockIdx.x, make_float2(sums[0], sums[1]));
}

// The backward's divisor: the weights alone.
__global__ void __launch_bounds__(kRowThreads) upsample_cross_entropy_weights_kernel(Task t, int tiles, float2* parts) {
  const int row = static_cast<int>(blockIdx.x) / tiles;
  const int out_x = static_cast<int>(blockIdx.x) % tiles * kRowThreads + static_cast<int>(threadIdx.x);
  const int label = out_x < t.out_width ? t.label(row / t.out_height, row % t.out_height, out_x) : Task::kIgnored;
  const float sum = block_sum(t.weight_of_label(label), reinterpret_cast<float*>(shared_memory()));
  if (threadIdx.x == 0) store_global(parts + blockIdx.x, make_float2(0.0f, sum));
}

// One block: *result = numerator / divisor. The numerator is *grad, or the sum of the losses where that is null; the
// divisor is `pixels` where mean_all, else the sum of the weights.
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

// What the lanes of classes must know of an output pixel.
struct alignas(16) Pixel {
  float y1, x1, lse, softmax;  // weights of the next source index; d loss / d z = softmax e^(z - lse) - ...
  float hit, spread;           // ... - hit [k = label] - spread w_k
  int label;                   // kIgnored: nothing
  int unused;
};

template <typename T>
__device__ inline Pixel pixel_of(const Task& t, const Cell<T>& cell, int n, int out_y, int out_x, float scale,
                                 float all_weights) {
  const int label = t.label(n, out_y, out_x);
  Pixel pixel{0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, label, 0};
  if (label == Task::kIgnored) return pixel;
  const Sample y = sample_axis(out_y, t.scale_h, t.height), x = sample_axis(out_x, t.scale_w, t.width);
  const float weight = t.weight_of_label(label);
  pixel.y1 = y.w1;
  pixel.x1 = x.w1;
  pixel.lse = pixel_softmax(t, cell, y, x, label).lse;
  pixel.softmax = scale * (t.hit * weight + t.spread * all_weights);
  pixel.hit = scale * t.hit * weight;
  pixel.spread = scale * t.spread;
  return pixel;
}

struct Tile {
  int n, y, x, size;  // the first source pixel, and pixels a side

  __device__ bool owns(int64_t py, int64_t px) const { return py >= y && py < y + size && px >= x && px < x + size; }
};

// Adds the gradient of the output pixels of cell (cy, cx) to the tile's; by one warp.
template <typename T>
__device__ inline void add_cell(const Task& t, const Tile& tile, int cy, int cx, float scale, float all_weights,
                                Pixel* pixels, float* gradient, int pitch) {
  const int lane = threadIdx.x % kWarp;
  const int y0 = static_cast<int>(first_output(cy, t.scale_h, t.height, t.out_height));
  const int x0 = static_cast<int>(first_output(cx, t.scale_w, t.width, t.out_width));
  const int rows = static_cast<int>(first_output(cy + 1, t.scale_h, t.height, t.out_height)) - y0;
  const int columns = static_cast<int>(first_output(cx + 1, t.scale_w, t.width, t.out_width)) - x0;
  const int64_t below = cy + reach(cy, t.scale_h, t.height), right = cx + reach(cx, t.scale_w, t.width);
  const Cell<T> cell = t.cell<T>(tile.n, cy, below, cx, right);
  const int64_t corner_y[4] = {cy, cy, below, below}, corner_x[4] = {cx, right, cx, right};
  for (int first = 0; first < rows * columns; first += kWarp) {
    const int count = rows * columns - first < kWarp ? rows * columns - first : kWarp;
    if (lane < count) {
      const int out_y = y0 + (first + lane) / columns, out_x = x0 + (first + lane) % columns;
      store_shared(pixels + lane, pixel_of(t, cell, tile.n, out_y, out_x, scale, all_weights));
    }
    __syncwarp();
    for (int k = lane; k < t.classes; k += kWarp) {
      const int64_t at = k * cell.stride_c;
      const float a = to_float(load_global(cell.a + at)), b = to_float(load_global(cell.b + at));
      const float c = to_float(load_global(cell.c + at)), d = to_float(load_global(cell.d + at));
      const float weight = t.spread > 0.0f ? t.weight(k) : 0.0f;
      float sums[4] = {};
      for (int i = 0; i < count; ++i) {
        const Pixel p = load_shared(pixels + i);
        if (p.label == Task::kIgnored) continue;
        const float y0w = 1.0f - p.y1, x0w = 1.0f - p.x1;
        const float z = y0w * (x0w * a + p.x1 * b) + p.y1 * (x0w * c + p.x1 * d);
        float g = p.softmax * __expf(z - p.lse) - p.spread * weight;
        if (k == p.label) g -= p.hit;
        const float left = g * x0w, side = g * p.x1;
        sums[0] += y0w * left;
        sums[1] += y0w * side;
        sums[2] += p.y1 * left;
        sums[3] += p.y1 * side;
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (!tile.owns(corner_y[i], corner_x[i])) continue;
        const int64_t pixel = (corner_y[i] - tile.y) * tile.size + corner_x[i] - tile.x;
        float* sum = gradient + pixel * pitch + k;
        store_shared(sum, load_shared(sum) + sums[i]);
      }
    }
    __syncwarp();  // before the next pixels take the place of these
  }
}

template <typename T>
__global__ void __launch_bounds__(kTileThreads)
    upsample_cross_entropy_gradient_kernel(Task t, int size, int tiles_y, int tiles_x, const float* scale_at,
                                           Tensor4 grad_logits) {
  const int warp = threadIdx.x / kWarp;
  Pixel* pixels = reinterpret_cast<Pixel*>(shared_memory()) + warp * kWarp;
  float* gradient = reinterpret_cast<float*>(shared_memory() + kTileThreads * sizeof(Pixel));  // (size, size, pitch)
  const int pitch = t.classes | 1;  // odd: pixels of one class lie in different banks
  const int tile_row = static_cast<int>(blockIdx.x) / tiles_x;
  const Tile tile{tile_row / tiles_y, tile_row % tiles_y * size, static_cast<int>(blockIdx.x) % tiles_x * size, size};
  for (int i = threadIdx.x; i < size * size * pitch; i += kTileThreads) store_shared(gradient + i, 0.0f);
  const float scale = load_global(scale_at), all_weights = weight_sum(t);
  __syncthreads();
  // Cells from one above and left of the tile on; those of a pass share no corner.
  for (int pass = 0; pass < 4; ++pass) {
    const int begin_y = pass / 2, begin_x = pass % 2;
    const int across = (size + 2 - begin_x) / 2, down = (size + 2 - begin_y) / 2;
    for (int i = warp; i < down * across; i += kTileWarps) {
      const int cy = tile.y - 1 + begin_y + i / across * 2, cx = tile.x - 1 + begin_x + i % across * 2;
      if (cy < 0 || cx < 0 || cy >= t.height || cx >= t.width) continue;
      add_cell<T>(t, tile, cy, cx, scale, all_weights, pixels, gradient, pitch);
    }
    __syncthreads();
  }
  const bool channels_inner = grad_logits.stride[1] == 1;
  for (int i = threadIdx.x; i < size * size * t.classes; i += kTileThreads) {
    const int pixel = channels_inner ? i / t.classes : i % (size * size);
    const int k = channels_inner ? i % t.classes : i / (size * size);
    const int y = tile.y + pixel / size, x = tile.x + pixel % size;
    if (y >= t.height || x >= t.width) continue;
    const int64_t at = tile.n * grad_logits.stride[0] + k * grad_logits.stride[1] + y * grad_logits.stride[2] +
                       x * grad_logits.stride[3];
    store_global(static_cast<T*>(grad_logits.data) + at, from_float<T>(load_shared(gradient + pixel * pitch + k)));
  }
}

// ---- launching

int64_t row_tiles(const Task& t) { return (t.out_width + kRowThreads - 1) / kRowThreads; }
int64_t row_blocks(const Task& t) { return int64_t{t.batch} * t.out_height * row_tiles(t); }
int64_t tiles_of(const Task& t, int size) {
  return int64_t{t.batch} * ((t.height + size - 1) / size) * ((t.width + size - 1) / size);
}

size_t tile_bytes(const Task& t, int size) {
  return kTileThreads * sizeof(Pixel) + static_cast<size_t>(size * size) * (t.classes | 1) * sizeof(float);
}

// Pixels a side of a tile; 0 where a single one has too many classes.
int tile_size(const Task& t) {
  int size = tiles_of(t, kLargestTile) >= kEnoughBlocks ? kLargestTile : kLargestTile / 2;
  while (size > 0 && tile_bytes(t, size) > kGradientBytes) size /= 2;
  return size;
}

// *result = *grad, or the sum of the losses, over what the reduction divides by.
int launch_sum(const Task& t, const float2* parts, int64_t count, bool mean_all, const float* grad, float* result,
               void* stream) {
  const double pixels = mean_all ? static_cast<double>(t.batch) * t.out_height * t.out_width : 0.0;
  return launch(upsample_cross_entropy_sum_kernel, 1, kSumThreads, kSumThreads * sizeof(double2), stream, parts, count,
                pixels, mean_all, grad, result);
}

}  // namespace

int64_t upsample_cross_entropy_forward_workspace(const UpsampleCrossEntropyParams& params) {
  return row_blocks(Task(params)) * static_cast<int64_t>(sizeof(float2));
}

int64_t upsample_cross_entropy_backward_workspace(const UpsampleCrossEntropyParams& params) {
  return (row_blocks(Task(params)) + 1) * static_cast<int64_t>(sizeof(float2));  // and the scale
}

int launch_upsample_cross_entropy_forward(const UpsampleCrossEntropyParams& params, float* loss, void* workspace,
                                          void* stream) {
  const Task t(params);
  const int64_t blocks = row_blocks(t);
  if (blocks > INT32_MAX) return static_cast<int>(cudaErrorInvalidConfiguration);
  float2* parts = static_cast<float2*>(workspace);
  if (blocks > 0) {
    const int status = with_element_type(params.dtype, [&](auto element) {
      return launch(upsample_cross_entropy_loss_kernel<decltype(element)>, static_cast<unsigned>(blocks), kRowThreads,
                    2 * kWarp * sizeof(float), stream, t, static_cast<int>(row_tiles(t)), parts);
    });
    if (status != 0) return status;
  }
  return launch_sum(t, parts, blocks, params.mean_all, nullptr, loss, stream);
}

int launch_upsample_cross_entropy_backward(const UpsampleCrossEntropyParams& params, const float* grad,
                                           const Tensor4& grad_logits, void* workspace, void* stream) {
  const Task t(params);
  const int size = tile_size(t);
  const int64_t blocks = row_blocks(t), tiles = size > 0 ? tiles_of(t, size) : 0;
  if (size == 0) return static_cast<int>(cudaErrorInvalidValue);
  if (blocks > INT32_MAX || tiles > INT32_MAX) return static_cast<int>(cudaErrorInvalidConfiguration);
  if (tiles == 0) return 0;
  float2* parts = static_cast<float2*>(workspace);
  float* scale = reinterpret_cast<float*>(parts + blocks);
  if (!params.mean_all) {
    if (const int status = launch(upsample_cross_entropy_weights_kernel, static_cast<unsigned>(blocks), kRowThreads,
                                  kWarp * sizeof(float), stream, t, static_cast<int>(row_tiles(t)), parts)) {
      return status;
    }
  }
  const int64_t summed = params.mean_all ? 0 : blocks;
  if (const int status = launch_sum(t, parts, summed, params.mean_all, grad, scale, stream)) return status;
  return with_element_type(params.dtype, [&](auto element) {
    return launch(upsample_cross_entropy_gradient_kernel<decltype(element)>, static_cast<unsigned>(tiles), kTileThreads,
                  tile_bytes(t, size), stream, t, size, (t.height + size - 1) / size, (t.width + size - 1) / size,
                  scale, grad_logits);
  });
}

}  // namespace segnext
