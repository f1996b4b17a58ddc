// upsample_argmax on a GPU: bilinear resize of logits (N, K, h, w) to (H, W) and argmax over K.
//
// Maths: an output pixel is h0 (w0 a + w1 b) + h1 (w0 c + w1 d) of its cell's corners, a convex combination, so
//   1. a class that is the largest at all four corners is the largest in the whole cell;
//   2. elsewhere a class can win only if its largest corner reaches the smallest corner of every class. The kernel uses
//     the best of the smallest corners of the classes that win a corner.
// Tiling: a block has 128 x 128 output pixels, or fewer if images are few or classes many (tiling.cuh). It
//   a) copies the logits of its cells' corners to shared memory, by cp.async if rows are aligned;
//   b) labels the corners, one per thread, and then the cells: if the corners agree, the label goes to a band, one row
//     of labels per row of cells; the other cells are listed;
//   c) repeats each band in its output rows, 16 bytes per thread, and finds the candidates of the listed cells, as
//     bits;
//   d) interpolates in the listed cells: a lane has a column of 8 pixels and computes top and slope of each candidate
//     once per column. For two candidates, the usual case, it needs only the sign of their difference;
//   e) writes the tile, 16 bytes per thread, or 4, or the size of a label if the output's width requires it.
// In a cell with a corner that is NaN, Inf, or beyond 5e36, every class is interpolated in PyTorch's own arithmetic (0
// * inf is NaN, and NaN is the largest). Labels of classes within float32 rounding of each other may come out either
// way.
// Bytes: the logits once, with a halo of (18/16)^2 - 1 = 27 % that L2 serves, and the labels once, in whole sectors.
// Shared memory: 35 KB at 19 classes of 16 bits, of which the labels take 16 KB.
//
// Model for an H200 (sm_90 machine code counted by hand), 16 x 19 x 128 x 256 bf16 channels_last to 1024 x 2048: warp
// instructions of a tile of 16,384 pixels whose corners disagree in 72 of 289 cells (in a photograph with the shipped
// weights 17 to 30 % disagree, with 2.6 candidates each):
//   a) 2,500   axes 900   b) 3,200   c) 2,250   d) 4,200   e) 700
// The total is 13,700. That is 0.84 per pixel, or 27 thread instructions, and takes 31 us by issue; copying the bytes
// takes 12.4 us. If all cells agree, it is 9,000: 18 thread instructions per pixel and 20 us. For noise, with 17
// candidates per cell, it is about 150 thread instructions per pixel.
// Versions:
//   direct  one warp per output pixel computes every class. It serves downscaling, where cells hold less than a pixel
//           and pruning cannot pay off, and more classes than fit shared memory (direct.cuh).
//   pruned  one warp per corner, one warp per list of candidates, one thread per pixel: 470 thread instructions per
//           pixel.
//   tiled   this one.
// Measured on an H200 (bench/results/h200): 150 classes of noise from 64x64 to 512x512, where every cell is
// interpolated, 64 us for one image and 671 us for 32, 8 and 26 times as fast as eager PyTorch.

#include "ops/upsample_argmax/direct.cuh"
#include "ops/upsample_argmax/tiling.cuh"

namespace segnext {
namespace {

constexpr int32_t kNotFinite = -1;          // in place of a corner's label
constexpr float kOverflowing = 64.0f;       // logits beyond 2^128 / 64 = 5e36 count as not finite: they may overflow
constexpr unsigned kTwo = 1u << 31;         // in an entry of `order`: the cell has two candidates
constexpr unsigned kEveryClass = 1u << 30;  // likewise: a corner is not finite, so every class is compared

// Shared by the phases of the tiled kernel. Addresses are computed where they are used, because registers are scarce.
template <typename T, typename Label, bool kClassesInner>
struct ArgmaxTile {
  const Tiling& tiling;
  TileBounds at;
  int classes, words;
  int right, below;  // 0 if an axis blends nothing
  Staged<T, kClassesInner> logits;

