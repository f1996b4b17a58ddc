// Where a network runs: its dtype, the instruction sets that its kernels take, the number of threads.
#pragma once

#include "common/dtype.h"
#include "common/isa.h"

namespace segnext::runtime {

struct Placement {
  DType dtype;  // of activations and products
  Isa isa;      // of the kernels that compute in dtype
  Isa vectors;  // of those that compute in float32
  int threads;
};

// The best of this machine that was built, or what SEGNEXT_CPU_ISA names; by the rules of segnext_kernels/native.py.
// `threads` of 0 are as many as OpenMP would take. Throws Error.
Placement placement(DType dtype, int threads);

}  // namespace segnext::runtime
