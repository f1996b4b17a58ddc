// Backward of dwconv_gelu on a GPU, from x alone: y = dw3x3(x) + b is recomputed, g = grad gelu'(y); then
//   grad_x = dw3x3 of g with the weights rotated by 180 degrees,
//   grad_weight[i, j] = sum over pixels p of g[p] x[p + (i - 1, j - 1)], grad_bias = sum of g.
//
// Tiling: a thread has two channels of four columns (of two in float and float16) and moves down a strip of rows.
// Registers hold three rows of x and the three rows of grad_x that a row of g contributes to. Rows of x and grad come
// straight from global memory, one step ahead; a step is 500 instructions. Neighbouring threads exchange their outer
// columns of g through shared memory, with one barrier per step. If a block has others beside it, one more warp
// computes g of the two columns outside the block. The sums of grad_weight stay in registers down the strip; then
// columns are added in order.
// Bytes: x, grad and grad_x once, plus two to four rows per strip that L2 serves: 6 per element in 16-bit formats.
// Partial sums: 40 bytes per channel and block.
// Instructions per element (sm_90 machine code, bf16): 60, of which 27 are FMA of the three convolutions, 13 gelu', 3
// conversions and 8 addresses and loads; 66 in float, 65 in float16. The extra warp adds 5 %.
// Model for an H200 (528 warp instructions per cycle at 1.7 GHz, 4.3 TB/s): SegNeXt-T's 256 x 128 x 128 takes 11 us in
// strips of 16 rows (29 before), 32 images of it 300 us; memory's floors are 5.9 and 187 us.
// Registers: 168, which allow 12 warps per multiprocessor, or 10 if a block has the extra warp.
// Versions tried: rings of x, grad and g in shared memory, one column of four channels per thread, erff and expf: 200
// instructions per element and 8 warps. Two columns in bf16 at 128 registers: 75 instructions per element.
// Measured on an H200 (bench/results/h200), forward and backward: 256 x 128 x 128 takes 27 us in bf16, 32 images of it
// 714 us, where the model says 17 and 488.

#include "cuda/gelu.cuh"
#include "cuda/partials.cuh"
#include "ops/dwconv_gelu/columns.cuh"
#include "ops/dwconv_gelu/dwconv_gelu.h"

namespace segnext {
namespace {

constexpr int kThreads = 128;     // threads that have columns of their own
constexpr int kHaloThreads = 32;  // if the block has others beside it: one warp computes g of the columns on both sides
constexpr int kBlocks = 2;        // blocks per multiprocessor; three if they have no halo threads
constexpr int kMostPacks = 8;     // if the block has others beside it: 32 bytes or more per pixel
constexpr int kSums = 10;         // sums per channel: nine of the weight and one of the bias
constexpr int kMostRows = 32, kLeastRows = 4;

// Each thread's first and last column of g, for its neighbours. There are two copies, because a step writes while
// others may still read the values of the step before. Groups -1 and `groups` are the columns beside the block.
template <int kVec>
class Edges {
 public:
  __device__ Edges(float* shared, int groups, int packs, int pack)
      : row_(packs * kVec), side_((groups + 2) * packs * kVec), own_(shared + (packs + pack) * kVec) {}

  static size_t bytes(int groups, int packs) { return sizeof(float) * 4 * (groups + 2) * packs * kVec; }

  __device__ void write(int parity, int group, const float (&first)[kVec], const float (&last)[kVec]) {
    float* place = own_ + 2 * parity * side_ + group * row_;
    Channels<float, kVec>::from_floats(first).store_to_shared(place);
    Channels<float, kVec>::from_floats(last).store_to_shared(place + side_);
  }

  // Reads the last column of the group before and the first column of the group after.
  __device__ void read(int parity, int group, float (&before)[kVec], float (&after)[kVec]) const {
    const float* place = own_ + 2 * parity * side_ + group * row_;
    Channels<float, kVec>::load(place + side_ - row_, before);
    Channels<float, kVec>::load(place + row_, after);
  }

  // Sets the columns beside the block to zero. Called where no halo thread writes them.
  __device__ void clear_outside(int group, int groups) {
    const float zero[kVec] = {};
    for (int parity = 0; parity < 2; ++parity) {
      if (group == 0) write(parity, -1, zero, zero);
      if (group == groups - 1) write(parity, groups, zero, zero);
    }
  }

