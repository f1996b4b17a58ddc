// Operations of a warp. They wait for all lanes that the mask names; then each lane receives what the others brought.

#include <cstring>

#include "emulator/sixteen_bits.h"
#include "threads.h"

namespace emulator {
namespace {

// A (16x16) B (16x8) from the lanes' fragments; each lane receives four sums. The layout is in csrc/cuda/ptx.cuh.
template <typename Format>
void multiply(const Warp& warp, Found& found) {
  float a[16][16], b[16][8];
  for (int lane = 0; lane < kWarp; ++lane) {
    const uint32_t* words = warp.brought[lane].words;
    const int g = lane / 4, t = 2 * (lane % 4);
    for (int i = 0; i < 4; ++i) {
      a[g + 8 * (i % 2)][t + 8 * (i / 2)] = Format::decode(static_cast<uint16_t>(words[i]));
      a[g + 8 * (i % 2)][t + 8 * (i / 2) + 1] = Format::decode(static_cast<uint16_t>(words[i] >> 16));
    }
    for (int i = 0; i < 2; ++i) {
      b[t + 8 * i][g] = Format::decode(static_cast<uint16_t>(words[4 + i]));
      b[t + 8 * i + 1][g] = Format::decode(static_cast<uint16_t>(words[4 + i] >> 16));
    }
  }
  float d[16][8] = {};
  for (int row = 0; row < 16; ++row) {
    for (int k = 0; k < 16; ++k) {
      for (int column = 0; column < 8; ++column) d[row][column] += a[row][k] * b[k][column];
    }
  }
  for (int lane = 0; lane < kWarp; ++lane) {
    const int g = lane / 4, t = 2 * (lane % 4);
    const float sums[4] = {d[g][t], d[g][t + 1], d[g + 8][t], d[g + 8][t + 1]};
    std::memcpy(found.slots[lane].words, sums, sizeof sums);
  }
}

// Called when all lanes have come: computes what each receives.
void perform(const Warp& warp, WarpOp op, unsigned lanes, Found& found) {
  switch (op) {
    case WarpOp::kSync:
      return;
    case WarpOp::kShuffle:
    case WarpOp::kVote:
      for (; lanes != 0; lanes &= lanes - 1) std::memcpy(&found.slots[lowest(lanes)], &warp.brought[lowest(lanes)], 16);
      return;
    case WarpOp::kLoadMatrix:
      std::memcpy(found.slots, warp.brought, sizeof found.slots);
      return;
    case WarpOp::kMmaHalf:
      return multiply<HalfFormat>(warp, found);
    case WarpOp::kMmaBFloat16:
      return multiply<BFloat16Format>(warp, found);
  }
}

}  // namespace

const Slot* exchange(WarpOp op, unsigned mask, const Slot& brought) {
  Fibre* self = now.fibre;
  Warp& warp = *self->warp;
  give_back_found(self);
  const unsigned bit = 1u << self->lane, named = mask & warp.exist;
  if (!(mask & bit))
    fail("thread %s: lane %d is not in its own mask %08x", place(self->index).c_str(), self->lane, mask);
  if (named & warp.done) {
    fail("thread %s: an operation of the warp with mask %08x, but lanes %08x have ended", place(self->index).c_str(),
         mask, named & warp.done);
  }
  for (unsigned others = named & warp.waiting; others != 0; others &= others - 1) {
    const int other = lowest(others);
    if (warp.ops[other] != op || warp.masks[other] != mask) {
      fail("thread %s: lanes %d and %d of a warp meet in different operations or with different masks (%08x, %08x)",
           place(self->index).c_str(), self->lane, other, mask, warp.masks[other]);
    }
    break;  // the waiting lanes were compared with each other before
  }
  if (op >= WarpOp::kLoadMatrix && named != ~0u) fail("ldmatrix and mma need a whole warp");
  if (op <= WarpOp::kVote) {
    std::memcpy(&warp.brought[self->lane], &brought, 16);
  } else {
    warp.brought[self->lane] = brought;
  }
  warp.ops[self->lane] = op;
  warp.masks[self->lane] = mask;
  warp.waiting |= bit;
  wait_as(State::kWarp);
  if ((warp.waiting & named) == named) {
    Found* found = take_found();
    found->readers = __builtin_popcount(named);
    perform(warp, op, named, *found);
    warp.waiting &= ~named;
    for (unsigned lanes = named; lanes != 0; lanes &= lanes - 1) {
      Fibre* fibre = warp.fibres[lowest(lanes)];
      fibre->state = State::kReady;
      fibre->found = found;
    }
    make_ready(warp, named);
  }
  give_way();
  return self->found->slots;
}

unsigned named_lanes(unsigned mask) { return mask & now.fibre->warp->exist; }

int lane() { return now.fibre->lane; }

}  // namespace emulator
