// Backward of msca_conv on a GPU, from x and the incoming gradient g alone. a = root(x) and, for each pair, h = row(a)
// are recomputed; both are zero outside the image:
// clang-format off
//   gh = column^T(g)          grad of the column's taps [d] = sum over q of h[q] g[q - d], of its bias = sum of g
//   ga = g + sum of row^T(gh) grad of the row's taps [d]    = sum over p of gh[p] a[p + d], of its bias = sum of gh
//   grad_x = root^T(ga)       grad of the root's taps [i,j] = sum over p of ga[p] x[p + (i,j)], of its bias = sum of ga
// clang-format on
// ^T reverses the taps, and values outside the image are zero at every stage.
//
// Tiling: a block moves down a strip of rows of a tile by quads (four rows), with everything in shared memory:
//   x, g  rings in T of the rows that root and column strips reach, and of the next quad's rows, which arrive by
//         cp.async;
//   a, h, gh  one quad each, h and gh for one pair after the other;
//   ga    a ring of quads, because grad_x follows as many rows behind as the root reaches.
// In this form the columns' weight gradients need h of one quad only; the other factor is in g's ring. For the weight
// gradients, a thread takes seven taps of one line of taps for one channel, and one of four parts of the quad. It adds
// its sum to its own place in shared memory; parts and blocks are added at the end, in a fixed order. SegNeXt's sizes
// get tiles of 32 columns (16 in float32) by 8 channels: 90 KB, so two blocks fit an H200's multiprocessor.
// Bytes: x, g and grad_x once, plus the tiles' halo, which L2 serves, plus a block's partial sums: for SegNeXt 440
// bytes per channel for 64 x 32 pixels, 4 % in 16-bit types.
// Operations: an element needs 103 FMA each for the recomputation, its gradient and the weights' gradients; with a
// tile's halo 340 at 32 columns. It needs half as many reads of shared memory, 170 of 4 bytes, which are the bound: a
// multiprocessor reads 128 bytes per cycle.
// Model for an H200 (bench/issue_model), float32: T's first stage at 512x512 takes 58 us, and 810 us at batch 16.

#include "cuda/partials.cuh"
#include "ops/msca_conv/gradients.cuh"
#include "ops/msca_conv/strips.cuh"

namespace segnext {
namespace {

constexpr int kThreads = 256;
constexpr int kTaps = 7;  // taps whose gradient a thread makes at once: 7 divides SegNeXt's strips of 7 and 21
constexpr int kParts = 4;

struct BackwardPlan {
  StripSizes sizes;
  int side, reach, delay;  // how far they reach: row strips in columns, column strips in rows, the root in quads
  int a_columns, x_columns, h_columns, gh_columns, ga_columns;  // g has as many as gh
  int x_rows, g_rows, ga_rows;
};

BackwardPlan backward_plan(const StripSizes& s, const RowTiling& t) {
  BackwardPlan plan{};
  plan.sizes = s;
  plan.side = strip_reach(s.row, s.pairs);
  plan.reach = strip_reach(s.column, s.pairs);
  plan.delay = quads_of(s.root_half());
  plan.h_columns = whole_runs(t.columns);
  plan.a_columns = plan.h_columns + 2 * plan.side;
  plan.x_columns = plan.a_columns + 2 * s.root_half();
  plan.ga_columns = whole_runs(t.columns + 2 * s.root_half());
  plan.gh_columns = plan.ga_columns + 2 * plan.side;
  plan.x_rows = 2 * s.root_half() + 2 * kQuad;
  plan.g_rows = 2 * plan.reach + 2 * kQuad;
  plan.ga_rows = (2 * plan.delay + 1) * kQuad;
  return plan;
}

// Elements of one channel that are of type T.
size_t ring_elements(const BackwardPlan& p) {
  return static_cast<size_t>(p.x_rows) * p.x_columns + static_cast<size_t>(p.g_rows) * p.gh_columns;
}

template <typename T>
size_t backward_bytes(const BackwardPlan& p, const RowTiling& t) {
  const size_t quads = kQuad * static_cast<size_t>(p.a_columns + p.h_columns + p.gh_columns);
  const size_t floats =
      quads + static_cast<size_t>(p.ga_rows) * p.ga_columns + static_cast<size_t>(1 + kParts) * p.sizes.vectors;
  return t.slice * (floats * sizeof(float) + ring_elements(p) * sizeof(T)) + 16;
}

// Places of a block's data in shared memory.
template <typename T>
struct BackwardRings {
  RowRing<T> x, g;
  RowRing<float> a, h, gh, ga;
  float *weights, *sums;  // (vectors, slice), (vectors, kParts, slice)