 private:
  const int row_, side_;
  float* own_;
};

// The barrier of a step. The two kinds of threads reach it from loops of their own.
__device__ inline void meet() { __syncthreads(); }

// A thread's place among the columns of its block.
struct ThreadPlace {
  int group, column;  // column of the image; if it is -1, or the width or more, there is none
  int64_t channel;
  bool active;  // whether its columns and channels are in the image
};

// Moves a thread down the strip. It computes g of its columns row by row and, unless kIsHalo, adds g to grad_x and
// sums.
template <typename T, int kVec, int kColumns, bool kIsHalo>
__device__ inline void walk(const DwconvGeluParams& p, const Tensor4& grad_tensor, const Tensor4& grad_x_tensor,
                            const StripPlace& at, const ThreadPlace& own, Edges<kVec> edges,
                            float (&sums)[kSums][kVec]) {
  const int top = at.top, rows = static_cast<int>(at.bottom) - top;
  RowReader<T, kVec> x(p.x, at.image, own.channel, own.column - 1, kColumns + 2, top - 2, at.bottom + 2, own.active);
  RowReader<T, kVec> grad(grad_tensor, at.image, own.channel, own.column, kColumns, top - 1, at.bottom + 1, own.active);
  RowWriter<T, kVec> grad_x(grad_x_tensor, at.image, own.channel, own.column, top);
  ThreadTaps<T, kVec> taps;
  if (own.active) taps.load(p.weight, p.bias, own.channel);

  PackedChannels<T, kVec> next_x[kColumns + 2], next_grad[kColumns];
  float window[3][kColumns + 2][kVec];  // rows of x: row s, counted from top - 2, is in window[s % 3]
  float results[3][kColumns][kVec];     // rows of grad_x
#pragma unroll
  for (int row = 0; row < 2; ++row) {
    x.template load<kColumns + 2>(next_x);
#pragma unroll
    for (int j = 0; j < kColumns + 2; ++j) next_x[j].to_floats(window[row][j]);
  }
  x.template load<kColumns + 2>(next_x);
  grad.template load<kColumns, true>(next_grad);

  int parity = 0;
  // Makes row top - 1 + s of g (s % 3 == kPhase) from rows s to s + 2 of x and adds it to the rows of grad_x that it
  // contributes to. Outside the image grad is zero, and so is g. If y is not finite there, the grad_x beside it is NaN
  // anyway.
  const auto step = [&](int s, auto phase, auto reached) {
    constexpr int kPhase = decltype(phase)::value, kReached = decltype(reached)::value;
    auto &below = results[kPhase], &here = results[(kPhase + 2) % 3], &above = results[(kPhase + 1) % 3];
    float g[kColumns][kVec];
#pragma unroll
    for (int j = 0; j < kColumns + 2; ++j) next_x[j].to_floats(window[(kPhase + 2) % 3][j]);
#pragma unroll
    for (int j = 0; j < kColumns; ++j) next_grad[j].to_floats(g[j]);
#pragma unroll
    for (int j = 0; j < kColumns; ++j) {
#pragma unroll
      for (int v = 0; v < kVec; ++v) {
        float y = taps.bias[v];
#pragma unroll
        for (int i = 0; i < 9; ++i) y = fmaf(taps.weight[i][v], window[(kPhase + i / 3) % 3][j + i % 3][v], y);
        g[j][v] *= gelu_derivative<T>(y);
      }
    }
    x.template load<kColumns + 2>(next_x);
    grad.template load<kColumns, true>(next_grad);
    edges.write(parity, own.group, g[0], g[kColumns - 1]);
    if (!kIsHalo && kReached > 1 && s <= rows) {
#pragma unroll
      for (int v = 0; v < kVec; ++v) {
#pragma unroll
        for (int j = 0; j < kColumns; ++j) {
#pragma unroll
          for (int i = 0; i < 9; ++i) {
            sums[i][v] = fmaf(g[j][v], window[(kPhase + i / 3) % 3][j + i % 3][v], sums[i][v]);
          }
          sums[9][v] += g[j][v];
        }
      }
    }
    // Adds column j + 1 - i of g, which is `from`, times column i of the taps to column j of three rows of grad_x.
    const auto add = [&](int j, int i, const float (&from)[kVec]) {
#pragma unroll
      for (int v = 0; v < kVec; ++v) {
        below[j][v] = fmaf(taps.weight[6 + i][v], from[v], below[j][v]);
        if (kReached > 1) here[j][v] = fmaf(taps.weight[3 + i][v], from[v], here[j][v]);
        if (kReached > 2) above[j][v] = fmaf(taps.weight[i][v], from[v], above[j][v]);
      }
    };
    if (!kIsHalo) {
#pragma unroll
      for (int j = 0; j < kColumns; ++j) {
#pragma unroll
        for (int v = 0; v < kVec; ++v) below[j][v] = 0.0f;
#pragma unroll
        for (int i = 0; i < 3; ++i) {
          if (j + 1 - i >= 0 && j + 1 - i < kColumns) add(j, i, g[(j + 1 - i + kColumns) % kColumns]);
        }
      }
    }
    meet();
    if (!kIsHalo) {
      float before[kVec], after[kVec];
      edges.read(parity, own.group, before, after);
      add(0, 2, before);
      add(kColumns - 1, 0, after);
      if (kReached > 2) {
        if (own.active) {
#pragma unroll
          for (int j = 0; j < kColumns; ++j) grad_x.store(j, above[j]);
        }
        grad_x.next_row();
      }
    }
    parity ^= 1;
  };
  step(0, Int<0>(), Int<1>());
  step(1, Int<1>(), Int<2>());
  for (int s = 2;;) {
    step(s, Int<2>(), Int<3>());
    if (++s == rows + 2) break;
    step(s, Int<0>(), Int<3>());
    if (++s == rows + 2) break;
    step(s, Int<1>(), Int<3>());
    if (++s == rows + 2) break;
  }
}

// Adds up the threads' sums of a block, column after column.
template <int kVec>
__device__ inline void store_partials(const float (&sums)[kSums][kVec], float* scratch, float* partials,
                                      const RowTiling& t, const StripPlace& at, int group, int groups, int channel) {
  __syncthreads();
  if (group >= 0) {
#pragma unroll
    for (int i = 0; i < kSums; ++i) {
      Channels<float, kVec>::from_floats(sums[i]).store_to_shared(scratch + (i * groups + group) * t.slice + channel);
    }
  }
  __syncthreads();
  for (int i = threadIdx.x; i < kSums * t.slice; i += blockDim.x) {
    const int which = i / t.slice, c = i % t.slice;
    if (at.channel + c >= t.channels) continue;
    float sum = 0.0f;
    for (int j = 0; j < groups; ++j) sum += load_shared(scratch + (which * groups + j) * t.slice + c);
    store_global(partials + (static_cast<int64_t>(at.part) * kSums + which) * t.channels + at.channel + c, sum);
  }
}

template <typename T, int kVec, int kColumns>
__global__ void __launch_bounds__(kThreads + kHaloThreads, kBlocks)
    dwconv_gelu_backward_kernel(DwconvGeluParams p, Tensor4 grad, Tensor4 grad_x, RowTiling t, float* partials) {
  float* shared = reinterpret_cast<float*>(shared_memory());
  const StripPlace at(t);
  const int packs = t.slice / kVec, groups = kThreads / packs, pack = threadIdx.x % packs;
  const bool is_halo = threadIdx.x >= kThreads;
  ThreadPlace own;
  own.channel = static_cast<int64_t>(at.channel) + pack * kVec;
  own.group = threadIdx.x / packs;
  // A halo thread has one column: the first `packs` threads have the one before the block, the next ones the one after.
  if (is_halo) own.group = threadIdx.x < kThreads + packs ? -1 : groups;
  own.column = static_cast<int>(at.left) + (own.group < 0 ? -1 : own.group * kColumns);
  own.active = own.channel < t.channels && own.column >= 0 && own.column < t.width;
  Edges<kVec> edges(shared, groups, packs, pack);
  float sums[kSums][kVec] = {};
  if (is_halo) {
    walk<T, kVec, 1, true>(p, grad, grad_x, at, own, edges, sums);
  } else {
    if (blockDim.x == kThreads) edges.clear_outside(own.group, groups);
    walk<T, kVec, kColumns, false>(p, grad, grad_x, at, own, edges, sums);
  }
  store_partials(sums, shared, partials, t, at, is_halo ? -1 : own.group, groups, pack * kVec);
}

template <typename T>
struct DwconvGradients {
  T *weight, *bias;  // (C, 3, 3) contiguous; (C) or null
  int64_t channels, bias_stride;

