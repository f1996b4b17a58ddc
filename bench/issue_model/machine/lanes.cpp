// Operations between lanes and register files: shuffles, votes, moves.

#include <cstring>

#include "machine.h"

namespace issue_model {

void Machine::execute(Warp& w, uint32_t mask) {
  const Instruction& i = *i_;
  uint32_t out[kLanes] = {}, b0[kLanes], b1[kLanes], b2[kLanes];
  uint32_t unknown = 0;
  switch (i.op) {
    case NOP:
      return;
    case LDG:
    case STG:
    case LDS:
    case STS:
    case LDGSTS:
    case ATOM:
    case RED:
    case ATOMS:
      memory(w, mask);
      return;
    case LDSM:
    case STSM:
      matrices(w, mask);
      return;
    case LDL:
    case STL:
      local(w, mask);
      return;
    case HMMA:
      multiply(w, mask);
      return;
    case UNKNOWN:
      for (int64_t k = 0; k < i.mods[0]; ++k) {
        if (i.dest + k < kRegisters - 1) w.unknown[i.dest + k] |= mask;
      }
      return;
    case SREG:
      EACH out[lane] = special(w, i.mods[0], lane);
      write(w, i.dest_kind, i.dest, out, mask, 0);
      return;
    case S2R_CLOCK:
      EACH out[lane] = static_cast<uint32_t>(issued_), b0[lane] = 0;
      write(w, i.dest_kind, i.dest, out, mask, 0);
      if (i.mods[0]) write(w, i.dest_kind, i.dest + 1, b0, mask, 0);
      return;
    case ZERO:
      for (int64_t k = 0; k < i.mods[0]; ++k)
        write(w, i.dest_kind, i.dest == kRegisters - 1 ? i.dest : i.dest + k, out, mask, 0);
      return;
    case LDC: {
      const int bytes = static_cast<int>(i.width);
      uint32_t high[kLanes] = {};
      EACH {
        if (!(mask >> lane & 1)) continue;
        uint64_t v = constant(w, i.sources[0], lane, bytes, unknown);
        if (i.mods[0] && bytes < 4)
          v = static_cast<uint64_t>(static_cast<int64_t>(v << (64 - 8 * bytes)) >> (64 - 8 * bytes));
        out[lane] = static_cast<uint32_t>(v);
        high[lane] = static_cast<uint32_t>(v >> 32);
      }
      write(w, i.dest_kind, i.dest, out, mask, unknown);
      if (bytes == 8) write(w, i.dest_kind, i.dest + 1, high, mask, unknown);
      return;
    }
    case R2UR: {
      const uint32_t* a = read(w, i.sources[0], b0, unknown, As::kInteger);
      write(w, i.dest_kind, i.dest, a, mask, unknown);
      if (i.pred0 >= 0) {
        const uint32_t first = a[__builtin_ctz(mask)];
        bool same = true;
        EACH same &= !(mask >> lane & 1) || a[lane] == first;
        write_predicate(w, i.pred0, same ? ~0u : 0u, mask, unknown);
      }
      return;
    }
    case P2R: {
      const uint32_t* a = read(w, i.sources[0], b0, unknown, As::kInteger);
      const uint32_t* keep = read(w, i.sources[1], b1, unknown, As::kInteger);
      EACH {
        uint32_t bits = 0;
        for (int p = 0; p < 7; ++p) bits |= (w.p[p] >> lane & 1) << p;
        out[lane] = (a[lane] & ~(keep[lane] << i.mods[0])) | ((bits & keep[lane]) << i.mods[0]);
      }
      for (int p = 0; p < 7; ++p) {
        if (keep[__builtin_ctz(mask)] >> p & 1) unknown |= w.p_unknown[p];
      }
      write(w, i.dest_kind, i.dest, out, mask, unknown);
      return;
    }
    case R2P: {
      const uint32_t* a = read(w, i.sources[0], b0, unknown, As::kInteger);
      const uint32_t* which = read(w, i.sources[1], b1, unknown, As::kInteger);
      for (int p = 0; p < 7; ++p) {
        if (!(which[__builtin_ctz(mask)] >> p & 1)) continue;
        uint32_t bits = 0;
        EACH bits |= (a[lane] >> (p + i.mods[0]) & 1) << lane;
        write_predicate(w, p, bits, mask, unknown);
      }
      return;
    }
    case SHFL: {
      const uint32_t* a = read(w, i.sources[0], b0, unknown, As::kInteger);
      uint32_t more = 0;
      const uint32_t* b = read(w, i.sources[1], b1, more, As::kInteger);
      const uint32_t* c = read(w, i.sources[2], b2, more, As::kInteger);
      uint32_t valid = 0, from_unknown = more;
      EACH {
        if (!(mask >> lane & 1)) continue;
        const int clamp = static_cast<int>(c[lane] & 31), segment = static_cast<int>(c[lane] >> 8 & 31);
        const int most = (lane & segment) | (clamp & ~segment), least = lane & segment;
        const int by = static_cast<int>(b[lane] & 31);
        int source = lane;
        bool ok = false;
        switch (i.mods[0]) {
          case 0:
            source = least | (by & ~segment);
            ok = source <= most;
            break;  // IDX
          case 1:
            source = lane - by;
            ok = source >= most;
            break;  // UP
          case 2:
            source = lane + by;
            ok = source <= most;
            break;  // DOWN
          default:
            source = lane ^ by;
            ok = source <= most;  // BFLY
        }
        if (!ok) source = lane;
        if (ok) valid |= 1u << lane;
        if (!(mask >> source & 1)) {
          // an inactive lane's value: not defined
          from_unknown |= 1u << lane;
        }
        out[lane] = a[source];
        if (unknown >> source & 1) from_unknown |= 1u << lane;
      }
      write(w, i.dest_kind, i.dest, out, mask, from_unknown);
      write_predicate(w, i.pred0, valid, mask, more);
      return;
    }
    case VOTE: {
      const uint32_t active = mask;
      const uint32_t votes = predicate(w, i.in0, i.in0_not, unknown) & active;
      unknown = unknown & active ? ~0u : 0u;
      const bool result = i.mods[0] == 0   ? votes == active
                          : i.mods[0] == 1 ? votes != 0
                                           : votes == active || votes == 0;
      EACH out[lane] = votes;
      write(w, i.dest_kind, i.dest, out, mask, unknown);
      write_predicate(w, i.pred0, result ? ~0u : 0u, mask, unknown);
      return;
    }
    case REDUX: {
      const uint32_t* a = read(w, i.sources[0], b0, unknown, As::kInteger);
      bool first = true;
      uint32_t sum = 0;
      EACH {
        if (!(mask >> lane & 1)) continue;
        const uint32_t v = a[lane];
        if (first) {
          sum = v;
        } else {
          switch (i.mods[0]) {
            case 0:
              sum += v;
              break;
            case 1:
              sum = std::min(sum, v);
              break;
            case 2:
              sum = std::max(sum, v);
              break;
            case 3:
              sum = static_cast<uint32_t>(std::min(static_cast<int32_t>(sum), static_cast<int32_t>(v)));
              break;
            case 4:
              sum = static_cast<uint32_t>(std::max(static_cast<int32_t>(sum), static_cast<int32_t>(v)));
              break;
            case 5:
              sum &= v;
              break;
            case 6:
              sum |= v;
              break;
            default:
              sum ^= v;
          }
        }
        first = false;
      }
      EACH out[lane] = sum;
      write(w, i.dest_kind, i.dest, out, mask, unknown & mask ? ~0u : 0u);
      return;
    }
    case MATCH: {
      const uint32_t* a = read(w, i.sources[0], b0, unknown, As::kInteger);
      EACH {
        for (int k = 0; k < kLanes; ++k) {
          if ((mask >> k & 1) && a[k] == a[lane]) out[lane] |= 1u << k;
        }
      }
      write(w, i.dest_kind, i.dest, out, mask, unknown & mask ? ~0u : 0u);
      return;
    }
    case ELECT: {
      const int first = __builtin_ctz(mask);
      EACH out[lane] = static_cast<uint32_t>(first);
      write(w, i.dest_kind, i.dest, out, mask, 0);
      write_predicate(w, i.pred0, 1u << first, mask, 0);
      return;
    }
    case B2R: {
      EACH out[lane] = w.voted;
      write(w, i.dest_kind, i.dest, out, mask, 0);
      const bool result = i.mods[0] == 0 ? w.voted != 0 : w.voted == static_cast<uint32_t>(threads_);
      write_predicate(w, i.pred0, result ? ~0u : 0u, mask, 0);
      return;
    }
    case BMOV_OUT:
      EACH out[lane] = w.barrier[i.mods[0]];
      write(w, i.dest_kind, i.dest, out, mask, 0);
      return;
    case BMOV_IN:
      w.barrier[i.mods[0]] = read(w, i.sources[0], b0, unknown, As::kInteger)[__builtin_ctz(mask)];
      return;
    default:
      integers(w, mask);
  }
}

}  // namespace issue_model
