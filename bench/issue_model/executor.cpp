// Runs the sm_90 machine code of one thread block, warp by warp, and counts what is issued.
//
// Integers, predicates, addresses, control flow, shared memory and float32 arithmetic are exact, so loops run as
// often as on the chip. What is not computed (wgmma) leaves unknown values; a branch on one is an error.

#include "executor.h"

#include <algorithm>
#include <cfenv>
#include <cmath>
#include <cstring>
#include <unordered_set>

namespace issue_model {
namespace {

#define OPS(X)                                                                                                       \
  X(IMAD) X(IMAD_WIDE) X(IMAD_HI) X(IADD3) X(LEA) X(LEA_HI) X(LOP3) X(PLOP3) X(SHF) X(PRMT) X(ISETP) X(SEL) X(IABS)  \
  X(VIMNMX) X(VIADDMNMX) X(MOV) X(LDC) X(SREG) X(ZERO) X(POPC) X(FLO) X(BREV) X(SGXT) X(BMSK) X(R2UR) X(P2R) X(R2P)  \
  X(I2F) X(F2I) X(F2F) X(F2FP) X(FRND) X(MUFU) X(FFMA) X(FADD) X(FMUL) X(FMNMX) X(FSEL) X(FSETP) X(FSET) X(FCHK)     \
  X(HADD2_F32) X(HFMA2) X(HADD2) X(HMUL2) X(HMNMX2) X(HSETP2) X(DADD) X(DMUL) X(DFMA) X(DSETP) X(SHFL) X(VOTE)       \
  X(REDUX) X(LDG) X(STG) X(LDS) X(STS) X(LDGSTS) X(LDSM) X(STSM) X(ATOM) X(RED) X(ATOMS) X(HMMA) X(UNKNOWN) X(NOP)   \
  X(BRA) X(BRA_DIV) X(BRX) X(CALL) X(RET) X(EXIT) X(BSSY) X(BSYNC) X(BREAK) X(WARPSYNC) X(BAR) X(B2R) X(MATCH)       \
  X(ELECT) X(BMOV_OUT) X(BMOV_IN) X(S2R_CLOCK) X(LDL) X(STL)

enum Op : int64_t {
#define X(name) name,
  OPS(X)
#undef X
};

const char* const kNames[] = {
#define X(name) #name,
    OPS(X)
#undef X
};

enum Compare : int64_t { kFalse, kLT, kEQ, kLE, kGT, kNE, kGE, kTrue };  // + 8: unordered too; 16 NUM, 17 NAN
enum Combine : int64_t { kAnd, kOr, kXor };

uint32_t bits_of(float f) {
  uint32_t b;
  std::memcpy(&b, &f, 4);
  return b;
}
float float_of(uint32_t b) {
  float f;
  std::memcpy(&f, &b, 4);
  return f;
}
double double_of(uint64_t b) {
  double d;
  std::memcpy(&d, &b, 8);
  return d;
}
uint64_t bits_of(double d) {
  uint64_t b;
  std::memcpy(&b, &d, 8);
  return b;
}

float half_to_float(uint16_t h) {
  const uint32_t sign = (h & 0x8000u) << 16, exponent = (h >> 10) & 31, mantissa = h & 1023;
  if (exponent == 31) return float_of(sign | 0x7f800000u | mantissa << 13);
  if (exponent == 0) return (sign ? -1.0f : 1.0f) * std::ldexp(static_cast<float>(mantissa), -24);
  return float_of(sign | (exponent + 112) << 23 | mantissa << 13);
}
uint16_t float_to_half(float f) {
  const uint32_t b = bits_of(f), sign = b >> 16 & 0x8000u;
  if (f != f) return 0x7fff;
  const float a = std::fabs(f);
  if (a >= 65520.0f) return static_cast<uint16_t>(sign | 0x7c00u);
  if (a < 6.103515625e-5f) return static_cast<uint16_t>(sign | static_cast<uint32_t>(std::nearbyint(std::ldexp(a, 24))));
  uint32_t x = bits_of(a);
  x += 0xfffu + (x >> 13 & 1);
  return static_cast<uint16_t>(sign | ((x >> 13) - (112u << 10)));
}
uint16_t float_to_bfloat(float f) {
  uint32_t b = bits_of(f);
  if (f != f) return 0x7fff;
  b += 0x7fffu + (b >> 16 & 1);
  return static_cast<uint16_t>(b >> 16);
}
float low_to_float(uint16_t v, bool bfloat) { return bfloat ? float_of(static_cast<uint32_t>(v) << 16) : half_to_float(v); }
uint16_t float_to_low(float f, bool bfloat) { return bfloat ? float_to_bfloat(f) : float_to_half(f); }

template <typename T>
bool compare(int64_t how, T a, T b) {
  switch (how & 7) {
    case kFalse: return false;
    case kLT: return a < b;
    case kEQ: return a == b;
    case kLE: return a <= b;
    case kGT: return a > b;
    case kNE: return a < b || a > b;
    case kGE: return a >= b;
    default: return true;
  }
}
template <typename T>
bool compare_float(int64_t how, T a, T b) {
  const bool nan = a != a || b != b;
  if (how == 16) return !nan;
  if (how == 17) return nan;
  if (nan) return (how & 8) != 0 || (how & 7) == kTrue;
  return compare(how, a, b);
}
bool combine(int64_t how, bool a, bool b) { return how == kAnd ? a && b : how == kOr ? a || b : a != b; }

int count_bits(uint32_t v) { return __builtin_popcount(v); }

class Machine {
 public:
  Machine(const Launch& launch, const uint32_t (&index)[3], Counters counters)
      : l_(launch), c_(counters), shared_(static_cast<size_t>(launch.shared_bytes)), shared_unknown_(shared_.size() / 4 + 1, 1) {
    std::copy(index, index + 3, block_);
    threads_ = static_cast<int>(l_.block[0] * l_.block[1] * l_.block[2]);
    warps_.resize(static_cast<size_t>((threads_ + kLanes - 1) / kLanes));
    for (size_t i = 0; i < warps_.size(); ++i) start(warps_[i], static_cast<int>(i));
  }

