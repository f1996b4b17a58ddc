// Loads and stores of kernels. They are plain here; tests/cuda_emulator's version of this file counts them.
#pragma once

#include <cuda_runtime.h>

namespace segnext {

// The block's dynamic shared memory. No kernel uses static shared memory, so the emulator can keep many blocks alive.
__device__ inline unsigned char* shared_memory() {
  extern __shared__ __align__(16) unsigned char segnext_shared_memory[];
  return segnext_shared_memory;
}

template <typename T>
__device__ inline T load_global(const T* address) {
  return *address;
}

template <typename T>
__device__ inline void store_global(T* address, T value) {
  *address = value;
}

template <typename T>
__device__ inline T load_shared(const T* address) {
  return *address;
}

template <typename T>
__device__ inline void store_shared(T* address, T value) {
  *address = value;
}

}  // namespace segnext
