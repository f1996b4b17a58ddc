// Operands: registers, constants, immediates, predicates, with their signs and what is known of them.

#include <cstring>

#include "machine.h"

namespace issue_model {

const uint32_t* Machine::read(Warp& w, const Operand& s, uint32_t (&buffer)[kLanes], uint32_t& unknown, As as) {
  if (s.kind == kRegister && (s.flags & 15) == 0) {
    unknown |= w.unknown[s.number];
    return w.r[s.number];
  }
  switch (s.kind) {
    case kRegister:
      unknown |= w.unknown[s.number];
      std::memcpy(buffer, w.r[s.number], sizeof buffer);
      break;
    case kUniformRegister:
      if (w.u_unknown[s.number]) unknown = ~0u;
      std::fill(buffer, buffer + kLanes, w.u[s.number]);
      break;
    case kConstant:
      for (int lane = 0; lane < kLanes; ++lane) {
        if (lane > 0 && s.number < 0) {
          buffer[lane] = buffer[0];
        } else {
          buffer[lane] = static_cast<uint32_t>(constant(w, s, lane, 4, unknown));
        }
      }
      break;
    case kImmediate:
      std::fill(buffer, buffer + kLanes, static_cast<uint32_t>(s.value));
      break;
    case kPredicate:
      unknown |= w.p_unknown[s.number];
      for (int lane = 0; lane < kLanes; ++lane) buffer[lane] = w.p[s.number] >> lane & 1;
      break;
    default:
      std::fill(buffer, buffer + kLanes, 0u);
  }
  if (s.flags & 15) {
    for (uint32_t& v : buffer) {
      if (as == As::kFloat) {
        if (s.flags & kAbsolute) v &= 0x7fffffffu;
        if (s.flags & kNegated) v ^= 0x80000000u;
      } else {
        if (s.flags & kAbsolute && static_cast<int32_t>(v) < 0) v = 0u - v;
        if (s.flags & kNegated) v = 0u - v;
      }
      if (s.flags & kInverted) v = ~v;
      if (s.flags & kNot) v ^= 1;
    }
  }
  return buffer;
}

// Without the sign: carries need the sign separately.
const uint32_t* Machine::read_plain(Warp& w, const Operand& s, uint32_t (&buffer)[kLanes], uint32_t& unknown) {
  Operand plain = s;
  plain.flags = 0;
  return read(w, plain, buffer, unknown, As::kInteger);
}

uint64_t Machine::constant(Warp& w, const Operand& s, int lane, int bytes, uint32_t& unknown) const {
  int64_t offset = s.value;
  if (s.number >= 256) {
    if (w.u_unknown[s.number - 256]) unknown = ~0u;
    offset += static_cast<int32_t>(w.u[s.number - 256]);
  } else if (s.number >= 0) {
    unknown |= w.unknown[s.number] & 1u << lane;
    offset += static_cast<int32_t>(w.r[s.number][lane]);
  }
  return constant_at(s.bank, offset, bytes);
}

uint64_t Machine::constant_at(int64_t bank, int64_t offset, int bytes) const {
  if (bank < 0 || bank >= 8 || l_.banks[bank] == nullptr || offset < 0 || offset + bytes > l_.bank_bytes[bank]) {
    fail("reads constant bank " + std::to_string(bank) + " at " + std::to_string(offset) + ", which is not filled");
  }
  uint64_t value = 0;
  std::memcpy(&value, l_.banks[bank] + offset, static_cast<size_t>(bytes));
  return value;
}

// 64 bits: a register and the next one.
uint64_t Machine::wide(Warp& w, const Operand& s, int lane, uint32_t& unknown) {
  uint64_t v = 0;
  switch (s.kind) {
    case kRegister:
      if (s.number == kRegisters - 1) break;
      unknown |= (w.unknown[s.number] | w.unknown[s.number + 1]) & 1u << lane;
      v = w.r[s.number][lane] | static_cast<uint64_t>(w.r[s.number + 1][lane]) << 32;
      break;
    case kUniformRegister:
      if (s.number == kUniform - 1) break;
      if (w.u_unknown[s.number] || w.u_unknown[s.number + 1]) unknown = ~0u;
      v = w.u[s.number] | static_cast<uint64_t>(w.u[s.number + 1]) << 32;
      break;
    case kConstant:
      v = constant(w, s, lane, 8, unknown);
      break;
    case kImmediate:
      v = static_cast<uint64_t>(static_cast<int64_t>(static_cast<int32_t>(s.value)));
      break;
    default:
      break;
  }
  return v;
}

double Machine::wide_double(Warp& w, const Operand& s, int lane, uint32_t& unknown) {
  uint64_t v = s.kind == kImmediate ? static_cast<uint64_t>(s.value) : wide(w, s, lane, unknown);
  if (s.flags & kAbsolute) v &= ~(1ull << 63);
  if (s.flags & kNegated) v ^= 1ull << 63;
  return double_of(v);
}

void Machine::write(Warp& w, int64_t kind, int64_t number, const uint32_t* values, uint32_t mask, uint32_t unknown) {
  if (kind == kRegister) {
    if (number >= kRegisters - 1) return;
    uint32_t* r = w.r[number];
    if (mask == ~0u) {
      std::memcpy(r, values, sizeof w.r[0]);
    } else {
      for (int lane = 0; lane < kLanes; ++lane) {
        if (mask >> lane & 1) r[lane] = values[lane];
      }
    }
    w.unknown[number] = (w.unknown[number] & ~mask) | (unknown & mask);
  } else if (kind == kUniformRegister) {
    if (number >= kUniform - 1 || mask == 0) return;
    const int lane = __builtin_ctz(mask);
    w.u[number] = values[lane];
    w.u_unknown[number] = (unknown >> lane & 1) != 0;
  }
}

void Machine::write_predicate(Warp& w, int64_t p, uint32_t values, uint32_t mask, uint32_t unknown) {
  if (p < 0 || p % 8 == 7) return;
  if (p >= 8) {  // uniform: one for the warp
    if (mask == 0) return;
    const int lane = __builtin_ctz(mask);
    w.p[p] = values >> lane & 1 ? ~0u : 0u;
    w.p_unknown[p] = unknown >> lane & 1 ? ~0u : 0u;
    return;
  }
  w.p[p] = (w.p[p] & ~mask) | (values & mask);
  w.p_unknown[p] = (w.p_unknown[p] & ~mask) | (unknown & mask);
}

uint32_t Machine::predicate(Warp& w, int64_t p, int64_t is_not, uint32_t& unknown) const {
  if (p < 0) return 0;
  unknown |= w.p_unknown[p];
  return is_not ? ~w.p[p] : w.p[p];
}

// A comparison's two results: itself and its opposite, each combined with a predicate.
void Machine::set_both(Warp& w, const Instruction& i, uint32_t result, uint32_t with, uint32_t mask, uint32_t unknown) {
  const uint32_t opposite = ~result;
  auto combined = [&](uint32_t a) { return i.mods[2] == kAnd ? a & with : i.mods[2] == kOr ? a | with : a ^ with; };
  if (i.mods[2] == kAnd && with == 0) unknown = 0;
  write_predicate(w, i.pred0, combined(result), mask, unknown);
  write_predicate(w, i.pred1, combined(opposite), mask, unknown);
}

// Half k of a pair, as the operand says: .H0_H0 and .H1_H1 take one half for both.
float Machine::part(const Operand& s, uint32_t v, int k, bool bfloat) {
  const bool upper = s.flags & kHighHalf ? true : s.flags & kLowHalf ? false : k == 1;
  float f = low_to_float(static_cast<uint16_t>(upper ? v >> 16 : v), bfloat);
  if (s.flags & kAbsolute) f = std::fabs(f);
  if (s.flags & kNegated) f = -f;
  return f;
}

}  // namespace issue_model
