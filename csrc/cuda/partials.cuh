// Sums over blocks in a fixed order: each block writes its part to a workspace, then one kernel adds the parts.
#pragma once

#include "cuda/device.cuh"

namespace segnext {

constexpr int kPartialSums = 32;    // sums per block: a warp reads 128 bytes of a part at once
constexpr int kPartialShares = 16;  // warps per block: each takes every 16th part

// `partials` is (parts, sums). `destination.store(i, value)` receives the i-th sum.
template <typename Destination>
__global__ void __launch_bounds__(kPartialSums* kPartialShares)
    add_partials_kernel(const float* partials, int64_t parts, int64_t sums, Destination destination) {
  float* shared = reinterpret_cast<float*>(shared_memory());  // (kPartialShares, kPartialSums)
  const int lane = threadIdx.x % kPartialSums, share = threadIdx.x / kPartialSums;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kPartialSums + lane;
  float sum = 0.0f;
  if (i < sums) {
    for (int64_t part = share; part < parts; part += kPartialShares) sum += load_global(partials + part * sums + i);
  }
  store_shared(shared + threadIdx.x, sum);
  __syncthreads();
  if (share != 0 || i >= sums) return;
  for (int other = 1; other < kPartialShares; ++other) sum += load_shared(shared + other * kPartialSums + lane);
  destination.store(i, sum);
}

template <typename Destination>
int add_partials(const float* partials, int64_t parts, int64_t sums, const Destination& destination, void* stream) {
  const int64_t blocks = (sums + kPartialSums - 1) / kPartialSums;
  if (blocks > INT32_MAX) return static_cast<int>(cudaErrorInvalidConfiguration);
  return launch(add_partials_kernel<Destination>, dim3(static_cast<unsigned>(blocks)),
                dim3(kPartialSums * kPartialShares), kPartialSums * kPartialShares * sizeof(float), stream, partials,
                parts, sums, destination);
}

}  // namespace segnext
