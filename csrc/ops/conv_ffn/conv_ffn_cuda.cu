// conv_ffn on a GPU in one kernel: out = W2 GELU(dw3x3(W1 x + b1) + b) + b2 (+ x), for 16-bit types. The hidden tensor
// never leaves the multiprocessor.
//
// Tiling: a block makes a tile of 14 columns by 8 or 16 rows (8 from 128 channels on) by all output channels. It holds
// the tile of x with its halo, 16 columns by 10 or 18 rows by C, and loops over the hidden channels in slices of 32 or
// 64. For each slice:
//   fc1    tensor cores: makes the slice of hidden, with bias, zero outside the image, in planes of one channel;
//   dw3x3  tensor cores: a row of taps over 16 columns is a product with a banded Toeplitz matrix, T[m][k] = w[k - m],
//          of 16 columns by 8 lines. Three rows of taps are three products of 2048 multiply-adds for 112 outputs; 9 FMA
//          per output with conversions and loads were 16 instructions. GELU is applied to the sums; the results are
//          rounded and go to planes again;
//   fc2    tensor cores: adds to the sums (pixels x Co) in float32 registers.
// There are two barriers per slice. fc1's weights of the next slice arrive by cp.async during dw3x3; fc2's go from L2
// to registers. At the end the sums cross shared memory into the order of out; bias, residual and rounding are applied
// once, 16 bytes per access. If there are few tiles, a cluster of up to 8 blocks shares each: every block processes
// some of the slices, and the sums of all are added in the blocks' order through distributed shared memory. Devices
// without clusters use one block per tile. If there are more output channels than a block holds (Co > C, which SegNeXt
// does not have), they are divided into panels, and hidden is recomputed for each panel. More than 320 input channels
// are left to Triton: x would fill the multiprocessor, and three kernels are three times as fast.
// Hidden and GELU's result are rounded to the 16-bit type, as eager PyTorch rounds them; sums are float32.
// NaN and Inf reach exactly what they reach by the definition. The barrier after fc1 tells whether a slice of a tile
// contains one; such a slice is mixed by plain multiply-adds, because a Toeplitz matrix's zeros would spread it along
// the line.
//
// Bytes: x once, with a halo that L2 serves (1.29 and 1.43 times), out once, weights from L2 once per tile.
// Work per hidden element (warp instructions x 32 / elements by bench/issue_model) for four images of 112x112: C 32:
// 34, 64: 38, 128: 64, 160: 72, 256: 65, 320: 76. GELU takes 15 of them and the rest of dw3x3 4; the part that grows
// with C feeds the products.
// Model for an H200 (bench/issue_model), microseconds at batch 1, bound by passes over shared memory:
//   512x512     T 10.6, 7.0, 10.0, 11.1 (13 launches: 125)     B 20.7, 20.3, 16.7
//   768x1536    T 29.4, 21.2, 15.0, 11.5 (13 launches: 250)
// Versions, compared by counting: fc1's weights straight from L2 as the left operand cost 8 moves per product, because
// its four registers alternate between two rows of weights. Toeplitz operands assembled from pairs in registers cost 12
// moves per channel. 64 hidden channels per slice at C = 64 leave room for one block per multiprocessor. The parts of
// each phase's addresses are computed once if registers allow it, which saves 20 to 30 instructions per warp and slice.
// Measured on an H200 (bench/results/h200), bf16: T's first stage takes 20 us at 512x512 and 292 us for 32 images, 2.0
// and 3.2 times as fast as eager PyTorch; its last stage 27 us, and B's first two 58 us or more. So `auto` takes this
// kernel up to 32 channels, and above them three kernels (segnext_kernels/ops/conv_ffn/compiled.py).

#include <algorithm>

#include "cuda/row_tiles.cuh"
#include "ops/conv_ffn/expand.cuh"
#include "ops/conv_ffn/mix.cuh"
#include "ops/conv_ffn/reduce.cuh"

