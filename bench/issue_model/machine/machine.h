// One thread block on the CPU. Its members are defined in operands.cpp, memory.cpp, control.cpp, lanes.cpp (operations
// between lanes), integers.cpp, floats.cpp and matrices.cpp.
#pragma once

#include <algorithm>
#include <string>
#include <unordered_set>
#include <vector>

#include "numbers.h"
#include "state.h"

#define EACH for (int lane = 0; lane < kLanes; ++lane)

namespace issue_model {

class Machine {
 public:
  Machine(const Launch& launch, const uint32_t (&index)[3], Counters counters)
      : l_(launch),
        c_(counters),
        shared_(static_cast<size_t>(launch.shared_bytes)),
        shared_unknown_(shared_.size() / 4 + 1, 1) {
    std::copy(index, index + 3, block_);
    threads_ = static_cast<int>(l_.block[0] * l_.block[1] * l_.block[2]);
    warps_.resize(static_cast<size_t>((threads_ + kLanes - 1) / kLanes));
    for (size_t i = 0; i < warps_.size(); ++i) start(warps_[i], static_cast<int>(i));
  }

  uint64_t run();
  uint64_t longest() const;

 private:
  const Launch& l_;
  Counters c_;
  std::vector<uint8_t> shared_, shared_unknown_;
  std::vector<Warp> warps_;
  uint32_t block_[3];
  int threads_;
  uint64_t issued_ = 0;
  uint64_t strong_reads_ = 0;
  const Instruction* i_ = nullptr;
  int64_t pc_ = 0;
  size_t last_range_ = 0;
  std::unordered_set<uint64_t> in_l1_;

  void start(Warp& w, int index);

  [[noreturn]] void fail(const std::string& what) const {
    throw Fault("instruction " + std::to_string(pc_) + ": " + what);
  }

  // ---- operands

  // The value of a source for every lane; its sign is applied as to integers or as to floats.
  enum class As { kInteger, kFloat };
  const uint32_t* read(Warp& w, const Operand& s, uint32_t (&buffer)[kLanes], uint32_t& unknown, As as);
  // Without the sign: carries need the sign separately.
  const uint32_t* read_plain(Warp& w, const Operand& s, uint32_t (&buffer)[kLanes], uint32_t& unknown);
  uint64_t constant(Warp& w, const Operand& s, int lane, int bytes, uint32_t& unknown) const;
  uint64_t constant_at(int64_t bank, int64_t offset, int bytes) const;
  // 64 bits: a register and the next one.
  uint64_t wide(Warp& w, const Operand& s, int lane, uint32_t& unknown);
  double wide_double(Warp& w, const Operand& s, int lane, uint32_t& unknown);

  void write(Warp& w, int64_t kind, int64_t number, const uint32_t* values, uint32_t mask, uint32_t unknown);
  void write_predicate(Warp& w, int64_t p, uint32_t values, uint32_t mask, uint32_t unknown);
  uint32_t predicate(Warp& w, int64_t p, int64_t is_not, uint32_t& unknown) const;

  // A comparison's two results: itself and its opposite, each combined with a predicate.
  void set_both(Warp& w, const Instruction& i, uint32_t result, uint32_t with, uint32_t mask, uint32_t unknown);
  static uint16_t half_of(const Operand& s, uint32_t v) {
    return static_cast<uint16_t>(s.flags & kHighHalf ? v >> 16 : v);
  }
  // Half k of a pair, as the operand says: .H0_H0 and .H1_H1 take one half for both.
  static float part(const Operand& s, uint32_t v, int k, bool bfloat);

  // ---- memory

  bool known(uint64_t address, uint64_t bytes);
  static constexpr uint64_t kSharedWindow = 0x7fu;  // the upper half of a generic address of shared memory

  uint64_t address_of(Warp& w, int lane, uint32_t& unknown) const;

  uint8_t* shared_at(uint64_t address, uint64_t bytes);
  bool shared_unknown(uint64_t address, uint64_t bytes) const;
  void set_shared_unknown(uint64_t address, uint64_t bytes, bool is) {
    address &= 0xffffffu;
    for (uint64_t word = address / 4; word <= (address + bytes - 1) / 4; ++word) shared_unknown_[word] = is;
  }

  // Passes over the 32 banks of 4 bytes; wide accesses go in halves or quarters of a warp.
  uint64_t bank_passes(const uint64_t* addresses, uint32_t mask, int64_t bytes) const;
  // Counts the sectors of 32 bytes that a warp asks of the L2: those of a load that this block has not loaded before,
  // as if L1 forgot nothing, and all of a strong load, a store, an atomic operation or an asynchronous copy.
  void count_sectors(const uint64_t* addresses, uint32_t mask, int64_t bytes, bool through_l1);

  // The made-up content of memory that does not exist: bfloat16 of about unit variance, so that float32 has it too.
  static uint32_t invented(uint64_t address, int64_t bytes);

  void load_words(uint64_t address, int64_t bytes, uint32_t (&words)[4], bool& unknown);
  void store_words(uint64_t address, int64_t bytes, const uint32_t (&words)[4], bool unknown);

  void memory(Warp& w, uint32_t mask);
  void local(Warp& w, uint32_t mask);
  void matrices(Warp& w, uint32_t mask);
  void multiply(Warp& w, uint32_t mask);
  void execute(Warp& w, uint32_t mask);
  void integers(Warp& w, uint32_t mask);
  void floats(Warp& w, uint32_t mask);
  uint32_t special(Warp& w, int64_t which, int lane) const;

  // ---- control

  void run(Warp& w);

  void branch_known(uint32_t unknown, uint32_t mask) const {
    if (unknown & mask)
      fail("a branch depends on a value that is not known (of a tensor-core product, or never written)");
  }

  void run(Warp& w, Group g);

  void go(Warp& w, Group& g, uint32_t taken, int64_t target);

  // Releases the warp's barriers at which all lanes have arrived.
  void settle(Warp& w);
  void merge(Warp& w, std::vector<Group>& groups);

  bool release_blocks();
};

}  // namespace issue_model
