// The backward of group_norm_act on a GPU; group_norm_act_cuda.cu explains it.

#include "ops/group_norm_act/variants.cuh"

namespace segnext {
namespace group_norm {
namespace {

// The gradient where ReLU passes it on, else zero, as in threshold_backward; it also passes where out is NaN.
template <typename Item>
__device__ inline Item passed_gradient(const NormTask& t, const Tensor4& grad, const Tensor4& out, const NormPart& part,
                                       int item) {
  Item g = Item::load(t, grad, part, item);
  if (t.relu) {
    const Item y = Item::load(t, out, part, item);
#pragma unroll
    for (int i = 0; i < static_cast<int>(sizeof(Item) / sizeof(float)); ++i) {
      if (y.values[i] <= 0.0f) g.values[i] = 0.0f;
    }
  }
  return g;
}

// of_channels: sums of g and of g xhat, (n, chunk, channel) or (n, channel, chunk). of_groups (rows only): the same
// sums times w, (n, chunk, group).
template <typename T, int kVec, bool kRows>
__global__ void __launch_bounds__(kNormThreads)
    group_norm_act_sums_kernel(NormTask t, Tensor4 grad, Tensor4 x, Tensor4 out, Tensor4 weight, const float2* parts,
                               float2* of_channels, float2* of_groups) {
  constexpr int kOwn = kRows ? kVec : 1;
  using Item = NormItem<T, kVec>;
  const NormPart part(t, blockIdx.x);
  const GroupValues values(t, part);
  merge_statistics(t, part, parts, values);
  __syncthreads();
  float2 statistics[kOwn];
  float of_grad[kOwn] = {}, of_product[kOwn] = {};
#pragma unroll
  for (int i = 0; i < kOwn; ++i) statistics[i] = load_shared(values.statistics + values.index(t, part.channel + i));
#pragma unroll 1  // three loads are in flight per step; twice as many would spill
  for (int item = part.first; item < part.last; item += part.step) {
    const Item g = passed_gradient<Item>(t, grad, out, part, item);
    const Item own = Item::load(t, x, part, item);
#pragma unroll
    for (int i = 0; i < kVec; ++i) {
      of_grad[i % kOwn] += g.values[i];
      of_product[i % kOwn] += g.values[i] * ((own.values[i] - statistics[i % kOwn].x) * statistics[i % kOwn].y);
    }
  }
  if constexpr (kRows) {
    // (lanes, channels) of both sums; the first row then becomes the sum over all lanes, times w
    const int pitch = row_pitch(t.shape.channels);
    float* grads = reinterpret_cast<float*>(values.gradients);
    float* products = grads + part.lanes * pitch;
    if (!part.idle) {
      store_channels(grads + part.lane * pitch + part.channel, of_grad);
      store_channels(products + part.lane * pitch + part.channel, of_product);
    }
    __syncthreads();
    const int64_t block = blockIdx.x;
    for (int c = threadIdx.x; c < t.shape.channels; c += kNormThreads) {
      float2 sum = make_float2(0.0f, 0.0f);
      for (int lane = 0; lane < part.lanes; ++lane) {
        sum.x += load_shared(grads + lane * pitch + c);
        sum.y += load_shared(products + lane * pitch + c);
      }
      store_global(of_channels + block * t.shape.channels + c, sum);
      const float w = t.parameter(weight, c);
      store_shared(grads + c, w * sum.x);
      store_shared(products + c, w * sum.y);
    }
    __syncthreads();
    for (int g = threadIdx.x / kWarp; g < t.shape.groups; g += kNormWarps) {
      float2 sum = make_float2(0.0f, 0.0f);
      for (int i = threadIdx.x % kWarp; i < t.shape.group_channels; i += kWarp) {
        sum.x += load_shared(grads + g * t.shape.group_channels + i);
        sum.y += load_shared(products + g * t.shape.group_channels + i);
      }
      sum = make_float2(warp_sum(sum.x), warp_sum(sum.y));
      if (threadIdx.x % kWarp == 0) store_global(of_groups + block * t.shape.groups + g, sum);
    }
  } else {
    float both[2] = {of_grad[0], of_product[0]};
    block_sum(both, reinterpret_cast<float*>(values.gradients));
    if (threadIdx.x == 0) store_global(of_channels + blockIdx.x, make_float2(both[0], both[1]));
  }
}

template <typename T, int kVec, bool kRows>
__global__ void __launch_bounds__(kNormThreads)
    group_norm_act_gradient_kernel(NormTask t, Tensor4 grad, Tensor4 x, Tensor4 out, Tensor4 weight, Tensor4 grad_x,
                                   Tensor4 grad_residual, const float2* parts, const float2* of_channels,
                                   const float2* of_groups) {
  constexpr int kOwn = kRows ? kVec : 1;
  using Item = NormItem<T, kVec>;
  const NormPart part(t, blockIdx.x);
  const GroupValues values(t, part);
  merge_statistics(t, part, parts, values);
  const float share = 1.0f / (static_cast<float>(t.shape.group_channels) * static_cast<float>(t.shape.pixels));
  for (int g = threadIdx.x / kWarp; g < values.count(t); g += kNormWarps) {
    float2 sum = make_float2(0.0f, 0.0f);
    for (int e = threadIdx.x % kWarp; e < t.entries(); e += kWarp) {
      const int64_t at = t.entry(part.n, values.first + g, e);
      const float2 other = load_global((kRows ? of_groups : of_channels) + at);
      const float w =
          kRows ? 1.0f : t.parameter(weight, (values.first + g) * t.shape.group_channels + e / t.plan.chunks);
      sum.x += w * other.x;
      sum.y += w * other.y;
    }
    sum = make_float2(warp_sum(sum.x) * share, warp_sum(sum.y) * share);
    if (threadIdx.x % kWarp == 0) store_shared(values.gradients + g, sum);
  }
  __syncthreads();
  if (part.idle) return;
  float2 statistics[kOwn], gradients[kOwn];
  float w[kOwn];
  t.parameters(weight, part.channel, w);
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
    const int at = values.index(t, part.channel + i);
    statistics[i] = load_shared(values.statistics + at);
    gradients[i] = load_shared(values.gradients + at);
  }
#pragma unroll 2
  for (int item = part.first; item < part.last; item += part.step) {
    const Item g = passed_gradient<Item>(t, grad, out, part, item);
    Item result = Item::load(t, x, part, item);
#pragma unroll
    for (int i = 0; i < kVec; ++i) {
      const int own = i % kOwn;
      const float normalised = (result.values[i] - statistics[own].x) * statistics[own].y;
      result.values[i] = statistics[own].y * (w[own] * g.values[i] - gradients[own].x - normalised * gradients[own].y);
    }
    result.store(t, grad_x, part, item);
    if (grad_residual.data != nullptr) g.store(t, grad_residual, part, item);
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

// One block per 32 channels; its warps divide the images and chunks among them.
__global__ void __launch_bounds__(kNormThreads)
    group_norm_act_parameters_kernel(NormTask t, const float2* of_channels, Tensor4 grad_weight, Tensor4 grad_bias) {
  float2* warps = reinterpret_cast<float2*>(shared_memory());
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int c = static_cast<int>(blockIdx.x) * kWarp + lane;
  float2 sum = make_float2(0.0f, 0.0f);
  if (c < t.shape.channels) {
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
  if (t.blocks() > INT32_MAX) return static_cast<int>(cudaErrorInvalidConfiguration);
  const Places places(t);
  float2* parts = static_cast<float2*>(workspace);
  float2 *of_channels = parts + places.of_channels, *of_groups = parts + places.of_groups;
  if (t.blocks() > 0) {
    if (const int status = launch_statistics(p.dtype, t, p.x, parts, stream)) return status;
    const dim3 grid(static_cast<unsigned>(t.blocks()));
    const int status = with_variant(p.dtype, t.plan, [&](auto element, auto vector, auto rows) {
      using T = decltype(element);
      constexpr int kVec = decltype(vector)::value;
      constexpr bool kRows = decltype(rows)::value;
      const size_t sums_bytes = group_bytes(t) + (kRows ? thread_bytes(t) : 2 * kWarp * sizeof(float));
      if (const int failed = launch(group_norm_act_sums_kernel<T, kVec, kRows>, grid, kNormThreads, sums_bytes, stream,
                                    t, params.grad, p.x, p.out, p.weight, parts, of_channels, of_groups)) {
        return failed;
      }
      return launch(group_norm_act_gradient_kernel<T, kVec, kRows>, grid, kNormThreads, 2 * group_bytes(t), stream, t,
                    params.grad, p.x, p.out, p.weight, params.grad_x, params.grad_residual, parts, of_channels,
                    of_groups);
    });
    if (status != 0) return status;
  }
  const dim3 blocks(static_cast<unsigned>((t.shape.channels + kWarp - 1) / kWarp));
  return launch(group_norm_act_parameters_kernel, blocks, kNormThreads, kNormThreads * sizeof(float2), stream, t,
                of_channels, params.grad_weight, params.grad_bias);
}

}  // namespace segnext
