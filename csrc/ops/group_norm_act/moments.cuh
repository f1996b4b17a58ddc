// group_norm_act on a GPU: mean and M2 of parts, how they are merged, and the layout of a block's shared memory.
#pragma once

#include "ops/group_norm_act/plan.cuh"

namespace segnext {
namespace group_norm {

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

// Merges entries 0 to size - 1 in this warp, where entry(e) is (count, mean, m2). All lanes get the result.
template <typename Entry>
__device__ inline Moments merge(int size, Entry entry) {
  const int lane = threadIdx.x % kWarp;
  const float pivot = entry(0).mean;  // sums are taken around it, so that an offset costs no digits
  float count = 0.0f, sum = 0.0f;
#pragma unroll 1  // unrolling would spill
  for (int e = lane; e < size; e += kWarp) {
    const Moments m = entry(e);
    count += m.count;
    sum += m.count * (m.mean - pivot);
  }
  count = warp_sum(count);
  const float mean = pivot + warp_sum(sum) / count;
  float m2 = 0.0f;
#pragma unroll 1  // unrolling would spill
  for (int e = lane; e < size; e += kWarp) {
    const Moments m = entry(e);
    m2 += m.m2 + m.count * (m.mean - mean) * (m.mean - mean);
  }
  return {count, mean, warp_sum(m2)};
}

// Distance in floats between rows of channels in shared memory: 8 more than a multiple of the 32 banks, so that the
// same channels of four rows are in different banks.
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

// Values of the groups of a block's channels, in shared memory: mean and rstd; then, for the backward, mean(w g) and
// mean(w g xhat).
struct GroupValues {
  float2* statistics;
  float2* gradients;
  int first;  // first group

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

}  // namespace group_norm
}  // namespace segnext