namespace segnext {
namespace {

constexpr int kMostSplits = 8;  // blocks per cluster that every device with clusters supports

struct FfnGrid {
  int tiles_x, tiles_y, splits;  // blocks along x: one per split of a tile, a cluster; along y: panels
  bool vectors_in, vectors_out;
};

template <typename S>
__device__ inline FfnTile tile_of(const ConvFfnCudaParams& p, const FfnGrid& grid, unsigned block) {
  const int place = block / static_cast<unsigned>(grid.splits);
  return {place / grid.tiles_x / grid.tiles_y, place / grid.tiles_x % grid.tiles_y * S::kTileRows,
          place % grid.tiles_x * kTileColumns, static_cast<int>(p.x.size[2]), static_cast<int>(p.x.size[3])};
}

// Loads the tile of x with its halo, with zeros outside the image and past its channels.
template <typename T, typename S>
__device__ inline void load_x(T* x, const Tensor4& from, const FfnTile& at, bool vectors) {
  constexpr unsigned kVectors = S::kIn / 8;
  const int channels = static_cast<int>(from.size[1]);
  const T* image = static_cast<const T*>(from.data) + at.image * from.stride[0];
#pragma unroll 1
  for (unsigned i = threadIdx.x; i < S::kPixels * kVectors; i += S::kThreads) {
    const int pixel = i / kVectors, channel = i % kVectors * 8;
    const int row = at.top - 1 + pixel / 16, column = at.left - 1 + pixel % 16;
    const bool inside = row >= 0 && row < at.height && column >= 0 && column < at.width && channel < channels;
    T* target = x + pixel * S::kPitch + channel;
    const T* source = image;
    if (inside) source += row * from.stride[2] + column * from.stride[3] + channel * from.stride[1];
    if (vectors) {
      cp_async16(target, source, inside);
    } else {
#pragma unroll 1
      for (int e = 0; e < 8; ++e) {
        store_shared(target + e, inside ? load_global(source + e * from.stride[1]) : from_float<T>(0.0f));
      }
    }
  }
  cp_async_commit();
}

// Adds the sums of the cluster's blocks in their order, bias and residual, for this block's share of the tile's pixels.
template <typename T, typename S>
__device__ inline void write_out(float* sums, const ConvFfnCudaParams& p, const FfnGrid& grid) {
  constexpr unsigned kVectors = S::kOut / 8;
  const T* bias = static_cast<const T*>(p.weights.fc2_bias.data);
  const FfnTile at = tile_of<S>(p, grid, opaque(blockIdx.x));  // recomputed: keeping it would cost registers
  const int channels = static_cast<int>(p.out.size[1]);
#pragma unroll 1
  for (unsigned i = cluster_rank() * S::kThreads + threadIdx.x; i < S::kOutputs * kVectors;
       i += grid.splits * S::kThreads) {
    const unsigned pixel = i / kVectors, vector = pixel / 8;
    const int row = at.top + vector / kTileColumns + pixel % 8 * S::kSets, column = at.left + vector % kTileColumns;
    const int channel = blockIdx.y * S::kOut + i % kVectors * 8;
    if (row >= at.height || column >= at.width || channel >= channels) continue;
    float total[8], part[8];
    Vec16<T>::load_global(bias + channel).to_floats(total);
#pragma unroll 1
    for (int from = 0; from < grid.splits; ++from) {
      const float* source = cluster_map(sums, from) + pixel * S::kOutPitch + i % kVectors * 8;
#pragma unroll
      for (int e = 0; e < 8; e += 4) {
        const float4 four = load_shared(reinterpret_cast<const float4*>(source + e));
        part[e] = four.x;
        part[e + 1] = four.y;
        part[e + 2] = four.z;
        part[e + 3] = four.w;
      }
#pragma unroll
      for (int e = 0; e < 8; ++e) total[e] += part[e];
    }
    if (p.residual) {
      const T* x = static_cast<const T*>(p.x.data) + at.image * p.x.stride[0] + row * p.x.stride[2] +
                   column * p.x.stride[3] + channel * p.x.stride[1];
      if (grid.vectors_in) {
        Vec16<T>::load_global(x).to_floats(part);
      } else {
#pragma unroll
        for (int e = 0; e < 8; ++e) part[e] = to_float(load_global(x + e * p.x.stride[1]));
      }
#pragma unroll
      for (int e = 0; e < 8; ++e) total[e] += part[e];
    }
    T* out = static_cast<T*>(p.out.data) + at.image * p.out.stride[0] + row * p.out.stride[2] +
             column * p.out.stride[3] + channel * p.out.stride[1];
    const Vec16<T> result = Vec16<T>::from_floats(total);
    if (grid.vectors_out) {
      result.store_global(out);
    } else {
#pragma unroll
      for (int e = 0; e < 8; ++e) store_global(out + e * p.out.stride[1], result.values[e]);
    }
  }
}

template <typename T, typename S>
__global__ void __launch_bounds__(S::kThreads, S::kBlocks) conv_ffn_forward_kernel(ConvFfnCudaParams p, FfnGrid grid) {
  T* x = reinterpret_cast<T*>(shared_memory());
  T* expansion = x + S::kXBytes / sizeof(T);
  T* hidden = expansion + S::kWeightBytes / sizeof(T);
  T* mixed = hidden + S::kHiddenBytes / sizeof(T);
  Words* taps = reinterpret_cast<Words*>(mixed + S::kMixedBytes / sizeof(T));
  float* biases = reinterpret_cast<float*>(taps + S::kTapBytes / sizeof(Words));
  float* expansion_biases = biases + S::kSlice;

  const ConvFfnWeights& w = p.weights;
  const int rank = cluster_rank();
  const int slices = static_cast<int>((w.fc1_weight.size[0] + S::kSlice - 1) / S::kSlice);
  const FfnTile at = tile_of<S>(p, grid, blockIdx.x);
  load_x<T, S>(x, p.x, at, grid.vectors_in);
  load_expansion<T, S>(w.fc1_weight, rank, expansion);
  float bias = expansion_bias<T, S>(w.fc1_bias, rank);
  clear_taps<S>(taps);
  Reduce<T, S> fc2;
  if (threadIdx.x < S::kSlice) store_shared(expansion_biases + threadIdx.x, bias);
  cp_async_wait<0>();
  __syncthreads();
  // Each phase requests from memory the values that the next phase reads.
#pragma unroll 1
  for (int slice = rank; slice < slices; slice += grid.splits) {
    TapRow<T, S> row;
    if (S::kStays) row.load(w, slice);
    const bool bad = Expand<T, S>(at, threadIdx.x).run(expansion_biases, x, expansion, hidden).found();
    if (!S::kStays) row.load(w, slice);
    row.store(taps, biases);
    const bool any_bad = __syncthreads_or(bad);
    load_expansion<T, S>(w.fc1_weight, slice + grid.splits, expansion);
    const auto prefetch = [&] {
      bias = expansion_bias<T, S>(w.fc1_bias, slice + grid.splits);
      fc2.prefetch(w, blockIdx.y, slice);
    };
    if (S::kEarly) prefetch();
    if (any_bad) {
      Mix<T, S>::run_plainly(hidden, taps, biases, mixed);
    } else {
      Mix<T, S>::run(threadIdx.x, hidden, taps, biases, mixed);
    }
    if (!S::kEarly) prefetch();
    if (threadIdx.x < S::kSlice) store_shared(expansion_biases + threadIdx.x, bias);
    cp_async_wait<0>();
    __syncthreads();
    fc2.run(mixed);
  }
  static_assert(S::kOutBytes <= S::kXBytes + S::kWeightBytes + S::kHiddenBytes, "what fc2 reads stays");
  float* sums = reinterpret_cast<float*>(shared_memory());
  fc2.store(sums);
  if (grid.splits > 1) {
    cluster_sync();
  } else {
    __syncthreads();
  }
  write_out<T, S>(sums, p, grid);
  if (grid.splits > 1) cluster_sync();  // no sums are read after this
}

// Chooses the number of blocks per cluster that share the hidden channels of a tile. A multiprocessor is busy with
// `full` blocks at once. A block takes the time of its slices, plus that of one slice for x and the result, plus
// another for the sums of other blocks.
inline int splits_for(int64_t units, int slices, double full) {
  int best = 1;
  double least = 0.0;
  for (int splits = 1; splits <= kMostSplits && splits <= slices; ++splits) {
    const double blocks = static_cast<double>((units * splits + kMultiprocessors - 1) / kMultiprocessors);
    const double time = (blocks > full ? blocks : full) * ((slices + splits - 1) / splits + 1 + (splits > 1));
    if (splits == 1 || time < least) {
      best = splits;
      least = time;
    }
  }
  return best;
}

template <typename T, typename S>
int launch_shape(const ConvFfnCudaParams& p, void* stream) {
  FfnGrid grid{};
  const auto parts = [](int64_t size, int each) { return static_cast<int>((size + each - 1) / each); };
  grid.tiles_x = parts(p.x.size[3], kTileColumns);
  grid.tiles_y = parts(p.x.size[2], S::kTileRows);
  const int panels = parts(p.out.size[1], S::kOut);
  grid.vectors_in = has_vectors<T>(p.x);
  grid.vectors_out = has_vectors<T>(p.out);
  const int64_t units = p.x.size[0] * grid.tiles_x * grid.tiles_y;
  if (units * panels == 0) return 0;
  const int slices = static_cast<int>((p.weights.fc1_weight.size[0] + S::kSlice - 1) / S::kSlice);
  auto kernel = conv_ffn_forward_kernel<T, S>;
  grid.splits = splits_for(units * panels, slices, std::max(1.0, 12.0 / S::kWarps));
  while (grid.splits > 1 && resident_clusters(kernel, S::kThreads, grid.splits, S::kSharedBytes) == 0) --grid.splits;
  if (units * grid.splits > INT32_MAX || panels > 65535) return static_cast<int>(cudaErrorInvalidConfiguration);
  const dim3 blocks(static_cast<unsigned>(units * grid.splits), panels), threads(S::kThreads);
  return grid.splits > 1 ? launch_cluster(kernel, blocks, threads, grid.splits, S::kSharedBytes, stream, p, grid)
                         : launch(kernel, blocks, threads, S::kSharedBytes, stream, p, grid);
}

// Calls f(FfnShape) with the shape for this many input channels.
template <typename F>
auto with_shape(int64_t channels, F f) {
  //                                     in, out, slice, warps, sets, rows, at once, out tiles, blocks
  if (channels <= 32) return f(FfnShape<32, 32, 32, 4, 2, 1, 3, 2, 3>());
  if (channels <= 64) return f(FfnShape<64, 64, 32, 8, 2, 1, 3, 2, 2>());
  if (channels <= 128) return f(FfnShape<128, 128, 32, 8, 1, 1, 5, 2, 2>());
  if (channels <= 160) return f(FfnShape<160, 160, 64, 16, 1, 1, 5, 5, 1>());
  if (channels <= 256) return f(FfnShape<256, 256, 64, 8, 1, 2, 5, 4, 1>());
  return f(FfnShape<kMostFfnChannels, 320, 64, 8, 1, 2, 5, 5, 1>());
}

}  // namespace

bool conv_ffn_forward_fits(int64_t channels) {
  return with_shape(channels, [](auto shape) { return decltype(shape)::kSharedBytes <= shared_limit(); });
}

int launch_conv_ffn_forward(const ConvFfnCudaParams& params, void* stream) {
  return with_shape(params.x.size[1], [&](auto shape) {
    using S = decltype(shape);
    return params.weights.dtype == DType::kBFloat16 ? launch_shape<__nv_bfloat16, S>(params, stream)
                                                    : launch_shape<__half, S>(params, stream);
  });
}

}  // namespace segnext
