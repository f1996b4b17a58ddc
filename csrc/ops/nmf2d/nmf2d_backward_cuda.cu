// Gradient of nmf2d on a GPU, from the bases and coef saved before each update. Level 0 is the softmax's result, level
// s = steps the last one. Capital letters are (D, R) or (N, R) matrices of a level; g(Y) is the gradient of Y.
//
// A coef update C' = C * num / den, num = Xᵀ B, den = C (BᵀB) + eps, gives per pixel
// clang-format off
//   g(num) = g(C') C / den,  g(den) = -g(num) num / den,  g(C) = g(C') num / den + g(den) BᵀB
// clang-format on
// and to B the sums over pixels X g(num) + B (K + Kᵀ), K = Cᵀ g(den). An update of the bases is the same with D for N.
// It is undone between two passes over X and adds Xᵀ g(num') + C' (K' + K'ᵀ) to g(C') in the next pass. grad_x = sum
// over levels of g(num) Bᵀ + C' g(num')ᵀ: one product over (2s + 1) R terms at the end, written once.
//
// Each phase is one kernel (nmf2d_backward.cuh). X comes from L2 or memory once per level (twice for the last), as in
// the forward's streaming variant; "one_step" is the last level alone. Then the product of grad_x is made, 64 pixels x
// 64 channels per block. For 16-bit X, the products with X, with grad and of grad_x run on tensor cores, with split
// operands; float uses FMAs.
// FLOPs: (6s + 4) D N R and (5s + 2) N R R multiply-adds, those of D N R two or three times on tensor cores.
// Bytes: X s + 2 times, grad and grad_x once, the saved coef and g(num) of each level twice.
// Registers: at most 128, by the launch bounds, 2 blocks per multiprocessor. Shared memory: a tile of as many pixels as
// fit 96 KiB (64 for D 256, R 16 in 16 bits; 32 for D 512, R 64); grad_x 36,864 bytes.
// Model for an H200, if mma.sync reaches 60 % of the tensor cores' peak (290 T multiply-adds/s), 6 steps, bf16: D 256,
// N 4096, R 16: 28 launches of 2 us each, 56 us, which include the arithmetic: 1.6 G multiply-adds after splitting, 6
// us. D 512, R 64: 13 G, 45 us, and 0.5 G in floats of N R R, at most 20 us.
// Measured on an H200 (bench/results/h200), bf16, forward and backward: D 256, R 16, N 4096 512 us; D 512, R 64, N
// 4096, 32 images 38 ms, where eager PyTorch takes 27: not yet faster.

#include <type_traits>

#include "ops/nmf2d/nmf2d_backward.cuh"

namespace segnext {
namespace {

constexpr int kGradTile = 64;  // pixels, channels and terms

template <typename T>
__global__ void __launch_bounds__(kNmfThreads) nmf2d_begin_kernel(BackwardProblem<T> p) {
  begin(p, blockIdx.x / p.slabs, static_cast<int>(blockIdx.x % p.slabs), p.slabs);
}

template <typename T>
__global__ void __launch_bounds__(kNmfThreads) nmf2d_gram_backward_kernel(BackwardProblem<T> p, int64_t level) {
  gram(p, level, blockIdx.x / p.slabs, static_cast<int>(blockIdx.x % p.slabs), p.slabs);
}

template <typename T>
__global__ void __launch_bounds__(kNmfThreads, 2) nmf2d_pass_backward_kernel(BackwardProblem<T> p, int64_t level) {
  const BackwardTile<T> s(p);
  const int64_t image = blockIdx.x / p.slabs;
  const int slab = static_cast<int>(blockIdx.x % p.slabs);
  const int64_t start = static_cast<int64_t>(slab) * p.slab,
                end = start + p.slab < p.pixels ? start + p.slab : p.pixels;
  float* partial = p.of_image(image) + p.state.partial + static_cast<int64_t>(slab) * p.sum_rows() * p.pair();
  for (int64_t first = start; first == start || first < end; first += p.tile) {  // the share of an empty slab is zero
    const int64_t left = end - first;
    const int count = static_cast<int>(left <= 0 ? 0 : left < p.tile ? left : p.tile);
    pass_tile(p, s, level, image, first, count, partial, first > start);
    __syncthreads();
  }
}

template <typename T>
__global__ void __launch_bounds__(kNmfThreads) nmf2d_reduce_backward_kernel(BackwardProblem<T> p) {
  reduce(p, blockIdx.x / p.slabs, static_cast<int>(blockIdx.x % p.slabs), p.slabs);
}

template <typename T>
__global__ void __launch_bounds__(kNmfThreads) nmf2d_undo_kernel(BackwardProblem<T> p, int64_t level) {
  undo(p, level, blockIdx.x / p.slabs, static_cast<int>(blockIdx.x % p.slabs), p.slabs);
}

// A block's tile of grad_x in floats: four by four results per thread.
struct FloatTile {
  static constexpr int kLd = kGradTile + 4;
  static constexpr size_t kBytes = 2 * kGradTile * kLd * sizeof(float);

