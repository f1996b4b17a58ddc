// Scratch memory of one call, aligned to a cache line, freed at the end of its scope.
#pragma once

#include <cstdint>
#include <cstdlib>

namespace segnext {
namespace SEGNEXT_ISA {

// Vectors that straddle two cache lines cost two accesses: malloc's 16 bytes are not enough.
constexpr int64_t kCacheLine = 64;

struct Scratch {
  void* memory;

  explicit Scratch(int64_t bytes) : memory(std::malloc(bytes + kCacheLine)) {}
  ~Scratch() { std::free(memory); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  // Null where memory is exhausted.
  char* base() const {
    if (memory == nullptr) return nullptr;
    char* start = static_cast<char*>(memory);
    return start + (kCacheLine - reinterpret_cast<uintptr_t>(start) % kCacheLine) % kCacheLine;
  }
};

}  // namespace SEGNEXT_ISA
}  // namespace segnext
