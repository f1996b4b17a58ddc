// group_norm_act on a GPU: y = act((x - mean) rstd w + b + residual), with mean and rstd per (image, group).
//
// The forward has two kernels:
//   statistics  mean and M2 = sum (x - mean)^2 of a block's part of every group that it touches
//   apply       merges the parts of its groups, in their order, and normalises
// The backward (group_norm_act_backward_cuda.cu) has three. It begins with statistics again. Then, with g the gradient
// that ReLU passes on and xhat = (x - mean) rstd:
//   sums        of g and g xhat: per channel (for the parameters) and, times w, per group
//   gradient    grad_x = rstd (w g - mean(w g) - xhat mean(w g xhat)), grad_residual = g; its first blocks, one per 32
//               channels, add up grad_weight and grad_bias
// A thread reads four steps of 16 bytes at a time, computes first their mean, then the squares around it, and merges
// both with its previous result (Chan et al.). The threads of a block are merged the same way, and so are blocks: an
// offset of the data costs no digits. There are no atomics; the order of all sums depends on the shape alone.
//
// The work is divided in one of two ways: rows (channels_last; a block has pixels of a slab of channels, which is whole
// groups and at least 128 bytes wide, and a thread keeps its channels' parameters in registers) or planes (contiguous;
// a block has one channel). Both use 16-byte vectors, or single elements for odd sizes, odd alignments and other
// strides.
//
// Small inputs are bound by latencies, so few of them are in a row: a block merges only the groups of its slab, a warp
// per group with four loads in flight, while its first batches of x, residual and gradients are on their way.
//
// Bytes: forward x twice (the second time from L2 if x is below about 40 MB), residual once, out once; backward x three
// times, grad and out twice, grad_x once. Each kernel runs its blocks in the opposite order of the one before, so that
// it begins with what L2 still has of a larger x. FLOPs: 7 per element forward, 16 backward: memory is the bound. Model
// for an H200: (32, 256, 64, 64) bf16 without residual is 64 MiB: 3 x 64 MiB / 4.3 TB/s = 47 us forward, 8 x 64 MiB =
// 125 us backward. (1, 256, 64, 64) is 2 MiB: latencies dominate, about 3 us per kernel. Registers and static shared
// memory: tests/kernels/cuda/machine_code.json. Dynamic shared memory per block: statistics and sums up to 33 KiB (8
// channels in all), 3 and 19 KiB for slabs of 64 channels of 16 bits.
//
// Versions tried: blocks that had all channels of their pixels. Each merged all of the up to 128 parts of all groups, a
// load at a time, before its first pixel: 18.9 us forward for (1, 256, 64, 64) and 111 us for 32 of them, measured on
// an H200 (Triton's kernels: 10.7 us and 144 us).
// Measured on an H200 (bench/results/h200), forward, bf16: (1, 256, 96, 192) 14.5 us, 30 before; (1, 512, 64, 64) 8.1.

#include "ops/group_norm_act/variants.cuh"

namespace segnext {
namespace group_norm {
namespace {

// Adds up the values of each of kGroups groups, in pairs.
template <int kGroups, int kCount>
__device__ inline void fold(float (&values)[kCount], float (&sums)[kGroups]) {
#pragma unroll
  for (int width = kCount / 2; width >= kGroups; width /= 2) {
#pragma unroll
    for (int i = 0; i < width; ++i) values[i] += values[i + width];
  }
#pragma unroll
  for (int i = 0; i < kGroups; ++i) sums[i] = values[i];
}

template <typename V>
__global__ void __launch_bounds__(kNormThreads) group_norm_act_statistics_kernel(NormTask t, Tensor4 x, float2* parts) {
  constexpr int kVec = V::kVec, kGroups = V::kGroups;
  const NormPart part(t, blockIdx.x);
  float count = 0.0f, mean[kGroups] = {}, m2[kGroups] = {};  // of the thread; all groups have the same count
  const auto add_batch = [&](int item, auto full) {
    constexpr bool kFull = decltype(full)::value;
    typename V::Step batch[kBatch];
    load_steps<V, kFull>(t, x, part, item, batch);
    float batch_count = 0.0f, sums[kVec] = {}, squares[kVec] = {}, batch_mean[kGroups], batch_m2[kGroups];
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
      float values[kVec];
      batch[b].to_floats(values);
      if (kFull || item + b * part.step < part.last) batch_count += kVec / kGroups;
#pragma unroll
      for (int i = 0; i < kVec; ++i) sums[i] += values[i];
    }
    fold(sums, batch_mean);
#pragma unroll
    for (int i = 0; i < kGroups; ++i) batch_mean[i] /= batch_count;
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
      if (!kFull && item + b * part.step >= part.last) continue;
      float values[kVec];
      batch[b].to_floats(values);
#pragma unroll
      for (int i = 0; i < kVec; ++i) {
        const float centred = values[i] - batch_mean[i % kGroups];
        squares[i] += centred * centred;
      }
    }
    fold(squares, batch_m2);
    const float share = batch_count / (count + batch_count);
#pragma unroll
    for (int i = 0; i < kGroups; ++i) {
      const float delta = batch_mean[i] - mean[i];
      mean[i] += delta * share;
      m2[i] += batch_m2[i] + delta * delta * (count * share);
    }
    count += batch_count;
  };
  int item = part.first;
  for (; item + (kBatch - 1) * part.step < part.last; item += kBatch * part.step) add_batch(item, std::true_type());
  if (item < part.last) add_batch(item, std::false_type());

