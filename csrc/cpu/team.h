// A thread inside a parallel region: its share of the work, and the CPU's state while it is there.
#pragma once

#include <cstdint>

#include "cpu/tile_registers.h"
#include "cpu/vector.h"

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

// Subnormal numbers count as zero while an object of this class lives: they cost a hundred cycles each, and a model
// with such weights took 39 times as long. The float64 build keeps them.
class WithoutSubnormals {
#if defined(__SSE__) && !defined(SEGNEXT_FLOAT64)
 public:
  WithoutSubnormals() : before_(__builtin_ia32_stmxcsr()) { __builtin_ia32_ldmxcsr(before_ | kFlushToZero | kZeros); }
  ~WithoutSubnormals() { __builtin_ia32_ldmxcsr(before_); }

 private:
  static constexpr unsigned kFlushToZero = 0x8000, kZeros = 0x0040;  // results, operands
  unsigned before_;
#endif
};

#if defined(_OPENMP) && defined(__clang__)
static inline int64_t thread_index() { return __kmpc_bound_thread_num(nullptr); }
static inline int64_t team_size() { return __kmpc_bound_num_threads(nullptr); }
#elif defined(_OPENMP)
static inline int64_t thread_index() { return omp_get_thread_num(); }
static inline int64_t team_size() { return omp_get_num_threads(); }
#else
static inline int64_t thread_index() { return 0; }
static inline int64_t team_size() { return 1; }
#endif

// Every thread of a parallel region makes one when it enters: its place in the team, and its contiguous range
// [begin, end) of `total` units.
struct Member {
  const int64_t index = thread_index(), team = team_size();
  const WithoutSubnormals without_subnormals = {};
#if defined(SEGNEXT_TILES)
  const TileScope tiles = {};
#endif

  Member() = default;
  Member(const Member&) = delete;
  Member& operator=(const Member&) = delete;

  int64_t begin(int64_t total) const { return total * index / team; }
  int64_t end(int64_t total) const { return total * (index + 1) / team; }
};

}  // namespace SEGNEXT_ISA
}  // namespace segnext
