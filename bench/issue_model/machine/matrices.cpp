// Matrices of a warp: loads and stores of 8x8 tiles, and products on tensor cores.

#include <cstring>

#include "machine.h"

namespace issue_model {

// LDSM loads 8x8 matrices of 16-bit elements; STSM stores them.
void Machine::matrices(Warp& w, uint32_t mask) {
  const Instruction& i = *i_;
  const int count = static_cast<int>(i.mods[0]);
  const bool transposed = i.mods[1] != 0;
  uint64_t addresses[kLanes] = {};
  uint32_t unknown = 0, rows = 0;
  for (int lane = 0; lane < 8 * count; ++lane) {
    addresses[lane] = address_of(w, lane, unknown);
    rows |= 1u << lane;
  }
  if (unknown & rows) fail("an address is not known");
  c_.passes[pc_] += bank_passes(addresses, rows, 16);
  for (int m = 0; m < count; ++m) {
    uint16_t tile[8][8];
    bool is_unknown = false;
    for (int row = 0; row < 8; ++row) {
      const uint64_t at = addresses[8 * m + row];
      std::memcpy(tile[row], shared_at(at, 16), 16);
      is_unknown |= shared_unknown(at, 16);
    }
    if (i.op == LDSM) {
      uint32_t values[kLanes];
      for (int lane = 0; lane < kLanes; ++lane) {
        uint16_t pair[2];
        for (int j = 0; j < 2; ++j) {
          const int along = 2 * (lane % 4) + j, across = lane / 4;
          pair[j] = transposed ? tile[along][across] : tile[across][along];
        }
        values[lane] = pair[0] | static_cast<uint32_t>(pair[1]) << 16;
      }
      write(w, kRegister, i.dest + m, values, mask, is_unknown ? ~0u : 0u);
    } else {
      const int64_t r = i.sources[0].number + m;
      for (int lane = 0; lane < kLanes; ++lane) {
        for (int j = 0; j < 2; ++j) {
          const int along = 2 * (lane % 4) + j, across = lane / 4;
          const auto value = static_cast<uint16_t>(w.r[r][lane] >> 16 * j);
          (transposed ? tile[along][across] : tile[across][along]) = value;
        }
      }
      for (int row = 0; row < 8; ++row) {
        const uint64_t at = addresses[8 * m + row];
        std::memcpy(shared_at(at, 16), tile[row], 16);
        set_shared_unknown(at, 16, w.unknown[r] != 0);
      }
    }
  }
}

// mma.m16n8k8 and k16 of 16-bit elements with float sums; csrc/cuda/ptx.cuh describes the layouts.
void Machine::multiply(Warp& w, uint32_t mask) {
  const Instruction& i = *i_;
  const bool bfloat = i.mods[0] != 0;
  const int depth = static_cast<int>(i.mods[1]);  // 8 or 16
  const int64_t ra = i.sources[0].number, rb = i.sources[1].number, rc = i.sources[2].number;
  float a[16][16] = {}, b[16][8] = {}, d[16][8];
  uint32_t unknown = 0;
  const int halves = depth / 8;
  auto value = [&](int64_t r, int k, int lane) { return r == kRegisters - 1 ? 0u : w.r[r + k][lane]; };
  auto note = [&](int64_t r, int k) {
    if (r != kRegisters - 1) unknown |= w.unknown[r + k];
  };
  for (int k = 0; k < 2 * halves; ++k) note(ra, k);
  for (int k = 0; k < halves; ++k) note(rb, k);
  for (int k = 0; k < 4; ++k) note(rc, k);
  for (int lane = 0; lane < kLanes; ++lane) {
    const int g = lane / 4, t = 2 * (lane % 4);
    for (int k = 0; k < 2 * halves; ++k) {
      const uint32_t v = value(ra, k, lane);
      for (int j = 0; j < 2; ++j)
        a[g + 8 * (k % 2)][t + j + 8 * (k / 2)] = low_to_float(static_cast<uint16_t>(v >> 16 * j), bfloat);
    }
    for (int k = 0; k < halves; ++k) {
      const uint32_t v = value(rb, k, lane);
      for (int j = 0; j < 2; ++j) b[t + j + 8 * k][g] = low_to_float(static_cast<uint16_t>(v >> 16 * j), bfloat);
    }
    for (int k = 0; k < 4; ++k) d[g + 8 * (k / 2)][t + k % 2] = float_of(value(rc, k, lane));
  }
  for (int row = 0; row < 16; ++row) {
    for (int k = 0; k < depth; ++k) {
      for (int column = 0; column < 8; ++column) d[row][column] += a[row][k] * b[k][column];
    }
  }
  for (int k = 0; k < 4; ++k) {
    uint32_t values[kLanes];
    for (int lane = 0; lane < kLanes; ++lane) values[lane] = bits_of(d[lane / 4 + 8 * (k / 2)][2 * (lane % 4) + k % 2]);
    write(w, kRegister, i.dest + k, values, mask, unknown ? ~0u : 0u);
  }
}

}  // namespace issue_model
