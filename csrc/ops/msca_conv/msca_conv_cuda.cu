// msca_conv on a GPU: a = root(x); out = a + sum over pairs of column(row(a)). All convolutions are depthwise, and each
// zero-pads its own input: a and the rows' results are zero, not the bias, outside the image.
//
// The ring kernel takes any sizes. A block moves down a strip of rows by quads (four rows) and keeps in rings the rows
// that later rows need:
//   x      the rows that the root reaches, in T, and the next quad's, which arrive by cp.async;
//   a      with as many columns left and right as the row strips reach, and as many quads as the longest column strip
//          reaches down;
//   rows   for each pair, the rows' results from as far up as its column strip reaches, down to the newest quad of a.
// In each step all threads make a quad of a, then a quad of each pair's rows, then four output rows. SegNeXt's sizes
// get tiles of 16 columns by 8 channels: 79 KB in 16-bit types, 87 KB in float32, so two blocks fit an H200's
// multiprocessor.
// Bytes: x once, plus halo columns and rows that L2 serves, plus out once: 4 per element in 16-bit types, 8 in float32.
// Operations per element for SegNeXt: 103 FMA; 150 with the tile's halo, and 170 if 24 of 128 rows are computed twice.
// The sizes are known only at run time, so the loops need about three instructions per FMA.
// Model for an H200 (132 x 1.7 GHz), from the machine code: about 24 ps per element. Therefore SegNeXt's sizes have
// kernels of their own if channels are innermost: msca_conv_toeplitz_cuda.cu for 16-bit types,
// msca_conv_float32_cuda.cu.

#include "ops/msca_conv/strips.cuh"

