// Shared by the kernels of msca_conv: the sizes of root and strips, their weights in shared memory, and the two
// register tiles that all depthwise convolutions here consist of. Every tile is one channel of one thread:
//   column tile  four rows by one column: K + 3 loads of data and K of weights for 4 K FMA;
//   row tile     one row by five columns: K + 4 loads of data and K of weights for 5 K FMA. With five columns instead
//                of four, the columns that a warp starts at lie in different banks for slices of 1 to 16 channels.
// Data in shared memory is (row, column, channel), in T or float.
#pragma once

#include "cuda/row_tiles.cuh"
#include "ops/msca_conv/msca_conv.h"

namespace segnext {

constexpr int kQuad = 4;
constexpr int kRun = 5;
// Shared memory per block: two blocks fit an H200's multiprocessor, and one fits every device from sm_80 on.
constexpr size_t kSharedBudget = 96 * 1024;

// Sizes, and the place of each kernel's taps in shared memory, counted in vectors of a slice: first the root's taps row
// by row and its bias; then, for each pair, the row's taps and bias and the column's taps and bias.
struct StripSizes {
  int root, pairs, vectors;
  int row[kMaxStrips], column[kMaxStrips], at[kMaxStrips];

  __host__ __device__ int column_at(int pair) const { return at[pair] + row[pair] + 1; }
  __host__ __device__ int root_half() const { return root / 2; }
};

inline StripSizes strip_sizes(const MscaConvWeights& w) {
  StripSizes s{};
  s.root = static_cast<int>(w.root_weight.size[2]);
  s.pairs = w.strips;
  s.vectors = s.root * s.root + 1;
  for (int i = 0; i < s.pairs; ++i) {
    s.row[i] = static_cast<int>(w.row_weight[i].size[3]);
    s.column[i] = static_cast<int>(w.column_weight[i].size[2]);
    s.at[i] = s.vectors;
    s.vectors += s.row[i] + s.column[i] + 2;
  }
  return s;
}

// Columns or rows that the strips reach to either side.
inline int strip_reach(const int (&taps)[kMaxStrips], int pairs) {
  int most = 0;
  for (int i = 0; i < pairs; ++i) most = taps[i] / 2 > most ? taps[i] / 2 : most;
  return most;
}

inline int quads_of(int rows) { return (rows + kQuad - 1) / kQuad; }

// Writes the weights of a block's channels to shared memory as (vectors, slice), with zeros for what is absent.
template <typename T>
__device__ inline void load_taps(float* shared, const Tensor4& weight, const Tensor4& bias, int taps, int side,
                                 int64_t stride_row, int64_t stride_column, const TilePlace& at, const RowTiling& t) {
  for (int i = threadIdx.x; i < (taps + 1) * t.slice; i += blockDim.x) {
    const int tap = i / t.slice;
    const int64_t c = at.channel + i % t.slice;
    float value = 0.0f;
    if (c < t.channels && tap < taps) {
      value = to_float(load_global(static_cast<const T*>(weight.data) + c * weight.stride[0] + tap / side * stride_row +
                                   tap % side * stride_column));
    } else if (c < t.channels && bias.data != nullptr) {
      value = to_float(load_global(static_cast<const T*>(bias.data) + c * bias.stride[0]));
    }
    store_shared(shared + i, value);
  }
}

template <typename T>
__device__ inline void load_weights(float* shared, const MscaConvWeights& w, const StripSizes& s, const TilePlace& at,
                                    const RowTiling& t) {
  load_taps<T>(shared, w.root_weight, w.root_bias, s.root * s.root, s.root, w.root_weight.stride[2],
               w.root_weight.stride[3], at, t);
  for (int i = 0; i < s.pairs; ++i) {
    const Tensor4 &row = w.row_weight[i], &column = w.column_weight[i];
    load_taps<T>(shared + s.at[i] * t.slice, row, w.row_bias[i], s.row[i], s.row[i], 0, row.stride[3], at, t);
    load_taps<T>(shared + s.column_at(i) * t.slice, column, w.column_bias[i], s.column[i], 1, column.stride[2], 0, at,
                 t);
  }
}

// A ring of rows in shared memory. Rows may be counted from any origin, down to -2^20 rings.
template <typename T>
struct RowRing {
  T* data;
  int rows, row_size;

