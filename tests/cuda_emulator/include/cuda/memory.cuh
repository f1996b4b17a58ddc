// csrc/cuda/memory.cuh for the emulator: counts accesses when a test asks for it.
#pragma once

#include <cuda_runtime.h>

namespace segnext {

inline unsigned char* shared_memory() { return emulator::shared_memory(); }

template <typename T>
inline __attribute__((always_inline)) T load_global(const T* address) {
  if (__builtin_expect(emulator::counting, 0)) emulator::count(emulator::Access::kLoadGlobal, address, sizeof(T));
  return *address;
}

template <typename T>
inline __attribute__((always_inline)) void store_global(T* address, T value) {
  if (__builtin_expect(emulator::counting, 0)) emulator::count(emulator::Access::kStoreGlobal, address, sizeof(T));
  *address = value;
}

template <typename T>
inline __attribute__((always_inline)) T load_shared(const T* address) {
  if (__builtin_expect(emulator::counting, 0)) emulator::count(emulator::Access::kLoadShared, address, sizeof(T));
  return *address;
}

template <typename T>
inline __attribute__((always_inline)) void store_shared(T* address, T value) {
  if (__builtin_expect(emulator::counting, 0)) emulator::count(emulator::Access::kStoreShared, address, sizeof(T));
  *address = value;
}

}  // namespace segnext
