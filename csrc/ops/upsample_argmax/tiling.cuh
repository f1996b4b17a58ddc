// The tiles of upsample_argmax: how large they are, the layout of shared memory, and how logits get there.
#pragma once

#include <algorithm>
#include <cmath>

#include "cuda/ptx.cuh"
#include "ops/upsample_argmax/direct.cuh"

namespace segnext {
namespace {

constexpr int64_t kEnoughBlocks = 2 * kMultiprocessors;
constexpr int64_t kMostClasses = 65536;  // the most that the tiled kernel takes
constexpr int kRows = 8;                 // output rows of a column that a thread holds in registers

// A tile is a rectangle of output pixels whose width is a multiple of 16, so rows of labels are written 16 bytes at a
// time for any scale. If a border between two tiles divides a cell, both tiles work on it.
struct Tiling {
  int width, height;     // output pixels; width is a power of two
  int cells_x, cells_y;  // the most source cells that a tile touches
  unsigned tiles_x, tiles_y;
  int row_pitch, class_pitch;       // elements between staged rows of corners, and between classes
  int copy_lanes;                   // lanes that copy a staged run by cp.async; 0: element by element
  int split;                        // lanes per corner, and per listed cell when candidates are sought
  int group;                        // lanes per cell that is interpolated
  int store_bytes;                  // width of the stores of labels: 16, 4, or a label's own
  const void *logits, *logits_end;  // the memory that may be read

  // Offsets in bytes from the start of shared memory.
  int labels, band, column_weight, row_weight, column_first, row_first, row_cell, corner, list, order, candidates;
  int counters, bytes;

