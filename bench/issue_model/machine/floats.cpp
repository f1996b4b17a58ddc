// Floating-point arithmetic and conversions.

#include <cfenv>

#include "machine.h"

namespace issue_model {

void Machine::floats(Warp& w, uint32_t mask) {
  const Instruction& i = *i_;
  const Operand* s = i.sources;
  uint32_t out[kLanes] = {}, high[kLanes] = {}, b0[kLanes], b1[kLanes], b2[kLanes];
  uint32_t unknown = 0, carry0 = 0;
  const uint32_t in0 = predicate(w, i.in0, i.in0_not, unknown);
  auto bits = [&](int k, uint32_t (&buffer)[kLanes]) { return read(w, s[k], buffer, unknown, As::kInteger); };
  auto value = [&](int k, uint32_t (&buffer)[kLanes]) { return read(w, s[k], buffer, unknown, As::kFloat); };
  auto flushed = [](float f) { return std::fabs(f) < 1.17549435e-38f ? std::copysign(0.0f, f) : f; };
  switch (i.op) {
    case FFMA:
    case FADD:
    case FMUL: {  // mods: flush, saturate, rounding (0 nearest, 1 down, 2 up, 3 to zero)
      const uint32_t *a = value(0, b0), *b = value(1, b1);
      const uint32_t* c = i.op == FFMA ? value(2, b2) : b;
      static const int kModes[] = {FE_TONEAREST, FE_DOWNWARD, FE_UPWARD, FE_TOWARDZERO};
      if (i.mods[2]) std::fesetround(kModes[i.mods[2]]);
      EACH {
        volatile float x = float_of(a[lane]), y = float_of(b[lane]), z = float_of(c[lane]);
        float r = i.op == FFMA ? std::fma(x, y, z) : i.op == FADD ? x + y : x * y;
        if (i.mods[0]) r = flushed(r);
        if (i.mods[1]) r = r > 0.0f ? std::min(r, 1.0f) : 0.0f;
        out[lane] = bits_of(r);
      }
      if (i.mods[2]) std::fesetround(FE_TONEAREST);
      break;
    }
    case FMNMX: {  // mods: NaN wins
      const uint32_t *a = value(0, b0), *b = value(1, b1);
      EACH {
        const float x = float_of(a[lane]), y = float_of(b[lane]);
        float r = in0 >> lane & 1 ? std::fmin(x, y) : std::fmax(x, y);
        if (i.mods[0] && (x != x || y != y)) r = float_of(0x7fffffffu);
        out[lane] = bits_of(r);
      }
      break;
    }
    case FSETP:
    case FSET: {
      const uint32_t *a = value(0, b0), *b = value(1, b1);
      uint32_t result = 0;
      EACH {
        if (compare_float(i.mods[0], float_of(a[lane]), float_of(b[lane]))) result |= 1u << lane;
      }
      if (i.op == FSETP) {
        set_both(w, i, result, in0, mask, unknown);
        return;
      }
      EACH {
        const bool r = combine(i.mods[2], result >> lane & 1, in0 >> lane & 1);
        out[lane] = r ? (i.mods[3] ? 0x3f800000u : ~0u) : 0u;
      }
      break;
    }
    case FCHK: {  // whether a / b needs the slow path; numbers that are not known are taken as ordinary
      const uint32_t *a = value(0, b0), *b = value(1, b1);
      EACH {
        if (unknown >> lane & 1) continue;
        const int ea = static_cast<int>(a[lane] >> 23 & 255), eb = static_cast<int>(b[lane] >> 23 & 255);
        const bool plain = eb > 1 && eb < 253 && (ea > 24 || (a[lane] & 0x7fffffffu) == 0) && ea < 255 &&
                           ea - eb < 126 && (ea - eb > -125 || ea == 0);
        if (!plain) carry0 |= 1u << lane;
      }
      write_predicate(w, i.pred0, carry0, mask, 0);
      return;
    }
    case MUFU: {
      const uint32_t* a = value(0, b0);
      EACH {
        const float x = float_of(a[lane]);
        float r = 0;
        switch (i.mods[0]) {
          case 0:
            r = 1.0f / x;
            break;
          case 1:
            r = 1.0f / std::sqrt(x);
            break;
          case 2:
            r = std::exp2(x);
            break;
          case 3:
            r = std::log2(x);
            break;
          case 4:
            r = std::sin(x);
            break;
          case 5:
            r = std::cos(x);
            break;
          case 6:
            r = std::sqrt(x);
            break;
          case 7:
            r = std::tanh(x);
            break;
          default: {  // the upper half of a double's reciprocal or reciprocal root
            const double d = double_of(static_cast<uint64_t>(a[lane]) << 32);
            out[lane] = static_cast<uint32_t>(bits_of(i.mods[0] == 8 ? 1.0 / d : 1.0 / std::sqrt(d)) >> 32);
            continue;
          }
        }
        out[lane] = bits_of(r);
      }
      break;
    }
    case I2F: {  // mods: bytes, signed, to double, rounding, byte of the source, 16-bit kind
      EACH {
        if (!(mask >> lane & 1)) continue;
        uint64_t v;
        if (i.mods[0] == 8) {
          v = wide(w, s[0], lane, unknown);
        } else {
          v = bits(0, b0)[lane];
          v >>= 8 * i.mods[4];
          if (i.mods[0] < 4) v &= (1u << 8 * i.mods[0]) - 1;
          if (i.mods[1])
            v = static_cast<uint64_t>(static_cast<int64_t>(v << (64 - 8 * i.mods[0])) >> (64 - 8 * i.mods[0]));
        }
        if (i.mods[2]) {
          const double d = i.mods[1] ? static_cast<double>(static_cast<int64_t>(v)) : static_cast<double>(v);
          out[lane] = static_cast<uint32_t>(bits_of(d));
          high[lane] = static_cast<uint32_t>(bits_of(d) >> 32);
        } else {
          static const int kModes[] = {FE_TONEAREST, FE_DOWNWARD, FE_UPWARD, FE_TOWARDZERO};
          if (i.mods[3]) std::fesetround(kModes[i.mods[3]]);
          volatile uint64_t exact = v;
          volatile float f = i.mods[1] ? static_cast<float>(static_cast<int64_t>(exact))
                                       : static_cast<float>(static_cast<uint64_t>(exact));
          if (i.mods[3]) std::fesetround(FE_TONEAREST);
          out[lane] = bits_of(f);
        }
      }
      if (i.mods[5]) EACH out[lane] = float_to_low(float_of(out[lane]), i.mods[5] == 2);
      if (i.mods[2]) write(w, i.dest_kind, i.dest + 1, high, mask, unknown);
      break;
    }
    case F2I: {  // mods: bytes, signed, from double, rounding (0 nearest, 1 floor, 2 ceil, 3 trunc), 16-bit kind
      EACH {
        if (!(mask >> lane & 1)) continue;
        double d = i.mods[2] ? wide_double(w, s[0], lane, unknown) : static_cast<double>(float_of(value(0, b0)[lane]));
        if (i.mods[4]) d = low_to_float(static_cast<uint16_t>(bits(0, b0)[lane]), i.mods[4] == 2);
        d = i.mods[3] == 1   ? std::floor(d)
            : i.mods[3] == 2 ? std::ceil(d)
            : i.mods[3] == 3 ? std::trunc(d)
                             : std::nearbyint(d);
        const int bits = static_cast<int>(8 * i.mods[0]);
        uint64_t v;
        if (d != d) {
          v = i.mods[1] ? (bits == 64 ? 1ull << 63 : 0x80000000u) : 0;
          if (bits == 32 && !i.mods[2]) v = i.mods[1] ? 0x80000000u : ~0u;
          v = bits == 32 ? 0 : v;
        } else if (i.mods[1]) {
          const double most = std::ldexp(1.0, bits - 1);
          v = d >= most   ? (1ull << (bits - 1)) - 1
              : d < -most ? 1ull << (bits - 1)
                          : static_cast<uint64_t>(static_cast<int64_t>(d));
        } else {
          const double most = std::ldexp(1.0, bits);
          v = d >= most ? (bits == 64 ? ~0ull : (1ull << bits) - 1) : d <= 0 ? 0 : static_cast<uint64_t>(d);
        }
        out[lane] = static_cast<uint32_t>(v);
        high[lane] = static_cast<uint32_t>(v >> 32);
      }
      if (i.mods[0] == 8) write(w, i.dest_kind, i.dest + 1, high, mask, unknown);
      break;
    }
    case F2F: {  // mods: from, to (0 float, 1 half, 2 bfloat, 3 double)
      EACH {
        if (!(mask >> lane & 1)) continue;
        double d;
        if (i.mods[0] == 3) {
          d = wide_double(w, s[0], lane, unknown);
        } else if (i.mods[0] == 0) {
          d = float_of(value(0, b0)[lane]);
        } else {
          d = low_to_float(half_of(s[0], bits(0, b0)[lane]), i.mods[0] == 2);
        }
        if (i.mods[1] == 3) {
          out[lane] = static_cast<uint32_t>(bits_of(d));
          high[lane] = static_cast<uint32_t>(bits_of(d) >> 32);
        } else if (i.mods[1] == 0) {
          out[lane] = bits_of(static_cast<float>(d));
        } else {
          out[lane] = float_to_low(static_cast<float>(d), i.mods[1] == 2);
        }
      }
      if (i.mods[1] == 3) write(w, i.dest_kind, i.dest + 1, high, mask, unknown);
      break;
    }
    case F2FP: {  // two floats into a pair: the second is the lower half
      const uint32_t *a = value(0, b0), *b = value(1, b1);
      const bool bfloat = i.mods[0] == 2;
      EACH {
        float x = float_of(a[lane]), y = float_of(b[lane]);
        if (i.mods[1]) x = std::fmax(x, 0.0f), y = std::fmax(y, 0.0f);
        out[lane] = static_cast<uint32_t>(float_to_low(x, bfloat)) << 16 | float_to_low(y, bfloat);
      }
      break;
    }
    case FRND: {
      const uint32_t* a = value(0, b0);
      EACH {
        const float x = float_of(a[lane]);
        out[lane] = bits_of(i.mods[0] == 1   ? std::floor(x)
                            : i.mods[0] == 2 ? std::ceil(x)
                            : i.mods[0] == 3 ? std::trunc(x)
                                             : std::nearbyint(x));
      }
      break;
    }
    case HADD2_F32: {  // a half to a float
      const uint32_t* a = read_plain(w, s[1], b0, unknown);
      EACH {
        float f = low_to_float(half_of(s[1], a[lane]), i.mods[0] == 2);
        if (s[1].flags & kAbsolute) f = std::fabs(f);
        if (s[1].flags & kNegated) f = -f;
        out[lane] = bits_of(f);
      }
      break;
    }
    case HFMA2:
    case HADD2:
    case HMUL2:
    case HMNMX2: {  // mods: kind, relu
      const bool bfloat = i.mods[0] == 2;
      const uint32_t *a = read_plain(w, s[0], b0, unknown), *b = read_plain(w, s[1], b1, unknown);
      const uint32_t* c = i.op == HFMA2 ? read_plain(w, s[2], b2, unknown) : b;
      EACH {
        for (int k = 0; k < 2; ++k) {
          const float x = part(s[0], a[lane], k, bfloat), y = part(s[1], b[lane], k, bfloat);
          float r = 0;
          if (i.op == HFMA2) {
            r = std::fma(x, y, part(s[2], c[lane], k, bfloat));
          } else if (i.op == HADD2) {
            r = x + y;
          } else if (i.op == HMUL2) {
            r = x * y;
          } else {
            r = in0 >> lane & 1 ? std::fmin(x, y) : std::fmax(x, y);
          }
          if (i.mods[1]) r = std::fmax(r, 0.0f);
          out[lane] |= static_cast<uint32_t>(float_to_low(r, bfloat)) << 16 * k;
        }
      }
      break;
    }
    case HSETP2: {
      const bool bfloat = i.mods[3] == 2;
      const uint32_t *a = read_plain(w, s[0], b0, unknown), *b = read_plain(w, s[1], b1, unknown);
      uint32_t low = 0, upper = 0;
      EACH {
        if (compare_float(i.mods[0], part(s[0], a[lane], 0, bfloat), part(s[1], b[lane], 0, bfloat))) low |= 1u << lane;
        if (compare_float(i.mods[0], part(s[0], a[lane], 1, bfloat), part(s[1], b[lane], 1, bfloat)))
          upper |= 1u << lane;
      }
      uint32_t r0 = 0, r1 = 0;
      EACH {
        r0 |= static_cast<uint32_t>(combine(i.mods[2], low >> lane & 1, in0 >> lane & 1)) << lane;
        r1 |= static_cast<uint32_t>(combine(i.mods[2], upper >> lane & 1, in0 >> lane & 1)) << lane;
      }
      write_predicate(w, i.pred0, r0, mask, unknown);
      write_predicate(w, i.pred1, r1, mask, unknown);
      return;
    }
    case DADD:
    case DMUL:
    case DFMA: {
      EACH {
        if (!(mask >> lane & 1)) continue;
        const double x = wide_double(w, s[0], lane, unknown), y = wide_double(w, s[1], lane, unknown);
        const double r = i.op == DFMA   ? std::fma(x, y, wide_double(w, s[2], lane, unknown))
                         : i.op == DADD ? x + y
                                        : x * y;
        out[lane] = static_cast<uint32_t>(bits_of(r));
        high[lane] = static_cast<uint32_t>(bits_of(r) >> 32);
      }
      write(w, i.dest_kind, i.dest + 1, high, mask, unknown);
      break;
    }
    case DSETP: {
      uint32_t result = 0;
      EACH {
        if (!(mask >> lane & 1)) continue;
        if (compare_float(i.mods[0], wide_double(w, s[0], lane, unknown), wide_double(w, s[1], lane, unknown)))
          result |= 1u << lane;
      }
      set_both(w, i, result, in0, mask, unknown);
      return;
    }
    default:
      fail("operation " + std::to_string(i.op) + " has no meaning");
  }
  write(w, i.dest_kind, i.dest, out, mask, unknown);
}

}  // namespace issue_model