  __device__ Label* labels() const { return part<Label>(tiling.labels); }
  __device__ Label* band() const { return part<Label>(tiling.band); }
  __device__ float* column_weight() const { return part<float>(tiling.column_weight); }
  __device__ float* row_weight() const { return part<float>(tiling.row_weight); }
  __device__ int* column_first() const { return part<int>(tiling.column_first); }
  __device__ int* row_first() const { return part<int>(tiling.row_first); }
  __device__ int* row_cell() const { return part<int>(tiling.row_cell); }
  __device__ int* corner() const { return part<int>(tiling.corner); }
  __device__ int* list() const { return part<int>(tiling.list); }
  __device__ unsigned* order() const { return part<unsigned>(tiling.order); }
  __device__ unsigned* candidates() const { return part<unsigned>(tiling.candidates); }
  // counts of: disagreeing cells; those with two candidates; the others
  __device__ int* counters() const { return part<int>(tiling.counters); }
  template <typename P>
  __device__ static P* part(int offset) {
    return reinterpret_cast<P*>(shared_memory() + offset);
  }
  // The corners to the right of and below a cell's first corner. At the image's border they are the first corner
  // itself.
  __device__ int next_x(int cx) const { return min(cx + right, at.corners_x - 1); }
  __device__ int next_y(int cy) const { return min(cy + below, at.corners_y - 1); }
};

template <typename T, bool kClassesInner>
struct StagedCorners {
  const T *a, *b, *c, *d;  // class 0: top left, top right, bottom left, bottom right
  int plane_pitch;

  template <typename Label>
  __device__ StagedCorners(const ArgmaxTile<T, Label, kClassesInner>& tile, int cy, int cx)
      : a(tile.logits.corner(cy, cx)),
        b(tile.logits.corner(cy, tile.next_x(cx))),
        c(tile.logits.corner(tile.next_y(cy), cx)),
        d(tile.logits.corner(tile.next_y(cy), tile.next_x(cx))),
        plane_pitch(tile.logits.plane()) {}