  __host__ __device__ int words(int classes) const { return (classes + 31) / 32; }
};

inline int power_of_two_above(int value, int most) {
  int result = 1;
  while (result < value && result < most) result *= 2;
  return result;
}

// Fills everything but width and height.
template <typename T, typename Label>
void fill_tiling(Tiling& t, const UpsampleArgmaxParams& p) {
  const auto cells = [](int pixels, float scale) { return static_cast<int>(std::ceil((pixels - 1) * scale)) + 2; };
  const int classes = static_cast<int>(p.classes);
  t.cells_x = static_cast<int>(std::min<int64_t>(cells(t.width, p.scale_w), p.width));
  t.cells_y = static_cast<int>(std::min<int64_t>(cells(t.height, p.scale_h), p.height));
  t.tiles_x = static_cast<unsigned>((p.out_width + t.width - 1) / t.width);
  t.tiles_y = static_cast<unsigned>((p.out_height + t.height - 1) / t.height);

  constexpr int kVec = 16 / sizeof(T);
  const bool classes_inner = p.stride_c == 1;
  const int corners_x = static_cast<int>(std::min<int64_t>(t.cells_x + 1, p.width));
  const int corners_y = static_cast<int>(std::min<int64_t>(t.cells_y + 1, p.height));
  const int run = corners_x * (classes_inner ? classes : 1);
  t.row_pitch = (run + 2 * kVec - 2) / kVec * kVec;  // plus the elements that precede the run in its first 16 bytes
  t.class_pitch = classes_inner ? 1 : corners_y * t.row_pitch;
  const bool dense = classes_inner ? p.stride_w == p.classes : p.stride_w == 1;
  const bool aligned = p.stride_h % kVec == 0 && (classes_inner || p.stride_c % kVec == 0);
  t.copy_lanes = dense && aligned ? power_of_two_above(t.row_pitch / kVec, 16) : 0;
  t.logits = p.logits;
  t.logits_end = static_cast<const T*>(p.logits) + (p.batch - 1) * p.stride_n + (p.classes - 1) * p.stride_c +
                 (p.height - 1) * p.stride_h + (p.width - 1) * p.stride_w + 1;

  t.split = 1;
  while (corners_x * corners_y * t.split < kThreads / 2 && t.split < 32 && t.split * 8 <= classes) t.split *= 2;
  t.group = power_of_two_above(static_cast<int>(std::min(32.0f, std::ceil(1.0f / p.scale_w))), 32);
  const auto rows_aligned = [&](int bytes) {
    return reinterpret_cast<uintptr_t>(p.labels) % bytes == 0 && p.out_width * sizeof(Label) % bytes == 0;
  };
  t.store_bytes = rows_aligned(16) ? 16 : rows_aligned(4) ? 4 : sizeof(Label);

  const int listed = t.cells_x * t.cells_y;
  t.bytes = t.row_pitch * corners_y * (classes_inner ? 1 : classes) * static_cast<int>(sizeof(T));
  const auto take = [&](size_t count, size_t size) {
    const int at = t.bytes;
    t.bytes += static_cast<int>((count * size + 15) / 16 * 16);
    return at;
  };
  t.labels = take(t.width * t.height, sizeof(Label));
  t.band = take(t.width * t.cells_y, sizeof(Label));
  t.column_weight = take(t.width, sizeof(float));
  t.row_weight = take(t.height + kRows, sizeof(float));
  t.column_first = take(t.cells_x + 1, sizeof(int));
  t.row_first = take(t.cells_y + 1, sizeof(int));
  t.row_cell = take(t.height, sizeof(int));
  t.corner = take(corners_x * corners_y, sizeof(int));
  t.list = take(listed, sizeof(int));
  t.order = take(listed, sizeof(int));
  t.candidates = take(listed * t.words(classes), sizeof(unsigned));
  t.counters = take(3, sizeof(int));
}

// The largest comes first. A tile of 128 x 64 has little halo of logits for its size, and four fit a multiprocessor.
// Tiles are smaller if maps are small, to have enough blocks, or if classes are many, to fit shared memory.
constexpr int kTiles[][2] = {{128, 128}, {128, 64}, {64, 64}, {64, 32}, {32, 32}, {32, 16},
                             {16, 16},   {16, 8},   {16, 4},  {16, 2},  {16, 1}};
constexpr size_t kEasyBytes = 48 * 1024;  // of shared memory: four blocks fit a multiprocessor
constexpr int kSmallTile = 32 * 32;       // tiles become no smaller than this to get more blocks

// Returns false if not even the smallest tile fits.
template <typename T, typename Label>
bool choose_tiling(const UpsampleArgmaxParams& p, Tiling& t) {
  if (p.classes > kMostClasses) return false;
  for (const size_t limit : {kEasyBytes, shared_limit()}) {
    for (const auto& tile : kTiles) {
      t.width = tile[0];
      t.height = tile[1];
      fill_tiling<T, Label>(t, p);
      const int64_t tiles = p.batch * t.tiles_y * t.tiles_x;
      const bool enough = tiles >= kEnoughBlocks || t.width * t.height <= kSmallTile;
      if (enough && static_cast<size_t>(t.bytes) <= limit) return true;
    }
  }
  return false;
}

// The place of a tile in the output and in the source.
struct TileBounds {
  int x0, y0, columns, rows;                 // output pixels
  int source_x, source_y, cells_x, cells_y;  // source cells
  int corners_x, corners_y;                  // inside the image
};

__device__ inline TileBounds place_of(const UpsampleArgmaxParams& p, const Tiling& t, unsigned tile_x,
                                      unsigned tile_y) {
  const int width = static_cast<int>(p.width), height = static_cast<int>(p.height);
  TileBounds at;
  at.x0 = static_cast<int>(tile_x) * t.width;
  at.y0 = static_cast<int>(tile_y) * t.height;
  at.columns = min(t.width, static_cast<int>(p.out_width) - at.x0);
  at.rows = min(t.height, static_cast<int>(p.out_height) - at.y0);
  at.source_x = sample_axis(at.x0, p.scale_w, width).source;
  at.source_y = sample_axis(at.y0, p.scale_h, height).source;
  at.cells_x = sample_axis(at.x0 + at.columns - 1, p.scale_w, width).source - at.source_x + 1;
  at.cells_y = sample_axis(at.y0 + at.rows - 1, p.scale_h, height).source - at.source_y + 1;
  at.corners_x = min(at.cells_x + 1, width - at.source_x);
  at.corners_y = min(at.cells_y + 1, height - at.source_y);
  return at;
}

// The tile's logits in shared memory; corner (y, x) of class k is at first + y row + x column + k plane().
template <typename T, bool kClassesInner>
struct Staged {
  const T* first;
  int row, column, plane_pitch;

