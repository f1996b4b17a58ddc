// Warps and their branches: which instruction is next, and who waits for whom.

#include <cstring>

#include "machine.h"

namespace issue_model {

uint64_t Machine::run() {
  for (;;) {
    bool any = false;
    for (Warp& w : warps_) {
      if (!w.ready.empty()) any = true;
      run(w);
    }
    if (!any && !release_blocks()) break;
  }
  for (const Warp& w : warps_) {
    if (w.alive != 0) throw Fault("the block's threads wait for each other: a barrier that not all reach");
  }
  return issued_;
}

uint64_t Machine::longest() const {
  uint64_t most = 0;
  for (const Warp& w : warps_) most = std::max(most, w.issued);
  return most;
}

void Machine::start(Warp& w, int index) {
  std::memset(w.r, 0, sizeof w.r);
  // ptxas reads registers that nothing has written if their value does not matter: here they are zero, and known
  std::fill(w.unknown, w.unknown + kRegisters, 0u);
  std::fill(w.u, w.u + kUniform, 0u);
  std::fill(w.u_unknown, w.u_unknown + kUniform, false);
  for (int i = 0; i < kPredicates; ++i) {
    w.p[i] = i % 8 == 7 ? ~0u : 0u;
    w.p_unknown[i] = 0;
  }
  std::fill(w.barrier, w.barrier + 16, 0u);
  std::fill(w.waiting, w.waiting + 16, 0u);
  const int left = threads_ - index * kLanes;
  w.alive = left >= kLanes ? ~0u : (1u << left) - 1;
  w.ready = {{0, w.alive}};
  w.at_warpsync = w.at_block = 0;
  w.issued = 0;
  w.index = index;
  w.voted = w.votes = 0;
}

void Machine::run(Warp& w) {
  while (!w.ready.empty()) {
    // the smallest address first, as the code after a branch is where its sides meet
    auto at =
        std::min_element(w.ready.begin(), w.ready.end(), [](const Group& a, const Group& b) { return a.pc < b.pc; });
    Group g = *at;
    w.ready.erase(at);
    run(w, g);
  }
}

void Machine::run(Warp& w, Group g) {
  while (g.mask != 0) {
    if (g.pc < 0 || g.pc >= l_.length) fail("ran past the end of the kernel");
    const Instruction& i = l_.program[g.pc];
    i_ = &i;
    pc_ = g.pc;
    uint32_t unknown = 0;
    uint32_t mask = g.mask;
    if (i.guard != 7) mask &= predicate(w, i.guard, i.guard_not, unknown);
    ++c_.issued[g.pc];
    c_.lanes[g.pc] += static_cast<uint64_t>(count_bits(mask));
    ++w.issued;
    if (++issued_ > l_.most_issues) fail("does not end within the limit of instructions");
    const bool is_control = i.op >= BRA && i.op <= BAR && i.op != B2R;
    if (is_control) branch_known(unknown, g.mask);
    switch (i.op) {
      case BRA: {
        if (i.in0 >= 0) {
          uint32_t more = 0;
          mask &= predicate(w, i.in0, i.in0_not, more);
          branch_known(more, g.mask);
        }
        go(w, g, mask, i.target);
        continue;
      }
      case CALL:
        go(w, g, mask, i.target);
        continue;
      case BRX:
      case RET: {
        uint32_t left = g.mask & ~mask;
        Group next{g.pc + 1, left};
        while (mask != 0) {
          const int lane = __builtin_ctz(mask);
          uint32_t not_known = 0;
          const int64_t r = i.sources[0].number;
          if (r < kRegisters - 1) not_known = w.unknown[r];
          branch_known(not_known, mask);
          const uint32_t value = w.r[r][lane];
          uint32_t same = 0;
          for (int k = 0; k < kLanes; ++k) {
            if ((mask >> k & 1) && w.r[r][k] == value) same |= 1u << k;
          }
          mask &= ~same;
          const int64_t to = i.target + static_cast<int32_t>(value) / 16;
          w.ready.push_back({to, same});
        }
        g = next;
        continue;
      }
      case EXIT:
        w.alive &= ~mask;
        for (uint32_t& b : w.barrier) b &= ~mask;
        g.mask &= ~mask;
        ++g.pc;
        settle(w);
        continue;
      case TRAP:  // an assertion of the kernel's
        if (mask) fail("the kernel traps");
        break;
      case BSSY:
        if (mask) w.barrier[i.mods[0]] = mask;
        break;
      case BREAK: {
        if (i.in0 >= 0) mask &= predicate(w, i.in0, i.in0_not, unknown);
        branch_known(unknown, g.mask);
        w.barrier[i.mods[0]] &= ~mask;
        settle(w);
        break;
      }
      case BSYNC: {
        const int64_t b = i.mods[0];
        w.waiting[b] |= mask;
        w.barrier_resume[b] = g.pc + 1;
        g.mask &= ~mask;
        ++g.pc;
        // lanes that the barrier does not hold go on by themselves
        if (const uint32_t free = w.waiting[b] & ~w.barrier[b]; free != 0 && (w.barrier[b] & w.waiting[b]) == 0) {
          w.waiting[b] = 0;
          w.ready.push_back({w.barrier_resume[b], free});
        }
        settle(w);
        continue;
      }
      case WARPSYNC:
      case BRA_DIV: {
        uint32_t wanted = ~0u;
        if (i.sources[0].kind != kNone) {
          uint32_t buffer[kLanes];
          wanted = read(w, i.sources[0], buffer, unknown, As::kInteger)[__builtin_ctz(g.mask)];
        }
        wanted &= w.alive;
        if ((wanted & ~g.mask) == 0) break;
        w.warpsync.push_back({g.pc + 1, g.mask});
        w.at_warpsync |= g.mask;
        w.warpsync_mask = wanted;
        settle(w);
        return;
      }
      case BAR: {
        if (i.mods[0] == 1) break;  // arrives and goes on: a barrier with a count does not wait for it
        uint32_t buffer[kLanes];
        w.block_barrier = static_cast<int>(read(w, i.sources[0], buffer, unknown, As::kInteger)[__builtin_ctz(g.mask)]);
        w.block_count = i.sources[1].kind == kNone
                            ? 0
                            : read(w, i.sources[1], buffer, unknown, As::kInteger)[__builtin_ctz(g.mask)];
        if (i.in0 >= 0) w.votes = (w.votes & ~g.mask) | (predicate(w, i.in0, i.in0_not, unknown) & g.mask);
        w.at_block |= g.mask;
        w.block_waiters.push_back({g.pc + 1, g.mask});
        return;
      }
      default:
        if (mask != 0 || i.op == VOTE) execute(w, mask);
    }
    ++g.pc;
  }
}

void Machine::go(Warp& w, Group& g, uint32_t taken, int64_t target) {
  const uint32_t stays = g.mask & ~taken;
  if (taken == 0) {
    ++g.pc;
  } else if (stays == 0) {
    g.pc = target;
  } else {
    w.ready.push_back({target, taken});
    g = {g.pc + 1, stays};
  }
}

// Releases the warp's barriers at which all lanes have arrived.
void Machine::settle(Warp& w) {
  for (int b = 0; b < 16; ++b) {
    if (w.waiting[b] != 0 && (w.barrier[b] & ~w.waiting[b]) == 0) {
      w.ready.push_back({w.barrier_resume[b], w.waiting[b]});
      w.barrier[b] = w.waiting[b] = 0;
    }
  }
  if (w.at_warpsync != 0 && (w.warpsync_mask & w.alive & ~w.at_warpsync) == 0) {
    merge(w, w.warpsync);
    w.at_warpsync = 0;
  }
}

void Machine::merge(Warp& w, std::vector<Group>& groups) {
  while (!groups.empty()) {
    Group g = groups.back();
    groups.pop_back();
    bool found = false;
    for (Group& other : w.ready) {
      if (other.pc == g.pc) {
        other.mask |= g.mask;
        found = true;
        break;
      }
    }
    if (!found) w.ready.push_back(g);
  }
}

bool Machine::release_blocks() {
  bool released = false;
  for (int barrier = 0; barrier < 16; ++barrier) {
    uint32_t arrived = 0, alive = 0;
    int64_t count = 0;
    bool all_there = true;
    for (Warp& w : warps_) {
      alive += static_cast<uint32_t>(count_bits(w.alive));
      if (w.at_block != 0 && w.block_barrier == barrier) {
        arrived += static_cast<uint32_t>(count_bits(w.at_block));
        count = std::max(count, w.block_count);
        all_there &= w.at_block == w.alive;
      } else if (w.alive != 0) {
        all_there = false;
      }
    }
    if (arrived == 0) continue;
    // with a count: other warps have arrived without waiting, or only these can go on
    if (count == 0 && !all_there) continue;
    uint32_t votes = 0;
    for (Warp& w : warps_) {
      if (w.at_block != 0 && w.block_barrier == barrier)
        votes += static_cast<uint32_t>(count_bits(w.votes & w.at_block));
    }
    for (Warp& w : warps_) {
      if (w.at_block != 0 && w.block_barrier == barrier) {
        w.voted = votes;
        merge(w, w.block_waiters);
        w.at_block = 0;
      }
    }
    released = true;
  }
  return released;
}

uint32_t Machine::special(Warp& w, int64_t which, int lane) const {
  const uint32_t thread = static_cast<uint32_t>(w.index * kLanes + lane);
  const uint32_t rank = block_[0] % l_.cluster;
  switch (which) {
    case 0:
      return thread % l_.block[0];
    case 1:
      return thread / l_.block[0] % l_.block[1];
    case 2:
      return thread / (l_.block[0] * l_.block[1]);
    case 3:
    case 4:
    case 5:
      return block_[which - 3];
    case 6:
      return static_cast<uint32_t>(lane);
    case 7:
      return rank;  // SR_CgaCtaId
    case 8:
      return static_cast<uint32_t>(kSharedWindow);
    case 9:
      return 1u << lane;  // EQMASK
    case 10:
      return (1u << lane) - 1;  // LTMASK
    case 11:
      return (2u << lane) - 1;  // LEMASK
    case 12:
      return ~((2u << lane) - 1);  // GTMASK
    case 13:
      return ~((1u << lane) - 1);  // GEMASK
    case 14:
      return l_.cluster;
    case 15:
      return 0;
    case 16:
      return thread % l_.block[0] | (thread / l_.block[0] % l_.block[1]) << 16;
    default:
      fail("special register " + std::to_string(which));
  }
}

}  // namespace issue_model
