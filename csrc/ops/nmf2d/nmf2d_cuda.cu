// nmf2d on a GPU: `steps` times coef *= Xᵀ bases / (coef G + eps) with G = basesᵀ bases, then bases *= X coef / (bases
// H + eps) with H = coefᵀ coef; one last coef update; out = bases coefᵀ, or (projection bases) coefᵀ: a convolution
// after the op costs D P R multiply-adds this way, instead of D P N and a launch.
//
// State and both Gram matrices are floats. There are three variants by where the slabs of pixels are:
//   streaming  one kernel per phase (nmf2d_forward.cuh: pass, reduce, update, gram). A block processes a slab tile by
//              tile: X once per step from L2 or memory, coef in the workspace. For any size of which a tile of kUnit
//              pixels fits.
//   grid       one cooperative kernel. A slab of X and its coef stay in shared memory for all steps: X is read once,
//              out written once. For images that fit the chip's shared memory. The driver provides the barrier's
//              counter.
//   cluster    the same with a cluster of 16 blocks per image (sm_90): barriers are the cluster's, and the slabs'
//              shares of the sums stay in shared memory and are read across the cluster. For images that fit 16
//              multiprocessors.
// The last two handle the bases in one of two ways:
//   narrow     ranks up to 16: every block updates all bases for itself (nmf2d_narrow.cuh), with two barriers per step.
//              That is 2 D R R multiply-adds per block: 0.13 M at R 16, 0.4 us on tensor cores, where two more barriers
//              take 1.6 us (cluster) or 3.4 us (grid). At D 512, R 64 it would be 4.2 M, 6 us on tensor cores, and 160
//              KB of shared memory.
//   shared     else: each block updates some rows, with four barriers per step.
// Auto chooses cluster if an image fits one, unless a grid would have four times its blocks; else grid if the batch
// fits the chip; else streaming. Model for an H200 (bench/issue_model; a barrier takes 0.8 us in a cluster, 1.7 us in a
// grid), D 256, R 16, N 4096 in bf16, for 1, 2, 4 and 8 images: cluster 51 us each, grid 40, 40, 48, 63.
//
// FLOPs: (2 steps + 2) D N R + (2 steps + 1) N R R multiply-adds. For 16-bit X all run on tensor cores: those of X
// twice in bfloat16 and three times in float16, those of state three times (block_products.cuh).
// Bytes: grid and cluster, X and out once; streaming, X steps + 1 times. Between blocks, in L2 or the cluster: slabs (D
// + R) R floats written and read per step.
// Shared memory: streaming up to 96 KiB, two blocks per multiprocessor; T's cluster (256 pixels of D 256, R 16, 16
// bits) 230,912 bytes, 768x1536 (144 pixels) 163,328, B's grid (64 pixels of D 512, R 64) 119,808, one block.
//
// Model for an H200, one image, 7 steps, bf16, whole calls: D 256, R 16: N 4096 40 us (23.8 of barriers), N 18432 52
// us; before this version 91 and 96. D 512, R 64, N 4096: 145 us (51 of barriers); before 192.
// Versions tried: a barrier for each phase, for all ranks (29 barriers; in a cluster every thread executed a MEMBAR at
// each). Each sum by one thread, nine per block, over all slabs in sequence (6 us per step). coefᵀ coef by 16 threads
// of a block. The output of ranks above 16 by float FMAs (188 us). The first bases by a kernel of their own, which also
// reset the grid's counter.
// Measured on an H200 (bench/results/h200), one image, 7 steps, bf16: D 256, R 16: N 4096 89 us, N 32768 113 us; D 512,
// R 64, N 4096 374 us. For 32 images of the last the streaming variant takes 7.1 ms, more than PyTorch's loop (6.5 ms),
// so `auto` leaves ranks above 16 in 16 bits to Triton.

#include "ops/nmf2d/nmf2d_narrow.cuh"