  __device__ int plane() const { return kClassesInner ? 1 : plane_pitch; }
  __device__ const T* corner(int y, int x) const { return first + y * row + x * column; }
};

// Starts the copies; cp_async_wait<0>() and a barrier must follow.
template <typename T, bool kClassesInner>
__device__ inline Staged<T, kClassesInner> stage(const UpsampleArgmaxParams& p, const Tiling& t, const TileBounds& at,
                                                 int64_t n) {
  constexpr int kVec = 16 / sizeof(T);
  T* shared = reinterpret_cast<T*>(shared_memory());
  const int classes = static_cast<int>(p.classes);
  const T* from =
      static_cast<const T*>(p.logits) + n * p.stride_n + at.source_y * p.stride_h + at.source_x * p.stride_w;
  const int skipped = t.copy_lanes > 0 ? static_cast<int>(reinterpret_cast<uintptr_t>(from) % 16 / sizeof(T)) : 0;
  const int run = at.corners_x * (kClassesInner ? classes : 1), planes = kClassesInner ? 1 : classes;
  const int lanes = t.copy_lanes > 0 ? t.copy_lanes : kWarp, step = kThreads / lanes;
  const int lane = threadIdx.x & (lanes - 1), first_run = static_cast<int>(threadIdx.x) / lanes;
  const int step_k = step / at.corners_y, step_y = step % at.corners_y;
  // Only the first and the last tile have vectors that reach beyond the tensor.
  const T *begin = static_cast<const T*>(t.logits), *end = static_cast<const T*>(t.logits_end);
  const T* last = from + (planes - 1) * p.stride_c + (at.corners_y - 1) * p.stride_h + run;
  const bool inside = from - skipped >= begin && last + kVec - 1 <= end;
  for (int k = first_run / at.corners_y, y = first_run % at.corners_y; k < planes;) {
    const T* source = from + k * p.stride_c + y * p.stride_h;
    T* target = shared + k * t.class_pitch + y * t.row_pitch;
    if (t.copy_lanes > 0) {
      for (int i = lane * kVec; i < skipped + run; i += lanes * kVec) {
        const T* chunk = source - skipped + i;
        if (inside) {
          cp_async16(target + i, chunk, true);
          continue;
        }
        for (int j = 0; j < kVec; ++j) {
          if (chunk + j >= begin && chunk + j < end) store_shared(target + i + j, load_global(chunk + j));
        }
      }
    } else {
      for (int i = lane; i < run; i += lanes) {
        const int64_t x = kClassesInner ? i / classes : i, inner = kClassesInner ? i % classes : 0;
        store_shared(target + i, load_global(source + x * p.stride_w + inner * p.stride_c));
      }
    }
    k += step_k;
    y += step_y;
    if (y >= at.corners_y) {
      y -= at.corners_y;
      ++k;
    }
  }
  cp_async_commit();
  return {shared + skipped, t.row_pitch, kClassesInner ? classes : 1, t.class_pitch};
}

// Writes, for the output indices of an axis, their weights, their cells (if `cell` is given), and the first index of
// each cell.
__device__ inline void fill_axis(int out0, int count, int source0, float scale, int in, float* weight, int* first,
                                 int* cell) {
  for (int i = threadIdx.x; i < count; i += kThreads) {
    const Sample sample = sample_axis(out0 + i, scale, in);
    const int own = sample.source - source0;
    const int before = i == 0 ? -1 : sample_axis(out0 + i - 1, scale, in).source - source0;
    store_shared(weight + i, sample.w1);
    if (cell != nullptr) store_shared(cell + i, own);
    for (int c = before + 1; c <= own; ++c) store_shared(first + c, i);  // a cell may hold no pixel at scales near 1
    if (i == count - 1) store_shared(first + own + 1, count);
  }
}

}  // namespace
}  // namespace segnext