  __device__ void store(int64_t i, float value) const {
    const int64_t which = i / channels, c = i % channels;
    if (which < 9) {
      store_global(weight + c * 9 + which, from_float<T>(value));
    } else if (bias != nullptr) {
      store_global(bias + c * bias_stride, from_float<T>(value));
    }
  }
};

// How a kernel with kVec channels and kColumns columns per thread divides the images. Workspace and launch must agree,
// so this depends on no device.
template <int kVec, int kColumns>
RowTiling tiling_of(const Tensor4& x) {
  const int all_groups = power_of_two_from((x.size[3] + kColumns - 1) / kColumns, kThreads);
  int packs = kVec > 1 || has_inner_channels(x) ? power_of_two_from((x.size[1] + kVec - 1) / kVec, kThreads) : 1;
  // takes the whole width if that leaves 8 packs, and more packs if an image is narrow
  while (packs > kMostPacks && packs * all_groups > kThreads) packs /= 2;
  RowTiling t{};
  t.vectors = kVec > 1;
  t.slice = packs * kVec;
  t.columns = kThreads / packs * kColumns;
  // g is also made for the rows above and below a strip, and one step passes before the first row of x is complete
  fill_device(t, x, kMostRows, kLeastRows, kMultiprocessors * (x.size[3] > t.columns ? kBlocks : kBlocks + 1),
              [](int rows) { return rows + 3; });
  return t;
}

// Calls f(Int<kVec>(), Int<kColumns>()) with the largest values that the images allow.
template <typename T, typename F>
auto with_variant(const DwconvGeluBackwardParams& p, F f) {
  constexpr int kVec = 2;  // 36 floats of weights, sums and bias; four channels would be too many beside two columns
  if (!has_channel_vectors<T, kVec>(p.forward.x, p.grad, p.grad_x)) return f(Int<1>(), Int<1>());
  constexpr int kColumns = std::is_same<T, __nv_bfloat16>::value ? 4 : 2;  // the other types would spill
  return p.forward.x.size[3] % kColumns == 0 ? f(Int<kVec>(), Int<kColumns>()) : f(Int<kVec>(), Int<1>());
}

template <typename T, int kVec, int kColumns>
int launch_backward(const DwconvGeluBackwardParams& p, float* partials, void* stream) {
  const RowTiling t = tiling_of<kVec, kColumns>(p.forward.x);
  if (t.blocks() > INT32_MAX) return static_cast<int>(cudaErrorInvalidConfiguration);
  if (t.blocks() > 0) {
    const int packs = t.slice / kVec, groups = kThreads / packs;
    const size_t sums = sizeof(float) * kSums * groups * t.slice, edges = Edges<kVec>::bytes(groups, packs);
    if (const int status =
            launch(dwconv_gelu_backward_kernel<T, kVec, kColumns>, dim3(static_cast<unsigned>(t.blocks())),
                   dim3(t.tiles > 1 ? kThreads + kHaloThreads : kThreads), sums > edges ? sums : edges, stream,
                   p.forward, p.grad, p.grad_x, t, partials)) {
      return status;
    }
  }
  const DwconvGradients<T> gradients{static_cast<T*>(p.grad_weight.data), static_cast<T*>(p.grad_bias.data), t.channels,
                                     p.grad_bias.stride[0]};
  return add_partials(partials, t.parts(), kSums * t.channels, gradients, stream);
}

}  // namespace

int64_t dwconv_gelu_backward_workspace(const DwconvGeluBackwardParams& params) {
  int64_t bytes = 0;
  with_element_type(params.forward.dtype, [&](auto element) {
    return with_variant<decltype(element)>(params, [&](auto vec, auto columns) {
      const RowTiling t = tiling_of<decltype(vec)::value, decltype(columns)::value>(params.forward.x);
      bytes = t.parts() * kSums * t.channels * static_cast<int64_t>(sizeof(float));
      return 0;
    });
  });
  return bytes;
}

int launch_dwconv_gelu_backward(const DwconvGeluBackwardParams& params, void* workspace, void* stream) {
  return with_element_type(params.forward.dtype, [&](auto element) {
    using T = decltype(element);
    return with_variant<T>(params, [&](auto vec, auto columns) {
      return launch_backward<T, decltype(vec)::value, decltype(columns)::value>(params, static_cast<float*>(workspace),
                                                                                stream);
    });
  });
}

}  // namespace segnext
