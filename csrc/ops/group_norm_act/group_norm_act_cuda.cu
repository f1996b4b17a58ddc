// group_norm_act on a GPU: y = act((x - mean) rstd w + b + residual), with mean and rstd per (image, group).
//
// The forward has two kernels:
//   statistics  mean and M2 = sum (x - mean)^2 of a block's part of every group that it touches
//   apply       merges the parts of its groups, in their order, and normalises
// The backward (group_norm_act_backward_cuda.cu) has four. It begins with statistics again. Then, with g the gradient
// that ReLU passes on and xhat = (x - mean) rstd:
//   sums        of g and g xhat: per channel (for the parameters) and, times w, per group
//   gradient    grad_x = rstd (w g - mean(w g) - xhat mean(w g xhat)), grad_residual = g
//   parameters  grad_weight and grad_bias, one block per 32 channels
// A thread reads four steps of 16 bytes at a time, computes first their mean, then the squares around it, and merges
// both with its previous result (Chan et al.). The threads of a block are merged the same way, and so are blocks: an
// offset of the data costs no digits. There are no atomics; the order of all sums depends on the shape alone.
//
// The work is divided in one of two ways: rows (channels_last; a thread keeps its channels' parameters in registers) or
// planes (contiguous; a block has one channel). Both use 16-byte vectors, or single elements for odd sizes, odd
// alignments and other strides.
//
// Bytes: forward x twice (the second time from L2 if x is below about 40 MB), residual once, out once; backward x three
// times, grad and out twice, grad_x once. FLOPs: 7 per element forward, 16 backward: memory is the bound.
// Model for an H200: (32, 256, 64, 64) bf16 without residual is 64 MiB: 3 x 64 MiB / 4.3 TB/s = 47 us forward, 8 x 64
// MiB = 125 us backward. (1, 256, 64, 64) is 2 MiB: launches dominate, 2 x 3 us.
// Registers and static shared memory: tests/kernels/cuda/machine_code.json. The statistics kernel uses at most 16 KiB
// of shared memory per block.

#include "ops/group_norm_act/variants.cuh"

namespace segnext {
namespace group_norm {
namespace {

template <typename T, int kVec, bool kRows>
__global__ void __launch_bounds__(kNormThreads) group_norm_act_statistics_kernel(NormTask t, Tensor4 x, float2* parts) {
  constexpr int kOwn = kRows ? kVec : 1;  // channels per thread
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
  const int items = t.items_of(part.chunk), each = items / part.lanes, rest = items % part.lanes;  // per lane
  const int groups = kRows ? t.shape.groups : 1, group_channels = kRows ? t.shape.group_channels : 1;
  for (int g = threadIdx.x / kWarp; g < groups; g += kNormWarps) {
    const Moments m = merge(part.lanes * group_channels, [&](int e) {
      const int lane = e / group_channels;
      const int at = lane * pitch + g * group_channels + e % group_channels;
      const float count = static_cast<float>((each + (lane < rest ? 1 : 0)) * (kVec / kOwn));
      return Moments{count, load_shared(means + at), load_shared(squares + at)};
    });
    const int64_t at = kRows ? int64_t{blockIdx.x} * groups + g : blockIdx.x;
    if (threadIdx.x % kWarp == 0) store_global(parts + at, make_float2(m.mean, m.m2));
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
      y.values[i] = t.relu && value <= 0.0f ? 0.0f : value;  // NaN is kept
    }
    y.store(t, out, part, item);
  }
}

NormTask forward_task(const GroupNormActParams& p) { return task_of(p, {p.x, p.residual, p.out}); }

}  // namespace

int launch_statistics(DType dtype, const NormTask& t, const Tensor4& x, float2* parts, void* stream) {
  return with_variant(dtype, t.plan, [&](auto element, auto vector, auto rows) {
    return launch(group_norm_act_statistics_kernel<decltype(element), decltype(vector)::value, decltype(rows)::value>,
                  static_cast<unsigned>(t.blocks()), kNormThreads, thread_bytes(t), stream, t, x, parts);
  });
}

}  // namespace group_norm

using namespace group_norm;

int64_t group_norm_act_forward_workspace(const GroupNormActParams& params) {
  return Places(forward_task(params)).of_channels * static_cast<int64_t>(sizeof(float2));
}

int launch_group_norm_act_forward(const GroupNormActParams& p, void* workspace, void* stream) {
  const NormTask t = forward_task(p);
  if (t.blocks() == 0) return 0;
  if (t.blocks() > INT32_MAX) return static_cast<int>(cudaErrorInvalidConfiguration);
  float2* parts = static_cast<float2*>(workspace);
  if (const int status = launch_statistics(p.dtype, t, p.x, parts, stream)) return status;
  return with_variant(p.dtype, t.plan, [&](auto element, auto vector, auto rows) {
    return launch(group_norm_act_apply_kernel<decltype(element), decltype(vector)::value, decltype(rows)::value>,
                  static_cast<unsigned>(t.blocks()), kNormThreads, group_bytes(t), stream, t, p.x, p.weight, p.bias,
                  p.residual, p.out, parts);
  });
}

}  // namespace segnext
