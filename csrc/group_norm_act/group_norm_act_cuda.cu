// group_norm_act on a GPU: y = act((x - mean) rstd w + b + residual), mean and rstd of each (image, group).
//
// Forward, two kernels:
//   statistics  mean and M2 = sum (x - mean)^2 of a block's part of every group it touches
//   apply       merges the parts of its groups, in their order, and normalises
// Backward, four: statistics again; then with g the gradient that ReLU lets through and xhat = (x - mean) rstd
//   sums        of g and g xhat: per channel (for the parameters) and per group, times w
//   gradient    grad_x = rstd (w g - mean(w g) - xhat mean(w g xhat)), grad_residual = g
//   parameters  grad_weight and grad_bias, one block 32 channels
// A thread takes four steps of 16 bytes at a time, their mean first, then the squares around it, and merges that with
// what it has (Chan et al.); a block's threads are merged the same way, and so are blocks: an offset of the data costs
// no digits. No atomics; the order of all sums depends on the shape alone.
//
// Two ways to cut the work: rows (channels_last; a thread keeps its channels' parameters in registers) and planes
// (contiguous; a block is of one channel). Each with 16-byte vectors, or with single elements for odd sizes, odd
// alignments and other strides.
//
// Bytes: forward x twice (the second time from L2 where x is under some 40 MB), residual once, out once; backward x
// three times, grad and out twice, grad_x once. FLOPs: 7 an element forward, 16 backward: bound by memory.
// MODEL for an H200, not yet measured on a GPU: (32, 256, 64, 64) bf16 without residual is 64 MiB: 3 x 64 MiB / 4.3
// TB/s = 47 us forward, 9 x 64 MiB = 140 us backward; (1, 256, 64, 64) is 2 MiB: launches dominate, 2 x 3 us. Registers
// and shared memory: tests/kernels/nvcc_gate.json. Statistics keep 16 KiB of shared memory a block at most.

#include <algorithm>
#include <type_traits>

#include "group_norm_act/plan.cuh"

namespace segnext {
namespace {

constexpr int kBatch = 4;  // steps of a thread whose loads are under way together

struct Moments {
  float count, mean, m2;