  // (lanes, columns) of mean and m2, a column per group of every thread across; the counts follow from the lane
  constexpr int kPerColumn = V::kChannels / kGroups;  // channels
  float* means = reinterpret_cast<float*>(shared_memory());
  const int pitch = V::kRows ? row_pitch(t.plan.slab / kPerColumn, kGroups) : 1;
  float* squares = means + part.lanes * pitch;
  if (!part.idle) {
    const int at = part.lane * pitch + (part.channel - part.slab * t.plan.slab) / kPerColumn;
    store_channels(means + at, mean);
    store_channels(squares + at, m2);
  }
  __syncthreads();
  const int items = t.items_of(part.chunk), each = items / part.lanes, rest = items % part.lanes;  // per lane
  const int columns = V::kRows ? t.shape.group_channels / kPerColumn : 1;                          // per group
  for (int g = threadIdx.x / kWarp; g < t.plan.groups; g += kNormWarps) {
    const Moments m = merge<1>(part.lanes * columns, [&](int e) {
      const int lane = e / columns;
      const int at = lane * pitch + g * columns + e % columns;
      const float elements = static_cast<float>((each + (lane < rest ? 1 : 0)) * (kVec / kGroups));
      return Moments{elements, load_shared(means + at), load_shared(squares + at)};
    });
    const int64_t at = V::kRows ? t.entry(part.n, part.slab * t.plan.groups + g, part.chunk) : blockIdx.x;
    if (threadIdx.x % kWarp == 0) store_global(parts + at, make_float2(m.mean, m.m2));
  }
}

// The blocks run in the opposite order of the statistics kernel's: they begin with what L2 still has.
template <typename V>
__global__ void __launch_bounds__(kNormThreads, V::kResident)
    group_norm_act_apply_kernel(NormTask t, Tensor4 x, Tensor4 weight, Tensor4 bias, Tensor4 residual, Tensor4 out,
                                const float2* parts) {
  constexpr int kVec = V::kVec, kChannels = V::kChannels, kGroups = V::kGroups;
  using Step = typename V::Step;
  const NormPart part(t, gridDim.x - 1 - blockIdx.x);
  const GroupValues values(t, part);
  // what does not need the statistics is in flight while they are merged
  Step own[kBatch], other[kBatch];
  int item = part.first;
  load_steps<V>(t, x, part, item, own);
  if (residual.data != nullptr) load_steps<V>(t, residual, part, item, other);
  merge_statistics<V>(t, part, parts, values);
  float scale[kChannels], shift[kChannels];
  t.parameters(weight, part.channel, scale);
  t.parameters(bias, part.channel, shift);
  __syncthreads();
  if (part.idle) return;
  float2 statistics[kGroups];
  values.read<V>(t, part, values.statistics, statistics);
#pragma unroll
  for (int i = 0; i < kChannels; ++i) scale[i] *= statistics[i % kGroups].y;
  while (item < part.last) {
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
      float y[kVec], add[kVec] = {};
      own[b].to_floats(y);
      if (residual.data != nullptr) other[b].to_floats(add);
#pragma unroll
      for (int i = 0; i < kVec; ++i) {
        const float value = (y[i] - statistics[i % kGroups].x) * scale[i % kChannels] + shift[i % kChannels] + add[i];
        y[i] = t.relu && value <= 0.0f ? 0.0f : value;  // NaN is kept
      }
      own[b] = Step::from_floats(y);
    }
    store_steps<V>(t, out, part, item, own);
    item += kBatch * part.step;
    load_steps<V>(t, x, part, item, own);
    if (residual.data != nullptr) load_steps<V>(t, residual, part, item, other);
  }
}

NormTask forward_task(const GroupNormActParams& p) { return task_of(p, {p.x, p.residual, p.out}); }

}  // namespace

int launch_statistics(DType dtype, const NormTask& t, const Tensor4& x, float2* parts, void* stream) {
  return with_variant(dtype, t.plan, [&](auto variant) {
    using V = decltype(variant);
    return launch(group_norm_act_statistics_kernel<V>, static_cast<unsigned>(t.blocks()), kNormThreads,
                  thread_bytes(t, V::kGroups), stream, t, x, parts);
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
  return with_variant(p.dtype, t.plan, [&](auto variant) {
    return launch(group_norm_act_apply_kernel<decltype(variant)>, static_cast<unsigned>(t.blocks()), kNormThreads,
                  group_bytes(t), stream, t, p.x, p.weight, p.bias, p.residual, p.out, parts);
  });
}

}  // namespace segnext
