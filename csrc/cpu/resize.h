// The index arithmetic of a bilinear resize (align_corners = False), the same as PyTorch's.
#pragma once

#include "cpu/memory.h"
#include "cpu/vector.h"

namespace segnext {
namespace SEGNEXT_ISA {

// One axis: the source index and weights of every output index, and the runs of outputs that share a source index.
struct Axis {
  int32_t* source;  // (out)
  Real* w0;         // (out) weight of source
  Real* w1;         // (out) weight of source + 1
  int64_t* run;     // (runs + 1) first output index of each run
  int64_t runs;
  int64_t last;  // the last source index with a neighbour beyond it; -1 if sizes are equal and PyTorch blends nothing

  Axis() = default;
  Axis(Arena& arena, int64_t out)
      : source(arena.take<int32_t>(out)),
        w0(arena.take<Real>(out + kLanes)),  // vector loads may start at the last output
        w1(arena.take<Real>(out + kLanes)),
        run(arena.take<int64_t>(out + 1)) {}

  // Distance from a source index to its neighbour.
  int64_t reach(int64_t index) const { return index <= last ? 1 : 0; }
};

// The arithmetic of PyTorch's upsample_bilinear2d, in float or double, so that the weights agree to the bit.
static inline void fill_axis(Axis& axis, int64_t in, int64_t out, Real scale) {
  axis.runs = 0;
  axis.last = in == out ? -1 : in - 2;
  for (int64_t i = 0; i < out; ++i) {
    Real position = scale * (static_cast<Real>(i) + 0.5f) - 0.5f;
    position = position > 0.0f ? position : 0.0f;
    int64_t source = static_cast<int64_t>(position);
    source = smaller(source, in - 1);
    Real w1 = position - static_cast<Real>(source);
    w1 = w1 < 1.0f ? w1 : 1.0f;
    axis.source[i] = static_cast<int32_t>(source);
    axis.w0[i] = 1.0f - w1;
    axis.w1[i] = w1;
    if (i == 0 || axis.source[i] != axis.source[i - 1]) axis.run[axis.runs++] = i;
  }
  axis.run[axis.runs] = out;
}

}  // namespace SEGNEXT_ISA
}  // namespace segnext