  __device__ void add(float count_b, float mean_b, float m2_b) {
    const float total = count + count_b, delta = mean_b - mean;
    if (total == 0.0f) return;
    mean += delta * (count_b / total);
    m2 += m2_b + delta * delta * (count * (count_b / total));
    count = total;
  }
};

// Moments of entries 0 .. size of this warp, entry(e) being (count, mean, m2); the same in all lanes.
template <typename Entry>
__device__ inline Moments merge(int size, Entry entry) {
  const int lane = threadIdx.x % kWarp;
  const float pivot = entry(0).mean;  // around it, so that an offset costs no digits
  float count = 0.0f, sum = 0.0f;
  for (int e = lane; e < size; e += kWarp) {
    const Moments m = entry(e);
    count += m.count;
    sum += m.count * (m.mean - pivot);
  }
  count = warp_sum(count);
  const float mean = pivot + warp_sum(sum) / count;
  float m2 = 0.0f;
  for (int e = lane; e < size; e += kWarp) {
    const Moments m = entry(e);
    m2 += m.m2 + m.count * (m.mean - mean) * (m.mean - mean);
  }
  return {count, mean, warp_sum(m2)};
}

// Floats from one row of channels to the next in shared memory: 8 beside a multiple of the 32 banks, so that the same
// channels of four rows do not meet in one.
__host__ __device__ inline int row_pitch(int channels) { return channels + 8; }

template <int kCount>
__device__ inline void store_channels(float* to, const float (&values)[kCount]) {
  if constexpr (kCount % 4 == 0) {
#pragma unroll
    for (int i = 0; i < kCount; i += 4) {
      const Vec16<float> vector{{values[i], values[i + 1], values[i + 2], values[i + 3]}};
      vector.store_shared(to + i);
    }
  } else {
    for (int i = 0; i < kCount; ++i) store_shared(to + i, values[i]);
  }
}

template <typename T, int kVec, bool kRows>
__global__ void __launch_bounds__(kNormThreads) group_norm_act_statistics_kernel(NormTask t, Tensor4 x, float2* parts) {
  constexpr int kOwn = kRows ? kVec : 1;  // channels of a thread
  const NormPart part(t, blockIdx.x);
  Moments own[kOwn] = {};
  for (int item = part.first; item < part.last; item += kBatch * part.step) {
    NormItem<T, kVec> batch[kBatch];
    float count = 0.0f, sum[kOwn] = {};
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
      if (item + b * part.step < part.last) batch[b] = NormItem<T, kVec>::load(t, x, part, item + b * part.step);
    }
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
      if (item + b * part.step >= part.last) continue;
      count += kVec / kOwn;
#pragma unroll
      for (int i = 0; i < kVec; ++i) sum[i % kOwn] += batch[b].values[i];
    }
    float m2[kOwn] = {};
#pragma unroll
    for (int i = 0; i < kOwn; ++i) sum[i] /= count;
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
      if (item + b * part.step >= part.last) continue;
#pragma unroll
      for (int i = 0; i < kVec; ++i) {
        const float centred = batch[b].values[i] - sum[i % kOwn];
        m2[i % kOwn] += centred * centred;
      }
    }
#pragma unroll
    for (int i = 0; i < kOwn; ++i) own[i].add(count, sum[i], m2[i]);
  }

  // (lanes, channels) of mean and m2; the counts follow from the lane
  float* means = reinterpret_cast<float*>(shared_memory());
  const int pitch = kRows ? row_pitch(t.shape.channels) : 1;
  float* squares = means + part.lanes * pitch;
  if (!part.idle) {
    float mean[kOwn], m2[kOwn];
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      mean[i] = own[i].mean;
      m2[i] = own[i].m2;
    }
    const int at = part.lane * pitch + (kRows ? part.channel : 0);
    store_channels(means + at, mean);
    store_channels(squares + at, m2);
  }
  __syncthreads();
  const int items = t.items_of(part.chunk);
  const int groups = kRows ? t.shape.groups : 1, group_channels = kRows ? t.shape.group_channels : 1;
  for (int g = threadIdx.x / kWarp; g < groups; g += kNormWarps) {
    const Moments m = merge(part.lanes * group_channels, [&](int e) {
      const int lane = e / group_channels;
      const int at = lane * pitch + g * group_channels + e % group_channels;
      const float count = static_cast<float>(NormPart::count(items, lane, part.lanes) * (kVec / kOwn));
      return Moments{count, load_shared(means + at), load_shared(squares + at)};
    });
    const int64_t at = kRows ? int64_t{blockIdx.x} * groups + g : blockIdx.x;
    if (threadIdx.x % kWarp == 0) store_global(parts + at, make_float2(m.mean, m.m2));
  }
}

// Of the groups of a block's channels, in shared memory: mean and rstd, then (backward) mean(w g) and mean(w g xhat).
struct GroupValues {
  float2* statistics;
  float2* gradients;
  int first;  // group

  __device__ GroupValues(const NormTask& t, const NormPart& part)
      : statistics(reinterpret_cast<float2*>(shared_memory())),
        gradients(statistics + (t.plan.rows ? t.shape.groups + t.shape.groups % 2 : 2)),  // a multiple of 16 bytes
        first(t.plan.rows ? 0 : part.channel / t.shape.group_channels) {}

  __device__ int count(const NormTask& t) const { return t.plan.rows ? t.shape.groups : 1; }
  __device__ int index(const NormTask& t, int channel) const { return channel / t.shape.group_channels - first; }
};

__device__ inline void merge_statistics(const NormTask& t, const NormPart& part, const float2* parts,
                                        const GroupValues& values) {
  for (int g = threadIdx.x / kWarp; g < values.count(t); g += kNormWarps) {
    const Moments m = merge(t.entries(), [&](int e) {
      const float2 entry = load_global(parts + t.entry(part.n, values.first + g, e));
      return Moments{t.elements(e), entry.x, entry.y};
    });
    const float rstd = 1.0f / sqrtf(m.m2 / m.count + t.eps);
    if (threadIdx.x % kWarp == 0) store_shared(values.statistics + g, make_float2(m.mean, rstd));
  }
}

template <typename T, int kVec, bool kRows>
__global__ void __launch_bounds__(kNormThreads)
    group_norm_act_apply_kernel(NormTask t, Tensor4 x, Tensor4 weight, Tensor4 bias, Tensor4 residual, Tensor4 out,
                                const float2* parts) {
  constexpr int kOwn = kRows ? kVec : 1;
  using Item = NormItem<T, kVec>;
  const NormPart part(t, blockIdx.x);
  const GroupValues values(t, part);
  merge_statistics(t, part, parts, values);
  __syncthreads();
  if (part.idle) return;
  float mean[kOwn], scale[kOwn], shift[kOwn];
  t.parameters(weight, part.channel, scale);
  t.parameters(bias, part.channel, shift);
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
    const float2 statistics = load_shared(values.statistics + values.index(t, part.channel + i));
    mean[i] = statistics.x;
    scale[i] *= statistics.y;
  }
