// Gradients of gated_pointwise, with g the incoming gradient and t = g * u:
// clang-format off
//   grad_u = (W m + b) * g   recomputed by the forward's kernel; its epilogue also writes t, rounded as PyTorch does
//   grad_m = Wᵀ t            the same kernel without a gate
//   grad_weight = t mᵀ       split-K over all pixels: a block makes a tile of 128 x 64 weights over a run of pixels;
//   grad_bias = sum of t     each run's sums go to the workspace, and a second kernel adds them in order
// clang-format on
// t costs one write and two reads; reading g and u again instead would cost four reads. With t, cp.async can serve the
// operand loads, because they need no multiplication. The runs depend on the shape alone, so results are the same in
// every run.
//
// Bytes: m twice, g, u, grad_u and grad_m once, t three times: 9 times one of the forward's tensors. FLOPs: 6 Ci Co per
// pixel. Shared memory: as in the forward.
// Model for an H200, bf16: 32 channels at 128x128 are 9 MiB and four launches, 2.2 us of memory time; 64 channels at
// 64x64, batch 32, are 144 MiB, 35 us.
// Measured on an H200 (bench/results/h200), forward and backward: 32 channels at 128x128 take 28 us in bf16, 64 at
// 64x64 21 us, 32 images of the first 296 us, eager PyTorch 27, 25 and 200: not yet faster.

#include "ops/gated_pointwise/gate.cuh"
#include "ops/gated_pointwise/gated_pointwise.h"

namespace segnext {
namespace {

constexpr int64_t kBlocks = 2 * kMultiprocessors;
constexpr int64_t kMinRun = 128;           // pixels: with fewer, writing a run's sums costs more than making them
constexpr int64_t kMaxRun = 1024;          // pixels: longer float sums would lose digits
constexpr int64_t kMaxPartial = 64 << 20;  // bytes of all runs' sums; runs exceed kMaxRun if they must to keep this

int64_t blocks_of(int64_t size, int64_t block) { return (size + block - 1) / block; }

// The shape as the kernels see it, and the layout of the workspace.
struct GateBackwardPlan {
  bool one_row, in_inside;
  int64_t images, pixels, ci, co;
  int64_t product_row, product_bytes;  // t: elements per row (of pixels or of channels), bytes
  int64_t tiles, run, runs;            // along K: tiles of the whole batch, tiles per run, number of runs
  int64_t weight_tiles_co, weight_tiles_ci;

  explicit GateBackwardPlan(const GatedPointwiseBackwardParams& p) {
    const Tensor4& m = p.forward.m;
    one_row =
        is_one_row(m) && is_one_row(p.forward.u) && is_one_row(p.grad) && is_one_row(p.grad_m) && is_one_row(p.grad_u);
    in_inside = pixels_inside(m);
    images = one_row ? 1 : m.size[0];
    pixels = m.size[2] * m.size[3] * (one_row ? m.size[0] : 1);
    ci = m.size[1];
    co = p.forward.u.size[1];
    const int64_t bytes = p.forward.dtype == DType::kFloat32 ? 4 : 2;
    product_row = blocks_of(in_inside ? pixels : co, 8) * 8;  // whole vectors
    product_bytes = blocks_of(images * (in_inside ? co : pixels) * product_row * bytes, 256) * 256;
    const int64_t k = 64 / bytes;  // ProductTile::kK
    tiles = images * blocks_of(pixels, k);
    weight_tiles_co = blocks_of(co, 128);
    weight_tiles_ci = ci > 0 ? blocks_of(ci, 64) : 1;  // the first one also sums the bias
    const int64_t weight_tiles = weight_tiles_co * weight_tiles_ci;
    const int64_t wanted = weight_tiles > 0 ? blocks_of(kBlocks, weight_tiles) : 1;
    const int64_t fitting = blocks_of(tiles * (co * ci + co) * 4, kMaxPartial);
    run = blocks_of(tiles, wanted);
    if (run > kMaxRun / k) run = kMaxRun / k;
    if (run < fitting) run = fitting;
    if (run < kMinRun / k) run = kMinRun / k;
    runs = blocks_of(tiles, run);
  }