  __device__ float4 of(int k) const {
    const int i = k * (kClassesInner ? 1 : plane_pitch);
    return make_float4(to_float(load_shared(a + i)), to_float(load_shared(b + i)), to_float(load_shared(c + i)),
                       to_float(load_shared(d + i)));
  }
};

__device__ inline float smallest(float4 v) { return fminf(fminf(v.x, v.y), fminf(v.z, v.w)); }
__device__ inline float largest(float4 v) { return fmaxf(fmaxf(v.x, v.y), fmaxf(v.z, v.w)); }

// Labels all corners, with `split` lanes per corner; each lane has a run of the classes.
template <typename ArgmaxTile>
__device__ inline void label_corners(const ArgmaxTile& tile, int split) {
  const int corners = tile.at.corners_y * tile.at.corners_x;
  const int per_lane = (tile.classes + split - 1) / split;
  const int first = static_cast<int>(threadIdx.x) & (split - 1), step = kThreads / split;
  for (int base = 0; base < corners; base += step) {
    const int i = base + static_cast<int>(threadIdx.x) / split, clamped = min(i, corners - 1);
    const int y = clamped / tile.at.corners_x, x = clamped - y * tile.at.corners_x;
    const int begin = first * per_lane, end = min(begin + per_lane, tile.classes);
    const auto* logit = tile.logits.corner(y, x) + begin * tile.logits.plane();
    float best = -INFINITY, sum = 0.0f;  // the sum is not finite if a logit is not or is too large
    int label = INT32_MAX;
#pragma unroll 4
    for (int k = begin; k < end; ++k, logit += tile.logits.plane()) {
      const float value = to_float(load_shared(logit));
      sum = fmaf(value, kOverflowing, sum);
      label = value > best ? k : label;
      best = fmaxf(value, best);
    }
    if (!isfinite(sum)) label = kNotFinite;
    for (int lanes = 1; lanes < split; lanes *= 2) {
      const float other = __shfl_xor_sync(kFullWarp, best, lanes);
      const int other_label = __shfl_xor_sync(kFullWarp, label, lanes);
      if (other > best || (other == best && other_label < label)) {
        best = other;
        label = label == kNotFinite ? label : other_label;
      }
      if (other_label == kNotFinite) label = kNotFinite;
    }
    if (first == 0 && i < corners) store_shared(tile.corner() + i, label);
  }
}

// Writes a band for cells whose corners agree: a row of labels that all output rows of the cell repeat. Lists the
// others.
template <typename Label, typename ArgmaxTile>
__device__ inline void divide_cells(const ArgmaxTile& tile, int width) {
  for (int i = threadIdx.x; i < tile.at.cells_y * tile.at.cells_x; i += kThreads) {
    const int cy = i / tile.at.cells_x, cx = i - cy * tile.at.cells_x;
    const int* top = tile.corner() + cy * tile.at.corners_x;
    const int* bottom = tile.corner() + tile.next_y(cy) * tile.at.corners_x;
    const int a = load_shared(top + cx), b = load_shared(top + tile.next_x(cx));
    const int c = load_shared(bottom + cx), d = load_shared(bottom + tile.next_x(cx));
    if (a >= 0 && a == b && a == c && a == d) {
      const int end = load_shared(tile.column_first() + cx + 1);
      for (int x = load_shared(tile.column_first() + cx); x < end; ++x) {
        store_shared(tile.band() + cy * width + x, static_cast<Label>(a));
      }
    } else {
      store_shared(tile.list() + atomicAdd(tile.counters(), 1), cy << 16 | cx);
    }
  }
}

// Copies bands to the output rows that repeat them, 16 bytes per thread. Labels of other cells are overwritten later.
template <typename Label, typename ArgmaxTile>
__device__ inline void repeat_bands(const ArgmaxTile& tile, int width) {
  using Vec = Vec16<Label>;
  const int per_row = width / Vec::kSize, used = (tile.at.columns + Vec::kSize - 1) / Vec::kSize;
  const int column = threadIdx.x % per_row;
  if (column >= used) return;
  for (int y = threadIdx.x / per_row; y < tile.at.rows; y += kThreads / per_row) {
    const int cy = load_shared(tile.row_cell() + y);
    Vec::load_shared(tile.band() + cy * width + column * Vec::kSize)
        .store_shared(tile.labels() + y * width + column * Vec::kSize);
  }
}

// Finds, as bits, the classes that can win in each listed cell. Cells with two go to the front of `order`.
template <typename T, typename Label, bool kClassesInner>
__device__ inline void list_candidates(const ArgmaxTile<T, Label, kClassesInner>& tile, int split) {
  const int listed = load_shared(tile.counters()), step = kThreads / split;
  const int first = static_cast<int>(threadIdx.x) & (split - 1);
  for (int base = 0; base < listed; base += step) {
    const int i = base + static_cast<int>(threadIdx.x) / split;
    const int cell = load_shared(tile.list() + min(i, listed - 1)), cy = cell >> 16, cx = cell & 0xffff;
    const int* top = tile.corner() + cy * tile.at.corners_x;
    const int* bottom = tile.corner() + tile.next_y(cy) * tile.at.corners_x;
    const int winners[4] = {load_shared(top + cx), load_shared(top + tile.next_x(cx)), load_shared(bottom + cx),
                            load_shared(bottom + tile.next_x(cx))};
    const StagedCorners<T, kClassesInner> corners(tile, cy, cx);
    const bool finite = (winners[0] | winners[1] | winners[2] | winners[3]) >= 0;
    float threshold = -INFINITY;  // the best smallest corner of the classes that win a corner
#pragma unroll
    for (int winner : winners) threshold = fmaxf(threshold, smallest(corners.of(max(winner, 0))));
    int count = 0;
    for (int word = first; word < tile.words; word += split) {
      const int k0 = word * 32, some = min(tile.classes - k0, 32);
      unsigned bits = 0, bit = 1;
#pragma unroll 4
      for (int k = 0; k < some; ++k, bit *= 2) {
        if (largest(corners.of(k0 + k)) >= threshold) bits |= bit;
      }
      count += __popc(bits);
      if (i < listed) store_shared(tile.candidates() + i * tile.words + word, bits);
    }
    for (int lanes = 1; lanes < split; lanes *= 2) count += __shfl_xor_sync(kFullWarp, count, lanes);
    if (first != 0 || i >= listed) continue;
    const bool two = finite && count == 2;
    const int place = two ? atomicAdd(tile.counters() + 1, 1) : listed - 1 - atomicAdd(tile.counters() + 2, 1);
    store_shared(tile.order() + place, static_cast<unsigned>(i) | (two ? kTwo : finite ? 0u : kEveryClass));
  }
}

// The values of a class along a column of a cell: top + y slope.
struct Line {
  float top, slope;

