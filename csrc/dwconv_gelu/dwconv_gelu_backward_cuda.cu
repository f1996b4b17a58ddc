// Backward of dwconv_gelu on a GPU, from x alone: y = dw3x3(x) + b is recomputed, g = grad gelu'(y); then
//   grad_x = dw3x3 of g with the weights turned by 180 degrees,
//   grad_weight[i, j] = sum over pixels p of g[p] x[p + (i - 1, j - 1)], grad_bias = sum of g.
//
// Tiling: as the forward's, a block walks down its strip; rows of x and grad come by cp.async two steps ahead. A thread
// has one column and four channels. At a step it makes g of the next row, into a ring of four rows in shared memory,
// and adds to its 9 weight gradients; and it makes the row of grad_x two above, from the three rows of g that the steps
// before made: one barrier a step. The outer two columns of threads make g for their neighbours alone.
// Bytes: x, grad and grad_x once, plus halos that L2 serves: 6 an element in 16-bit formats. Partial sums: 40 bytes a
// channel and block of 32 x 30 pixels, 1 % of that.
// Operations an element: 27 FMA and about 60 for erff and expf. Model for an H200: 3.5 ps of arithmetic and 1.4 ps of
// memory in bf16. Not yet measured on a GPU.
// Shared memory: (5 x 34 + 3 x 32) x 32 elements and 4 x 32 x 32 floats: 33 KB in 16-bit formats, 50 KB in fp32.

#include "common/gelu.cuh"
#include "common/partials.cuh"
#include "common/row_tiles.cuh"
#include "dwconv_gelu/dwconv_gelu.h"

namespace segnext {
namespace {

constexpr int kThreads = 256;
constexpr int kSlice = 32;
constexpr int kVectorChannels = 4;  // of a thread, in 16-byte and in 8-byte vectors: 80 floats of weights and sums
constexpr int kSums = 10;           // of a channel: nine of the weight and one of the bias
constexpr int kXRows = 5, kGradRows = 3, kGeluRows = 4;

// Where the threads' columns are: one more to each side than the block's own.
__device__ inline int thread_columns(const RowTiling& t) { return t.columns + 2; }

// Adds up the threads' sums of a block, column after column.
template <int kVec>
__device__ inline void store_partials(const float (&sums)[kSums][kVec], float* scratch, float* partials,
                                      const RowTiling& t, const TilePlace& at, int column, int channel) {
  const int columns = thread_columns(t), plane = columns * t.slice;
#pragma unroll
  for (int first = 0; first < kSums; first += kGeluRows) {
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kGeluRows; ++i) {
      if (first + i < kSums) {
        Channels<float, kVec>::from_floats(sums[first + i < kSums ? first + i : 0])
            .store_to_shared(scratch + i * plane + column * t.slice + channel);
      }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < kGeluRows * t.slice; i += blockDim.x) {
      const int which = i / t.slice, c = i % t.slice;
      if (first + which >= kSums || at.channel + c >= t.channels) continue;
      float sum = 0.0f;
      for (int j = 0; j < columns; ++j) sum += load_shared(scratch + which * plane + j * t.slice + c);
      store_global(partials + (at.part * kSums + first + which) * t.channels + at.channel + c, sum);
    }
  }
}

template <typename T, int kVec>
__global__ void __launch_bounds__(kThreads)
    dwconv_gelu_backward_kernel(DwconvGeluParams p, Tensor4 grad_tensor, Tensor4 grad_x_tensor, RowTiling t,
                                float* partials) {
  const TilePlace at = tile_place(t);
  const ImageSlice<T> x(p.x, at, t.slice), grad(grad_tensor, at, t.slice);
  const int columns = thread_columns(t), row_size = columns * t.slice, x_row_size = (columns + 2) * t.slice;
  float* gelu_ring = reinterpret_cast<float*>(shared_memory());        // (kGeluRows, columns, slice)
  T* x_ring = reinterpret_cast<T*>(gelu_ring + kGeluRows * row_size);  // (kXRows, columns + 2, slice)
  T* grad_ring = x_ring + kXRows * x_row_size;                         // (kGradRows, columns, slice)
  const int packs = t.slice / kVec, column = threadIdx.x / packs, channel = threadIdx.x % packs * kVec;
  const int64_t image_column = at.left - 1 + column;
  const bool in_channels = channel < x.channels;
  const bool is_own = column >= 1 && column <= t.columns && image_column < t.width && in_channels;

  float weight[9][kVec], bias[kVec], sums[kSums][kVec];
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
#pragma unroll
    for (int i = 0; i < kSums; ++i) sums[i][v] = 0.0f;
  }
  T* out = static_cast<T*>(grad_x_tensor.data) + at.image * grad_x_tensor.stride[0] +
           (at.channel + channel) * grad_x_tensor.stride[1] + image_column * grad_x_tensor.stride[3];