#pragma unroll 2
  for (int item = part.first; item < part.last; item += part.step) {
    Item y = Item::load(t, x, part, item);
    Item add{};
    if (residual.data != nullptr) add = Item::load(t, residual, part, item);
#pragma unroll
    for (int i = 0; i < kVec; ++i) {
      const float value = (y.values[i] - mean[i % kOwn]) * scale[i % kOwn] + shift[i % kOwn] + add.values[i];
      y.values[i] = t.relu && value <= 0.0f ? 0.0f : value;  // NaN stays
    }
    y.store(t, out, part, item);
  }
}

// The gradient that ReLU lets through, as threshold_backward: where out is NaN too.
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
// times w, (n, chunk, group).
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
#pragma unroll 1  // three loads are under way in a step; twice that spills
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
    // (lanes, channels) of both sums, of which the first row becomes all lanes', times w
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

// A block 32 channels; its warps share the images and chunks.
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

// ---- launching

int64_t element_bytes(DType dtype) { return dtype == DType::kFloat32 ? 4 : 2; }

// Whether 16-byte steps along `axis` are aligned in this tensor.
bool takes_vectors(const Tensor4& x, bool rows, int64_t vector) {
  if (x.data == nullptr) return true;
  const int inner = rows ? 1 : 3;
  for (int axis = 0; axis < 4; ++axis) {
    if (x.size[axis] == 1 || (axis == inner && x.stride[axis] == 1)) continue;
    if (axis == inner || (!(axis == 2 && !rows) && x.stride[axis] % vector != 0)) return false;
  }
  return reinterpret_cast<uintptr_t>(x.data) % 16 == 0;
}

bool is_dense(const Tensor4& x) {
  return x.data == nullptr || x.size[2] == 1 || x.stride[2] == x.size[3] * x.stride[3];
}

template <size_t kCount>
NormTask task_of(const GroupNormActParams& p, const Tensor4 (&tensors)[kCount]) {
  NormTask t{NormShape(p), {}, static_cast<float>(p.eps), p.relu, p.affine_dtype, true};
  const int vector = static_cast<int>(16 / element_bytes(p.dtype)), channels = t.shape.channels;
  NormPlan& plan = t.plan;
  plan.dense = true;
  bool row_vectors = channels % vector == 0 && channels / vector <= kNormThreads;
  bool plane_vectors = t.shape.pixels % vector == 0;
  for (const Tensor4& x : tensors) {
    plan.dense = plan.dense && is_dense(x);
    row_vectors = row_vectors && takes_vectors(x, true, vector);
    plane_vectors = plane_vectors && is_dense(x) && takes_vectors(x, false, vector);
  }
  plan.rows = p.x.stride[1] == 1 && channels > 1 && (row_vectors || channels <= kNormThreads);
  plan.vector = (plan.rows ? row_vectors : plane_vectors) ? vector : 1;
  plan.items = plan.rows ? t.shape.pixels : t.shape.pixels / plan.vector;
  for (const Tensor4* x : {&p.weight, &p.bias}) {
    t.parameter_vectors = t.parameter_vectors && x->stride[0] <= 1 && reinterpret_cast<uintptr_t>(x->data) % 16 == 0;
  }
  const int64_t others = int64_t{t.shape.batch} * (plan.rows ? 1 : channels);
  const int64_t a_pass = kBatch * (plan.rows ? kNormThreads / (channels / plan.vector) : kNormThreads);
  int64_t chunks = (plan.items + a_pass - 1) / a_pass;
  chunks = std::min(chunks, others > 0 ? std::max<int64_t>(kNormBlocks / others, 1) : 1);
  chunks = std::min(chunks, kMostChunks);
  if (chunks == 0) return t;  // no pixels
  plan.chunk = static_cast<int>((plan.items + chunks - 1) / chunks);
  plan.chunks = (plan.items + plan.chunk - 1) / plan.chunk;
  return t;
}

NormTask forward_task(const GroupNormActParams& p) { return task_of(p, {p.x, p.residual, p.out}); }
NormTask backward_task(const GroupNormActBackwardParams& p) {
  return task_of(p.forward, {p.forward.x, p.forward.out, p.grad, p.grad_x, p.grad_residual});
}