  int64_t partial_bytes() const { return runs * (co * ci + co) * 4; }
};

template <typename T>
struct WeightGradProblem {
  ImageView<const T> product, in;
  float* weight;  // (runs, co, ci)
  float* bias;    // (runs, co)
  int64_t tiles_per_image, tiles, run;
};

template <typename T, bool kPixelsInside, bool kPlain>
__global__ void __launch_bounds__(kProductThreads, 2)
    weight_grad_kernel(WeightGradProblem<T> p, unsigned tiles_ci, unsigned tiles_co) {
  using Tile = ProductTile<T, kPixelsInside, kPixelsInside>;
  const int64_t ci0 = static_cast<int64_t>(blockIdx.x % tiles_ci) * Tile::kN;
  const int64_t co0 = static_cast<int64_t>(blockIdx.x / tiles_ci % tiles_co) * Tile::kM;
  const int64_t run = blockIdx.x / tiles_ci / tiles_co;
  const int64_t first = run * p.run, count = p.tiles - first < p.run ? p.tiles - first : p.run;
  const int64_t co = p.product.channels.size, ci = p.in.channels.size;

  // The first column of tiles also sums t: two threads per channel, each over half of the pixels of a staged tile.
  const bool sums_bias = ci0 == 0;
  const int own_channel = threadIdx.x % Tile::kM, own_half = threadIdx.x / Tile::kM;
  float bias = 0.0f;

  Tile tile;
  tile.clear();
  tile.add(
      count, reinterpret_cast<T*>(shared_memory()),
      [&](int64_t step, T* a, T* b) {
        const int64_t image = (first + step) / p.tiles_per_image;
        const int64_t pixel = (first + step) % p.tiles_per_image * Tile::kK;
        const MatrixView<const T> product = p.product.matrix(image, kPixelsInside);
        const MatrixView<const T> in = p.in.matrix(image, kPixelsInside);
        if constexpr (kPixelsInside) {
          stage<kPlain, Tile::kM, Tile::kK>(product, co0, pixel, a);
          stage<kPlain, Tile::kN, Tile::kK>(in, ci0, pixel, b);
        } else {
          stage<kPlain, Tile::kK, Tile::kM>(product, pixel, co0, a);
          stage<kPlain, Tile::kK, Tile::kN>(in, pixel, ci0, b);
        }
      },
      [&](const T* a) {
        if (!sums_bias) return;
        for (int i = 0; i < Tile::kK / 2; ++i) {
          const int k = own_half * (Tile::kK / 2) + i;
          bias +=
              to_float(load_shared(a + (kPixelsInside ? own_channel * Tile::kLdA + k : k * Tile::kLdA + own_channel)));
        }
      });

  tile.for_each_pair([&](int m, int n, int step, const float2& pair) {
    if (co0 + m >= co) return;
    float* target = p.weight + (run * co + co0 + m) * ci + ci0 + n;
    if (ci0 + n < ci) store_global(target, pair.x);
    if (ci0 + n + step < ci) store_global(target + step, pair.y);
  });
  if (!sums_bias) return;
  float* halves = reinterpret_cast<float*>(shared_memory());
  store_shared(halves + threadIdx.x, bias);
  __syncthreads();
  if (own_half == 0 && co0 + own_channel < co) {
    const float sum = load_shared(halves + own_channel) + load_shared(halves + Tile::kM + own_channel);
    store_global(p.bias + run * co + co0 + own_channel, sum);
  }
}

template <typename T>
__global__ void __launch_bounds__(kProductThreads)
    add_runs_kernel(const float* partial, int64_t runs, int64_t count, T* total) {
  const int64_t threads = static_cast<int64_t>(gridDim.x) * kProductThreads;
  for (int64_t i = blockIdx.x * static_cast<int64_t>(kProductThreads) + threadIdx.x; i < count; i += threads) {
    float sum = 0.0f;
#pragma unroll 8
    for (int64_t run = 0; run < runs; ++run) sum += load_global(partial + run * count + i);
    store_global(total + i, from_float<T>(sum));
  }
}

template <typename T>
int add_runs(const float* partial, int64_t runs, int64_t count, void* total, void* stream) {
  if (count == 0 || total == nullptr) return 0;
  const int64_t blocks = blocks_of(count, kProductThreads);
  return launch(add_runs_kernel<T>, dim3(static_cast<unsigned>(blocks < 65536 ? blocks : 65536)), dim3(kProductThreads),
                0, stream, partial, runs, count, static_cast<T*>(total));
}

template <typename T, bool kPixelsInside, bool kPlain>
int launch_weight_grad_as(const WeightGradProblem<T>& p, const GateBackwardPlan& plan, void* stream) {
  const int64_t blocks = plan.runs * plan.weight_tiles_co * plan.weight_tiles_ci;
  if (blocks == 0) return 0;
  if (blocks > INT32_MAX) return static_cast<int>(cudaErrorInvalidConfiguration);
  return launch(weight_grad_kernel<T, kPixelsInside, kPlain>, dim3(static_cast<unsigned>(blocks)),
                dim3(kProductThreads), ProductTile<T, kPixelsInside, kPixelsInside>::kSharedBytes, stream, p,
                static_cast<unsigned>(plan.weight_tiles_ci), static_cast<unsigned>(plan.weight_tiles_co));
}

template <typename T>
int launch_weight_grad(const WeightGradProblem<T>& p, const GateBackwardPlan& plan, void* stream) {
  if (plan.in_inside) return launch_weight_grad_as<T, true, false>(p, plan, stream);
  return is_plain(p.product.matrix(0, false)) && is_plain(p.in.matrix(0, false))
             ? launch_weight_grad_as<T, false, true>(p, plan, stream)
             : launch_weight_grad_as<T, false, false>(p, plan, stream);
}

template <typename T>
class GateBackwardLauncher {
 public:
  GateBackwardLauncher(const GatedPointwiseBackwardParams& params, void* workspace, void* stream)
      : p_(params),
        plan_(params),
        product_(static_cast<T*>(workspace)),
        partial_(reinterpret_cast<float*>(static_cast<char*>(workspace) + plan_.product_bytes)),
        stream_(stream) {}

