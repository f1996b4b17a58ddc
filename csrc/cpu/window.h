// A depthwise 3x3 convolution along one row of pixels, a vector of channels at a time, in a window of nine vectors.
#pragma once

#include "cpu/convert.h"
#include "cpu/vector.h"

namespace segnext {
namespace SEGNEXT_ISA {

// Calls finish(x, sum) for each of `columns` pixels; sum is `bias` plus the nine products.
//
// `rows` are the rows above, at, and below: (columns + 2, kWidth), from the pixel before the first one to the one after
// the last, at the vector's first channel. `taps` are nine vectors, column by column, as load_taps gives them.
template <int64_t kWidth, typename Pixel, typename Finish>
SEGNEXT_INLINE void convolve_row(const Pixel* const (&rows)[3], const Real* taps, Vec bias, int64_t columns,
                                 const Finish& finish) {
  Vec weight[9];
#pragma GCC unroll 9
  for (int i = 0; i < 9; ++i) weight[i] = load(taps + i * kLanes);
  Vec before[3], here[3];
#pragma GCC unroll 3
  for (int i = 0; i < 3; ++i) {
    before[i] = load_vector(rows[i]);
    here[i] = load_vector(rows[i] + kWidth);
  }
  for (int64_t x = 0; x < columns; ++x) {
    Vec sum = bias;
#pragma GCC unroll 3
    for (int i = 0; i < 3; ++i) {
      const Vec after = load_vector(rows[i] + (x + 2) * kWidth);
      sum += weight[i] * before[i];
      sum += weight[3 + i] * here[i];
      sum += weight[6 + i] * after;
      before[i] = here[i];
      here[i] = after;
    }
    finish(x, sum);
  }
}

}  // namespace SEGNEXT_ISA
}  // namespace segnext