  __device__ int slot(int row) const {
    constexpr int kOffset = 1 << 20;
    return static_cast<int>(static_cast<unsigned>(row + rows * kOffset) % rows);
  }
  __device__ int after(int slot) const { return slot + 1 == rows ? 0 : slot + 1; }
  __device__ T* at(int row) const { return data + slot(row) * row_size; }
};

// sum[r] += sum over taps of w[tap] * (row + r + tap) at one column. `step` is the distance from tap to tap; a negative
// one reverses the kernel.
template <typename T>
__device__ inline void add_column(float (&sum)[kQuad], const RowRing<T>& ring, int row, int offset, const float* w,
                                  int taps, int step) {
  float window[kQuad];
  int slot = ring.slot(row);
  const auto next = [&] {
    const float value = to_float(load_shared(ring.data + slot * ring.row_size + offset));
    slot = ring.after(slot);
    return value;
  };
#pragma unroll
  for (int r = 1; r < kQuad; ++r) window[r] = next();
  for (int tap = 0; tap < taps; ++tap) {
#pragma unroll
    for (int r = 0; r < kQuad - 1; ++r) window[r] = window[r + 1];
    window[kQuad - 1] = next();
    const float weight = load_shared(w + tap * step);
#pragma unroll
    for (int r = 0; r < kQuad; ++r) sum[r] = fmaf(weight, window[r], sum[r]);
  }
}

// sum[p] += sum over taps of w[tap] * row[p + tap], where pixels are `pixel` apart.
__device__ inline void add_row(float (&sum)[kRun], const float* row, int pixel, const float* w, int taps, int step) {
  float window[kRun];
#pragma unroll
  for (int p = 0; p < kRun - 1; ++p) window[p + 1] = load_shared(row + p * pixel);
  for (int tap = 0; tap < taps; ++tap) {
#pragma unroll
    for (int p = 0; p < kRun - 1; ++p) window[p] = window[p + 1];
    window[kRun - 1] = load_shared(row + (kRun - 1 + tap) * pixel);
    const float weight = load_shared(w + tap * step);
#pragma unroll
    for (int p = 0; p < kRun; ++p) sum[p] = fmaf(weight, window[p], sum[p]);
  }
}

// Number of runs that cover `columns` columns. Rows in shared memory have room for the end of the last run.
__host__ __device__ inline int runs_of(int columns) { return (columns + kRun - 1) / kRun; }
__host__ __device__ inline int whole_runs(int columns) { return runs_of(columns) * kRun; }

// Chooses slice and columns of a tile: at most `slice` channels and `columns` columns (four times as many for one
// channel), reduced until bytes(tiling) is within the budget. If not even one 16-byte vector fits, rows are loaded
// element by element.
template <typename T, typename Bytes>
inline RowTiling strip_tiling(const Tensor4& x, bool vectors, int slice, int columns, Bytes bytes) {
  RowTiling t{};
  t.vectors = vectors;
  t.slice = power_of_two_from(x.size[1], vectors || has_inner_channels(x) ? slice : 1);
  t.columns = power_of_two_from(x.size[3], t.slice == 1 ? 4 * columns : columns);
  while (bytes(t) > kSharedBudget && (t.slice > 1 || t.columns > 1)) {
    constexpr int kVec = Vec16<T>::kSize;
    // eight channels are a 16-byte vector of 16-bit types and a sector of float32; narrower tiles recompute more halo
    if (t.slice > 8 || (t.columns <= 16 && t.slice > 1)) {
      t.slice /= 2;
      t.vectors = t.vectors && t.slice >= kVec;
    } else {
      t.columns /= 2;
    }
  }
  return t;
}

// Kernels for SegNeXt's sizes only. takes_...() tells whether such a kernel takes these sizes, types and addresses on
// the current device. launch_...() returns a cudaError_t, 0 for success.
bool takes_toeplitz(const MscaConvParams& params);
int launch_msca_conv_toeplitz(const MscaConvParams& params, void* stream);
bool takes_float32(const MscaConvParams& params);
int launch_msca_conv_float32(const MscaConvParams& params, void* stream);
// The backward kernel takes a workspace of msca_conv_backward_toeplitz_workspace() bytes.
bool takes_toeplitz_backward(const MscaConvBackwardParams& params);
int64_t msca_conv_backward_toeplitz_workspace(const MscaConvBackwardParams& params);
int launch_msca_conv_backward_toeplitz(const MscaConvBackwardParams& params, void* workspace, void* stream);

}  // namespace segnext