  int run() const {
    if (const int status = gate()) return status;
    if (const int status = input()) return status;
    return weight();
  }

 private:
  Tensor4 reshaped(const Tensor4& t) const { return plan_.one_row ? as_one_row(t) : t; }

  // t as an operand of products: in m's order, with rows of whole vectors.
  ImageView<T> product() const {
    const bool inside = plan_.in_inside;
    const int64_t row = plan_.product_row;
    return {product_, (inside ? plan_.co : plan_.pixels) * row, plain_axis(plan_.pixels, inside ? 1 : row),
            plain_axis(plan_.co, inside ? row : 1), true};
  }

  static ImageView<const T> constant(const ImageView<T>& image) {
    return {image.data, image.stride_image, image.pixels, image.channels, image.vectors};
  }

  // Computes grad_u and t.
  int gate() const {
    const GatedPointwiseParams& f = p_.forward;
    const bool inside = pixels_inside(p_.grad_u);
    GateProblem<T> problem{};
    problem.images = plan_.images;
    problem.in = image_of<const T>(reshaped(f.m), plan_.in_inside);
    problem.weight = matrix<const T>(static_cast<const T*>(f.weight.data), plain_axis(plan_.co, f.weight.stride[0]),
                                     plain_axis(plan_.ci, f.weight.stride[1]));
    problem.bias = row_of<T>(f.bias);
    problem.gate = image_of<const T>(reshaped(p_.grad), inside);
    problem.out = image_of<T>(reshaped(p_.grad_u), inside);
    problem.factor = image_of<const T>(reshaped(f.u), inside);
    problem.product = product();
    problem.product.vectors = inside == plan_.in_inside;
    problem.out_pixels_inside = inside;
    return plan_.in_inside ? launch_gated_product<T, true, true>(problem, stream_)
                           : launch_gated_product<T, false, true>(problem, stream_);
  }

  int input() const {
    const Tensor4& weight = p_.forward.weight;
    const bool inside = pixels_inside(p_.grad_m);
    GateProblem<T> problem{};
    problem.images = plan_.images;
    problem.in = constant(product());
    problem.weight = matrix<const T>(static_cast<const T*>(weight.data), plain_axis(plan_.co, weight.stride[0]),
                                     plain_axis(plan_.ci, weight.stride[1]));
    problem.out = image_of<T>(reshaped(p_.grad_m), inside);
    problem.out_pixels_inside = inside;
    return plan_.in_inside ? launch_gated_product<T, true, false>(problem, stream_)
                           : launch_gated_product<T, false, false>(problem, stream_);
  }

  int weight() const {
    const int64_t runs = plan_.runs, weights = plan_.co * plan_.ci;
    float* bias = partial_ + runs * weights;
    const WeightGradProblem<T> problem{constant(product()),
                                       image_of<const T>(reshaped(p_.forward.m), plan_.in_inside),
                                       partial_,
                                       bias,
                                       plan_.images > 0 ? plan_.tiles / plan_.images : 0,
                                       plan_.tiles,
                                       plan_.run};
    if (const int failed = launch_weight_grad<T>(problem, plan_, stream_)) return failed;
    if (const int failed = add_runs<T>(partial_, runs, weights, p_.grad_weight.data, stream_)) return failed;
    return add_runs<T>(bias, runs, plan_.co, p_.grad_bias.data, stream_);
  }

  const GatedPointwiseBackwardParams& p_;
  const GateBackwardPlan plan_;
  T* product_;
  float* partial_;
  void* stream_;
};

}  // namespace

int64_t gated_pointwise_backward_workspace(const GatedPointwiseBackwardParams& params) {
  const GateBackwardPlan plan(params);
  return plan.product_bytes + plan.partial_bytes();
}

int launch_gated_pointwise_backward(const GatedPointwiseBackwardParams& params, void* workspace, void* stream) {
  return with_element_type(params.forward.dtype, [&](auto type) {
    return GateBackwardLauncher<decltype(type)>(params, workspace, stream).run();
  });
}

}  // namespace segnext
