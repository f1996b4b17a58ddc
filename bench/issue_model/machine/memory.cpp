// Global, shared and local memory, with the passes over banks and the sectors that accesses take.

#include <cstdio>
#include <cstring>

#include "machine.h"

namespace issue_model {

bool Machine::known(uint64_t address, uint64_t bytes) {
  if (l_.ranges.empty()) return false;
  const Range& last = l_.ranges[last_range_];
  if (address >= last.begin && address + bytes <= last.end) return true;
  auto at = std::upper_bound(l_.ranges.begin(), l_.ranges.end(), address,
                             [](uint64_t a, const Range& r) { return a < r.begin; });
  if (at == l_.ranges.begin()) return false;
  --at;
  if (address + bytes > at->end) return false;
  last_range_ = static_cast<size_t>(at - l_.ranges.begin());
  return true;
}

uint64_t Machine::address_of(Warp& w, int lane, uint32_t& unknown) const {
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

uint8_t* Machine::shared_at(uint64_t address, uint64_t bytes) {
  address &= 0xffffffu;  // the block's number in its cluster is above
  if (address + bytes > shared_.size()) {
    fail("reaches " + std::to_string(address + bytes) + " of " + std::to_string(shared_.size()) +
         " bytes of shared memory");
  }
  if (address % bytes != 0)
    fail("shared memory at " + std::to_string(address) + " is not aligned to " + std::to_string(bytes));
  return shared_.data() + address;
}

bool Machine::shared_unknown(uint64_t address, uint64_t bytes) const {
  address &= 0xffffffu;
  for (uint64_t word = address / 4; word <= (address + bytes - 1) / 4; ++word) {
    if (shared_unknown_[word]) return true;
  }
  return false;
}

// Passes over the 32 banks of 4 bytes; wide accesses go in halves or quarters of a warp.
uint64_t Machine::bank_passes(const uint64_t* addresses, uint32_t mask, int64_t bytes) const {
  const int at_once = bytes <= 4 ? 32 : bytes == 8 ? 16 : 8;
  uint64_t passes = 0;
  for (int first = 0; first < kLanes; first += at_once) {
    uint32_t words[kLanes][16];
    int count[kLanes] = {};
    int most = 0;
    for (int lane = first; lane < first + at_once; ++lane) {
      if (!(mask >> lane & 1)) continue;
      for (uint64_t word = (addresses[lane] & 0xffffffu) / 4;
           word <= ((addresses[lane] & 0xffffffu) + static_cast<uint64_t>(bytes) - 1) / 4; ++word) {
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

// Counts the sectors of 32 bytes that a warp asks of the L2: those of a load that this block has not loaded before, as
// if L1 forgot nothing, and all of a strong load, a store, an atomic operation or an asynchronous copy.
void Machine::count_sectors(const uint64_t* addresses, uint32_t mask, int64_t bytes, bool through_l1) {
  uint64_t seen[2 * kLanes];
  int n = 0;
  for (int lane = 0; lane < kLanes; ++lane) {
    if (!(mask >> lane & 1)) continue;
    for (uint64_t s = addresses[lane] / 32; s <= (addresses[lane] + static_cast<uint64_t>(bytes) - 1) / 32; ++s)
      seen[n++] = s;
  }
  std::sort(seen, seen + n);
  const auto* end = std::unique(seen, seen + n);
  const auto count = static_cast<uint64_t>(end - seen);
  c_.passes[pc_] += (count + 3) / 4;  // L1 and shared memory are one: 128 bytes per cycle
  if (!through_l1) {
    c_.sectors[pc_] += count;
    return;
  }
  for (const uint64_t* s = seen; s != end; ++s) c_.sectors[pc_] += in_l1_.insert(*s).second;
}

// The made-up content of memory that does not exist: bfloat16 of about unit variance, so that float32 has it too.
uint32_t Machine::invented(uint64_t address, int64_t bytes) {
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

void Machine::load_words(uint64_t address, int64_t bytes, uint32_t (&words)[4], bool& unknown) {
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
    std::snprintf(text, sizeof text, "loads %d bytes at 0x%llx", static_cast<int>(bytes),
                  static_cast<unsigned long long>(address));
    fail(std::string(text) + ", outside of every tensor of the call");
  }
  if (bytes < 4) words[0] &= (1u << 8 * bytes) - 1;
}

void Machine::store_words(uint64_t address, int64_t bytes, const uint32_t (&words)[4], bool unknown) {
  if (address >> 32 == kSharedWindow) {
    std::memcpy(shared_at(address & 0xffffffffu, static_cast<uint64_t>(bytes)), words, static_cast<size_t>(bytes));
    set_shared_unknown(address & 0xffffffffu, static_cast<uint64_t>(bytes), unknown);
  } else if (known(address, static_cast<uint64_t>(bytes))) {
    std::memcpy(reinterpret_cast<void*>(address), words, static_cast<size_t>(bytes));
  } else if (!l_.fake_memory) {
    char text[64];
    std::snprintf(text, sizeof text, "stores %d bytes at 0x%llx", static_cast<int>(bytes),
                  static_cast<unsigned long long>(address));
    fail(std::string(text) + ", outside of every tensor of the call");
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
      } else if (i.mods[1]) {  // a .STRONG read polls for another block: both signs come within two reads
        words[0] = strong_reads_++ % 2 == 0 ? 0xffffffff : 0x7fffffff;
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
    for (int k = 0; k < registers; ++k)
      write(w, i.dest_kind, i.dest + (i.dest == kRegisters - 1 ? 0 : k), values[k], mask, not_known | unknown);
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
  // atomic operations
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
      case 0:
        now = old + v;
        break;
      case 1:
        now = std::min(old, v);
        break;
      case 2:
        now = std::max(old, v);
        break;
      case 3:
        now = old & v;
        break;
      case 4:
        now = old | v;
        break;
      case 5:
        now = old ^ v;
        break;
      case 6:
        now = v;
        break;
      case 7:
        now = old == v ? other[lane] : old;
        break;
      case 8:
        now = static_cast<uint32_t>(std::min(static_cast<int32_t>(old), static_cast<int32_t>(v)));
        break;
      case 9:
        now = static_cast<uint32_t>(std::max(static_cast<int32_t>(old), static_cast<int32_t>(v)));
        break;
      case 10:
        now = bits_of(float_of(old) + float_of(v));
        break;
      default:
        fail("an atomic operation that is not modelled");
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

// Spills: the lanes' words lie side by side, so a warp takes 4 sectors per word, mostly from L1.
void Machine::local(Warp& w, uint32_t mask) {
  const Instruction& i = *i_;
  if (w.local.empty()) w.local.assign(kLocalBytes / 4 * kLanes, 0);
  const int words = static_cast<int>((i.width + 3) / 4);
  c_.passes[pc_] += static_cast<uint64_t>(words);
  uint32_t unknown = 0, values[4][kLanes] = {};
  for (int lane = 0; lane < kLanes; ++lane) {
    if (!(mask >> lane & 1)) continue;
    const uint64_t address = address_of(w, lane, unknown);
    if (address + static_cast<uint64_t>(i.width) > kLocalBytes)
      fail("local memory beyond " + std::to_string(kLocalBytes) + " bytes");
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

}  // namespace issue_model
