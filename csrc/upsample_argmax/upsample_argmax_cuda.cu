// upsample_argmax on a GPU: bilinear resize of logits (N, K, h, w) to (H, W) and argmax over K.
//
// Maths: an output pixel is h0 (w0 a + w1 b) + h1 (w0 c + w1 d) of its cell's corners, a convex combination, so
//   1. a class that is the largest at all four corners is the largest in the whole cell;
//   2. elsewhere a class can win only if its largest corner reaches the best smallest corner of any class.
// Versions:
//   direct  a warp an output pixel, every class. The naive one; serves downscaling, where cells hold less than a
//           pixel and pruning cannot pay.
//   pruned  a block a tile of kTile x kTile cells. Labels of the (kTile + 1)^2 corners go to shared memory; warps
//           list the candidates of the cells whose corners disagree; then threads sweep the tile's output pixels,
//           neighbours in a row by neighbouring threads. A cell with more than kMaxCandidates, or with a
//           non-finite corner, interpolates every class (0 * inf is NaN, and NaN is the largest, as in PyTorch).
// Bytes of pruned: the logits once, plus (9/8)^2 - 1 = 27 % halo that L2 serves, plus the labels once.
// Shared memory: labels 81 x 4 B, counts 64 x 4 B, candidates 64 x 12 x 4 B = 3,652 B: occupancy is bound by
// registers alone.

#include "common/resize.cuh"
#include "upsample_argmax/upsample_argmax.h"

