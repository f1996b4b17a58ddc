// dwconv_gelu on a GPU: y = dw3x3(x) + b, out = y / 2 (1 + erf(y / sqrt 2)).
//
// Tiling: a block walks down a strip of rows of a tile of columns by a slice of channels, 128 bytes of a pixel. Rows
// come by 16-byte cp.async into a ring of kDepth, three ahead of the arithmetic: the bytes under way do not hang on
// registers or warps. A thread has one column and one vector of channels, their nine weights in registers, and the
// sums of the three output rows that the newest row reaches: it reads three vectors from shared memory a row.
// Bytes: x once, plus 2 halo columns of 34 and 2 rows of a strip of 32 that L2 serves, plus out once: 4 an element in
// 16-bit formats.
// Operations an element: 9 FMA, 3 conversions, about 25 for erff and its product: 38 instructions of the 128 a
// multiprocessor issues a cycle. Model for an H200 (132 x 128 x 1.7 GHz; 4.3 TB/s): 1.3 ps of arithmetic and 0.93 ps
// of memory an element in bf16, so 6 us for SegNeXt-T's 256 x 128 x 128; fp32 is bound by memory, 1.9 ps. Not yet
// measured on a GPU.
// Shared memory: 4 rows x 34 columns x 128 B = 17 KB: occupancy is bound by registers, see tests' table.

#include "common/gelu.cuh"
#include "common/row_tiles.cuh"
#include "dwconv_gelu/dwconv_gelu.h"

namespace segnext {
namespace {

constexpr int kThreads = 256;
constexpr int kDepth = 4;
constexpr int kSliceBytes = 128;

// kVec channels a thread: a 16-byte vector, or one.
template <typename T, int kVec>
__global__ void __launch_bounds__(kThreads) dwconv_gelu_forward_kernel(DwconvGeluParams p, RowTiling t) {
  T* ring = reinterpret_cast<T*>(shared_memory());  // (kDepth, columns + 2, slice)
  const TilePlace at = tile_place(t);
  const ImageSlice<T> x(p.x, at, t.slice);
  const int row_size = (t.columns + 2) * t.slice;
  const int packs = t.slice / kVec, column = threadIdx.x / packs, channel = threadIdx.x % packs * kVec;
  const bool has_output = at.left + column < t.width && channel < x.channels;

  float weight[9][kVec], bias[kVec];
#pragma unroll
  for (int v = 0; v < kVec; ++v) {
    const int64_t c = at.channel + channel + v;
    const bool given = channel + v < x.channels;
    const T* taps = static_cast<const T*>(p.weight.data) + (given ? c * p.weight.stride[0] : 0);
#pragma unroll
    for (int i = 0; i < 9; ++i) {
      weight[i][v] = given ? to_float(load_global(taps + i / 3 * p.weight.stride[2] + i % 3 * p.weight.stride[3])) : 0;
    }
    const bool biased = given && p.bias.data != nullptr;
    bias[v] = biased ? to_float(load_global(static_cast<const T*>(p.bias.data) + c * p.bias.stride[0])) : 0.0f;
  }
  T* out = static_cast<T*>(p.out.data) + at.image * p.out.stride[0] + (at.channel + channel) * p.out.stride[1] +
           (at.left + column) * p.out.stride[3];

  const int steps = static_cast<int>(at.bottom - at.top) + 2;
  for (int i = 0; i < kDepth - 1; ++i) {
    if (i < steps) load_row(ring + i * row_size, x, at.top - 1 + i, at.left - 1, t.columns + 2, t);
    cp_async_commit();
  }
  float above[kVec], here[kVec], below[kVec];  // sums of output rows of step - 1, step and step + 1
#pragma unroll
  for (int v = 0; v < kVec; ++v) above[v] = here[v] = below[v] = bias[v];
  for (int step = 0; step < steps; ++step) {
    cp_async_wait<kDepth - 2>();
    __syncthreads();
    const int next = step + kDepth - 1;  // into the row that the last step was done with
    if (next < steps) load_row(ring + next % kDepth * row_size, x, at.top - 1 + next, at.left - 1, t.columns + 2, t);
    cp_async_commit();
    const T* row = ring + step % kDepth * row_size + column * t.slice + channel;
#pragma unroll
    for (int j = 0; j < 3; ++j) {
      float pixel[kVec];
      Channels<T, kVec>::load(row + j * t.slice, pixel);
#pragma unroll
      for (int v = 0; v < kVec; ++v) {
        above[v] = fmaf(weight[6 + j][v], pixel[v], above[v]);
        here[v] = fmaf(weight[3 + j][v], pixel[v], here[v]);
        below[v] = fmaf(weight[j][v], pixel[v], below[v]);
      }
    }
    if (step >= 2 && has_output) {
      float result[kVec];
#pragma unroll
      for (int v = 0; v < kVec; ++v) result[v] = gelu<T>(above[v]);
      Channels<T, kVec>::from_floats(result).store_to_global(out + (at.top + step - 2) * p.out.stride[2]);
    }
#pragma unroll
    for (int v = 0; v < kVec; ++v) {
      above[v] = here[v];
      here[v] = below[v];
      below[v] = bias[v];
    }
  }
}

template <typename T, int kVec>
int launch_forward(const DwconvGeluParams& p, void* stream) {
  RowTiling t{};
  t.vectors = kVec > 1;
  const int most = kVec > 1 ? kSliceBytes / static_cast<int>(sizeof(T)) : has_inner_channels(p.x) ? kWarp : 1;
  t.slice = power_of_two_from(p.x.size[1], most);
  const int packs = t.slice / kVec;
  // 32 columns beside 8 vectors; wider where a slice is narrow, so that a block has warps to hide latency with
  t.columns = power_of_two_from(p.x.size[3], kThreads / packs);
  while (t.columns * packs < kWarp) t.columns *= 2;
  fill_device(t, p.x, 32, 8);
  if (t.blocks() == 0) return 0;
  if (t.blocks() > INT32_MAX) return static_cast<int>(cudaErrorInvalidConfiguration);
  const size_t shared = sizeof(T) * kDepth * (t.columns + 2) * t.slice;
  return launch(dwconv_gelu_forward_kernel<T, kVec>, dim3(static_cast<unsigned>(t.blocks())),
                dim3(static_cast<unsigned>(t.columns * packs)), shared, stream, p, t);
}

}  // namespace

int launch_dwconv_gelu_forward(const DwconvGeluParams& params, void* stream) {
  return with_element_type(params.dtype, [&](auto element) {
    using T = decltype(element);
    return has_vectors<T>(params.x, params.out) ? launch_forward<T, Vec16<T>::kSize>(params, stream)
                                                : launch_forward<T, 1>(params, stream);
  });
}

}  // namespace segnext
