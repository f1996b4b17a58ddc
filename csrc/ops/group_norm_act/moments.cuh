// group_norm_act on a GPU: mean and M2 of parts, how they are merged, and the layout of a block's shared memory.
#pragma once

#include "ops/group_norm_act/plan.cuh"

namespace segnext {
namespace group_norm {

struct Moments {
  float count, mean, m2;
};

// Merges entries 0 to size - 1 in this warp, where entry(e) is (count, mean, m2); a lane loads kAtOnce of them
// together. All lanes get the result.
template <int kAtOnce, typename Entry>
__device__ inline Moments merge(int size, Entry entry) {
  const int lane = threadIdx.x % kWarp;
  const float pivot = entry(0).mean;  // sums are taken around it, so that an offset costs no digits
  const auto for_each = [&](auto add) {
#pragma unroll 1
    for (int first = lane; first < size; first += kAtOnce * kWarp) {
      Moments some[kAtOnce];
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        const int e = first + i * kWarp;
        some[i] = e < size ? entry(e) : Moments{0.0f, pivot, 0.0f};
      }
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) add(some[i]);
    }
  };
  float count = 0.0f, sum = 0.0f, m2 = 0.0f;
  for_each([&](const Moments& m) {
    count += m.count;
    sum += m.count * (m.mean - pivot);
  });
  count = warp_sum(count);
  const float mean = pivot + warp_sum(sum) / count;
  for_each([&](const Moments& m) { m2 += m.m2 + m.count * (m.mean - mean) * (m.mean - mean); });
  return {count, mean, warp_sum(m2)};
}

// Distance in floats between rows of shared memory, where a thread has `own` neighbours of a row. Single floats: odd,
// so that a column of 32 rows is in different banks. Vectors: 8 more than a multiple of the 32 banks, for the same
// floats of four rows.
__host__ __device__ inline int row_pitch(int columns, int own) { return own > 1 ? columns + 8 : columns | 1; }

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
        gradients(statistics + t.plan.groups + t.plan.groups % 2),  // a multiple of 16 bytes
        first(t.plan.rows ? part.slab * t.plan.groups : part.channel / t.shape.group_channels) {}

  // Reads what `values` has for the groups of the thread's channels.
  template <typename V>
  __device__ void read(const NormTask& t, const NormPart& part, const float2* values, float2 (&own)[V::kGroups]) const {
    int group = part.channel / t.shape.group_channels - first;
    int left = (first + group + 1) * t.shape.group_channels - part.channel;  // channels until the next group
#pragma unroll
    for (int i = 0; i < V::kGroups; ++i, --left) {
      if (left == 0) {
        ++group;
        left = t.shape.group_channels;
      }
      own[i] = load_shared(values + group);
    }
  }
};

template <typename V>
__device__ inline void merge_statistics(const NormTask& t, const NormPart& part, const float2* parts,
                                        const GroupValues& values) {
  for (int g = threadIdx.x / kWarp; g < t.plan.groups; g += kNormWarps) {
    const float2* const of_group = parts + t.entry(part.n, values.first + g, 0);
    const Moments m = merge<4>(t.entries(), [&](int e) {
      const float2 entry = load_global(of_group + e);
      return Moments{t.template elements<V>(e), entry.x, entry.y};
    });
    const float rstd = 1.0f / sqrtf(m.m2 / m.count + t.eps);
    if (threadIdx.x % kWarp == 0) store_shared(values.statistics + g, make_float2(m.mean, rstd));
  }
}

}  // namespace group_norm
}  // namespace segnext
