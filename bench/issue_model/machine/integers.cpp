// Integer arithmetic, logic, comparisons and selections.

#include "machine.h"

namespace issue_model {

void Machine::integers(Warp& w, uint32_t mask) {
  const Instruction& i = *i_;
  const Operand* s = i.sources;
  uint32_t out[kLanes] = {}, high[kLanes] = {}, b0[kLanes], b1[kLanes], b2[kLanes];
  uint32_t unknown = 0, carry0 = 0, carry1 = 0;
  const uint32_t in0 = predicate(w, i.in0, i.in0_not, unknown);
  const uint32_t in1 = predicate(w, i.in1, i.in1_not, unknown);
  auto value = [&](int k, uint32_t (&buffer)[kLanes]) { return read(w, s[k], buffer, unknown, As::kInteger); };
  switch (i.op) {
    case MOV: {
      const uint32_t* a = value(0, b0);
      write(w, i.dest_kind, i.dest, a, mask, unknown);
      return;
    }
    case IMAD: {  // mods: has carry in
      const uint32_t *a = value(0, b0), *b = value(1, b1), *c = value(2, b2);
      EACH out[lane] = a[lane] * b[lane] + c[lane];
      if (i.mods[0]) EACH out[lane] += in0 >> lane & 1;
      break;
    }
    case IMAD_WIDE:  // mods: signed, carry in
    case IMAD_HI: {
      const uint32_t *a = read_plain(w, s[0], b0, unknown), *b = read_plain(w, s[1], b1, unknown);
      EACH {
        if (!(mask >> lane & 1)) continue;
        uint64_t product = i.mods[0] ? static_cast<uint64_t>(sign_extended(a[lane]) * sign_extended(b[lane]))
                                     : static_cast<uint64_t>(a[lane]) * b[lane];
        if ((s[0].flags ^ s[1].flags) & kNegated) product = 0 - product;
        uint64_t c = wide(w, s[2], lane, unknown);
        if (s[2].kind == kImmediate && !i.mods[0]) c &= 0xffffffffu;
        if (s[2].flags & kNegated) c = 0 - c;
        if (s[2].flags & kInverted) c = ~c;
        uint64_t sum = product + c;
        bool carry = sum < product;
        if (i.mods[1] && (in0 >> lane & 1)) {
          ++sum;
          carry |= sum == 0;
        }
        out[lane] = static_cast<uint32_t>(i.op == IMAD_HI ? sum >> 32 : sum);
        high[lane] = static_cast<uint32_t>(sum >> 32);
        if (carry) carry0 |= 1u << lane;
      }
      write(w, i.dest_kind, i.dest, out, mask, unknown);
      if (i.op == IMAD_WIDE && i.dest < kRegisters - 1) write(w, i.dest_kind, i.dest + 1, high, mask, unknown);
      write_predicate(w, i.pred0, carry0, mask, unknown);
      return;
    }
    case IADD3: {
      const uint32_t* v[3] = {read_plain(w, s[0], b0, unknown), read_plain(w, s[1], b1, unknown),
                              read_plain(w, s[2], b2, unknown)};
      EACH {
        uint64_t sum = 0;
        for (int k = 0; k < 3; ++k) {
          const bool turned = (s[k].flags & (kNegated | kInverted)) != 0;
          sum += turned ? ~v[k][lane] : v[k][lane];
          if (s[k].flags & kNegated) ++sum;
        }
        if (i.mods[0]) sum += (in0 >> lane & 1) + (in1 >> lane & 1);
        out[lane] = static_cast<uint32_t>(sum);
        if (sum >> 32 >= 1) carry0 |= 1u << lane;
        if (sum >> 32 >= 2) carry1 |= 1u << lane;
      }
      write_predicate(w, i.pred0, carry0, mask, unknown);
      write_predicate(w, i.pred1, carry1, mask, unknown);
      break;
    }
    case LEA: {  // a << shift + b
      const uint32_t *a = value(0, b0), *b = read_plain(w, s[1], b1, unknown);
      EACH {
        uint64_t sum = static_cast<uint64_t>(a[lane] << (i.mods[1] & 31));
        const bool turned = (s[1].flags & (kNegated | kInverted)) != 0;
        sum += turned ? ~b[lane] : b[lane];
        if (s[1].flags & kNegated) ++sum;
        if (i.mods[0]) sum += in0 >> lane & 1;
        out[lane] = static_cast<uint32_t>(sum);
        if (sum >> 32) carry0 |= 1u << lane;
      }
      write_predicate(w, i.pred0, carry0, mask, unknown);
      break;
    }
    case LEA_HI: {  // the upper half of (c, a) << shift, + b; mods: carry, shift, sign of a above it
      const uint32_t *a = read_plain(w, s[0], b0, unknown), *b = value(1, b1);
      uint32_t zero[kLanes] = {};
      const uint32_t* c = i.mods[2] ? zero : read_plain(w, s[2], b2, unknown);
      EACH {
        uint64_t v = i.mods[2] ? static_cast<uint64_t>(sign_extended(a[lane]))
                               : (static_cast<uint64_t>(c[lane]) << 32 | a[lane]);
        if (s[0].flags & kNegated) v = 0 - v;
        uint64_t sum = static_cast<uint64_t>(static_cast<uint32_t>(v << (i.mods[1] & 31) >> 32)) + b[lane];
        if (i.mods[0]) sum += in0 >> lane & 1;
        out[lane] = static_cast<uint32_t>(sum);
        if (sum >> 32) carry0 |= 1u << lane;
      }
      write_predicate(w, i.pred0, carry0, mask, unknown);
      break;
    }
    case LOP3: {
      const uint32_t *a = value(0, b0), *b = value(1, b1), *c = value(2, b2);
      const auto table = static_cast<uint32_t>(i.mods[0]);
      EACH {
        uint32_t r = 0;
        for (int k = 0; k < 8; ++k) {
          if (!(table >> k & 1)) continue;
          r |= (k & 4 ? a[lane] : ~a[lane]) & (k & 2 ? b[lane] : ~b[lane]) & (k & 1 ? c[lane] : ~c[lane]);
        }
        out[lane] = r;
        if (r != 0) carry0 |= 1u << lane;
      }
      // x & 0 and x | ~0 are known whatever x is: code that zeroes registers looks like that
      if ((table == 0x0 || table == 0xff)) unknown = 0;
      write_predicate(w, i.pred0, carry0 | in0, mask, unknown);
      break;
    }
    case PLOP3: {
      const uint32_t *a = value(0, b0), *b = value(1, b1), *c = value(2, b2);
      EACH {
        const int k = static_cast<int>(a[lane] << 2 | b[lane] << 1 | c[lane]);
        if (i.mods[0] >> k & 1) carry0 |= 1u << lane;
        if (i.mods[1] >> k & 1) carry1 |= 1u << lane;
      }
      if (i.mods[0] == 0 || i.mods[0] == 0xff) unknown = 0;
      write_predicate(w, i.pred0, carry0, mask, unknown);
      write_predicate(w, i.pred1, carry1, mask, unknown);
      return;
    }
    case SHF: {  // mods: right, 64 bits, signed, high, wraps
      const uint32_t *a = value(0, b0), *n = value(1, b1), *c = value(2, b2);
      EACH {
        const uint64_t v = static_cast<uint64_t>(c[lane]) << 32 | a[lane];
        const uint32_t most = i.mods[1] ? 64 : 32;
        const uint32_t by = i.mods[4] ? n[lane] & (most - 1) : std::min(n[lane], most);
        uint64_t r;
        if (!i.mods[0]) {
          r = by >= 64 ? 0 : v << by;
        } else if (i.mods[2]) {
          r = static_cast<uint64_t>(static_cast<int64_t>(v) >> std::min(by, 63u));
        } else {
          r = by >= 64 ? 0 : v >> by;
        }
        out[lane] = static_cast<uint32_t>(i.mods[3] ? r >> 32 : r);
      }
      break;
    }
    case PRMT: {
      const uint32_t *a = value(0, b0), *n = value(1, b1), *c = value(2, b2);
      EACH {
        const uint64_t v = static_cast<uint64_t>(c[lane]) << 32 | a[lane];
        for (int k = 0; k < 4; ++k) {
          const uint32_t which = n[lane] >> 4 * k & 15;
          uint32_t byte = static_cast<uint32_t>(v >> 8 * (which & 7)) & 255;
          if (which & 8) byte = byte & 128 ? 255 : 0;
          out[lane] |= byte << 8 * k;
        }
      }
      break;
    }
    case ISETP: {  // mods: comparison, signed, combination, upper half of 64 bits
      const uint32_t *a = value(0, b0), *b = value(1, b1);
      uint32_t result = 0;
      EACH {
        bool r = i.mods[1] ? compare(i.mods[0], static_cast<int32_t>(a[lane]), static_cast<int32_t>(b[lane]))
                           : compare(i.mods[0], a[lane], b[lane]);
        if (i.mods[3]) {
          const bool lower = in1 >> lane & 1;
          if (i.mods[0] == kEQ) {
            r = r && lower;
          } else if (i.mods[0] == kNE) {
            r = r || lower;
          } else if (a[lane] == b[lane]) {
            r = lower;
          }
        }
        if (r) result |= 1u << lane;
      }
      set_both(w, i, result, in0, mask, unknown);
      return;
    }
    case SEL:
    case FSEL: {  // what is not taken may be unknown
      const As as = i.op == SEL ? As::kInteger : As::kFloat;
      uint32_t first = 0, second = 0;
      const uint32_t *a = read(w, s[0], b0, first, as), *b = read(w, s[1], b1, second, as);
      EACH out[lane] = in0 >> lane & 1 ? a[lane] : b[lane];
      unknown |= (first & in0) | (second & ~in0);
      break;
    }
    case IABS: {
      const uint32_t* a = value(0, b0);
      EACH out[lane] = static_cast<int32_t>(a[lane]) < 0 ? 0u - a[lane] : a[lane];
      break;
    }
    case VIMNMX:  // mods: signed, relu
    case VIADDMNMX: {
      const uint32_t *a = value(0, b0), *b = value(1, b1);
      const uint32_t* c = i.op == VIADDMNMX ? value(2, b2) : b;
      EACH {
        const uint32_t first = i.op == VIADDMNMX ? a[lane] + b[lane] : a[lane];
        const bool less = i.mods[0] ? static_cast<int32_t>(first) < static_cast<int32_t>(c[lane]) : first < c[lane];
        uint32_t r = less == ((in0 >> lane & 1) != 0) ? first : c[lane];
        if (i.mods[1] && static_cast<int32_t>(r) < 0) r = 0;
        out[lane] = r;
      }
      break;
    }
    case POPC: {
      const uint32_t* a = value(0, b0);
      EACH out[lane] = static_cast<uint32_t>(count_bits(a[lane]));
      break;
    }
    case FLO: {  // mods: signed, as a shift
      const uint32_t* a = value(0, b0);
      EACH {
        uint32_t v = a[lane];
        if (i.mods[0] && static_cast<int32_t>(v) < 0) v = ~v;
        out[lane] = v == 0      ? ~0u
                    : i.mods[1] ? static_cast<uint32_t>(__builtin_clz(v))
                                : 31u - static_cast<uint32_t>(__builtin_clz(v));
      }
      break;
    }
    case BREV: {
      const uint32_t* a = value(0, b0);
      EACH {
        for (int k = 0; k < 32; ++k) out[lane] |= (a[lane] >> k & 1) << (31 - k);
      }
      break;
    }
    case SGXT: {
      const uint32_t *a = value(0, b0), *n = value(1, b1);
      EACH {
        const uint32_t bits = std::min(n[lane], 32u);
        if (bits == 0) continue;
        const uint32_t v = a[lane] << (32 - bits);
        out[lane] = i.mods[0] ? static_cast<uint32_t>(static_cast<int32_t>(v) >> (32 - bits)) : v >> (32 - bits);
      }
      break;
    }
    case BMSK: {
      const uint32_t *a = value(0, b0), *n = value(1, b1);
      EACH {
        const uint32_t at = std::min(a[lane], 32u), bits = std::min(n[lane], 32u);
        const uint64_t m = ((1ull << bits) - 1) << at;
        out[lane] = static_cast<uint32_t>(m);
      }
      break;
    }
    default:
      floats(w, mask);
      return;
  }
  write(w, i.dest_kind, i.dest, out, mask, unknown);
}

}  // namespace issue_model
