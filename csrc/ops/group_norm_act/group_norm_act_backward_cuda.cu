// The backward of group_norm_act on a GPU; group_norm_act_cuda.cu explains it.

#include "ops/group_norm_act/variants.cuh"

namespace segnext {
namespace group_norm {
namespace {

// A batch of steps of grad, out and x. Two of them: three would spill.
template <typename V>
struct GradientSteps {
  using Step = typename V::Step;
  Step grad[kBackwardBatch], out[kBackwardBatch], x[kBackwardBatch];

  __device__ void load(const NormTask& t, const Tensor4& grads, const Tensor4& outs, const Tensor4& xs,
                       const NormPart& part, int item) {
    load_steps<V>(t, grads, part, item, grad);
    if (t.relu) load_steps<V>(t, outs, part, item, out);
    load_steps<V>(t, xs, part, item, x);
  }
  // The gradient where ReLU passes it on, else zero, as in threshold_backward; it also passes where out is NaN.
  __device__ void passed(const NormTask& t, int b, float (&g)[V::kVec]) const {
    grad[b].to_floats(g);
    if (!t.relu) return;
    float y[V::kVec];
    out[b].to_floats(y);
#pragma unroll
    for (int i = 0; i < V::kVec; ++i) {
      if (y[i] <= 0.0f) g[i] = 0.0f;
    }
  }
};

// of_channels: sums of g and of g xhat, (n, chunk, channel) or (n, channel, chunk). of_groups (rows only): the same
// sums times w, (n, group, chunk). The blocks run in the opposite order of the statistics kernel's.
template <typename V>
__global__ void __launch_bounds__(kNormThreads, V::kResident)
    group_norm_act_sums_kernel(NormTask t, Tensor4 grad, Tensor4 x, Tensor4 out, Tensor4 weight, const float2* parts,
                               float2* of_channels, float2* of_groups) {
  constexpr int kVec = V::kVec, kChannels = V::kChannels, kGroups = V::kGroups;
  const int block = static_cast<int>(gridDim.x - 1 - blockIdx.x);
  const NormPart part(t, block);
  const GroupValues values(t, part);
  GradientSteps<V> steps;
  int item = part.first;
  steps.load(t, grad, out, x, part, item);  // in flight while the statistics are merged
  merge_statistics<V>(t, part, parts, values);
  __syncthreads();
  float2 statistics[kGroups];
  float of_grad[kChannels] = {}, of_product[kChannels] = {};
  values.read<V>(t, part, values.statistics, statistics);
  while (item < part.last) {
#pragma unroll
    for (int b = 0; b < kBackwardBatch; ++b) {
      float g[kVec], own[kVec];
      steps.passed(t, b, g);
      steps.x[b].to_floats(own);
#pragma unroll
      for (int i = 0; i < kVec; ++i) {
        const float2 of_group = statistics[i % kGroups];
        of_grad[i % kChannels] += g[i];
        of_product[i % kChannels] += g[i] * ((own[i] - of_group.x) * of_group.y);
      }
    }
    item += kBackwardBatch * part.step;
    steps.load(t, grad, out, x, part, item);
  }
  if constexpr (V::kRows) {
    // (lanes, channels) of both sums; the first row then becomes the sum over all lanes, times w
    const int pitch = row_pitch(t.plan.slab, kChannels), first = part.slab * t.plan.slab;
    float* grads = reinterpret_cast<float*>(values.gradients);
    float* products = grads + part.lanes * pitch;
    if (!part.idle) {
      store_channels(grads + part.lane * pitch + part.channel - first, of_grad);
      store_channels(products + part.lane * pitch + part.channel - first, of_product);
    }
    __syncthreads();
    float2* const to = of_channels + (int64_t{part.n} * t.plan.chunks + part.chunk) * t.shape.channels + first;
    for (int c = threadIdx.x; c < t.plan.slab; c += kNormThreads) {
      float2 sum = make_float2(0.0f, 0.0f);
#pragma unroll 8
      for (int lane = 0; lane < part.lanes; ++lane) {
        sum.x += load_shared(grads + lane * pitch + c);
        sum.y += load_shared(products + lane * pitch + c);
      }
      store_global(to + c, sum);
      const float w = t.parameter(weight, first + c);
      store_shared(grads + c, w * sum.x);
      store_shared(products + c, w * sum.y);
    }
    __syncthreads();
    for (int g = threadIdx.x / kWarp; g < t.plan.groups; g += kNormWarps) {
      float2 sum = make_float2(0.0f, 0.0f);
      for (int i = threadIdx.x % kWarp; i < t.shape.group_channels; i += kWarp) {
        sum.x += load_shared(grads + g * t.shape.group_channels + i);
        sum.y += load_shared(products + g * t.shape.group_channels + i);
      }
      sum = make_float2(warp_sum(sum.x), warp_sum(sum.y));
      if (threadIdx.x % kWarp == 0) store_global(of_groups + t.entry(part.n, values.first + g, part.chunk), sum);
    }
  } else {
    float both[2] = {of_grad[0], of_product[0]};
    block_sum(both, reinterpret_cast<float*>(values.gradients));
    if (threadIdx.x == 0) store_global(of_channels + block, make_float2(both[0], both[1]));
  }
}

__device__ inline void set_parameter(const NormTask& t, const Tensor4& tensor, int c, float value) {
  switch (t.affine_dtype) {
    case DType::kFloat16:
      return store_global(static_cast<__half*>(tensor.data) + c, from_float<__half>(value));
    case DType::kBFloat16:
      return store_global(static_cast<__nv_bfloat16*>(tensor.data) + c, from_float<__nv_bfloat16>(value));
    default:
      return store_global(static_cast<float*>(tensor.data) + c, value);
  }
}

// The block's warps divide the images and chunks of its 32 channels among them.
__device__ inline void add_parameters(const NormTask& t, const float2* of_channels, const Tensor4& grad_weight,
                                      const Tensor4& grad_bias) {
  float2* warps = reinterpret_cast<float2*>(shared_memory());
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int c = static_cast<int>(blockIdx.x) * kWarp + lane;
  float2 sum = make_float2(0.0f, 0.0f);
  if (c < t.shape.channels) {
#pragma unroll 4
    for (int i = warp; i < t.shape.batch * t.plan.chunks; i += kNormWarps) {
      const int64_t n = i / t.plan.chunks, chunk = i % t.plan.chunks;
      const int64_t at =
          t.plan.rows ? int64_t{i} * t.shape.channels + c : (n * t.shape.channels + c) * t.plan.chunks + chunk;
      const float2 other = load_global(of_channels + at);
      sum.x += other.x;
      sum.y += other.y;
    }
  }
  store_shared(warps + threadIdx.x, sum);
  __syncthreads();
  if (warp != 0 || c >= t.shape.channels) return;
  for (int i = 1; i < kNormWarps; ++i) {
    const float2 other = load_shared(warps + i * kWarp + lane);
    sum.x += other.x;
    sum.y += other.y;
  }
  set_parameter(t, grad_bias, c, sum.x);
  set_parameter(t, grad_weight, c, sum.y);
}

// Blocks that add up the gradients of the parameters, before the others: they wait long for few numbers.
__host__ __device__ inline int parameter_blocks(const NormTask& t) { return (t.shape.channels + kWarp - 1) / kWarp; }

template <typename V>
__global__ void __launch_bounds__(kNormThreads, V::kResident)
    group_norm_act_gradient_kernel(NormTask t, Tensor4 grad, Tensor4 x, Tensor4 out, Tensor4 weight, Tensor4 grad_x,
                                   Tensor4 grad_residual, Tensor4 grad_weight, Tensor4 grad_bias, const float2* parts,
                                   const float2* of_channels, const float2* of_groups) {
  constexpr int kVec = V::kVec, kChannels = V::kChannels, kGroups = V::kGroups;
  const int block = static_cast<int>(blockIdx.x) - parameter_blocks(t);
  if (block < 0) return add_parameters(t, of_channels, grad_weight, grad_bias);
  const NormPart part(t, block);
  const GroupValues values(t, part);
  GradientSteps<V> steps;
  int item = part.first;
  steps.load(t, grad, out, x, part, item);  // in flight while the sums are merged
  merge_statistics<V>(t, part, parts, values);
  const float share = 1.0f / (static_cast<float>(t.shape.group_channels) * static_cast<float>(t.shape.pixels));
  for (int g = threadIdx.x / kWarp; g < t.plan.groups; g += kNormWarps) {
    const int64_t first = t.entry(part.n, values.first + g, 0);
    float2 sum = make_float2(0.0f, 0.0f);
#pragma unroll 4
    for (int e = threadIdx.x % kWarp; e < t.entries(); e += kWarp) {
      const float2 other = load_global((V::kRows ? of_groups : of_channels) + first + e);
      const float w =
          V::kRows ? 1.0f : t.parameter(weight, (values.first + g) * t.shape.group_channels + e / t.plan.chunks);
      sum.x += w * other.x;
      sum.y += w * other.y;
    }
    sum = make_float2(warp_sum(sum.x) * share, warp_sum(sum.y) * share);
    if (threadIdx.x % kWarp == 0) store_shared(values.gradients + g, sum);
  }
  float w[kChannels];
  t.parameters(weight, part.channel, w);
  __syncthreads();
  float2 statistics[kGroups], gradients[kGroups];
  values.read<V>(t, part, values.statistics, statistics);
  values.read<V>(t, part, values.gradients, gradients);
  while (item < part.last) {
#pragma unroll
    for (int b = 0; b < kBackwardBatch; ++b) {
      if (item + b * part.step >= part.last) continue;  // without this, registers would spill
      float g[kVec], own[kVec];
      steps.passed(t, b, g);
      steps.x[b].to_floats(own);
      steps.grad[b] = V::Step::from_floats(g);
#pragma unroll
      for (int i = 0; i < kVec; ++i) {
        const float2 of_group = statistics[i % kGroups], means = gradients[i % kGroups];
        const float normalised = (own[i] - of_group.x) * of_group.y;
        own[i] = of_group.y * (w[i % kChannels] * g[i] - means.x - normalised * means.y);
      }
      steps.x[b] = V::Step::from_floats(own);
    }
    store_steps<V>(t, grad_x, part, item, steps.x);
    if (grad_residual.data != nullptr) store_steps<V>(t, grad_residual, part, item, steps.grad);
    item += kBackwardBatch * part.step;
    steps.load(t, grad, out, x, part, item);
  }
}

NormTask backward_task(const GroupNormActBackwardParams& p) {
  return task_of(p.forward, {p.forward.x, p.forward.out, p.grad, p.grad_x, p.grad_residual});
}

}  // namespace
}  // namespace group_norm

using namespace group_norm;

int64_t group_norm_act_backward_workspace(const GroupNormActBackwardParams& params) {
  return Places(backward_task(params)).end * static_cast<int64_t>(sizeof(float2));
}

int launch_group_norm_act_backward(const GroupNormActBackwardParams& params, void* workspace, void* stream) {
  const GroupNormActParams& p = params.forward;
  const NormTask t = backward_task(params);
  if (t.blocks() > INT32_MAX - parameter_blocks(t)) return static_cast<int>(cudaErrorInvalidConfiguration);
  const Places places(t);
  float2* parts = static_cast<float2*>(workspace);
  float2 *of_channels = parts + places.of_channels, *of_groups = parts + places.of_groups;
  if (t.blocks() > 0) {
    if (const int status = launch_statistics(p.dtype, t, p.x, parts, stream)) return status;
  }
  return with_variant(p.dtype, t.plan, [&](auto variant) {
    using V = decltype(variant);
    if (t.blocks() > 0) {
      const size_t bytes = group_bytes(t) + (V::kRows ? thread_bytes(t, V::kChannels) : 2 * kWarp * sizeof(float));
      const int status = launch(group_norm_act_sums_kernel<V>, static_cast<unsigned>(t.blocks()), kNormThreads, bytes,
                                stream, t, params.grad, p.x, p.out, p.weight, parts, of_channels, of_groups);
      if (status != 0) return status;
    }
    return launch(group_norm_act_gradient_kernel<V>, static_cast<unsigned>(t.blocks() + parameter_blocks(t)),
                  kNormThreads, std::max(2 * group_bytes(t), kNormThreads * sizeof(float2)), stream, t, params.grad,
                  p.x, p.out, p.weight, params.grad_x, params.grad_residual, params.grad_weight, params.grad_bias,
                  parts, of_channels, of_groups);
  });
}

}  // namespace segnext
