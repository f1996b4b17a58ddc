// A thread inside a parallel region: its share of the work, and the CPU's state while it is there.
#pragma once

#include <omp.h>

#include <cstdint>

#include "cpu/tile_registers.h"
#include "cpu/vector.h"

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

// Every thread of a parallel region makes one when it enters: its place in the team, and its contiguous range
// [begin, end) of `total` units.
struct Member {
  const int64_t index = omp_get_thread_num(), team = omp_get_num_threads();
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