namespace segnext {
namespace {

constexpr int64_t kResidentBlocks = 128, kResidentTile = 64;  // one per multiprocessor; the fewest pixels per slab
constexpr int64_t kWide = 4 * kClusterBlocks;
constexpr int kNarrowChannels = 512;  // with more, the bases of each block leave little room for pixels

template <typename T>
__global__ void __launch_bounds__(kNmfThreads) nmf2d_bases_kernel(ForwardProblem<T> p) {
  read_bases(p, blockIdx.x / p.slabs, static_cast<int>(blockIdx.x % p.slabs), p.slabs);
}

template <typename T>
__global__ void __launch_bounds__(kNmfThreads, 2) nmf2d_pass_kernel(ForwardProblem<T> p, int64_t step) {
  ForwardTile<T> s(p);
  const int64_t image = blockIdx.x / p.slabs;
  const int slab = static_cast<int>(blockIdx.x % p.slabs);
  const int64_t start = static_cast<int64_t>(slab) * p.slab,
                end = start + p.slab < p.pixels ? start + p.slab : p.pixels;
  float* partial = p.of_image(image) + p.state.partial + static_cast<int64_t>(slab) * p.sum_rows() * p.padded_rank;
  const int fours = p.padded_rank / 4;
  for (int64_t first = start; first == start || first < end; first += p.tile) {  // the share of an empty slab is zero
    const int64_t left = end - first;
    const int count = static_cast<int>(left <= 0 ? 0 : left < p.tile ? left : p.tile);
    float* kept = p.of_image(image) + p.state.coef + first * p.padded_rank;
    load_tile(p.x, image, first, count, p.channels, s.x, p.ld_x(), p.tile, p.padded_channels);
    for (int i = threadIdx.x; step > 0 && i < p.tile * fours; i += kNmfThreads) {
      const int pixel = i / fours, r = i % fours * 4;
      const Vec16<float> four =
          pixel < count ? Vec16<float>::load_global(kept + pixel * p.padded_rank + r) : Vec16<float>{};
      four.store_shared(s.coef + pixel * p.ld_rank() + r);
    }
    cp_async_wait<0>();
    __syncthreads();
    if (step > 0) split_coef(p, s);  // read after the pass's next barrier
    pass_tile(p, s, step, image, first, count, partial, first > start);
    for (int i = threadIdx.x; step < p.steps && i < count * fours; i += kNmfThreads) {
      const int pixel = i / fours, r = i % fours * 4;
      Vec16<float>::load_shared(s.coef + pixel * p.ld_rank() + r).store_global(kept + pixel * p.padded_rank + r);
    }
    __syncthreads();
  }
}

template <typename T>
__global__ void __launch_bounds__(kNmfThreads) nmf2d_reduce_kernel(ForwardProblem<T> p) {
  const int64_t image = blockIdx.x / p.slabs;
  const float* partial = p.of_image(image) + p.state.partial;
  reduce(p, image, static_cast<int>(blockIdx.x % p.slabs), p.slabs,
         [&](int slab) { return partial + static_cast<int64_t>(slab) * p.sum_rows() * p.padded_rank; });
}

template <typename T>
__global__ void __launch_bounds__(kNmfThreads) nmf2d_update_kernel(ForwardProblem<T> p, int64_t step) {
  update(p, step, blockIdx.x / p.slabs, static_cast<int>(blockIdx.x % p.slabs), p.slabs);
}

template <typename T>
__global__ void __launch_bounds__(kNmfThreads) nmf2d_gram_kernel(ForwardProblem<T> p, int64_t step) {
  gram(p, step, blockIdx.x / p.slabs, static_cast<int>(blockIdx.x % p.slabs), p.slabs);
}

// A block of the two resident kernels: its pixels, and its connection to the other blocks. The kernels serve clusters
// and grids, which differ in uniform branches.
template <typename T>
struct Resident {
  const ForwardProblem<T>& p;
  int64_t image, first;
  int slab, count;
  float* shares;   // used in a grid
  float* partial;  // this block's share