// Places in the workspace, in elements of float2.
struct Places {
  int64_t of_channels, of_groups, end;

  explicit Places(const NormTask& t) {
    const int64_t rows = int64_t{t.shape.batch} * t.plan.chunks;
    of_channels = rows * (t.plan.rows ? t.shape.groups : t.shape.channels);
    of_groups = of_channels + rows * t.shape.channels;
    end = of_groups + (t.plan.rows ? rows * t.shape.groups : 0);
  }
};

// f(element, vector, rows) with the types and constants of the kernels to run.
template <typename F>
int with_variant(DType dtype, const NormPlan& plan, F f) {
  return with_element_type(dtype, [&](auto element) {
    constexpr int kVec = 16 / sizeof(element);
    using Vector = std::integral_constant<int, kVec>;
    using Single = std::integral_constant<int, 1>;
    if (plan.rows)
      return plan.vector > 1 ? f(element, Vector(), std::true_type()) : f(element, Single(), std::true_type());
    return plan.vector > 1 ? f(element, Vector(), std::false_type()) : f(element, Single(), std::false_type());
  });
}

size_t group_bytes(const NormTask& t) {
  return static_cast<size_t>(t.plan.rows ? t.shape.groups + t.shape.groups % 2 : 2) * sizeof(float2);
}

// Two floats of every channel for each thread that takes it.
size_t thread_bytes(const NormTask& t) {
  if (!t.plan.rows) return kNormThreads * sizeof(float2);
  const int lanes = kNormThreads / (t.shape.channels / t.plan.vector);
  return static_cast<size_t>(lanes * row_pitch(t.shape.channels)) * 2 * sizeof(float);
}

template <typename T, int kVec, bool kRows>
int launch_statistics(const NormTask& t, const Tensor4& x, float2* parts, dim3 grid, void* stream) {
  return launch(group_norm_act_statistics_kernel<T, kVec, kRows>, grid, kNormThreads, thread_bytes(t), stream, t, x,
                parts);
}

}  // namespace

int64_t group_norm_act_forward_workspace(const GroupNormActParams& params) {
  return Places(forward_task(params)).of_channels * static_cast<int64_t>(sizeof(float2));
}

int64_t group_norm_act_backward_workspace(const GroupNormActBackwardParams& params) {
  return Places(backward_task(params)).end * static_cast<int64_t>(sizeof(float2));
}

int launch_group_norm_act_forward(const GroupNormActParams& p, void* workspace, void* stream) {
  const NormTask t = forward_task(p);
  if (t.blocks() == 0) return 0;
  if (t.blocks() > INT32_MAX) return static_cast<int>(cudaErrorInvalidConfiguration);
  float2* parts = static_cast<float2*>(workspace);
  const dim3 grid(static_cast<unsigned>(t.blocks()));
  return with_variant(p.dtype, t.plan, [&](auto element, auto vector, auto rows) {
    using T = decltype(element);
    constexpr int kVec = decltype(vector)::value;
    constexpr bool kRows = decltype(rows)::value;
    if (const int status = launch_statistics<T, kVec, kRows>(t, p.x, parts, grid, stream)) return status;
    return launch(group_norm_act_apply_kernel<T, kVec, kRows>, grid, kNormThreads, group_bytes(t), stream, t, p.x,
                  p.weight, p.bias, p.residual, p.out, parts);
  });
}

int launch_group_norm_act_backward(const GroupNormActBackwardParams& params, void* workspace, void* stream) {
  const GroupNormActParams& p = params.forward;
  const NormTask t = backward_task(params);
  if (t.blocks() > INT32_MAX) return static_cast<int>(cudaErrorInvalidConfiguration);
  const Places places(t);
  float2* parts = static_cast<float2*>(workspace);
  float2 *of_channels = parts + places.of_channels, *of_groups = parts + places.of_groups;
  const dim3 grid(static_cast<unsigned>(t.blocks()));
  if (t.blocks() > 0) {
    const int status = with_variant(p.dtype, t.plan, [&](auto element, auto vector, auto rows) {
      using T = decltype(element);
      constexpr int kVec = decltype(vector)::value;
      constexpr bool kRows = decltype(rows)::value;
      if (const int failed = launch_statistics<T, kVec, kRows>(t, p.x, parts, grid, stream)) return failed;
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