  __device__ Line(float4 corner, float x)
      : top(fmaf(x, corner.y - corner.x, corner.x)), slope(fmaf(x, corner.w - corner.z, corner.z) - top) {}
};

// Finds the labels of up to kRows output pixels in a column among the candidates.
template <bool kOnlyTwo, typename StagedCorners>
__device__ inline void label_column(const StagedCorners& corners, const unsigned* candidates, int words, float x,
                                    const float* row_weight, int (&label)[kRows]) {
  float best[kRows];
  if constexpr (kOnlyTwo) {
    int pair[2], found = 0;
    for (int word = 0; found < 2; ++word) {
      for (unsigned bits = load_shared(candidates + word); bits != 0; bits &= bits - 1) {
        pair[1] = word * 32 + __ffs(static_cast<int>(bits)) - 1;
        if (found++ == 0) pair[0] = pair[1];
      }
    }
    const Line low(corners.of(pair[0]), x), high(corners.of(pair[1]), x);
    const float top = low.top - high.top, slope = low.slope - high.slope;
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      label[r] = fmaf(load_shared(row_weight + r), slope, top) >= 0.0f ? pair[0] : pair[1];
    }
  } else {
#pragma unroll
    for (int r = 0; r < kRows; ++r) best[r] = -INFINITY;
    for (int word = 0; word < words; ++word) {
      for (unsigned bits = load_shared(candidates + word); bits != 0; bits &= bits - 1) {
        const int k = word * 32 + __ffs(static_cast<int>(bits)) - 1;
        const Line line(corners.of(k), x);
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
          const float value = fmaf(load_shared(row_weight + r), line.slope, line.top);
          label[r] = value > best[r] ? k : label[r];
          best[r] = fmaxf(value, best[r]);
        }
      }
    }
  }
}

// The label of one pixel in a cell beside NaN or Inf: compares every class, in PyTorch's own arithmetic.
template <typename StagedCorners>
__device__ inline int label_pixel(const StagedCorners& corners, int classes, float x, float y) {
  float best = -INFINITY;
  int best_k = INT32_MAX;
  for (int k = 0; k < classes; ++k) {
    const float4 v = corners.of(k);
    const float value = (1.0f - y) * ((1.0f - x) * v.x + x * v.y) + y * ((1.0f - x) * v.z + x * v.w);
    if (wins(value, k, best, best_k)) {
      best = value;
      best_k = k;
    }
  }
  return best_k;
}

// Interpolates in the listed cells, with `group` lanes per cell and one lane per column.
template <typename T, typename Label, bool kClassesInner>
__device__ inline void interpolate(const ArgmaxTile<T, Label, kClassesInner>& tile, int group, int width) {
  const int lane = static_cast<int>(threadIdx.x) & (group - 1), listed = load_shared(tile.counters());
  for (int i = static_cast<int>(threadIdx.x) / group; i < listed; i += kThreads / group) {
    const unsigned entry = load_shared(tile.order() + i);
    const int slot = static_cast<int>(entry & ~(kTwo | kEveryClass));
    const int cell = load_shared(tile.list() + slot), cy = cell >> 16, cx = cell & 0xffff;
    const unsigned* candidates = tile.candidates() + slot * tile.words;
    const StagedCorners<T, kClassesInner> corners(tile, cy, cx);
    const int x_end = load_shared(tile.column_first() + cx + 1);
    const int y_begin = load_shared(tile.row_first() + cy), y_end = load_shared(tile.row_first() + cy + 1);
    for (int x = load_shared(tile.column_first() + cx) + lane; x < x_end; x += group) {
      const float weight = load_shared(tile.column_weight() + x);
      if (entry & kEveryClass) {
        for (int y = y_begin; y < y_end; ++y) {
          const int label = label_pixel(corners, tile.classes, weight, load_shared(tile.row_weight() + y));
          store_shared(tile.labels() + y * width + x, static_cast<Label>(label));
        }
        continue;
      }
      for (int y = y_begin; y < y_end; y += kRows) {
        const float* row_weight = tile.row_weight() + y;
        int label[kRows] = {};
        if (entry & kTwo) {
          label_column<true>(corners, candidates, tile.words, weight, row_weight, label);
        } else {
          label_column<false>(corners, candidates, tile.words, weight, row_weight, label);
        }
        Label* column = tile.labels() + y * width + x;
        if (y + kRows <= y_end) {
#pragma unroll
          for (int r = 0; r < kRows; ++r) store_shared(column + r * width, static_cast<Label>(label[r]));
        } else {
#pragma unroll
          for (int r = 0; r < kRows - 1; ++r) {
            if (y + r < y_end) store_shared(column + r * width, static_cast<Label>(label[r]));
          }
        }
      }
    }
  }
}