  float *weights, *factors;  // (pixel, r) and (r, channel)
  ThreadSums<4> total;

  __device__ explicit FloatTile(unsigned char* memory)
      : weights(reinterpret_cast<float*>(memory)), factors(weights + kGradTile * kLd) {
    total.clear();
  }
  __device__ void put(int y, int x, float weight, float factor) {
    store_shared(weights + y * kLd + x, weight);
    store_shared(factors + y * kLd + x, factor);
  }
  __device__ void multiply(int terms) {
    const int row = threadIdx.x / 16 * 4, column = threadIdx.x % 16 * 4;
    ThreadSums<4> sums;
    sums.clear();
    for (int r = 0; r < terms; r += 4) {
      float lefts[4][4], rights[4][4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        load_four(weights + (row + i) * kLd + r, lefts[i]);
        load_four(factors + (r + i) * kLd + column, rights[i]);
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
#pragma unroll
          for (int j = 0; j < 4; ++j) sums.values[i][j] = fmaf(lefts[i][e], rights[e][j], sums.values[i][j]);
        }
      }
    }
    total.add(sums);
  }
  template <typename Visit>
  __device__ void for_each(const Visit& visit) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) visit(threadIdx.x / 16 * 4 + i, threadIdx.x % 16 * 4 + j, total.values[i][j]);
    }
  }
};

// The same for 16-bit results: both factors are split into two bfloat16; a warp has 16 pixels x 32 channels.
struct SplitTile {
  static constexpr int kLd = kGradTile + 8;
  static constexpr int kPart = kGradTile * kLd;
  static constexpr size_t kBytes = 4 * kPart * sizeof(__nv_bfloat16);

  __nv_bfloat16 *weights, *factors;  // each has the high part first, then the low one
  float sums[4][4] = {};

  __device__ explicit SplitTile(unsigned char* memory)
      : weights(reinterpret_cast<__nv_bfloat16*>(memory)), factors(weights + 2 * kPart) {}
  __device__ void put(int y, int x, float weight, float factor) {
    const Split of_weight = split(weight), of_factor = split(factor);
    const int at = y * kLd + x;
    store_shared(weights + at, of_weight.high);
    store_shared(weights + kPart + at, of_weight.low);
    store_shared(factors + at, of_factor.high);
    store_shared(factors + kPart + at, of_factor.low);
  }
  __device__ void multiply(int terms) {
    for (int r = 0; r < terms; r += 16) {
      uint32_t high[4], low[4];
      load_a_fragment<true>(high, weights + row() * kLd + r, kLd);
      load_a_fragment<true>(low, weights + kPart + row() * kLd + r, kLd);
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        uint32_t b_high[2][2], b_low[2][2];
        load_b_fragments<false>(b_high, factors + r * kLd + column() + 16 * j, kLd);
        load_b_fragments<false>(b_low, factors + kPart + r * kLd + column() + 16 * j, kLd);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          multiply_split(sums[2 * j + half], high, low, b_high[half], b_low[half]);
        }
      }
    }
  }
  template <typename Visit>
  __device__ void for_each(const Visit& visit) const {
    const int lane = threadIdx.x % kWarp;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        visit(row() + lane / 4 + j / 2 * 8, column() + 8 * i + lane % 4 * 2 + j % 2, sums[i][j]);
      }
    }
  }

 private:
  __device__ static int row() { return threadIdx.x / kWarp / 2 * 16; }
  __device__ static int column() { return threadIdx.x / kWarp % 2 * 32; }
};