  __device__ Resident(const ForwardProblem<T>& problem, float* shared_share)
      : p(problem), image(blockIdx.x / p.slabs), slab(static_cast<int>(blockIdx.x % p.slabs)) {
    first = static_cast<int64_t>(slab) * p.slab;
    const int64_t left = p.pixels - first;
    count = static_cast<int>(left <= 0 ? 0 : left < p.slab ? left : p.slab);
    shares = p.of_image(image) + p.state.partial;
    partial = p.in_clusters ? shared_share : shares + slab * share();
  }
  __device__ int64_t share() const { return static_cast<int64_t>(p.sum_rows()) * p.padded_rank; }
  __device__ void barrier() const {
    if (p.in_clusters) {
      cluster_sync();
    } else {
      grid_sync();
    }
  }
  // Adds all shares to the image's sums; a barrier must precede.
  __device__ void reduce() const {
    if (p.in_clusters) {
      segnext::reduce(p, image, slab, p.slabs, [&](int i) -> const float* { return cluster_map(partial, i); });
    } else {
      segnext::reduce(p, image, slab, p.slabs, [&](int i) -> const float* { return shares + i * share(); });
    }
  }
};

template <typename T>
__global__ void __launch_bounds__(kNmfThreads, 1) nmf2d_resident_kernel(ForwardProblem<T> p) {
  ForwardTile<T> s(p);
  const Resident<T> block(p, s.partial);
  load_tile(p.x, block.image, block.first, block.count, p.channels, s.x, p.ld_x(), p.tile, p.padded_channels);
  read_bases(p, block.image, block.slab, p.slabs);
  cp_async_wait<0>();
  block.barrier();
  for (int64_t step = 0; step <= p.steps; ++step) {
    gram(p, step, block.image, block.slab, p.slabs);
    block.barrier();
    pass_tile(p, s, step, block.image, block.first, block.count, block.partial, false);
    if (step == p.steps) break;
    block.barrier();
    block.reduce();
    block.barrier();
    update(p, step, block.image, block.slab, p.slabs);
    block.barrier();
  }
}

template <typename T>
__global__ void __launch_bounds__(kNmfThreads, 1) nmf2d_narrow_kernel(ForwardProblem<T> p) {
  size_t used;
  NarrowShared<T> s(shared_memory(), p, used);
  const Resident<T> block(p, s.share);
  float* sums = p.of_image(block.image) + p.state.sums;
  float* projected = p.of_image(block.image) + p.state.projected;
  load_tile(p.x, block.image, block.first, block.count, p.channels, s.x, p.ld_x(), p.tile, p.padded_channels);
  narrow_read_bases(p, s, block.image);
  cp_async_wait<0>();
  __syncthreads();
  narrow_save_bases(p, s, 0, block.image, block.slab);
  narrow_bases_gram(p, s);
  narrow_coef<true>(p, s, block.count);
  __syncthreads();
  narrow_softmax(p, s);
  __syncthreads();
  if (p.slot(0) >= 0) {
    save_coef(p, p.slot(0), block.image, block.first, block.count, s.coef);
    __syncthreads();
  }
  for (int64_t step = 0;; ++step) {
    if (step == p.steps && p.projected()) {
      project(p, s.bases, block.slab, p.slabs, to_matrix(projected, kNarrow));
    }
    narrow_coef<false>(p, s, block.count);
    if constexpr (!kOnTensorCores<T>) {
      float* const numerator = s.numerator;
      s.numerator = s.coef;
      s.coef = numerator;
    }
    __syncthreads();
    if (step == p.steps) break;
    save_coef(p, p.slot(step + 1), block.image, block.first, block.count, s.coef);
    narrow_share(p, s, block.partial);
    block.barrier();
    block.reduce();
    block.barrier();
    narrow_update(p, s, sums);
    __syncthreads();
    narrow_save_bases(p, s, step + 1, block.image, block.slab);
    narrow_bases_gram(p, s);
    __syncthreads();
  }
  if (p.projected()) {
    block.barrier();
    narrow_read_factors(p, s, projected);
    __syncthreads();
  }
  narrow_out(p, s);
  __syncthreads();
  store_tile(p.out, block.image, block.first, block.count, p.out_channels, s.x, p.ld_out());
}

template <typename T>
class NmfForwardLauncher {
 public:
  NmfForwardLauncher(const Nmf2dParams& params, NmfVariant variant) {
    problem_.x = images_of<const T>(params.x);
    problem_.out = images_of<T>(params.out);
    problem_.bases = over_images(params.bases, params.x.size[0]);
    problem_.projection = params.projection;
    problem_.projection_is_float = params.projection_dtype == DType::kFloat32;
    problem_.saved_bases = params.saved_bases;
    problem_.saved_coef = params.saved_coef;
    problem_.bases_are_float = params.bases_dtype == DType::kFloat32;
    problem_.images = params.x.size[0];
    problem_.pixels = params.x.size[2];
    problem_.steps = params.steps;
    problem_.channels = static_cast<int>(params.x.size[1]);
    problem_.rank = static_cast<int>(params.bases.size[2]);
    problem_.out_channels = static_cast<int>(params.out.size[1]);
    problem_.padded_out = static_cast<int>(rounded_up(problem_.out_channels, kUnit<T>));
    problem_.eps = static_cast<float>(params.eps);
    fits_ = variant == NmfVariant::kAuto && is_wide_grid() && plan_grid();
    if (!fits_ && (variant == NmfVariant::kCluster || variant == NmfVariant::kAuto)) fits_ = plan_cluster();
    if (!fits_ && (variant == NmfVariant::kGrid || variant == NmfVariant::kAuto)) fits_ = plan_grid();
    if (!fits_ && (variant == NmfVariant::kStreaming || variant == NmfVariant::kAuto)) fits_ = plan_streaming();
    lay_out();
  }