  __device__ BackwardRings(const BackwardPlan& p, int slice) {
    T* elements = reinterpret_cast<T*>(shared_memory());
    x = {elements, p.x_rows, p.x_columns * slice};
    g = {elements + x.rows * x.row_size, p.g_rows, p.gh_columns * slice};
    const int bytes = (x.rows * x.row_size + g.rows * g.row_size) * static_cast<int>(sizeof(T));
    float* floats = reinterpret_cast<float*>(shared_memory() + (bytes + 15) / 16 * 16);
    const auto take = [&](int rows, int columns) {
      const RowRing<float> ring{floats, rows, columns * slice};
      floats += rows * columns * slice;
      return ring;
    };
    a = take(kQuad, p.a_columns);
    h = take(kQuad, p.h_columns);
    gh = take(kQuad, p.gh_columns);
    ga = take(p.ga_rows, p.ga_columns);
    weights = floats;
    sums = weights + p.sizes.vectors * slice;
  }
};

// The thread's place in its block.
struct Worker {
  int channel, lane, lanes;  // lanes: threads that share a channel
};

// sums[k] += sum over columns of u[p] v[p + first + k], k < kTaps; returns the sum of u. v has `taps` - 1 more columns.
template <typename T>
__device__ inline float correlate_row(float (&sums)[kTaps], const float* u, const T* v, int columns, int first,
                                      int taps, int pixel) {
  const int last = columns + taps - 2;
  const auto at = [&](int column) { return to_float(load_shared(v + (column < last ? column : last) * pixel)); };
  float window[kTaps], total = 0.0f;
#pragma unroll
  for (int k = 1; k < kTaps; ++k) window[k] = at(first + k - 1);
  for (int p = 0; p < columns; ++p) {
#pragma unroll
    for (int k = 0; k < kTaps - 1; ++k) window[k] = window[k + 1];
    window[kTaps - 1] = at(p + first + kTaps - 1);
    const float value = load_shared(u + p * pixel);
    total += value;
#pragma unroll
    for (int k = 0; k < kTaps; ++k) sums[k] = fmaf(value, window[k], sums[k]);
  }
  return total;
}

// Adds to the sums of taps first, first + 1, ... of a line of `taps`; `sums` is the place of the line's first tap.
__device__ inline void store_sums(const float (&values)[kTaps], float* sums, int first, int taps, int part, int slice) {
#pragma unroll
  for (int k = 0; k < kTaps; ++k) {
    float* at = sums + ((first + k) * kParts + part) * slice;
    if (first + k < taps) store_shared(at, load_shared(at) + values[k]);
  }
}

__device__ inline void add_to(float* sum, float value) { store_shared(sum, load_shared(sum) + value); }

__device__ inline int groups_of(int taps) { return (taps + kTaps - 1) / kTaps; }

// Adds to the weight gradients of a pair's row strip. An item is a (group of taps, row of the quad).
template <typename T>
__device__ inline void correlate_row_strip(const BackwardRings<T>& m, const BackwardPlan& p, const RowTiling& t,
                                           int pair, int item, int channel) {
  const StripSizes& s = p.sizes;
  const int taps = s.row[pair], first = item / kParts * kTaps, row = item % kParts;
  const float* gh = m.gh.data + row * m.gh.row_size + (p.side + s.root_half()) * t.slice + channel;
  const float* a = m.a.data + row * m.a.row_size + (p.side - taps / 2) * t.slice + channel;
  float sums[kTaps] = {};
  const float total = correlate_row(sums, gh, a, t.columns, first, taps, t.slice);
  float* line = m.sums + s.at[pair] * kParts * t.slice + channel;
  store_sums(sums, line, first, taps, row, t.slice);
  if (first == 0) add_to(line + (taps * kParts + row) * t.slice, total);
}

// Adds to the weight gradients of a pair's column strip. An item is a (group of taps, quarter of the columns).
template <typename T>
__device__ inline void correlate_column_strip(const BackwardRings<T>& m, const BackwardPlan& p, const RowTiling& t,
                                              int pair, int quad, int item, int channel) {
  constexpr int kRows = kQuad + kTaps - 1;
  const StripSizes& s = p.sizes;
  const int taps = s.column[pair], first = item / kParts * kTaps, part = item % kParts;
  const int top = quad * kQuad + taps / 2 - first - (kTaps - 1);  // row of g that meets h's first row at the last tap
  const int begin = first + kTaps - taps;                         // rows before it belong to no tap
  const int slot = m.g.slot(top);
  float sums[kTaps] = {};
  for (int column = part; column < t.columns; column += kParts) {
    float h[kQuad], g[kRows];
#pragma unroll
    for (int r = 0; r < kQuad; ++r) h[r] = load_shared(m.h.data + r * m.h.row_size + column * t.slice + channel);
    const T* pixel = m.g.data + (column + p.side + s.root_half()) * t.slice + channel;
    int at = slot;
#pragma unroll
    for (int j = 0; j < kRows; ++j) {
      g[j] = j >= begin ? to_float(load_shared(pixel + at * m.g.row_size)) : 0.0f;
      at = m.g.after(at);
    }
#pragma unroll
    for (int k = 0; k < kTaps; ++k) {
#pragma unroll
      for (int r = 0; r < kQuad; ++r) sums[k] = fmaf(h[r], g[r + kTaps - 1 - k], sums[k]);
    }
  }
  store_sums(sums, m.sums + s.column_at(pair) * kParts * t.slice + channel, first, taps, part, t.slice);
}

// Adds to the weight gradients of the root and to the root's and columns' biases. An item is a (row of taps, group of
// its taps, row of the quad).
template <typename T>
__device__ inline void correlate_root(const BackwardRings<T>& m, const BackwardPlan& p, const RowTiling& t, int quad,
                                      int item, int channel) {
  const StripSizes& s = p.sizes;
  const int row = item % kParts, group = item / kParts % groups_of(s.root), i = item / kParts / groups_of(s.root);
  const int first = group * kTaps, half = s.root_half();
  const float* ga = m.ga.at(quad * kQuad + row) + half * t.slice + channel;
  const T* x = m.x.at(quad * kQuad + row + i - half) + p.side * t.slice + channel;
  float sums[kTaps] = {};
  const float total = correlate_row(sums, ga, x, t.columns, first, s.root, t.slice);
  store_sums(sums, m.sums + i * s.root * kParts * t.slice + channel, first, s.root, row, t.slice);
  if (item >= kParts) return;
  add_to(m.sums + (s.root * s.root * kParts + row) * t.slice + channel, total);
  if (s.pairs == 0) return;
  // the columns' biases all have the same gradient: it is stored at the first pair's
  const T* g = m.g.at(quad * kQuad + row) + (p.side + half) * t.slice + channel;
  float sum = 0.0f;
  for (int column = 0; column < t.columns; ++column) sum += to_float(load_shared(g + column * t.slice));
  add_to(m.sums + ((s.column_at(0) + s.column[0]) * kParts + row) * t.slice + channel, sum);
}

// Makes a quad of a: the root's output in the block's own columns and as far as the row strips reach, zero outside the
// image.
template <typename T>
__device__ inline void make_a(const BackwardRings<T>& m, const BackwardPlan& p, const RowTiling& t, const TilePlace& at,
                              int quad, const Worker& me) {
  const StripSizes& s = p.sizes;
  for (int column = me.lane; column < p.a_columns; column += me.lanes) {
    float sum[kQuad];
    const float bias = load_shared(m.weights + s.root * s.root * t.slice + me.channel);
#pragma unroll
    for (int r = 0; r < kQuad; ++r) sum[r] = bias;
    for (int j = 0; j < s.root; ++j) {
      add_column(sum, m.x, quad * kQuad - s.root_half(), (column + j) * t.slice + me.channel,
                 m.weights + j * t.slice + me.channel, s.root, s.root * t.slice);
    }
    const int64_t image_column = at.left - p.side + column;
    const bool inside = image_column >= 0 && image_column < t.width;
#pragma unroll
    for (int r = 0; r < kQuad; ++r) {
      const bool kept = inside && at.top + quad * kQuad + r < t.height;
      store_shared(m.a.data + r * m.a.row_size + column * t.slice + me.channel, kept ? sum[r] : 0.0f);
    }
  }
}

// Makes a quad of h in the block's own columns, zero outside the image. An item is a (row, run of columns).
template <typename T>
__device__ inline void make_h(const BackwardRings<T>& m, const BackwardPlan& p, const RowTiling& t, const TilePlace& at,
                              int pair, int quad, const Worker& me) {
  const StripSizes& s = p.sizes;
  const float* w = m.weights + s.at[pair] * t.slice + me.channel;
  const float bias = load_shared(w + s.row[pair] * t.slice);
  const int runs = runs_of(t.columns);
  for (int item = me.lane; item < kQuad * runs; item += me.lanes) {
    const int row = item / runs, column = item % runs * kRun;
    float sum[kRun];
#pragma unroll
    for (int k = 0; k < kRun; ++k) sum[k] = bias;
    add_row(sum, m.a.data + row * m.a.row_size + (column + p.side - s.row[pair] / 2) * t.slice + me.channel, t.slice, w,
            s.row[pair], t.slice);
#pragma unroll
    for (int k = 0; k < kRun; ++k) {
      const bool kept = at.top + quad * kQuad + row < t.height && at.left + column + k < t.width;
      store_shared(m.h.data + row * m.h.row_size + (column + k) * t.slice + me.channel, kept ? sum[k] : 0.0f);
    }
  }
}

// Makes a quad of gh, as far as ga and its row strips reach, zero outside the image.
template <typename T>
__device__ inline void make_gh(const BackwardRings<T>& m, const BackwardPlan& p, const RowTiling& t,
                               const TilePlace& at, int pair, int quad, const Worker& me) {
  const StripSizes& s = p.sizes;
  const int taps = s.column[pair];
  const float* last = m.weights + (s.column_at(pair) + taps - 1) * t.slice + me.channel;
  for (int column = me.lane; column < p.gh_columns; column += me.lanes) {
    float sum[kQuad] = {};
    add_column(sum, m.g, quad * kQuad - taps / 2, column * t.slice + me.channel, last, taps, -t.slice);
    const int64_t image_column = at.left - p.side - s.root_half() + column;
    const bool inside = image_column >= 0 && image_column < t.width;
#pragma unroll
    for (int r = 0; r < kQuad; ++r) {
      const int64_t image_row = at.top + quad * kQuad + r;
      const bool kept = inside && image_row >= 0 && image_row < t.height;
      store_shared(m.gh.data + r * m.gh.row_size + column * t.slice + me.channel, kept ? sum[r] : 0.0f);
    }
  }
}

// Begins the newest quad of ga with g. Every pair's row^T(gh) is added later, inside the image. An item is a (row,
// column).
template <typename T>
__device__ inline void begin_ga(const BackwardRings<T>& m, const BackwardPlan& p, const RowTiling& t, int quad,
                                const Worker& me) {
  for (int item = me.lane; item < kQuad * p.ga_columns; item += me.lanes) {
    const int row = quad * kQuad + item / p.ga_columns, column = item % p.ga_columns;
    store_shared(m.ga.at(row) + column * t.slice + me.channel,
                 to_float(load_shared(m.g.at(row) + (column + p.side) * t.slice + me.channel)));
  }
}

template <typename T>
__device__ inline void add_to_ga(const BackwardRings<T>& m, const BackwardPlan& p, const RowTiling& t,
                                 const TilePlace& at, int pair, int quad, int item, int channel) {
  const StripSizes& s = p.sizes;
  const int taps = s.row[pair], runs = p.ga_columns / kRun;
  const int row = quad * kQuad + item / runs, column = item % runs * kRun;
  const int64_t image_row = at.top + row;
  if (image_row < 0 || image_row >= t.height) return;
  float* ga = m.ga.at(row) + column * t.slice + channel;
  float sum[kRun] = {};  // starts at zero: short sums have small errors
  add_row(sum, m.gh.data + item / runs * m.gh.row_size + (column + p.side - taps / 2) * t.slice + channel, t.slice,
          m.weights + (s.at[pair] + taps - 1) * t.slice + channel, taps, -t.slice);
#pragma unroll
  for (int k = 0; k < kRun; ++k) {
    const int64_t image_column = at.left - s.root_half() + column + k;
    if (image_column >= 0 && image_column < t.width) add_to(ga + k * t.slice, sum[k]);
  }
}

template <typename T>
__device__ inline void store_grad_x(const BackwardRings<T>& m, const BackwardPlan& p, const RowTiling& t,
                                    const TilePlace& at, const ImageSlice<T>& grad_x, int quad, const Worker& me) {
  const StripSizes& s = p.sizes;
  for (int column = me.lane; column < t.columns; column += me.lanes) {
    if (at.left + column >= t.width || me.channel >= grad_x.channels) continue;
    float sum[kQuad] = {};
    for (int j = 0; j < s.root; ++j) {
      add_column(sum, m.ga, quad * kQuad - s.root_half(), (column + s.root - 1 - j) * t.slice + me.channel,
                 m.weights + ((s.root - 1) * s.root + j) * t.slice + me.channel, s.root, -s.root * t.slice);
    }
#pragma unroll
    for (int r = 0; r < kQuad; ++r) {
      const int64_t row = at.top + quad * kQuad + r;
      if (row >= at.bottom) continue;
      store_global(
          grad_x.data + row * grad_x.stride_h + (at.left + column) * grad_x.stride_w + me.channel * grad_x.stride_c,
          from_float<T>(sum[r]));
    }
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    msca_conv_backward_kernel(MscaConvParams p, Tensor4 grad, Tensor4 grad_x_tensor, BackwardPlan plan, RowTiling t,
                              float* partials) {
  const StripSizes& s = plan.sizes;
  const TilePlace at = tile_place(t);
  const ImageSlice<T> x(p.x, at, t.slice), g(grad, at, t.slice), grad_x(grad_x_tensor, at, t.slice);
  const BackwardRings<T> m(plan, t.slice);
  const int slice = t.slice, thread = threadIdx.x, threads = blockDim.x;
  const Worker me{thread % slice, thread / slice, threads / slice};
  for (int i = thread; i < s.vectors * kParts * slice; i += threads) store_shared(m.sums + i, 0.0f);
  load_weights<T>(m.weights, p.weights, s, at, t);

  const int half = s.root_half(), outer = plan.side + half;
  const auto load_x = [&](int first, int count) {
    for (int i = first; i < first + count; ++i) load_row(m.x.at(i), x, at.top + i, at.left - outer, plan.x_columns, t);
  };
  const auto load_g = [&](int first, int count) {
    for (int i = first; i < first + count; ++i) load_row(m.g.at(i), g, at.top + i, at.left - outer, plan.gh_columns, t);
  };
  const int quads = (static_cast<int>(at.bottom - at.top) + kQuad - 1) / kQuad;
  load_x(-plan.delay * kQuad - half, 2 * half + kQuad);
  load_g(-plan.delay * kQuad - plan.reach, 2 * plan.reach + kQuad);
  cp_async_commit();
  for (int quad = -plan.delay; quad < quads + plan.delay; ++quad) {
    const bool is_own = quad >= 0 && quad < quads;
    cp_async_wait<0>();
    __syncthreads();
    load_x((quad + 1) * kQuad + half, kQuad);
    load_g((quad + 1) * kQuad + plan.reach, kQuad);
    cp_async_commit();

    begin_ga(m, plan, t, quad, me);
    if (is_own) make_a(m, plan, t, at, quad, me);
    __syncthreads();
    for (int pair = 0; pair < s.pairs; ++pair) {
      if (is_own) make_h(m, plan, t, at, pair, quad, me);
      make_gh(m, plan, t, at, pair, quad, me);
      __syncthreads();
      const int row_items = is_own ? groups_of(s.row[pair]) * kParts : 0;
      const int column_items = is_own ? groups_of(s.column[pair]) * kParts : 0;
      const int all_items = row_items + column_items + kQuad * plan.ga_columns / kRun;
      for (int item = me.lane; item < all_items; item += me.lanes) {
        if (item < row_items) {
          correlate_row_strip(m, plan, t, pair, item, me.channel);
        } else if (item < row_items + column_items) {
          correlate_column_strip(m, plan, t, pair, quad, item - row_items, me.channel);
        } else {
          add_to_ga(m, plan, t, at, pair, quad, item - row_items - column_items, me.channel);
        }
      }
      __syncthreads();
    }
    if (is_own) {
      for (int item = me.lane; item < s.root * groups_of(s.root) * kParts; item += me.lanes) {
        correlate_root(m, plan, t, quad, item, me.channel);
      }
    }
    const int finished = quad - plan.delay;
    if (finished >= 0 && finished < quads) store_grad_x(m, plan, t, at, grad_x, finished, me);
  }
  __syncthreads();
  for (int i = thread; i < s.vectors * slice; i += threads) {
    const int vector = i / slice, channel = i % slice;
    if (channel >= x.channels) continue;
    float sum = 0.0f;
    for (int part = 0; part < kParts; ++part) sum += load_shared(m.sums + (vector * kParts + part) * slice + channel);
    store_global(partials + (at.part * s.vectors + vector) * t.channels + at.channel + channel, sum);
  }
}

template <typename T>
RowTiling tiling_of(const MscaConvBackwardParams& p, const StripSizes& s) {
  RowTiling t = strip_tiling<T>(p.forward.x, has_vectors<T>(p.forward.x, p.grad), 16, 32,
                                [&](const RowTiling& cut) { return backward_bytes<T>(backward_plan(s, cut), cut); });
  const int warm_up = 2 * backward_plan(s, t).delay;
  // blocks on the same multiprocessor take turns in issuing, so more of them finish no sooner
  fill_device(t, p.forward.x, 128, 2 * kQuad, kMultiprocessors, [&](int rows) { return rows / kQuad + warm_up; });
  return t;
}

template <typename T>
int launch_backward(const MscaConvBackwardParams& p, float* partials, void* stream) {
  const StripSizes s = strip_sizes(p.forward.weights);
  const RowTiling t = tiling_of<T>(p, s);
  if (t.blocks() > INT32_MAX) return static_cast<int>(cudaErrorInvalidConfiguration);
  if (t.blocks() > 0) {
    const BackwardPlan plan = backward_plan(s, t);
    if (const int status = launch(msca_conv_backward_kernel<T>, dim3(static_cast<unsigned>(t.blocks())), dim3(kThreads),
                                  backward_bytes<T>(plan, t), stream, p.forward, p.grad, p.grad_x, plan, t, partials)) {
      return status;
    }
  }
  return add_partials(partials, t.parts(), s.vectors * t.channels, gradients_of<T>(p, t.channels), stream);
}

}  // namespace

int64_t msca_conv_backward_workspace(const MscaConvBackwardParams& params) {
  if (takes_toeplitz_backward(params)) return msca_conv_backward_toeplitz_workspace(params);
  const StripSizes s = strip_sizes(params.forward.weights);
  int64_t result = 0;
  with_element_type(params.forward.dtype, [&](auto element) {
    using T = decltype(element);
    const RowTiling t = tiling_of<T>(params, s);
    result = t.parts() * s.vectors * t.channels * static_cast<int64_t>(sizeof(float));
    return 0;
  });
  return result;
}

int launch_msca_conv_backward(const MscaConvBackwardParams& params, void* workspace, void* stream) {
  if (takes_toeplitz_backward(params)) return launch_msca_conv_backward_toeplitz(params, workspace, stream);
  return with_element_type(params.forward.dtype, [&](auto element) {
    return launch_backward<decltype(element)>(params, static_cast<float*>(workspace), stream);
  });
}

}  // namespace segnext