template <typename T>
using GradTile = std::conditional_t<kOnTensorCores<T>, SplitTile, FloatTile>;

// grad_x: (pixels x terms R)(terms R x channels).
template <typename T>
__global__ void __launch_bounds__(kNmfThreads, 2)
    nmf2d_grad_x_kernel(BackwardProblem<T> p, unsigned pixel_tiles, unsigned channel_tiles) {
  const int channel0 = static_cast<int>(blockIdx.x % channel_tiles) * kGradTile;
  const int64_t pixel0 = static_cast<int64_t>(blockIdx.x / channel_tiles % pixel_tiles) * kGradTile;
  const int64_t image = blockIdx.x / channel_tiles / pixel_tiles;
  const float* state = p.of_image(image);
  GradTile<T> tile(shared_memory());
  for (int64_t term = 0; term < p.terms(); ++term) {
    for (int r0 = 0; r0 < p.padded_rank; r0 += kGradTile) {
      for (int i = threadIdx.x; i < kGradTile * kGradTile; i += kNmfThreads) {
        const int y = i / kGradTile, x = i % kGradTile;
        const int64_t pixel = pixel0 + y;
        float weight = 0.0f, factor = 0.0f;
        if (pixel < p.pixels && r0 + x < p.padded_rank) {
          weight = term < p.levels()
                       ? load_global(state + p.state.kept + (term * p.pixels + pixel) * p.padded_rank + r0 + x)
                       : p.saved_weight(p.bottom() + term - p.levels() + 1, image, pixel, r0 + x);
        }
        if (r0 + y < p.padded_rank && channel0 + x < p.padded_channels) {
          const int64_t at = (term * p.padded_rank + r0 + y) * p.padded_channels + channel0 + x;
          factor = load_global(state + p.state.factors + at);
        }
        tile.put(y, x, weight, factor);
      }
      __syncthreads();
      tile.multiply(p.padded_rank - r0 < kGradTile ? p.padded_rank - r0 : kGradTile);
      __syncthreads();
    }
  }
  T* out = reinterpret_cast<T*>(shared_memory());
  constexpr int kLdOut = kGradTile + Vec16<T>::kSize;
  tile.for_each([&](int y, int x, float sum) { store_shared(out + y * kLdOut + x, from_float<T>(sum)); });
  __syncthreads();
  Images<T> part = p.grad_x;
  part.data += channel0 * part.stride_channel;
  const int64_t left = p.pixels - pixel0;
  const int channels = p.channels - channel0 < kGradTile ? p.channels - channel0 : kGradTile;
  store_tile(part, image, pixel0, static_cast<int>(left < kGradTile ? left : kGradTile), channels, out, kLdOut);
}

template <typename T>
class NmfBackwardLauncher {
 public:
  explicit NmfBackwardLauncher(const Nmf2dBackwardParams& params) {
    problem_.grad = images_of<const T>(params.grad);
    problem_.x = images_of<const T>(params.x);
    problem_.grad_x = images_of<T>(params.grad_x);
    problem_.saved_bases = params.saved_bases;
    problem_.saved_coef = params.saved_coef;
    problem_.unrolled = params.unrolled;
    problem_.images = params.x.size[0];
    problem_.pixels = params.x.size[2];
    problem_.last = params.saved_bases.size[0] - 1;
    set_sizes(static_cast<int>(params.x.size[1]), static_cast<int>(params.saved_bases.size[3]));
    problem_.eps = static_cast<float>(params.eps);
    const size_t bytes = BackwardTile<T>::bytes_per_pixel(problem_);
    const Slabs slabs = streaming_slabs(problem_.images, problem_.pixels, kUnit<T>, bytes);
    problem_.slabs = slabs.count;
    problem_.slab = slabs.slab;
    problem_.tile = slabs.tile;
    shared_ = bytes * slabs.tile;
    lay_out();
  }

  int64_t workspace() const { return problem_.images * problem_.state.size * static_cast<int64_t>(sizeof(float)); }