  int variant() const { return fits_ ? static_cast<int>(variant_) : static_cast<int>(NmfVariant::kAuto); }

  int run(const std::function<void*(int64_t)>& workspace, void* stream) {
    if (problem_.images == 0) return 0;
    if (!fits_ || problem_.images * problem_.slabs > INT32_MAX) return static_cast<int>(cudaErrorInvalidConfiguration);
    const int64_t bytes = problem_.images * problem_.state.size * static_cast<int64_t>(sizeof(float));
    problem_.workspace = static_cast<float*>(workspace(bytes));
    stream_ = stream;
    if (variant_ == NmfVariant::kStreaming) return run_streaming();
    const dim3 grid(blocks());
    const auto kernel = resident_kernel();
    if (variant_ == NmfVariant::kGrid) {
      return launch_cooperative(kernel, grid, dim3(kNmfThreads), shared_, stream, problem_);
    }
    return launch_cluster(kernel, grid, dim3(kNmfThreads), kClusterBlocks, shared_, stream, problem_);
  }

 private:
  unsigned blocks() const { return static_cast<unsigned>(problem_.images * problem_.slabs); }

  template <typename... Params, typename... Args>
  int start(void (*kernel)(Params...), size_t shared, Args... args) const {
    return launch(kernel, dim3(blocks()), dim3(kNmfThreads), shared, stream_, args...);
  }

  auto resident_kernel() const { return narrow_ ? nmf2d_narrow_kernel<T> : nmf2d_resident_kernel<T>; }

  int run_streaming() const {
    if (const int status = start(nmf2d_bases_kernel<T>, 0, problem_)) return status;
    for (int64_t step = 0; step <= problem_.steps; ++step) {
      if (const int status = start(nmf2d_gram_kernel<T>, 0, problem_, step)) return status;
      if (const int status = start(nmf2d_pass_kernel<T>, shared_, problem_, step)) return status;
      if (step == problem_.steps) break;
      if (const int status = start(nmf2d_reduce_kernel<T>, 0, problem_)) return status;
      if (const int status = start(nmf2d_update_kernel<T>, 0, problem_, step)) return status;
    }
    return 0;
  }

  void set_sizes(bool narrow) {
    narrow_ = narrow;
    problem_.padded_channels = static_cast<int>(rounded_up(problem_.channels, narrow ? kNarrowUnit : kUnit<T>));
    problem_.padded_rank = narrow ? kNarrow : static_cast<int>(rounded_up(problem_.rank, kUnit<T>));
  }

  // Plans slabs that stay in shared memory. Returns the bytes per block, or 0 if a block cannot have that many.
  size_t resident(int64_t slabs, bool in_clusters) {
    set_sizes(problem_.rank <= kNarrow && problem_.channels <= kNarrowChannels);
    problem_.in_clusters = in_clusters;
    problem_.slabs = static_cast<int>(slabs);
    const int64_t pixels = (problem_.pixels + slabs - 1) / slabs, slab = rounded_up(pixels > 0 ? pixels : 1, kUnit<T>);
    if (slab > (1 << 16)) return 0;
    problem_.slab = static_cast<int>(slab);
    problem_.tile = static_cast<int>(rounded_up(slab, narrow_ ? kNarrowUnit : kUnit<T>));
    if (narrow_) {
      NarrowShared<T>(nullptr, problem_, shared_);
    } else {
      shared_ = ForwardTile<T>::bytes(problem_, in_clusters);
    }
    return shared_ <= shared_limit() ? shared_ : 0;
  }

