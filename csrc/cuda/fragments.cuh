// Loads the operands of mma_m16n8k16 from tiles of 16-bit elements in shared memory. The rows of a tile are `ld`
// elements apart. Rows of a multiple of 64 elements plus 16 bytes of padding put the eight rows of an ldmatrix in
// different banks.
#pragma once

#include "cuda/device.cuh"
#include "cuda/ptx.cuh"

namespace segnext {

// Loads A (16 x 16), whose element (m, k) is tile[m * ld + k], or tile[k * ld + m] if kInnerK is false.
template <bool kInnerK, typename T>
__device__ inline void load_a_fragment(uint32_t (&a)[4], const T* tile, int ld) {
  const int lane = threadIdx.x % kWarp;
  if constexpr (kInnerK) {
    ldmatrix_x4(a, tile + lane % 16 * ld + lane / 16 * 8);
  } else {
    ldmatrix_x4_trans(a, tile + (lane / 16 * 8 + lane % 8) * ld + lane / 8 % 2 * 8);
  }
}

// Loads B (16 x 16) as two fragments side by side. Its element (k, n) is tile[n * ld + k], or tile[k * ld + n] if
// kInnerK is false.
template <bool kInnerK, typename T>
__device__ inline void load_b_fragments(uint32_t (&b)[2][2], const T* tile, int ld) {
  const int lane = threadIdx.x % kWarp;
  uint32_t r[4];
  if constexpr (kInnerK) {
    ldmatrix_x4(r, tile + (lane / 16 * 8 + lane % 8) * ld + lane / 8 % 2 * 8);
  } else {
    ldmatrix_x4_trans(r, tile + lane % 16 * ld + lane / 16 * 8);
  }
  b[0][0] = r[0];
  b[0][1] = r[1];
  b[1][0] = r[2];
  b[1][1] = r[3];
}

}  // namespace segnext