  int run(void* workspace, void* stream) {
    const int64_t pixel_tiles = (problem_.pixels + kGradTile - 1) / kGradTile;
    const int64_t channel_tiles = (problem_.channels + kGradTile - 1) / kGradTile;
    const int64_t tiles = problem_.images * pixel_tiles * channel_tiles;
    if (tiles == 0) return 0;
    if (problem_.tile == 0 || tiles > INT32_MAX) return static_cast<int>(cudaErrorInvalidConfiguration);
    problem_.workspace = static_cast<float*>(workspace);
    stream_ = stream;
    if (const int status = start(nmf2d_begin_kernel<T>, 0, problem_)) return status;
    for (int64_t level = problem_.last;; --level) {
      if (const int status = start(nmf2d_gram_backward_kernel<T>, 0, problem_, level)) return status;
      if (const int status = start(nmf2d_pass_backward_kernel<T>, shared_, problem_, level)) return status;
      if (level == problem_.bottom()) break;
      if (const int status = start(nmf2d_reduce_backward_kernel<T>, 0, problem_)) return status;
      if (const int status = start(nmf2d_undo_kernel<T>, 0, problem_, level - 1)) return status;
    }
    return launch(nmf2d_grad_x_kernel<T>, dim3(static_cast<unsigned>(tiles)), dim3(kNmfThreads), GradTile<T>::kBytes,
                  stream, problem_, static_cast<unsigned>(pixel_tiles), static_cast<unsigned>(channel_tiles));
  }

  static bool fits(int channels, int rank) {
    NmfBackwardLauncher sizes;
    sizes.set_sizes(channels, rank);
    return BackwardTile<T>::bytes_per_pixel(sizes.problem_) * kUnit<T> <= kStreamingShared;
  }

 private:
  NmfBackwardLauncher() = default;

  void set_sizes(int channels, int rank) {
    problem_.channels = channels;
    problem_.rank = rank;
    problem_.padded_channels = static_cast<int>(rounded_up(channels, kUnit<T>));
    problem_.padded_rank = static_cast<int>(rounded_up(rank, kUnit<T>));
  }

  template <typename... Params, typename... Args>
  int start(void (*kernel)(Params...), size_t shared, Args... args) const {
    const dim3 grid(static_cast<unsigned>(problem_.images * problem_.slabs));
    return launch(kernel, grid, dim3(kNmfThreads), shared, stream_, args...);
  }

  void lay_out() {
    const int64_t channels = problem_.padded_channels, rank = problem_.padded_rank;
    int64_t used = 0;
    const auto take = [&](int64_t floats) {
      const int64_t start = used;
      used += rounded_up(floats, 64);
      return start;
    };
    BackwardState& s = problem_.state;
    s.bases = take(channels * 2 * rank);
    s.packed = take(kOnTensorCores<T> ? channels * 2 * rank : 0);  // two bfloat16 per float
    s.grad_den = take(channels * rank);
    s.grad_bases = take(channels * rank);
    s.gram = take(rank * rank);
    s.cross = take(rank * rank);
    s.sums = take(problem_.sum_rows() * 2 * rank);
    s.partial = take(problem_.slabs * problem_.sum_rows() * 2 * rank);
    s.grad_coef = take(problem_.pixels * rank);
    s.kept = take(problem_.levels() * problem_.pixels * rank);
    s.factors = take(problem_.terms() * rank * channels);
    s.size = used;
  }

  BackwardProblem<T> problem_{};
  size_t shared_ = 0;
  void* stream_ = nullptr;
};

}  // namespace

bool nmf2d_fits(DType dtype, int64_t channels, int64_t rank) {
  if (channels > kStreamingShared || rank > kStreamingShared) return false;
  bool fits = false;
  with_element_type(dtype, [&](auto type) {
    fits = NmfBackwardLauncher<decltype(type)>::fits(static_cast<int>(channels), static_cast<int>(rank));
    return 0;
  });
  return fits;
}

int64_t nmf2d_backward_workspace(const Nmf2dBackwardParams& params) {
  int64_t bytes = 0;
  with_element_type(params.dtype, [&](auto type) {
    bytes = NmfBackwardLauncher<decltype(type)>(params).workspace();
    return 0;
  });
  return bytes;
}

int launch_nmf2d_backward(const Nmf2dBackwardParams& params, void* workspace, void* stream) {
  return with_element_type(
      params.dtype, [&](auto type) { return NmfBackwardLauncher<decltype(type)>(params).run(workspace, stream); });
}

}  // namespace segnext
