// dwconv_gelu on a GPU: y = dw3x3(x) + b, out = y / 2 (1 + erf(y / sqrt 2)).
//
// Tiling: a thread has 8 bytes of channels (4, or 2 in float) of two columns and moves down a strip of rows. It loads
// four columns of each row of x from global memory, three rows ahead of the arithmetic, and adds their products to the
// sums of the three rows of out that they contribute to. Columns that neighbours also need come from L1. Threads
// exchange nothing, so there is no barrier. The number of rows per strip is chosen so that the device finishes soonest.
// Bytes: x once, plus two rows per strip that L2 serves, plus out once: 4 per element in 16-bit formats.
// Instructions per element (sm_90 machine code, bf16): 30 in the loop, of which 9 are FMA, 13 GELU, 2 conversions and
// half a packing. Each thread runs 250 more before the loop. Of the rows + 2 rows that it reads for a strip, the first
// costs one third of the products and the second two thirds.
// Model for an H200 (528 warp instructions per cycle at 1.7 GHz, 4.3 TB/s): SegNeXt-T's 256 x 128 x 128 takes 5.5 us in
// strips of 8 rows, 32 images of it 150 us in strips of 32; memory's floors are 3.9 and 125 us. In float, memory is the
// bound: 7.8 and 250 us.
// Registers: 128, for four blocks of 128 threads per multiprocessor. Each block has loads of 24 KB of x in flight.
// Versions tried: a ring of rows in shared memory by cp.async, one column of 16 bytes per thread, erff: 60 instructions
// per element and 8 warps per multiprocessor. Named elements instead of words: nvcc unpacked every register of two
// elements, with 34 instructions and spills.
// Measured on an H200 (bench/results/h200): 256 x 128 x 128 takes 7.9 us in bf16, 512 x 64 x 64 5.4 us; 32 images of
// the first 179 us, where the model says 154.

#include "cuda/gelu.cuh"
#include "ops/dwconv_gelu/columns.cuh"
#include "ops/dwconv_gelu/dwconv_gelu.h"

namespace segnext {
namespace {

constexpr int kThreads = 128, kBlocks = 4;  // blocks per multiprocessor
constexpr int kMostRows = 32;

template <typename T, int kVec, int kColumns>
__global__ void __launch_bounds__(kThreads, kBlocks) dwconv_gelu_forward_kernel(DwconvGeluParams p, RowTiling t) {
  const StripPlace at(t);
  const int packs = t.slice / kVec;
  const int64_t channel = at.channel + threadIdx.x % packs * kVec;
  const int column = at.left + threadIdx.x / packs * kColumns;
  if (channel >= t.channels || column >= t.width) return;

  const int top = at.top, bottom = at.bottom;
  RowReader<T, kVec> x(p.x, at.image, channel, column - 1, kColumns + 2, top - 1, bottom + 1);
  RowWriter<T, kVec> out(p.out, at.image, channel, column, top);
  PackedChannels<T, kVec> ahead[3][kColumns + 2];
#pragma unroll
  for (int i = 0; i < 3; ++i) x.template load<kColumns + 2>(ahead[i]);
  ThreadTaps<T, kVec> taps;
  taps.load(p.weight, p.bias, channel);
  float sums[3][kColumns][kVec];
  // Adds row top - 1 + s of x (s % 3 == kPhase) to the three rows of out that it contributes to.
  const auto step = [&](auto phase, auto rows) {
    constexpr int kPhase = decltype(phase)::value, kRows = decltype(rows)::value;
    auto &below = sums[kPhase], &here = sums[(kPhase + 2) % 3], &above = sums[(kPhase + 1) % 3];
    float pixel[kColumns + 2][kVec];
#pragma unroll
    for (int j = 0; j < kColumns + 2; ++j) ahead[kPhase][j].to_floats(pixel[j]);
#pragma unroll
    for (int j = 0; j < 3; ++j) {
#pragma unroll
      for (int i = 0; i < kColumns; ++i) {
#pragma unroll
        for (int v = 0; v < kVec; ++v) {
          const float value = pixel[i + j][v];
          below[i][v] = fmaf(taps.weight[j][v], value, j == 0 ? taps.bias[v] : below[i][v]);
          if (kRows > 1) here[i][v] = fmaf(taps.weight[3 + j][v], value, here[i][v]);
          if (kRows > 2) above[i][v] = fmaf(taps.weight[6 + j][v], value, above[i][v]);
        }
      }
    }
    x.template load<kColumns + 2>(ahead[kPhase]);
    if (kRows > 2) {
#pragma unroll
      for (int i = 0; i < kColumns; ++i) {
        float result[kVec];
#pragma unroll
        for (int v = 0; v < kVec; ++v) result[v] = gelu<T>(above[i][v]);
        out.store(i, result);
      }
      out.next_row();
    }
  };
  step(Int<0>(), Int<1>());
  step(Int<1>(), Int<2>());
  for (int left = bottom - top;;) {
    step(Int<2>(), Int<3>());
    if (--left == 0) break;
    step(Int<0>(), Int<3>());
    if (--left == 0) break;
    step(Int<1>(), Int<3>());
    if (--left == 0) break;
  }
}

template <typename T, int kVec, int kColumns>
int launch_forward(const DwconvGeluParams& p, void* stream) {
  RowTiling t{};
  t.vectors = kVec > 1;
  t.slice = power_of_two_from(p.x.size[1], kVec > 1 ? 16 * kVec : has_inner_channels(p.x) ? kWarp : 1);
  t.columns = kThreads / (t.slice / kVec) * kColumns;
  const auto kernel = dwconv_gelu_forward_kernel<T, kVec, kColumns>;
  // of the rows + 2 rows that a block reads, the first costs one third of the products and the second two thirds
  fill_device(t, p.x, kMostRows, 1, resident_blocks(kernel, kThreads, 0), [](int rows) { return rows + 1; });
  if (t.blocks() == 0) return 0;
  if (t.blocks() > INT32_MAX) return static_cast<int>(cudaErrorInvalidConfiguration);
  return launch(kernel, dim3(static_cast<unsigned>(t.blocks())), dim3(kThreads), 0, stream, p, t);
}

}  // namespace

int launch_dwconv_gelu_forward(const DwconvGeluParams& params, void* stream) {
  return with_element_type(params.dtype, [&](auto element) {
    using T = decltype(element);
    constexpr int kVec = 8 / sizeof(T);
    if (!has_channel_vectors<T, kVec>(params.x, params.out)) return launch_forward<T, 1, 1>(params, stream);
    return params.x.size[3] % 2 == 0 ? launch_forward<T, kVec, 2>(params, stream)
                                     : launch_forward<T, kVec, 1>(params, stream);
  });
}

}  // namespace segnext