namespace segnext {
namespace {

constexpr int kThreads = 256;

// Rows of the rings; columns of x, of a and of the rows' results.
struct RingPlan {
  StripSizes sizes;
  int side, ahead;  // columns left and right, and quads down, that the strips reach
  int x_columns, a_columns, strip_columns;
  int x_rows, a_rows, strip_rows[kMaxStrips];
};

RingPlan ring_plan(const StripSizes& s, const RowTiling& t) {
  RingPlan plan{};
  plan.sizes = s;
  plan.side = strip_reach(s.row, s.pairs);
  plan.ahead = quads_of(strip_reach(s.column, s.pairs));
  plan.strip_columns = whole_runs(t.columns);
  plan.a_columns = plan.strip_columns + 2 * plan.side;
  plan.x_columns = plan.a_columns + s.root - 1;
  plan.x_rows = s.root - 1 + 2 * kQuad;
  plan.a_rows = (plan.ahead + 1) * kQuad;
  for (int i = 0; i < s.pairs; ++i) plan.strip_rows[i] = (quads_of(s.column[i] / 2) + plan.ahead + 1) * kQuad;
  return plan;
}

template <typename T>
size_t ring_bytes(const RingPlan& p, const RowTiling& t) {
  size_t floats = p.sizes.vectors + static_cast<size_t>(p.a_rows) * p.a_columns;
  for (int i = 0; i < p.sizes.pairs; ++i) floats += static_cast<size_t>(p.strip_rows[i]) * p.strip_columns;
  return t.slice * (floats * sizeof(float) + static_cast<size_t>(p.x_rows) * p.x_columns * sizeof(T)) + 16;
}

template <typename T>
__global__ void __launch_bounds__(kThreads) msca_conv_ring_kernel(MscaConvParams p, RingPlan plan, RowTiling t) {
  const StripSizes& s = plan.sizes;
  const TilePlace at = tile_place(t);
  const ImageSlice<T> x(p.x, at, t.slice);
  // x comes first, because its rows are copied by 16 bytes
  RowRing<T> x_ring{reinterpret_cast<T*>(shared_memory()), plan.x_rows, plan.x_columns * t.slice};
  const int x_bytes = (x_ring.rows * x_ring.row_size * static_cast<int>(sizeof(T)) + 15) / 16 * 16;
  float* weights = reinterpret_cast<float*>(shared_memory() + x_bytes);
  RowRing<float> a_ring{weights + s.vectors * t.slice, plan.a_rows, plan.a_columns * t.slice};
  float* strips = a_ring.data + a_ring.rows * a_ring.row_size;
  const int strip_row = plan.strip_columns * t.slice;

  const int channel = threadIdx.x % t.slice, lane = threadIdx.x / t.slice, lanes = blockDim.x / t.slice;
  const int rows = static_cast<int>(at.bottom - at.top), half = s.root_half();
  // Rows are counted from at.top. A quad of a needs x from row 4 quad - half on.
  const auto load_x = [&](int first, int count) {
    for (int i = 0; i < count; ++i) {
      load_row(x_ring.at(first + i), x, at.top + first + i, at.left - plan.side - half, plan.x_columns, t);
    }
    cp_async_commit();
  };
  const int first_quad = -2 * plan.ahead;
  load_weights<T>(weights, p.weights, s, at, t);
  load_x((first_quad + plan.ahead) * kQuad - half, s.root - 1 + kQuad);
  for (int quad = first_quad; quad * kQuad < rows; ++quad) {
    const int newest = (quad + plan.ahead) * kQuad;
    cp_async_wait<0>();
    __syncthreads();
    load_x(newest + kQuad + half, kQuad);  // rows newest + 4 - half to newest + 3 + half are there already

    for (int column = lane; column < plan.a_columns; column += lanes) {
      float sum[kQuad];
      const float bias = load_shared(weights + s.root * s.root * t.slice + channel);
#pragma unroll
      for (int r = 0; r < kQuad; ++r) sum[r] = bias;
      for (int j = 0; j < s.root; ++j) {
        add_column(sum, x_ring, newest - half, (column + j) * t.slice + channel, weights + j * t.slice + channel,
                   s.root, s.root * t.slice);
      }
      const int64_t image_column = at.left - plan.side + column;
      const bool inside = image_column >= 0 && image_column < t.width;
#pragma unroll
      for (int r = 0; r < kQuad; ++r) {
        store_shared(a_ring.at(newest + r) + column * t.slice + channel, inside ? sum[r] : 0.0f);
      }
    }
    __syncthreads();

    float* data = strips;
    for (int i = 0; i < s.pairs; ++i) {
      const RowRing<float> ring{data, plan.strip_rows[i], strip_row};
      data += ring.rows * ring.row_size;
      const float* w = weights + s.at[i] * t.slice + channel;
      const int runs = plan.strip_columns / kRun;
      for (int item = lane; item < kQuad * runs; item += lanes) {
        const int row = newest + item / runs, column = item % runs * kRun;
        const bool inside = at.top + row >= 0 && at.top + row < t.height;
        const float bias = load_shared(w + s.row[i] * t.slice);
        float sum[kRun];
#pragma unroll
        for (int k = 0; k < kRun; ++k) sum[k] = bias;
        add_row(sum, a_ring.at(row) + (column + plan.side - s.row[i] / 2) * t.slice + channel, t.slice, w, s.row[i],
                t.slice);
#pragma unroll
        for (int k = 0; k < kRun; ++k) {
          store_shared(ring.at(row) + (column + k) * t.slice + channel, inside ? sum[k] : 0.0f);
        }
      }
    }
    if (quad < 0) continue;
    __syncthreads();

    for (int column = lane; column < t.columns; column += lanes) {
      if (at.left + column >= t.width || channel >= x.channels) continue;
      float sum[kQuad];
#pragma unroll
      for (int r = 0; r < kQuad; ++r) {
        sum[r] = load_shared(a_ring.at(quad * kQuad + r) + (column + plan.side) * t.slice + channel);
      }
      float* data = strips;
      for (int i = 0; i < s.pairs; ++i) {
        const RowRing<float> ring{data, plan.strip_rows[i], strip_row};
        data += ring.rows * ring.row_size;
        const float* w = weights + s.column_at(i) * t.slice + channel;
        const float bias = load_shared(w + s.column[i] * t.slice);
#pragma unroll
        for (int r = 0; r < kQuad; ++r) sum[r] += bias;
        add_column(sum, ring, quad * kQuad - s.column[i] / 2, column * t.slice + channel, w, s.column[i], t.slice);
      }
      T* out = static_cast<T*>(p.out.data) + at.image * p.out.stride[0] + (at.channel + channel) * p.out.stride[1] +
               (at.top + quad * kQuad) * p.out.stride[2] + (at.left + column) * p.out.stride[3];
#pragma unroll
      for (int r = 0; r < kQuad; ++r) {
        if (quad * kQuad + r < rows) store_global(out + r * p.out.stride[2], from_float<T>(sum[r]));
      }
    }
  }
}

template <typename T>
int launch_ring(const MscaConvParams& p, void* stream) {
  const StripSizes s = strip_sizes(p.weights);
  RowTiling t = strip_tiling<T>(p.x, has_vectors<T>(p.x), 16, 32,
                                [&](const RowTiling& cut) { return ring_bytes<T>(ring_plan(s, cut), cut); });
  RingPlan plan = ring_plan(s, t);
  const size_t bytes = ring_bytes<T>(plan, t);
  const int resident = resident_blocks(msca_conv_ring_kernel<T>, kThreads, bytes);
  fill_device(t, p.x, 128, kQuad, resident, [&](int rows) { return quads_of(rows) + 2 * plan.ahead; });
  if (t.blocks() == 0) return 0;
  if (t.blocks() > INT32_MAX) return static_cast<int>(cudaErrorInvalidConfiguration);
  return launch(msca_conv_ring_kernel<T>, dim3(static_cast<unsigned>(t.blocks())), dim3(kThreads), bytes, stream, p,
                plan, t);
}

}  // namespace

int launch_msca_conv_forward(const MscaConvParams& params, void* stream) {
  // the order follows the models in the files' headers
  if (takes_toeplitz(params)) return launch_msca_conv_toeplitz(params, stream);
  if (takes_float32(params)) return launch_msca_conv_float32(params, stream);
  return with_element_type(params.dtype, [&](auto element) { return launch_ring<decltype(element)>(params, stream); });
}

}  // namespace segnext