namespace segnext {
namespace {

constexpr int kThreads = 256;
constexpr int kTile = 8;  // cells a side: 64 output pixels a row at the decoder's stride 8
constexpr int kCorners = kTile + 1;
constexpr int kMaxCandidates = 12;
constexpr int kAllClasses = -1;     // in place of a candidate count
constexpr int32_t kNotFinite = -1;  // in place of a corner's label
constexpr size_t kSharedBytes = (kCorners * kCorners + kTile * kTile * (1 + kMaxCandidates)) * sizeof(int32_t);

// NaN beats everything, then the larger value, then the lower class: PyTorch's argmax.
__device__ inline bool wins(float value, int32_t k, float best, int32_t best_k) {
  const bool nan = value != value, best_nan = best != best;
  if (nan || best_nan) return nan && (!best_nan || k < best_k);
  return value > best || (value == best && k < best_k);
}

template <typename T>
__device__ inline Cell<T> cell_at(const UpsampleArgmaxParams& p, int64_t n, int64_t y0, int64_t y1, int64_t x0,
                                  int64_t x1) {
  const T* image = static_cast<const T*>(p.logits) + n * p.stride_n;
  return {image + y0 * p.stride_h + x0 * p.stride_w, image + y0 * p.stride_h + x1 * p.stride_w,
          image + y1 * p.stride_h + x0 * p.stride_w, image + y1 * p.stride_h + x1 * p.stride_w, p.stride_c};
}

__device__ inline void reduce_winner(float& best, int32_t& best_k) {
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    const float other = __shfl_xor_sync(kFullWarp, best, offset);
    const int32_t other_k = __shfl_xor_sync(kFullWarp, best_k, offset);
    if (wins(other, other_k, best, best_k)) {
      best = other;
      best_k = other_k;
    }
  }
}

template <typename T, typename Label>
__global__ void __launch_bounds__(kThreads) upsample_argmax_direct_kernel(UpsampleArgmaxParams p) {
  const int lane = threadIdx.x % kWarp;
  const int64_t pixels = p.batch * p.out_height * p.out_width;
  const int64_t warps = static_cast<int64_t>(gridDim.x) * (kThreads / kWarp);
  for (int64_t i = blockIdx.x * static_cast<int64_t>(kThreads / kWarp) + threadIdx.x / kWarp; i < pixels; i += warps) {
    const int64_t n = i / (p.out_height * p.out_width), in_image = i % (p.out_height * p.out_width);
    const Sample y = sample_axis(in_image / p.out_width, p.scale_h, p.height);
    const Sample x = sample_axis(in_image % p.out_width, p.scale_w, p.width);
    const Cell<T> cell = cell_at<T>(p, n, y.source, y.next, x.source, x.next);
    float best = -INFINITY;
    int32_t best_k = INT32_MAX;  // loses every tie: lanes without a class never win
    for (int32_t k = lane; k < p.classes; k += kWarp) {
      const float value = cell.interpolate(k, y, x);
      if (wins(value, k, best, best_k)) {
        best = value;
        best_k = k;
      }
    }
    reduce_winner(best, best_k);
    if (lane == 0) store_global(static_cast<Label*>(p.labels) + i, static_cast<Label>(best_k));
  }
}

// Label of a corner, or kNotFinite; every lane of the warp returns it.
template <typename T>
__device__ inline int32_t corner_label(const T* corner, int64_t classes, int64_t stride_c, int lane) {
  float best = -INFINITY;
  int32_t best_k = INT32_MAX;
  bool finite = true;
  for (int32_t k = lane; k < classes; k += kWarp) {
    const float value = to_float(load_global(corner + k * stride_c));
    finite = finite && isfinite(value);
    if (wins(value, k, best, best_k)) {
      best = value;
      best_k = k;
    }
  }
  reduce_winner(best, best_k);
  return __all_sync(kFullWarp, finite) ? best_k : kNotFinite;
}

// Lists the classes that can win inside a finite cell, ascending; returns their number or kAllClasses.
template <typename T>
__device__ inline int32_t list_candidates(const Cell<T>& cell, int64_t classes, int lane, int32_t* candidates) {
  float threshold = -INFINITY;
  for (int32_t k = lane; k < classes; k += kWarp) {
    const int64_t at = k * cell.stride_c;
    threshold = fmaxf(threshold, fminf(fminf(to_float(load_global(cell.a + at)), to_float(load_global(cell.b + at))),
                                       fminf(to_float(load_global(cell.c + at)), to_float(load_global(cell.d + at)))));
  }
  threshold = warp_max(threshold);
  int32_t count = 0;
  for (int32_t k0 = 0; k0 < classes; k0 += kWarp) {
    const int32_t k = k0 + lane;
    bool can_win = false;
    if (k < classes) {
      const int64_t at = k * cell.stride_c;
      can_win = fmaxf(fmaxf(to_float(load_global(cell.a + at)), to_float(load_global(cell.b + at))),
                      fmaxf(to_float(load_global(cell.c + at)), to_float(load_global(cell.d + at)))) >= threshold;
    }
    const unsigned winners = __ballot_sync(kFullWarp, can_win);
    const int32_t place = count + __popc(winners & ((1u << lane) - 1u));
    if (can_win && place < kMaxCandidates) candidates[place] = k;
    count += __popc(winners);
  }
  return count <= kMaxCandidates ? count : kAllClasses;
}

// Label of one output pixel from its cell's candidates.
template <typename T>
__device__ inline int32_t pixel_label(const UpsampleArgmaxParams& p, int64_t n, const Sample& y, const Sample& x,
                                      int32_t count, const int32_t* list) {
  if (count == 1) return list[0];
  const Cell<T> cell = cell_at<T>(p, n, y.source, y.next, x.source, x.next);
  const int32_t tried = count == kAllClasses ? static_cast<int32_t>(p.classes) : count;
  float best = -INFINITY;
  int32_t best_k = INT32_MAX;
  for (int32_t i = 0; i < tried; ++i) {
    const int32_t k = count == kAllClasses ? i : list[i];
    const float value = cell.interpolate(k, y, x);
    if (wins(value, k, best, best_k)) {
      best = value;
      best_k = k;
    }
  }
  return best_k;
}

template <typename T, typename Label>
__global__ void __launch_bounds__(kThreads)
    upsample_argmax_pruned_kernel(UpsampleArgmaxParams p, unsigned tiles_y, unsigned tiles_x) {
  int32_t* labels = reinterpret_cast<int32_t*>(shared_memory());  // (kCorners, kCorners)
  int32_t* counts = labels + kCorners * kCorners;                 // (kTile, kTile)
  int32_t* candidates = counts + kTile * kTile;                   // (kTile, kTile, kMaxCandidates)
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const unsigned tile_row = blockIdx.x / tiles_x;
  const int64_t n = tile_row / tiles_y;
  const int64_t cell_y = static_cast<int64_t>(tile_row % tiles_y) * kTile;
  const int64_t cell_x = static_cast<int64_t>(blockIdx.x % tiles_x) * kTile;
  const T* image = static_cast<const T*>(p.logits) + n * p.stride_n;

  for (int i = warp; i < kCorners * kCorners; i += kThreads / kWarp) {
    const int64_t y = cell_y + i / kCorners, x = cell_x + i % kCorners;
    const T* corner =
        image + (y < p.height ? y : p.height - 1) * p.stride_h + (x < p.width ? x : p.width - 1) * p.stride_w;
    const int32_t label = corner_label(corner, p.classes, p.stride_c, lane);
    if (lane == 0) labels[i] = label;
  }
  __syncthreads();

  for (int i = warp; i < kTile * kTile; i += kThreads / kWarp) {
    const int cy = i / kTile, cx = i % kTile;
    const int64_t y = cell_y + cy, x = cell_x + cx;
    if (y >= p.height || x >= p.width) continue;
    const int32_t* corner = labels + cy * kCorners + cx;
    const int right = static_cast<int>(reach(x, p.scale_w, p.width));
    const int below = static_cast<int>(reach(y, p.scale_h, p.height)) * kCorners;
    const int32_t a = corner[0], b = corner[right], c = corner[below], d = corner[below + right];
    int32_t count = 1;
    if ((a | b | c | d) < 0) {
      count = kAllClasses;
    } else if (a == b && a == c && a == d) {
      if (lane == 0) candidates[i * kMaxCandidates] = a;
    } else {
      const Cell<T> cell = cell_at<T>(p, n, y, y + reach(y, p.scale_h, p.height), x, x + reach(x, p.scale_w, p.width));
      count = list_candidates(cell, p.classes, lane, candidates + i * kMaxCandidates);
    }
    if (lane == 0) counts[i] = count;
  }
  __syncthreads();

  // A warp an output row, its lanes neighbouring pixels: one 32-byte sector of uint8 labels a step.
  const int64_t out_y1 = first_output(cell_y + kTile, p.scale_h, p.height, p.out_height);
  const int64_t out_x0 = first_output(cell_x, p.scale_w, p.width, p.out_width);
  const int64_t out_x1 = first_output(cell_x + kTile, p.scale_w, p.width, p.out_width);
  for (int64_t out_y = first_output(cell_y, p.scale_h, p.height, p.out_height) + warp; out_y < out_y1;
       out_y += kThreads / kWarp) {
    const Sample y = sample_axis(out_y, p.scale_h, p.height);
    Label* out = static_cast<Label*>(p.labels) + (n * p.out_height + out_y) * p.out_width;
    for (int64_t out_x = out_x0 + lane; out_x < out_x1; out_x += kWarp) {
      const Sample x = sample_axis(out_x, p.scale_w, p.width);
      const int index = static_cast<int>(y.source - cell_y) * kTile + static_cast<int>(x.source - cell_x);
      const int32_t label =
          pixel_label<T>(p, n, y, x, load_shared(counts + index), candidates + index * kMaxCandidates);
      store_global(out + out_x, static_cast<Label>(label));
    }
  }
}

template <typename T, typename Label>
int launch_typed(const UpsampleArgmaxParams& p, void* stream) {
  const int64_t pixels = p.batch * p.out_height * p.out_width;
  if (pixels == 0) return 0;
  if (p.out_height < p.height || p.out_width < p.width) {
    const int64_t blocks = (pixels + kThreads / kWarp - 1) / (kThreads / kWarp);
    const unsigned grid = static_cast<unsigned>(blocks < 65536 ? blocks : 65536);  // the kernel strides over the rest
    return launch(upsample_argmax_direct_kernel<T, Label>, dim3(grid), dim3(kThreads), 0, stream, p);
  }
  const int64_t tiles_y = (p.height + kTile - 1) / kTile, tiles_x = (p.width + kTile - 1) / kTile;
  const int64_t tiles = p.batch * tiles_y * tiles_x;
  if (tiles > INT32_MAX) return static_cast<int>(cudaErrorInvalidConfiguration);
  return launch(upsample_argmax_pruned_kernel<T, Label>, dim3(static_cast<unsigned>(tiles)), dim3(kThreads),
                kSharedBytes, stream, p, static_cast<unsigned>(tiles_y), static_cast<unsigned>(tiles_x));
}

template <typename T>
int launch_label(const UpsampleArgmaxParams& p, void* stream) {
  return p.classes <= 256 ? launch_typed<T, uint8_t>(p, stream) : launch_typed<T, int32_t>(p, stream);
}

}  // namespace

int launch_upsample_argmax(const UpsampleArgmaxParams& params, void* stream) {
  return with_element_type(params.dtype, [&](auto element) { return launch_label<decltype(element)>(params, stream); });
}

}  // namespace segnext