// Copies the tile's labels to the output, one Vec per thread.
template <typename Vec, typename Label, typename ArgmaxTile>
__device__ inline void write_labels(const ArgmaxTile& tile, Label* out, int64_t out_width, int width) {
  constexpr int kSize = sizeof(Vec) / sizeof(Label);
  const int per_row = width / kSize, column = static_cast<int>(threadIdx.x) % per_row * kSize;
  if (column >= tile.at.columns) return;
  for (int y = static_cast<int>(threadIdx.x) / per_row; y < tile.at.rows; y += kThreads / per_row) {
    store_global(reinterpret_cast<Vec*>(out + y * out_width + column),
                 load_shared(reinterpret_cast<const Vec*>(tile.labels() + y * width + column)));
  }
}

template <typename T, typename Label, bool kClassesInner>
__global__ void __launch_bounds__(kThreads, 5) upsample_argmax_tiled_kernel(UpsampleArgmaxParams p, Tiling t) {
  const unsigned tile_row = blockIdx.x / t.tiles_x;
  const int64_t n = tile_row / t.tiles_y;
  const TileBounds at = place_of(p, t, blockIdx.x % t.tiles_x, tile_row % t.tiles_y);
  const ArgmaxTile<T, Label, kClassesInner> tile{t,
                                                 at,
                                                 static_cast<int>(p.classes),
                                                 t.words(static_cast<int>(p.classes)),
                                                 p.scale_w != 1.0f,
                                                 p.scale_h != 1.0f,
                                                 stage<T, kClassesInner>(p, t, at, n)};
  fill_axis(at.x0, at.columns, at.source_x, p.scale_w, static_cast<int>(p.width), tile.column_weight(),
            tile.column_first(), nullptr);
  fill_axis(at.y0, at.rows, at.source_y, p.scale_h, static_cast<int>(p.height), tile.row_weight(), tile.row_first(),
            tile.row_cell());
  if (threadIdx.x < 3) store_shared(tile.counters() + threadIdx.x, 0);
  cp_async_wait<0>();
  __syncthreads();
  label_corners(tile, t.split);
  __syncthreads();
  divide_cells<Label>(tile, t.width);
  __syncthreads();
  repeat_bands<Label>(tile, t.width);
  list_candidates(tile, t.split);
  __syncthreads();
  interpolate(tile, t.group, t.width);
  __syncthreads();
  Label* out = static_cast<Label*>(p.labels) + (n * p.out_height + at.y0) * p.out_width + at.x0;
  if (t.store_bytes == 16) {
    write_labels<uint4>(tile, out, p.out_width, t.width);
  } else if (t.store_bytes == 4) {
    write_labels<uint32_t>(tile, out, p.out_width, t.width);
  } else {
    write_labels<Label>(tile, out, p.out_width, t.width);
  }
}

template <typename T, typename Label>
int launch_typed(const UpsampleArgmaxParams& p, void* stream) {
  const int64_t pixels = p.batch * p.out_height * p.out_width;
  if (pixels == 0) return 0;
  Tiling t{};
  if (p.out_height < p.height || p.out_width < p.width || !choose_tiling<T, Label>(p, t)) {
    const int64_t blocks = (pixels + kThreads / kWarp - 1) / (kThreads / kWarp);
    const unsigned grid = static_cast<unsigned>(blocks < 65536 ? blocks : 65536);  // the kernel loops over the rest
    return launch(upsample_argmax_direct_kernel<T, Label>, dim3(grid), dim3(kThreads), 0, stream, p);
  }
  const int64_t tiles = p.batch * t.tiles_y * t.tiles_x;
  if (tiles > INT32_MAX) return static_cast<int>(cudaErrorInvalidConfiguration);
  const auto kernel =
      p.stride_c == 1 ? upsample_argmax_tiled_kernel<T, Label, true> : upsample_argmax_tiled_kernel<T, Label, false>;
  return launch(kernel, dim3(static_cast<unsigned>(tiles)), dim3(kThreads), t.bytes, stream, p, t);
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
