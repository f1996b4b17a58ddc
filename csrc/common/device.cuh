// What kernels share: the launch, dynamic shared memory, element conversion, warp reductions.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace segnext {

constexpr unsigned kFullWarp = 0xffffffffu;
constexpr int kWarp = 32;

// Kernels are started here and nowhere else. The status is this launch's own, not an earlier sticky error.
template <typename... Params, typename... Args>
int launch(void (*kernel)(Params...), dim3 grid, dim3 block, size_t shared_bytes, void* stream, Args... args) {
  kernel<<<grid, block, shared_bytes, static_cast<cudaStream_t>(stream)>>>(args...);
  return static_cast<int>(cudaGetLastError());
}

// The block's dynamic shared memory; the only kind used.
__device__ inline unsigned char* shared_memory() {
  extern __shared__ __align__(16) unsigned char segnext_shared_memory[];
  return segnext_shared_memory;
}

__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(__half x) { return __half2float(x); }
__device__ inline float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }

__device__ inline float warp_max(float value) {
  for (int offset = kWarp / 2; offset > 0; offset /= 2) value = fmaxf(value, __shfl_xor_sync(kFullWarp, value, offset));
  return value;
}

}  // namespace segnext
