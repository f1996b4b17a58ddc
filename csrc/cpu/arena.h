// Scratch memory of one call, carved from a single allocation.
#pragma once

#include <cstdint>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace segnext {
namespace SEGNEXT_ISA {

// Without a base it only measures: lay the same things out twice, first to learn the size.
struct Arena {
  char* base;
  int64_t used = 0;

  template <typename T>
  T* take(int64_t count) {
    T* result = base == nullptr ? nullptr : reinterpret_cast<T*>(base + used);
    const int64_t bytes = count * static_cast<int64_t>(sizeof(T));
    used += (bytes + 63) / 64 * 64;
#if defined(__SANITIZE_ADDRESS__)
    // A gap that must not be touched, so that a step past the end of one array is not a step into the next.
    used += 64;
    if (base != nullptr) ASAN_POISON_MEMORY_REGION(base + used - 64, 64);
#endif
    return result;
  }
};

}  // namespace SEGNEXT_ISA
}  // namespace segnext