  // Whether a grid would have four times the blocks of clusters: the gain then exceeds the cost of its slower barriers.
  bool is_wide_grid() const {
    return problem_.images * kWide <= kResidentBlocks && problem_.pixels >= kWide * kResidentTile;
  }

  bool plan_cluster() {
    variant_ = NmfVariant::kCluster;
    const size_t shared = resident(kClusterBlocks, true);
    return shared > 0 && resident_clusters(resident_kernel(), kNmfThreads, kClusterBlocks, shared) > 0;
  }

  bool plan_grid() {
    variant_ = NmfVariant::kGrid;
    if (problem_.images == 0) return false;
    int64_t slabs = problem_.pixels > 0 ? (problem_.pixels + kResidentTile - 1) / kResidentTile : 1;
    if (slabs > kResidentBlocks / problem_.images) slabs = kResidentBlocks / problem_.images;
    for (; slabs > 0; slabs /= 2) {
      const size_t shared = resident(slabs, false);
      if (shared == 0) return false;  // fewer slabs would be larger
      const int64_t held = resident_blocks(resident_kernel(), kNmfThreads, shared);
      if (held >= problem_.images * slabs) return true;
    }
    return false;
  }

  bool plan_streaming() {
    variant_ = NmfVariant::kStreaming;
    set_sizes(false);
    const Slabs slabs =
        streaming_slabs(problem_.images, problem_.pixels, kUnit<T>, ForwardTile<T>::bytes_per_pixel(problem_));
    problem_.tile = slabs.tile;
    problem_.slab = slabs.slab;
    problem_.slabs = slabs.count;
    shared_ = ForwardTile<T>::bytes(problem_, false);
    return slabs.tile > 0;
  }

  void lay_out() {
    const int64_t channels = problem_.padded_channels, rank = problem_.padded_rank;
    int64_t used = 0;
    const auto take = [&](int64_t floats) {
      const int64_t start = used;
      used += rounded_up(floats, 64);
      return start;
    };
    ForwardState& s = problem_.state;
    const int64_t shared_state = narrow_ ? 0 : channels * rank;  // shared by all blocks, instead of a copy in each
    s.bases = take(shared_state);
    s.other_bases = take(shared_state);
    s.turned = take(narrow_ ? 0 : problem_.padded_out * rank);
    s.packed = take(kOnTensorCores<T> ? shared_state : 0);  // two bfloat16 per float
    s.gram = take(narrow_ ? 0 : rank * rank);
    s.sums = take(problem_.sum_rows() * rank);
    s.partial = take(variant_ == NmfVariant::kCluster ? 0 : problem_.slabs * problem_.sum_rows() * rank);
    s.coef = take(variant_ == NmfVariant::kStreaming ? problem_.pixels * rank : 0);
    s.projected = take(narrow_ && problem_.projected() ? problem_.padded_out * rank : 0);
    s.size = used;
  }

  ForwardProblem<T> problem_{};
  NmfVariant variant_ = NmfVariant::kStreaming;
  bool fits_ = false, narrow_ = false;
  size_t shared_ = 0;
  void* stream_ = nullptr;
};

}  // namespace

int nmf2d_forward_variant(const Nmf2dParams& params) {
  return with_element_type(
      params.dtype, [&](auto type) { return NmfForwardLauncher<decltype(type)>(params, NmfVariant::kAuto).variant(); });
}

int launch_nmf2d_forward(const Nmf2dParams& params, int variant, const std::function<void*(int64_t)>& workspace,
                         void* stream) {
  return with_element_type(params.dtype, [&](auto type) {
    return NmfForwardLauncher<decltype(type)>(params, static_cast<NmfVariant>(variant)).run(workspace, stream);
  });
}

}  // namespace segnext
