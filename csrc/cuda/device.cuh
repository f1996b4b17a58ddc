// Shared by all CUDA kernels: conversion of elements to float, 16-byte vectors, sums and maxima over warps and blocks.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "common/dtype.h"
#include "cuda/launch.cuh"
#include "cuda/memory.cuh"

namespace segnext {

constexpr unsigned kFullWarp = 0xffffffffu;
constexpr int kWarp = 32;
// The multiprocessors of an H100 or H200. A split of work that must not depend on the device is made for this many.
constexpr int kMultiprocessors = 132;

__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(__half x) { return __half2float(x); }
__device__ inline float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }

// Rounds to nearest, ties to even.
template <typename T>
__device__ inline T from_float(float x);
template <>
__device__ inline float from_float<float>(float x) {
  return x;
}
template <>
__device__ inline __half from_float<__half>(float x) {
  return __float2half_rn(x);
}
template <>
__device__ inline __nv_bfloat16 from_float<__nv_bfloat16>(float x) {
  return __float2bfloat16_rn(x);
}

// 16 bytes of elements: the widest access that a thread can make.
template <typename T>
struct alignas(16) Vec16 {
  static constexpr int kSize = 16 / sizeof(T);
  T values[kSize];

  __device__ static Vec16 load_global(const T* address) {
    return segnext::load_global(reinterpret_cast<const Vec16*>(address));
  }
  __device__ static Vec16 load_shared(const T* address) {
    return segnext::load_shared(reinterpret_cast<const Vec16*>(address));
  }
  __device__ void store_global(T* address) const { segnext::store_global(reinterpret_cast<Vec16*>(address), *this); }
  __device__ void store_shared(T* address) const { segnext::store_shared(reinterpret_cast<Vec16*>(address), *this); }

  __device__ void to_floats(float (&floats)[kSize]) const {
#pragma unroll
    for (int i = 0; i < kSize; ++i) floats[i] = to_float(values[i]);
  }
  __device__ static Vec16 from_floats(const float (&floats)[kSize]) {
    Vec16 result;
#pragma unroll
    for (int i = 0; i < kSize; ++i) result.values[i] = from_float<T>(floats[i]);
    return result;
  }
};

// Whether 16-byte accesses may start at `address` and at every multiple of these strides (in elements of T) from it.
template <typename T, typename... Strides>
inline bool is_aligned16(const void* address, Strides... strides) {
  return reinterpret_cast<uintptr_t>(address) % 16 == 0 &&
         ((strides * static_cast<int64_t>(sizeof(T)) % 16 == 0) && ...);
}

__device__ inline float warp_sum(float value) {
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(kFullWarp, value, offset);
  return value;
}

__device__ inline float warp_max(float value) {
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) value = fmaxf(value, __shfl_xor_sync(kFullWarp, value, offset));
  return value;
}

// Adds up each of kCount values over the block, in a fixed order; every thread gets the sums. The block must consist of
// whole warps along x. `scratch` is shared memory for kCount x 32 floats; it may be used again at once.
template <int kCount>
__device__ inline void block_sum(float (&values)[kCount], float* scratch) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, warps = blockDim.x / kWarp;
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    const float sum = warp_sum(values[i]);
    if (lane == 0) store_shared(scratch + i * kWarp + warp, sum);
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kCount; ++i) values[i] = warp_sum(lane < warps ? load_shared(scratch + i * kWarp + lane) : 0.0f);
  __syncthreads();
}

__device__ inline float block_sum(float value, float* scratch) {
  float values[1] = {value};
  block_sum(values, scratch);
  return values[0];
}

// Host code: calls f(T()) with the element type of a DType. Python refuses float64 before it comes here.
template <typename F>
int with_element_type(DType dtype, F f) {
  switch (dtype) {
    case DType::kFloat32:
      return f(float());
    case DType::kBFloat16:
      return f(__nv_bfloat16());
    case DType::kFloat16:
      return f(__half());
    case DType::kFloat64:
      break;
  }
  return static_cast<int>(cudaErrorInvalidValue);
}

}  // namespace segnext
