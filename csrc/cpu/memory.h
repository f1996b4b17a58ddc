// Scratch memory of one call: arrays that a team of threads shares and arrays of each thread, in one allocation.
//
// A struct of arrays lays itself out in its constructor, which takes an Arena first. Without memory the same
// constructor measures (bytes_of). Every array begins at a multiple of 64 bytes, because a vector that straddles two
// cache lines costs two accesses: malloc's 16 bytes are not enough.
#pragma once

#include <cstdint>
#include <cstdlib>

#include "cpu/vector.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

#if defined(_OPENMP) && defined(__clang__)
// A team that clang starts belongs to LLVM's OpenMP runtime. These names are that runtime's alone. omp_get_thread_num
// would be answered by the runtime that was loaded first: with GCC's, which torch brings, every thread would be number
// 0 of a team of one.
extern "C" int32_t __kmpc_bound_thread_num(void* location);
extern "C" int32_t __kmpc_bound_num_threads(void* location);
#elif defined(_OPENMP)
#include <omp.h>
#endif

namespace segnext {
namespace SEGNEXT_ISA {

constexpr int64_t kCacheLine = 64;

// Hands out arrays one after another. Without a base it only measures.
struct Arena {
  char* base;
  int64_t used = 0;

  template <typename T>
  T* take(int64_t count) {
    T* result = base == nullptr ? nullptr : reinterpret_cast<T*>(base + used);
    used += blocks_of(count * static_cast<int64_t>(sizeof(T)), kCacheLine) * kCacheLine;
#if defined(__SANITIZE_ADDRESS__)
    // A gap that must not be touched, so that a step past the end of one array is not a step into the next.
    used += kCacheLine;
    if (base != nullptr) ASAN_POISON_MEMORY_REGION(base + used - kCacheLine, kCacheLine);
#endif
    return result;
  }
};

// The bytes that Layout takes, a multiple of a cache line.
template <typename Layout, typename... Args>
static inline int64_t bytes_of(const Args&... args) {
  Arena measure{nullptr};
  Layout{measure, args...};
  return measure.used;
}

// A layout of one array.
template <typename T>
struct Array {
  T* data;

  Array(Arena& arena, int64_t count) : data(arena.take<T>(count)) {}
};

// A thread's place in the team that runs a parallel region, and its contiguous range [begin, end) of `total` units.
struct Member {
  int64_t index, team;

  int64_t begin(int64_t total) const { return total * index / team; }
  int64_t end(int64_t total) const { return total * (index + 1) / team; }
};

#if defined(_OPENMP) && defined(__clang__)
static inline Member this_member() { return {__kmpc_bound_thread_num(nullptr), __kmpc_bound_num_threads(nullptr)}; }
#elif defined(_OPENMP)
static inline Member this_member() { return {omp_get_thread_num(), omp_get_num_threads()}; }
#else
static inline Member this_member() { return {0, 1}; }
#endif

// `shared` bytes for a team and `own` bytes for each of its threads, both from bytes_of; freed at the end of the scope.
class TeamMemory {
 public:
  TeamMemory(int64_t shared, int64_t own, int threads)
      : own_begin_(shared), own_bytes_(own), allocated_(std::malloc(shared + threads * own + kCacheLine)) {
    char* start = static_cast<char*>(allocated_);
    aligned_ = start + (kCacheLine - reinterpret_cast<uintptr_t>(start) % kCacheLine) % kCacheLine;
  }
  ~TeamMemory() { std::free(allocated_); }
  TeamMemory(const TeamMemory&) = delete;
  TeamMemory& operator=(const TeamMemory&) = delete;

  bool is_exhausted() const { return allocated_ == nullptr; }

  // Lays out the shared arrays, or those that begin at `offset` among them.
  template <typename Layout, typename... Args>
  Layout shared(const Args&... args) const {
    return shared_at<Layout>(0, args...);
  }
  template <typename Layout, typename... Args>
  Layout shared_at(int64_t offset, const Args&... args) const {
    Arena arena{aligned_ + offset};
    return Layout{arena, args...};
  }

  // Lays out the arrays of one thread.
  template <typename Layout, typename... Args>
  Layout own(const Member& me, const Args&... args) const {
    return shared_at<Layout>(own_begin_ + me.index * own_bytes_, args...);
  }

 private:
  int64_t own_begin_, own_bytes_;
  void* allocated_;
  char* aligned_;
};

// Lays out packed weights, as when they were packed, in memory that the caller owns, aligned to a cache line.
template <typename Layout, typename... Args>
static inline Layout laid_out(const void* memory, const Args&... args) {
  Arena arena{static_cast<char*>(const_cast<void*>(memory))};
  return Layout{arena, args...};
}

}  // namespace SEGNEXT_ISA
}  // namespace segnext