  // Step s makes row top - 1 + s of g from rows s to s + 2 of x, counted from top - 2.
  const int rows = static_cast<int>(at.bottom - at.top);
  const auto load_step = [&](int s) {
    if (s < rows + 2) {
      const int x_row = s + 2;
      load_row(x_ring + x_row % kXRows * x_row_size, x, at.top - 2 + x_row, at.left - 2, columns + 2, t);
      load_row(grad_ring + s % kGradRows * row_size, grad, at.top - 1 + s, at.left - 1, columns, t);
    }
    cp_async_commit();
  };
  for (int x_row = 0; x_row < 2; ++x_row) {
    load_row(x_ring + x_row * x_row_size, x, at.top - 2 + x_row, at.left - 2, columns + 2, t);
  }
  load_step(0);
  load_step(1);
  for (int s = 0; s < rows + 3; ++s) {
    cp_async_wait<1>();
    __syncthreads();
    load_step(s + 2);
    const int place = column * t.slice + channel;
    if (s < rows + 2) {
      float y[kVec], g[kVec];
#pragma unroll
      for (int v = 0; v < kVec; ++v) y[v] = bias[v];
#pragma unroll
      for (int i = 0; i < 9; ++i) {
        float pixel[kVec];
        Channels<T, kVec>::load(x_ring + (s + i / 3) % kXRows * x_row_size + i % 3 * t.slice + place, pixel);
#pragma unroll
        for (int v = 0; v < kVec; ++v) y[v] = fmaf(weight[i][v], pixel[v], y[v]);
      }
      const bool inside = x.has(at.top - 1 + s, image_column) && in_channels;
      Channels<T, kVec>::load(grad_ring + s % kGradRows * row_size + place, g);
#pragma unroll
      for (int v = 0; v < kVec; ++v) g[v] = inside ? g[v] * gelu_derivative<T>(y[v]) : 0.0f;
      Channels<float, kVec>::from_floats(g).store_to_shared(gelu_ring + s % kGeluRows * row_size + place);
      if (is_own && s >= 1 && s <= rows) {
#pragma unroll
        for (int i = 0; i < 9; ++i) {
          float pixel[kVec];
          Channels<T, kVec>::load(x_ring + (s + i / 3) % kXRows * x_row_size + i % 3 * t.slice + place, pixel);
#pragma unroll
          for (int v = 0; v < kVec; ++v) sums[i][v] = fmaf(g[v], pixel[v], sums[i][v]);
        }
#pragma unroll
        for (int v = 0; v < kVec; ++v) sums[9][v] += g[v];
      }
    }
    if (s >= 3 && is_own) {
      float result[kVec];
#pragma unroll
      for (int v = 0; v < kVec; ++v) result[v] = 0.0f;
#pragma unroll
      for (int i = 0; i < 9; ++i) {
        float g[kVec];
        const float* row = gelu_ring + (s - 3 + i / 3) % kGeluRows * row_size + place;
        Channels<float, kVec>::load(row + (i % 3 - 1) * t.slice, g);
#pragma unroll
        for (int v = 0; v < kVec; ++v) result[v] = fmaf(weight[8 - i][v], g[v], result[v]);
      }
      Channels<T, kVec>::from_floats(result).store_to_global(out + (at.top + s - 3) * grad_x_tensor.stride[2]);
    }
  }
  store_partials(sums, gelu_ring, partials, t, at, column, channel);
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

template <typename T>
bool takes_vectors(const DwconvGeluBackwardParams& p) {
  return has_vectors<T>(p.forward.x, p.grad, p.grad_x);
}

// Of all types alike, but for whether 16-byte copies are taken.
RowTiling tiling_of(const DwconvGeluBackwardParams& p, bool vectors) {
  RowTiling t{};
  t.vectors = vectors;
  t.slice = power_of_two_from(p.forward.x.size[1], vectors || has_inner_channels(p.forward.x) ? kSlice : 1);
  const int packs = vectors ? t.slice / kVectorChannels : t.slice;
  int columns = power_of_two_from(p.forward.x.size[3] + 2, kThreads / packs);
  while (columns * packs < kWarp || columns < 4) columns *= 2;
  t.columns = columns - 2;
  fill_device(t, p.forward.x, 32, 8);
  return t;
}

template <typename T, int kVec>
int launch_backward(const DwconvGeluBackwardParams& p, float* partials, void* stream) {
  const RowTiling t = tiling_of(p, kVec > 1);
  const int columns = t.columns + 2;
  if (t.blocks() > INT32_MAX) return static_cast<int>(cudaErrorInvalidConfiguration);
  if (t.blocks() > 0) {
    const size_t elements = static_cast<size_t>(kXRows * (columns + 2) + kGradRows * columns) * t.slice;
    const size_t shared = elements * sizeof(T) + sizeof(float) * kGeluRows * columns * t.slice;
    if (const int status = launch(dwconv_gelu_backward_kernel<T, kVec>, dim3(static_cast<unsigned>(t.blocks())),
                                  dim3(static_cast<unsigned>(columns * t.slice / kVec)), shared, stream, p.forward,
                                  p.grad, p.grad_x, t, partials)) {
      return status;
    }
  }
  const DwconvGradients<T> gradients{static_cast<T*>(p.grad_weight.data), static_cast<T*>(p.grad_bias.data), t.channels,
                                     p.grad_bias.stride[0]};
  return add_partials(partials, t.parts(), kSums * t.channels, gradients, stream);
}

}  // namespace

int64_t dwconv_gelu_backward_workspace(const DwconvGeluBackwardParams& params) {
  const auto bytes = [&](const RowTiling& t) {
    return t.parts() * kSums * t.channels * static_cast<int64_t>(sizeof(float));
  };
  int64_t result = 0;
  with_element_type(params.forward.dtype, [&](auto element) {
    result = bytes(tiling_of(params, takes_vectors<decltype(element)>(params)));
    return 0;
  });
  return result;
}

int launch_dwconv_gelu_backward(const DwconvGeluBackwardParams& params, void* workspace, void* stream) {
  return with_element_type(params.forward.dtype, [&](auto element) {
    using T = decltype(element);
    float* partials = static_cast<float*>(workspace);
    return takes_vectors<T>(params) ? launch_backward<T, kVectorChannels>(params, partials, stream)
                                    : launch_backward<T, 1>(params, partials, stream);
  });
}

}  // namespace segnext
