// Transposes a square of kLanes x kLanes in registers, in log2(kLanes) rounds of two-source shuffles.
#pragma once

#include "cpu/vector.h"

namespace segnext {
namespace SEGNEXT_ISA {

#if defined(__clang__)  // clang has no shuffle by a mask of vector type; its optimiser recognises this loop

SEGNEXT_INLINE void transpose(Vec (&v)[kLanes]) {
  Real square[kLanes][kLanes];
  for (int i = 0; i < kLanes; ++i) {
    for (int j = 0; j < kLanes; ++j) square[j][i] = v[i][j];
  }
  for (int i = 0; i < kLanes; ++i) v[i] = load(square[i]);
}

#else

// Masks for the rows a = v[i] and b = v[i + kDistance]: `low` takes the lanes of both whose index lacks the bit
// kDistance, `high` those whose index has it.
template <int kDistance>
struct Exchange {
  Int low[kLanes] = {}, high[kLanes] = {};

  constexpr Exchange() {
    for (int lane = 0; lane < kLanes; ++lane) {
      const bool second = lane & kDistance;
      low[lane] = second ? kLanes + lane - kDistance : lane;
      high[lane] = second ? kLanes + lane : lane + kDistance;
    }
  }
};

template <int kDistance>
SEGNEXT_INLINE void exchange(Vec (&v)[kLanes]) {
  if constexpr (kDistance < kLanes) {
    constexpr Exchange<kDistance> kMasks;
    IntV low, high;
    std::memcpy(&low, kMasks.low, sizeof low);
    std::memcpy(&high, kMasks.high, sizeof high);
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) {
      if (i & kDistance) continue;
      const Vec a = v[i], b = v[i + kDistance];
      v[i] = __builtin_shuffle(a, b, low);
      v[i + kDistance] = __builtin_shuffle(a, b, high);
    }
    exchange<2 * kDistance>(v);
  }
}

SEGNEXT_INLINE void transpose(Vec (&v)[kLanes]) { exchange<1>(v); }

#endif

}  // namespace SEGNEXT_ISA
}  // namespace segnext