  uint64_t run() {
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
  uint64_t longest() const {
    uint64_t most = 0;
    for (const Warp& w : warps_) most = std::max(most, w.issued);
    return most;
  }

 private:
  const Launch& l_;
  Counters c_;
  std::vector<uint8_t> shared_, shared_unknown_;
  std::vector<Warp> warps_;
  uint32_t block_[3];
  int threads_;
  uint64_t issued_ = 0;
  const Instruction* i_ = nullptr;
  int64_t pc_ = 0;
  size_t last_range_ = 0;
  std::unordered_set<uint64_t> in_l1_;

  void start(Warp& w, int index) {
    std::memset(w.r, 0, sizeof w.r);
    // ptxas reads registers that nothing has written where half of them matters not: they are zero here, and known
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

  [[noreturn]] void fail(const std::string& what) const { throw Fault("instruction " + std::to_string(pc_) + ": " + what); }

  // ---- operands

  // The value of a source for every lane, with its sign as integers have it or as floats do.
  enum class As { kInteger, kFloat };
  const uint32_t* read(Warp& w, const Operand& s, uint32_t (&buffer)[kLanes], uint32_t& unknown, As as) {
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
  // Without the sign: carries need it apart.
  const uint32_t* read_plain(Warp& w, const Operand& s, uint32_t (&buffer)[kLanes], uint32_t& unknown) {
    Operand plain = s;
    plain.flags = 0;
    return read(w, plain, buffer, unknown, As::kInteger);
  }
  uint64_t constant(Warp& w, const Operand& s, int lane, int bytes, uint32_t& unknown) const {
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
  uint64_t constant_at(int64_t bank, int64_t offset, int bytes) const {
    if (bank < 0 || bank >= 8 || l_.banks[bank] == nullptr || offset < 0 || offset + bytes > l_.bank_bytes[bank]) {
      fail("reads constant bank " + std::to_string(bank) + " at " + std::to_string(offset) + ", which is not filled");
    }
    uint64_t value = 0;
    std::memcpy(&value, l_.banks[bank] + offset, static_cast<size_t>(bytes));
    return value;
  }
  // 64 bits: a register and the next one.
  uint64_t wide(Warp& w, const Operand& s, int lane, uint32_t& unknown) {
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
      case kConstant: v = constant(w, s, lane, 8, unknown); break;
      case kImmediate: v = static_cast<uint64_t>(static_cast<int64_t>(static_cast<int32_t>(s.value))); break;
      default: break;
    }
    return v;
  }
  double wide_double(Warp& w, const Operand& s, int lane, uint32_t& unknown) {
    uint64_t v = s.kind == kImmediate ? static_cast<uint64_t>(s.value) : wide(w, s, lane, unknown);
    if (s.flags & kAbsolute) v &= ~(1ull << 63);
    if (s.flags & kNegated) v ^= 1ull << 63;
    return double_of(v);
  }

  void write(Warp& w, int64_t kind, int64_t number, const uint32_t* values, uint32_t mask, uint32_t unknown) {
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
  void write_predicate(Warp& w, int64_t p, uint32_t values, uint32_t mask, uint32_t unknown) {
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
  uint32_t predicate(Warp& w, int64_t p, int64_t is_not, uint32_t& unknown) const {
    if (p < 0) return 0;
    unknown |= w.p_unknown[p];
    return is_not ? ~w.p[p] : w.p[p];
  }

  // ---- memory

  bool known(uint64_t address, uint64_t bytes) {
    if (l_.ranges.empty()) return false;
    const Range& last = l_.ranges[last_range_];
    if (address >= last.begin && address + bytes <= last.end) return true;
    auto at = std::upper_bound(l_.ranges.begin(), l_.ranges.end(), address, [](uint64_t a, const Range& r) { return a < r.begin; });
    if (at == l_.ranges.begin()) return false;
    --at;
    if (address + bytes > at->end) return false;
    last_range_ = static_cast<size_t>(at - l_.ranges.begin());
    return true;
  }
  static constexpr uint64_t kSharedWindow = 0x7fu;  // the upper half of a generic address of shared memory

  uint64_t address_of(Warp& w, int lane, uint32_t& unknown) const {
    const Instruction& i = *i_;
    uint64_t a = 0;
    const int64_t r = i.address_register;
    if (r >= 0 && r < kRegisters - 1) {
      unknown |= w.unknown[r] & 1u << lane;
      a = w.r[r][lane];
      if (i.address_mode == kAddress64) {
        unknown |= w.unknown[r + 1] & 1u << lane;
        a |= static_cast<uint64_t>(w.r[r + 1][lane]) << 32;
      }
      a *= static_cast<uint64_t>(i.address_scale);
    }
    if (i.address_uniform >= 0 && i.address_uniform < kUniform - 1) {
      const int64_t u = i.address_uniform;
      if (w.u_unknown[u]) unknown = ~0u;
      uint64_t base = w.u[u];
      if (i.address_mode == kAddressUniformBase) base |= static_cast<uint64_t>(w.u[u + 1]) << 32;
      a += base;
    }
    a += static_cast<uint64_t>(i.address_offset);
    if (i.address_mode == kAddress32) a &= 0xffffffffu;
    return a;
  }

  uint8_t* shared_at(uint64_t address, uint64_t bytes) {
    address &= 0xffffffu;  // the block's number in its cluster is above
    if (address + bytes > shared_.size()) {
      fail("reaches " + std::to_string(address + bytes) + " of " + std::to_string(shared_.size()) + " bytes of shared memory");
    }
    if (address % bytes != 0) fail("shared memory at " + std::to_string(address) + " is not aligned to " + std::to_string(bytes));
    return shared_.data() + address;
  }
  bool shared_unknown(uint64_t address, uint64_t bytes) const {
    address &= 0xffffffu;
    for (uint64_t word = address / 4; word <= (address + bytes - 1) / 4; ++word) {
      if (shared_unknown_[word]) return true;
    }
    return false;
  }
  void set_shared_unknown(uint64_t address, uint64_t bytes, bool is) {
    address &= 0xffffffu;
    for (uint64_t word = address / 4; word <= (address + bytes - 1) / 4; ++word) shared_unknown_[word] = is;
  }

  // Passes over the banks: of 32 words of 4 bytes; wide accesses go in halves or quarters of a warp.
  uint64_t bank_passes(const uint64_t* addresses, uint32_t mask, int64_t bytes) const {
    const int at_once = bytes <= 4 ? 32 : bytes == 8 ? 16 : 8;
    uint64_t passes = 0;
    for (int first = 0; first < kLanes; first += at_once) {
      uint32_t words[kLanes][16];
      int count[kLanes] = {};
      int most = 0;
      for (int lane = first; lane < first + at_once; ++lane) {
        if (!(mask >> lane & 1)) continue;
        for (uint64_t word = (addresses[lane] & 0xffffffu) / 4; word <= ((addresses[lane] & 0xffffffu) + static_cast<uint64_t>(bytes) - 1) / 4; ++word) {
          const int bank = static_cast<int>(word % 32);
          bool seen = false;
          for (int k = 0; k < count[bank] && k < 16; ++k) seen |= words[bank][k] == word;
          if (seen) continue;
          if (count[bank] < 16) words[bank][count[bank]] = static_cast<uint32_t>(word);
          most = std::max(most, ++count[bank]);
        }
      }
      passes += static_cast<uint64_t>(most);
    }
    return passes;
  }
  // Sectors of 32 bytes that a warp asks for. Counted for the L2: those that this block has not loaded before, as if L1
  // forgot nothing; all of a store, an atomic operation or a copy past L1.
  void count_sectors(const uint64_t* addresses, uint32_t mask, int64_t bytes, bool through_l1) {
    uint64_t seen[2 * kLanes];
    int n = 0;
    for (int lane = 0; lane < kLanes; ++lane) {
      if (!(mask >> lane & 1)) continue;
      for (uint64_t s = addresses[lane] / 32; s <= (addresses[lane] + static_cast<uint64_t>(bytes) - 1) / 32; ++s) seen[n++] = s;
    }
    std::sort(seen, seen + n);
    const auto* end = std::unique(seen, seen + n);
    const auto count = static_cast<uint64_t>(end - seen);
    c_.passes[pc_] += (count + 3) / 4;  // L1 and shared memory are one: 128 bytes a cycle
    if (!through_l1) {
      c_.sectors[pc_] += count;
      return;
    }
    for (const uint64_t* s = seen; s != end; ++s) c_.sectors[pc_] += in_l1_.insert(*s).second;
  }

  // What memory that is not there holds: of every 16 bits a bfloat16 of about unit variance, so that float32 is too.
  static uint32_t invented(uint64_t address, int64_t bytes) {
    static const std::vector<uint16_t> normal = [] {
      std::vector<uint16_t> values(1024);
      uint32_t state = 1;
      for (uint16_t& value : values) {
        float sum = -6.0f;
        for (int k = 0; k < 12; ++k) {
          state = state * 1664525u + 1013904223u;
          sum += static_cast<float>(state >> 8) * 0x1p-24f;
        }
        value = float_to_bfloat(sum);
      }
      return values;
    }();
    auto of_pair = [&](uint64_t at) { return normal[at / 2 * 0x9e3779b97f4a7c15ull >> 54]; };
    if (bytes == 1) return of_pair(address) & 255u;
    if (bytes == 2) return of_pair(address);
    return of_pair(address) | static_cast<uint32_t>(of_pair(address + 2)) << 16;
  }

  void load_words(uint64_t address, int64_t bytes, uint32_t (&words)[4], bool& unknown) {
    words[0] = words[1] = words[2] = words[3] = 0;
    if (address >> 32 == kSharedWindow) {
      std::memcpy(words, shared_at(address & 0xffffffffu, static_cast<uint64_t>(bytes)), static_cast<size_t>(bytes));
      unknown = shared_unknown(address & 0xffffffffu, static_cast<uint64_t>(bytes));
    } else if (known(address, static_cast<uint64_t>(bytes))) {
      std::memcpy(words, reinterpret_cast<const void*>(address), static_cast<size_t>(bytes));
    } else if (l_.fake_memory) {
      for (uint64_t k = 0; k < 4; ++k) words[k] = invented(address + 4 * k, bytes);
    } else {
      char text[64];
      std::snprintf(text, sizeof text, "loads %d bytes at 0x%llx", static_cast<int>(bytes), static_cast<unsigned long long>(address));
      fail(std::string(text) + ", outside of every tensor of the call");
    }
    if (bytes < 4) words[0] &= (1u << 8 * bytes) - 1;
  }
  void store_words(uint64_t address, int64_t bytes, const uint32_t (&words)[4], bool unknown) {
    if (address >> 32 == kSharedWindow) {
      std::memcpy(shared_at(address & 0xffffffffu, static_cast<uint64_t>(bytes)), words, static_cast<size_t>(bytes));
      set_shared_unknown(address & 0xffffffffu, static_cast<uint64_t>(bytes), unknown);
    } else if (known(address, static_cast<uint64_t>(bytes))) {
      std::memcpy(reinterpret_cast<void*>(address), words, static_cast<size_t>(bytes));
    } else if (!l_.fake_memory) {
      char text[64];
      std::snprintf(text, sizeof text, "stores %d bytes at 0x%llx", static_cast<int>(bytes), static_cast<unsigned long long>(address));
      fail(std::string(text) + ", outside of every tensor of the call");
    }
  }

  void memory(Warp& w, uint32_t mask);
  void local(Warp& w, uint32_t mask);
  void matrices(Warp& w, uint32_t mask);
  void multiply(Warp& w, uint32_t mask);
  void execute(Warp& w, uint32_t mask);
  void arithmetic(Warp& w, uint32_t mask);
  uint32_t special(Warp& w, int64_t which, int lane) const;

  // A comparison's two results: itself and its opposite, each combined with a predicate.
  void set_both(Warp& w, const Instruction& i, uint32_t result, uint32_t with, uint32_t mask, uint32_t unknown) {
    const uint32_t opposite = ~result;
    auto combined = [&](uint32_t a) { return i.mods[2] == kAnd ? a & with : i.mods[2] == kOr ? a | with : a ^ with; };
    if (i.mods[2] == kAnd && with == 0) unknown = 0;
    write_predicate(w, i.pred0, combined(result), mask, unknown);
    write_predicate(w, i.pred1, combined(opposite), mask, unknown);
  }
  static uint16_t half_of(const Operand& s, uint32_t v) { return static_cast<uint16_t>(s.flags & kHighHalf ? v >> 16 : v); }
  // Half k of a pair, as the operand says: .H0_H0 and .H1_H1 take one half for both.
  static float part(const Operand& s, uint32_t v, int k, bool bfloat) {
    const bool upper = s.flags & kHighHalf ? true : s.flags & kLowHalf ? false : k == 1;
    float f = low_to_float(static_cast<uint16_t>(upper ? v >> 16 : v), bfloat);
    if (s.flags & kAbsolute) f = std::fabs(f);
    if (s.flags & kNegated) f = -f;
    return f;
  }

  // ---- control

  void run(Warp& w) {
    while (!w.ready.empty()) {
      // the smallest address first, as the code after a branch is where its sides meet
      auto at = std::min_element(w.ready.begin(), w.ready.end(), [](const Group& a, const Group& b) { return a.pc < b.pc; });
      Group g = *at;
      w.ready.erase(at);
      run(w, g);
    }
  }

  void branch_known(uint32_t unknown, uint32_t mask) const {
    if (unknown & mask) fail("a branch depends on a value that is not known (of a tensor-core product, or never written)");
  }

  void run(Warp& w, Group g) {
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
          bool first = true;
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
            first = false;
          }
          (void)first;
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
          if (i.mods[0] == 1) break;  // arrives and goes on: counted as there when others wait
          uint32_t buffer[kLanes];
          w.block_barrier = static_cast<int>(read(w, i.sources[0], buffer, unknown, As::kInteger)[__builtin_ctz(g.mask)]);
          w.block_count = i.sources[1].kind == kNone ? 0 : read(w, i.sources[1], buffer, unknown, As::kInteger)[__builtin_ctz(g.mask)];
          if (i.in0 >= 0) w.votes = (w.votes & ~g.mask) | (predicate(w, i.in0, i.in0_not, unknown) & g.mask);
          w.at_block |= g.mask;
          w.block_waiters.push_back({g.pc + 1, g.mask});
          return;
        }
        default:
          if (mask != 0 || i.op == VOTE) execute(w, mask);
      }
      ++g.pc;
      // sides of a branch that meet without a barrier stay apart, as on the chip
      if (!w.ready.empty() && g.mask != 0 && false) break;
    }
  }

  void go(Warp& w, Group& g, uint32_t taken, int64_t target) {
    const uint32_t stays = g.mask & ~taken;
    if (taken == 0) {
      ++g.pc;
    } else if (stays == 0) {
      g.pc = target;
    } else {
      // the nearer side first
      w.ready.push_back({target, taken});
      g = {g.pc + 1, stays};
    }
  }

  // Releases barriers of the warp that hold no lane that has not come.
  void settle(Warp& w) {
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
  void merge(Warp& w, std::vector<Group>& groups) {
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

  bool release_blocks() {
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
      // with a count: other warps have arrived without waiting, or no one can go on but these
      if (count == 0 && !all_there) continue;
      uint32_t votes = 0;
      for (Warp& w : warps_) {
        if (w.at_block != 0 && w.block_barrier == barrier) votes += static_cast<uint32_t>(count_bits(w.votes & w.at_block));
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
};

uint32_t Machine::special(Warp& w, int64_t which, int lane) const {
  const uint32_t thread = static_cast<uint32_t>(w.index * kLanes + lane);
  const uint32_t rank = block_[0] % l_.cluster;
  switch (which) {
    case 0: return thread % l_.block[0];
    case 1: return thread / l_.block[0] % l_.block[1];
    case 2: return thread / (l_.block[0] * l_.block[1]);
    case 3: case 4: case 5: return block_[which - 3];
    case 6: return static_cast<uint32_t>(lane);
    case 7: return rank;                        // SR_CgaCtaId
    case 8: return static_cast<uint32_t>(kSharedWindow);
    case 9: return 1u << lane;                  // EQMASK
    case 10: return (1u << lane) - 1;           // LTMASK
    case 11: return (2u << lane) - 1;           // LEMASK
    case 12: return ~((2u << lane) - 1);        // GTMASK
    case 13: return ~((1u << lane) - 1);        // GEMASK
    case 14: return l_.cluster;
    case 15: return 0;
    case 16: return thread % l_.block[0] | (thread / l_.block[0] % l_.block[1]) << 16;
    default: fail("special register " + std::to_string(which));
  }
}

void Machine::memory(Warp& w, uint32_t mask) {
  const Instruction& i = *i_;
  uint64_t addresses[kLanes] = {};
  uint32_t unknown = 0;
  for (int lane = 0; lane < kLanes; ++lane) {
    if (mask >> lane & 1) addresses[lane] = address_of(w, lane, unknown);
  }
  if ((unknown & mask) && !l_.fake_memory) fail("an address is not known");
  const int64_t bytes = i.width;
  const bool is_shared = i.op == LDS || i.op == STS || i.op == ATOMS;
  const int registers = static_cast<int>((bytes + 3) / 4);
  if (is_shared) {
    c_.passes[pc_] += bank_passes(addresses, mask, bytes);
  } else {
    uint32_t in_global = 0;
    for (int lane = 0; lane < kLanes; ++lane) {
      if ((mask >> lane & 1) && addresses[lane] >> 32 != kSharedWindow) in_global |= 1u << lane;
    }
    // a copy whose condition is false fills with zeros and reads nothing
    if (i.op == LDGSTS && i.in0 >= 0) in_global &= predicate(w, i.in0, i.in0_not, unknown);
    count_sectors(addresses, in_global, bytes, i.op == LDG && !i.mods[1]);
    if (mask & ~in_global && i.op != LDGSTS) c_.passes[pc_] += bank_passes(addresses, mask & ~in_global, bytes);
  }
  if (i.op == LDS || i.op == LDG) {
    uint32_t values[4][kLanes] = {};
    uint32_t not_known = 0;
    for (int lane = 0; lane < kLanes; ++lane) {
      if (!(mask >> lane & 1)) continue;
      uint32_t words[4] = {};
      bool is_unknown = false;
      if (is_shared) {
        std::memcpy(words, shared_at(addresses[lane], static_cast<uint64_t>(bytes)), static_cast<size_t>(bytes));
        is_unknown = shared_unknown(addresses[lane], static_cast<uint64_t>(bytes));
      } else if (i.mods[1]) {  // read with .STRONG: what another block writes is taken as there
        words[0] = 0x7fffffff;
      } else {
        load_words(addresses[lane], bytes, words, is_unknown);
      }
      if (bytes < 4 && i.mods[0]) {  // signed
        const int shift = 32 - 8 * static_cast<int>(bytes);
        words[0] = static_cast<uint32_t>(static_cast<int32_t>(words[0] << shift) >> shift);
      }
      if (is_unknown) not_known |= 1u << lane;
      for (int k = 0; k < registers; ++k) values[k][lane] = words[k];
    }
    for (int k = 0; k < registers; ++k) write(w, i.dest_kind, i.dest + (i.dest == kRegisters - 1 ? 0 : k), values[k], mask, not_known | unknown);
    return;
  }
  if (i.op == STS || i.op == STG) {
    for (int lane = 0; lane < kLanes; ++lane) {
      if (!(mask >> lane & 1)) continue;
      uint32_t words[4] = {};
      uint32_t not_known = 0;
      for (int k = 0; k < registers; ++k) {
        const int64_t r = i.sources[0].number;
        if (i.sources[0].kind == kRegister && r != kRegisters - 1) {
          words[k] = w.r[r + k][lane];
          not_known |= w.unknown[r + k] >> lane & 1;
        } else if (i.sources[0].kind == kUniformRegister && r != kUniform - 1) {
          words[k] = w.u[r + k];
          not_known |= w.u_unknown[r + k];
        }
      }
      if (is_shared) {
        std::memcpy(shared_at(addresses[lane], static_cast<uint64_t>(bytes)), words, static_cast<size_t>(bytes));
        set_shared_unknown(addresses[lane], static_cast<uint64_t>(bytes), not_known != 0);
      } else {
        store_words(addresses[lane], bytes, words, not_known != 0);
      }
    }
    return;
  }
  if (i.op == LDGSTS) {
    uint32_t valid = ~0u;
    if (i.in0 >= 0) valid = predicate(w, i.in0, i.in0_not, unknown);
    uint64_t places[kLanes] = {};
    for (int lane = 0; lane < kLanes; ++lane) {
      if (!(mask >> lane & 1)) continue;
      uint64_t to = static_cast<uint64_t>(i.second_offset);
      if (i.second_register >= 0 && i.second_register < kRegisters - 1) to += w.r[i.second_register][lane];
      if (i.second_uniform >= 0) to += w.u[i.second_uniform];
      places[lane] = to & 0xffffffffu;
      uint32_t words[4] = {};
      bool is_unknown = false;
      if (valid >> lane & 1) load_words(addresses[lane], bytes, words, is_unknown);
      std::memcpy(shared_at(places[lane], static_cast<uint64_t>(bytes)), words, static_cast<size_t>(bytes));
      set_shared_unknown(places[lane], static_cast<uint64_t>(bytes), is_unknown);
    }
    c_.passes[pc_] += bank_passes(places, mask, bytes);
    return;
  }
  // atomic operations: add, and, or, min, max, exchange, compare and swap
  uint32_t old_values[kLanes] = {};
  uint32_t buffer[kLanes], second[kLanes];
  const uint32_t* operand = read(w, i.sources[0], buffer, unknown, As::kInteger);
  const uint32_t* other = read(w, i.sources[1], second, unknown, As::kInteger);
  uint32_t result_unknown = 0;
  for (int lane = 0; lane < kLanes; ++lane) {
    if (!(mask >> lane & 1)) continue;
    uint32_t words[4] = {};
    bool is_unknown = false;
    if (is_shared) {
      std::memcpy(words, shared_at(addresses[lane], 4), 4);
      is_unknown = shared_unknown(addresses[lane], 4);
    } else {
      load_words(addresses[lane], 4, words, is_unknown);
    }
    const uint32_t old = words[0], v = operand[lane];
    uint32_t now = old;
    switch (i.mods[0]) {
      case 0: now = old + v; break;
      case 1: now = std::min(old, v); break;
      case 2: now = std::max(old, v); break;
      case 3: now = old & v; break;
      case 4: now = old | v; break;
      case 5: now = old ^ v; break;
      case 6: now = v; break;
      case 7: now = old == v ? other[lane] : old; break;
      case 8: now = static_cast<uint32_t>(std::min(static_cast<int32_t>(old), static_cast<int32_t>(v))); break;
      case 9: now = static_cast<uint32_t>(std::max(static_cast<int32_t>(old), static_cast<int32_t>(v))); break;
      case 10: now = bits_of(float_of(old) + float_of(v)); break;
      default: fail("an atomic operation that is not modelled");
    }
    words[0] = now;
    old_values[lane] = old;
    if (is_unknown) result_unknown |= 1u << lane;
    if (is_shared) {
      std::memcpy(shared_at(addresses[lane], 4), words, 4);
      set_shared_unknown(addresses[lane], 4, is_unknown || (unknown >> lane & 1));
    } else {
      store_words(addresses[lane], 4, words, is_unknown);
    }
  }
  write(w, i.dest_kind, i.dest, old_values, mask, result_unknown);
}

// Spills: a word of each lane lies beside those of the others, so a warp takes 4 sectors a word, mostly from L1.
void Machine::local(Warp& w, uint32_t mask) {
  const Instruction& i = *i_;
  if (w.local.empty()) w.local.assign(kLocalBytes / 4 * kLanes, 0);
  const int words = static_cast<int>((i.width + 3) / 4);
  c_.passes[pc_] += static_cast<uint64_t>(words);
  uint32_t unknown = 0, values[4][kLanes] = {};
  for (int lane = 0; lane < kLanes; ++lane) {
    if (!(mask >> lane & 1)) continue;
    const uint64_t address = address_of(w, lane, unknown);
    if (address + static_cast<uint64_t>(i.width) > kLocalBytes) fail("local memory beyond " + std::to_string(kLocalBytes) + " bytes");
    for (int k = 0; k < words; ++k) {
      uint32_t& word = w.local[(address / 4 + static_cast<uint64_t>(k)) * kLanes + static_cast<uint64_t>(lane)];
      const int64_t r = i.sources[0].number;
      if (i.op == LDL) {
        values[k][lane] = word;
      } else {
        word = r == kRegisters - 1 ? 0 : w.r[r + k][lane];
      }
    }
    if (i.width < 4) fail("a part of a word of local memory");
  }
  if (i.op == LDL) {
    for (int k = 0; k < words; ++k) write(w, i.dest_kind, i.dest + k, values[k], mask, 0);
  }
}

// LDSM: 8x8 matrices of 16-bit elements; STSM the other way round.
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

// mma.m16n8k16 of 16-bit elements with float sums: layouts as csrc/common/ptx.cuh tells.
void Machine::multiply(Warp& w, uint32_t mask) {
  const Instruction& i = *i_;
  const bool bfloat = i.mods[0] != 0;
  const int depth = static_cast<int>(i.mods[1]);  // 8 or 16
  const int64_t ra = i.sources[0].number, rb = i.sources[1].number, rc = i.sources[2].number;
  float a[16][16] = {}, b[16][8] = {}, d[16][8];
  uint32_t unknown = 0;
  const int halves = depth / 8;
  auto value = [&](int64_t r, int k, int lane) { return r == kRegisters - 1 ? 0u : w.r[r + k][lane]; };
  auto note = [&](int64_t r, int k) { if (r != kRegisters - 1) unknown |= w.unknown[r + k]; };
  for (int k = 0; k < 2 * halves; ++k) note(ra, k);
  for (int k = 0; k < halves; ++k) note(rb, k);
  for (int k = 0; k < 4; ++k) note(rc, k);
  for (int lane = 0; lane < kLanes; ++lane) {
    const int g = lane / 4, t = 2 * (lane % 4);
    for (int k = 0; k < 2 * halves; ++k) {
      const uint32_t v = value(ra, k, lane);
      for (int j = 0; j < 2; ++j) a[g + 8 * (k % 2)][t + j + 8 * (k / 2)] = low_to_float(static_cast<uint16_t>(v >> 16 * j), bfloat);
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

#define EACH for (int lane = 0; lane < kLanes; ++lane)

void Machine::execute(Warp& w, uint32_t mask) {
  const Instruction& i = *i_;
  uint32_t out[kLanes] = {}, b0[kLanes], b1[kLanes], b2[kLanes];
  uint32_t unknown = 0;
  switch (i.op) {
    case NOP:
      return;
    case LDG: case STG: case LDS: case STS: case LDGSTS: case ATOM: case RED: case ATOMS:
      memory(w, mask);
      return;
    case LDSM: case STSM:
      matrices(w, mask);
      return;
    case LDL: case STL:
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
      EACH out[lane] = static_cast<uint32_t>(issued_);
      write(w, i.dest_kind, i.dest, out, mask, 0);
      if (i.mods[0]) write(w, i.dest_kind, i.dest + 1, b0, mask, 0);
      return;
    case ZERO:
      for (int64_t k = 0; k < i.mods[0]; ++k) write(w, i.dest_kind, i.dest == kRegisters - 1 ? i.dest : i.dest + k, out, mask, 0);
      return;
    case LDC: {
      const int bytes = static_cast<int>(i.width);
      uint32_t high[kLanes] = {};
      EACH {
        if (!(mask >> lane & 1)) continue;
        uint64_t v = constant(w, i.sources[0], lane, bytes, unknown);
        if (i.mods[0] && bytes < 4) v = static_cast<uint64_t>(static_cast<int64_t>(v << (64 - 8 * bytes)) >> (64 - 8 * bytes));
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
          case 0: source = least | (by & ~segment); ok = source <= most; break;   // IDX
          case 1: source = lane - by; ok = source >= most; break;                 // UP
          case 2: source = lane + by; ok = source <= most; break;                 // DOWN
          default: source = lane ^ by; ok = source <= most;                       // BFLY
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
      const bool result = i.mods[0] == 0 ? votes == active : i.mods[0] == 1 ? votes != 0 : votes == active || votes == 0;
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
            case 0: sum += v; break;
            case 1: sum = std::min(sum, v); break;
            case 2: sum = std::max(sum, v); break;
            case 3: sum = static_cast<uint32_t>(std::min(static_cast<int32_t>(sum), static_cast<int32_t>(v))); break;
            case 4: sum = static_cast<uint32_t>(std::max(static_cast<int32_t>(sum), static_cast<int32_t>(v))); break;
            case 5: sum &= v; break;
            case 6: sum |= v; break;
            default: sum ^= v;
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
      arithmetic(w, mask);
  }
}

int64_t sign_extended(uint32_t v) { return static_cast<int64_t>(static_cast<int32_t>(v)); }

void Machine::arithmetic(Warp& w, uint32_t mask) {
  const Instruction& i = *i_;
  const Operand* s = i.sources;
  uint32_t out[kLanes] = {}, high[kLanes] = {}, b0[kLanes], b1[kLanes], b2[kLanes];
  uint32_t unknown = 0, carry0 = 0, carry1 = 0;
  const uint32_t in0 = predicate(w, i.in0, i.in0_not, unknown);
  const uint32_t in1 = predicate(w, i.in1, i.in1_not, unknown);
  auto integers = [&](int k, uint32_t (&buffer)[kLanes]) { return read(w, s[k], buffer, unknown, As::kInteger); };
  auto floats = [&](int k, uint32_t (&buffer)[kLanes]) { return read(w, s[k], buffer, unknown, As::kFloat); };
  auto flushed = [](float f) { return std::fabs(f) < 1.17549435e-38f ? std::copysign(0.0f, f) : f; };
  switch (i.op) {
    case MOV: {
      const uint32_t* a = integers(0, b0);
      write(w, i.dest_kind, i.dest, a, mask, unknown);
      return;
    }
    case IMAD: {  // mods: has carry in
      const uint32_t *a = integers(0, b0), *b = integers(1, b1), *c = integers(2, b2);
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
      const uint32_t* v[3] = {read_plain(w, s[0], b0, unknown), read_plain(w, s[1], b1, unknown), read_plain(w, s[2], b2, unknown)};
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
      const uint32_t *a = integers(0, b0), *b = read_plain(w, s[1], b1, unknown);
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
      const uint32_t *a = read_plain(w, s[0], b0, unknown), *b = integers(1, b1);
      uint32_t zero[kLanes] = {};
      const uint32_t* c = i.mods[2] ? zero : read_plain(w, s[2], b2, unknown);
      EACH {
        uint64_t v = i.mods[2] ? static_cast<uint64_t>(sign_extended(a[lane])) : (static_cast<uint64_t>(c[lane]) << 32 | a[lane]);
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
      const uint32_t *a = integers(0, b0), *b = integers(1, b1), *c = integers(2, b2);
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
      // x & 0 and x | ~0 are known whatever x is: what sets registers to zero looks like that
      if ((table == 0x0 || table == 0xff)) unknown = 0;
      write_predicate(w, i.pred0, carry0 | in0, mask, unknown);
      break;
    }
    case PLOP3: {
      const uint32_t *a = integers(0, b0), *b = integers(1, b1), *c = integers(2, b2);
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
      const uint32_t *a = integers(0, b0), *n = integers(1, b1), *c = integers(2, b2);
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
      const uint32_t *a = integers(0, b0), *n = integers(1, b1), *c = integers(2, b2);
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
      const uint32_t *a = integers(0, b0), *b = integers(1, b1);
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
    case SEL: case FSEL: {  // what is not taken may be unknown
      const As as = i.op == SEL ? As::kInteger : As::kFloat;
      uint32_t first = 0, second = 0;
      const uint32_t *a = read(w, s[0], b0, first, as), *b = read(w, s[1], b1, second, as);
      EACH out[lane] = in0 >> lane & 1 ? a[lane] : b[lane];
      unknown |= (first & in0) | (second & ~in0);
      break;
    }
    case IABS: {
      const uint32_t* a = integers(0, b0);
      EACH out[lane] = static_cast<int32_t>(a[lane]) < 0 ? 0u - a[lane] : a[lane];
      break;
    }
    case VIMNMX:      // mods: signed
    case VIADDMNMX: {
      const uint32_t *a = integers(0, b0), *b = integers(1, b1);
      const uint32_t* c = i.op == VIADDMNMX ? integers(2, b2) : b;
      EACH {
        const uint32_t first = i.op == VIADDMNMX ? a[lane] + b[lane] : a[lane];
        const bool less = i.mods[0] ? static_cast<int32_t>(first) < static_cast<int32_t>(c[lane]) : first < c[lane];
        uint32_t r = less == ((in0 >> lane & 1) != 0) ? first : c[lane];
        if (i.mods[1] && static_cast<int32_t>(r) < 0) r = 0;  // RELU
        out[lane] = r;
      }
      break;
    }
    case POPC: {
      const uint32_t* a = integers(0, b0);
      EACH out[lane] = static_cast<uint32_t>(count_bits(a[lane]));
      break;
    }
    case FLO: {  // mods: signed, as a shift
      const uint32_t* a = integers(0, b0);
      EACH {
        uint32_t v = a[lane];
        if (i.mods[0] && static_cast<int32_t>(v) < 0) v = ~v;
        out[lane] = v == 0 ? ~0u : i.mods[1] ? static_cast<uint32_t>(__builtin_clz(v)) : 31u - static_cast<uint32_t>(__builtin_clz(v));
      }
      break;
    }
    case BREV: {
      const uint32_t* a = integers(0, b0);
      EACH {
        for (int k = 0; k < 32; ++k) out[lane] |= (a[lane] >> k & 1) << (31 - k);
      }
      break;
    }
    case SGXT: {
      const uint32_t *a = integers(0, b0), *n = integers(1, b1);
      EACH {
        const uint32_t bits = std::min(n[lane], 32u);
        if (bits == 0) continue;
        const uint32_t v = a[lane] << (32 - bits);
        out[lane] = i.mods[0] ? static_cast<uint32_t>(static_cast<int32_t>(v) >> (32 - bits)) : v >> (32 - bits);
      }
      break;
    }
    case BMSK: {
      const uint32_t *a = integers(0, b0), *n = integers(1, b1);
      EACH {
        const uint32_t at = std::min(a[lane], 32u), bits = std::min(n[lane], 32u);
        const uint64_t m = ((1ull << bits) - 1) << at;
        out[lane] = static_cast<uint32_t>(m);
      }
      break;
    }
    case FFMA: case FADD: case FMUL: {  // mods: flush, saturate, rounding (0 nearest, 1 down, 2 up, 3 to zero)
      const uint32_t *a = floats(0, b0), *b = floats(1, b1);
      const uint32_t* c = i.op == FFMA ? floats(2, b2) : b;
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
      const uint32_t *a = floats(0, b0), *b = floats(1, b1);
      EACH {
        const float x = float_of(a[lane]), y = float_of(b[lane]);
        float r = in0 >> lane & 1 ? std::fmin(x, y) : std::fmax(x, y);
        if (i.mods[0] && (x != x || y != y)) r = float_of(0x7fffffffu);
        out[lane] = bits_of(r);
      }
      break;
    }
    case FSETP: case FSET: {
      const uint32_t *a = floats(0, b0), *b = floats(1, b1);
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
      const uint32_t *a = floats(0, b0), *b = floats(1, b1);
      EACH {
        if (unknown >> lane & 1) continue;
        const int ea = static_cast<int>(a[lane] >> 23 & 255), eb = static_cast<int>(b[lane] >> 23 & 255);
        const bool plain = eb > 1 && eb < 253 && (ea > 24 || (a[lane] & 0x7fffffffu) == 0) && ea < 255 && ea - eb < 126 && (ea - eb > -125 || ea == 0);
        if (!plain) carry0 |= 1u << lane;
      }
      write_predicate(w, i.pred0, carry0, mask, 0);
      return;
    }
    case MUFU: {
      const uint32_t* a = floats(0, b0);
      EACH {
        const float x = float_of(a[lane]);
        float r = 0;
        switch (i.mods[0]) {
          case 0: r = 1.0f / x; break;
          case 1: r = 1.0f / std::sqrt(x); break;
          case 2: r = std::exp2(x); break;
          case 3: r = std::log2(x); break;
          case 4: r = std::sin(x); break;
          case 5: r = std::cos(x); break;
          case 6: r = std::sqrt(x); break;
          case 7: r = std::tanh(x); break;
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
    case I2F: {  // mods: bytes, signed, to double, rounding
      EACH {
        if (!(mask >> lane & 1)) continue;
        uint64_t v;
        if (i.mods[0] == 8) {
          v = wide(w, s[0], lane, unknown);
        } else {
          v = integers(0, b0)[lane];
          v >>= 8 * i.mods[4];
          if (i.mods[0] < 4) v &= (1u << 8 * i.mods[0]) - 1;
          if (i.mods[1]) v = static_cast<uint64_t>(static_cast<int64_t>(v << (64 - 8 * i.mods[0])) >> (64 - 8 * i.mods[0]));
        }
        if (i.mods[2]) {
          const double d = i.mods[1] ? static_cast<double>(static_cast<int64_t>(v)) : static_cast<double>(v);
          out[lane] = static_cast<uint32_t>(bits_of(d));
          high[lane] = static_cast<uint32_t>(bits_of(d) >> 32);
        } else {
          static const int kModes[] = {FE_TONEAREST, FE_DOWNWARD, FE_UPWARD, FE_TOWARDZERO};
          if (i.mods[3]) std::fesetround(kModes[i.mods[3]]);
          volatile uint64_t exact = v;
          volatile float f = i.mods[1] ? static_cast<float>(static_cast<int64_t>(exact)) : static_cast<float>(static_cast<uint64_t>(exact));
          if (i.mods[3]) std::fesetround(FE_TONEAREST);
          out[lane] = bits_of(f);
        }
      }
      if (i.mods[5]) EACH out[lane] = float_to_low(float_of(out[lane]), i.mods[5] == 2);
      if (i.mods[2]) write(w, i.dest_kind, i.dest + 1, high, mask, unknown);
      break;
    }
    case F2I: {  // mods: bytes, signed, from double, rounding (0 nearest, 1 floor, 2 ceil, 3 trunc)
      EACH {
        if (!(mask >> lane & 1)) continue;
        double d = i.mods[2] ? wide_double(w, s[0], lane, unknown) : static_cast<double>(float_of(floats(0, b0)[lane]));
        if (i.mods[4]) d = low_to_float(static_cast<uint16_t>(integers(0, b0)[lane]), i.mods[4] == 2);
        d = i.mods[3] == 1 ? std::floor(d) : i.mods[3] == 2 ? std::ceil(d) : i.mods[3] == 3 ? std::trunc(d) : std::nearbyint(d);
        const int bits = static_cast<int>(8 * i.mods[0]);
        uint64_t v;
        if (d != d) {
          v = i.mods[1] ? (bits == 64 ? 1ull << 63 : 0x80000000u) : 0;
          if (bits == 32 && !i.mods[2]) v = i.mods[1] ? 0x80000000u : ~0u;
          v = bits == 32 ? 0 : v;
        } else if (i.mods[1]) {
          const double most = std::ldexp(1.0, bits - 1);
          v = d >= most ? (1ull << (bits - 1)) - 1 : d < -most ? 1ull << (bits - 1) : static_cast<uint64_t>(static_cast<int64_t>(d));
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
    case F2F: {  // mods: from, to (0 float, 1 half, 2 bfloat, 3 double), rounding to integers
      EACH {
        if (!(mask >> lane & 1)) continue;
        double d;
        if (i.mods[0] == 3) {
          d = wide_double(w, s[0], lane, unknown);
        } else if (i.mods[0] == 0) {
          d = float_of(floats(0, b0)[lane]);
        } else {
          d = low_to_float(half_of(s[0], integers(0, b0)[lane]), i.mods[0] == 2);
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
      const uint32_t *a = floats(0, b0), *b = floats(1, b1);
      const bool bfloat = i.mods[0] == 2;
      EACH {
        float x = float_of(a[lane]), y = float_of(b[lane]);
        if (i.mods[1]) x = std::fmax(x, 0.0f), y = std::fmax(y, 0.0f);
        out[lane] = static_cast<uint32_t>(float_to_low(x, bfloat)) << 16 | float_to_low(y, bfloat);
      }
      break;
    }
    case FRND: {
      const uint32_t* a = floats(0, b0);
      EACH {
        const float x = float_of(a[lane]);
        out[lane] = bits_of(i.mods[0] == 1 ? std::floor(x) : i.mods[0] == 2 ? std::ceil(x) : i.mods[0] == 3 ? std::trunc(x) : std::nearbyint(x));
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
    case HFMA2: case HADD2: case HMUL2: case HMNMX2: {  // mods: kind, relu
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
        if (compare_float(i.mods[0], part(s[0], a[lane], 1, bfloat), part(s[1], b[lane], 1, bfloat))) upper |= 1u << lane;
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
    case DADD: case DMUL: case DFMA: {
      EACH {
        if (!(mask >> lane & 1)) continue;
        const double x = wide_double(w, s[0], lane, unknown), y = wide_double(w, s[1], lane, unknown);
        const double r = i.op == DFMA ? std::fma(x, y, wide_double(w, s[2], lane, unknown)) : i.op == DADD ? x + y : x * y;
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
        if (compare_float(i.mods[0], wide_double(w, s[0], lane, unknown), wide_double(w, s[1], lane, unknown))) result |= 1u << lane;
      }
      set_both(w, i, result, in0, mask, unknown);
      return;
    }
    default:
      fail("operation " + std::to_string(i.op) + " has no meaning");
  }
  write(w, i.dest_kind, i.dest, out, mask, unknown);
}

}  // namespace
}  // namespace issue_model

extern "C" {

// The names of the operations by number, one a line.
const char* issue_model_operations() {
  static const std::string names = [] {
    std::string all;
    for (const char* name : issue_model::kNames) all += std::string(name) + "\n";
    return all;
  }();
  return names.c_str();
}

int64_t issue_model_fields() { return sizeof(issue_model::Instruction) / 8; }

// Runs one block; returns the warp instructions issued, or -1 with a text. `longest` gets the most of one warp.
int64_t issue_model_run(const int64_t* program, int64_t length, const uint8_t* const* banks, const int64_t* bank_bytes,
                        const uint32_t* grid, const uint32_t* block, const uint32_t* index, uint32_t cluster,
                        int64_t shared_bytes, const uint64_t* ranges, int64_t range_count, int fake_memory,
                        uint64_t most_issues, uint64_t* issued, uint64_t* lanes, uint64_t* passes, uint64_t* sectors,
                        uint64_t* longest, char* error, int64_t error_bytes) {
  issue_model::Launch launch{};
  launch.program = reinterpret_cast<const issue_model::Instruction*>(program);
  launch.length = length;
  for (int bank = 0; bank < 8; ++bank) {
    launch.banks[bank] = banks[bank];
    launch.bank_bytes[bank] = bank_bytes[bank];
  }
  std::copy(grid, grid + 3, launch.grid);
  std::copy(block, block + 3, launch.block);
  launch.cluster = cluster;
  launch.shared_bytes = shared_bytes;
  for (int64_t i = 0; i < range_count; ++i) launch.ranges.push_back({ranges[2 * i], ranges[2 * i + 1]});
  launch.fake_memory = fake_memory != 0;
  launch.most_issues = most_issues;
  try {
    issue_model::Machine machine(launch, {index[0], index[1], index[2]}, {issued, lanes, passes, sectors});
    const uint64_t count = machine.run();
    *longest = machine.longest();
    return static_cast<int64_t>(count);
  } catch (const std::exception& caught) {
    std::strncpy(error, caught.what(), static_cast<size_t>(error_bytes) - 1);
    return -1;
  }
}
}
