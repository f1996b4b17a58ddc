// What Python hands over, and the state of a warp.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

namespace issue_model {

constexpr int kLanes = 32;
constexpr int kRegisters = 256;  // the last one is RZ
constexpr int kUniform = 64;     // the last one is URZ
constexpr int kPredicates = 16;  // P0 to P6 and PT, then UP0 to UP6 and UPT
constexpr int kSources = 6;

// The operations; decode/ finds them by name.
// clang-format off
#define OPS(X) \
  X(IMAD) X(IMAD_WIDE) X(IMAD_HI) X(IADD3) X(LEA) X(LEA_HI) X(LOP3) X(PLOP3) X(SHF) X(PRMT) X(ISETP) X(SEL) X(IABS) \
  X(VIMNMX) X(VIADDMNMX) X(MOV) X(LDC) X(SREG) X(ZERO) X(POPC) X(FLO) X(BREV) X(SGXT) X(BMSK) X(R2UR) X(P2R) X(R2P) \
  X(I2F) X(F2I) X(F2F) X(F2FP) X(FRND) X(MUFU) X(FFMA) X(FADD) X(FMUL) X(FMNMX) X(FSEL) X(FSETP) X(FSET) X(FCHK) \
  X(HADD2_F32) X(HFMA2) X(HADD2) X(HMUL2) X(HMNMX2) X(HSETP2) X(DADD) X(DMUL) X(DFMA) X(DSETP) X(SHFL) X(VOTE) \
  X(REDUX) X(LDG) X(STG) X(LDS) X(STS) X(LDGSTS) X(LDSM) X(STSM) X(ATOM) X(RED) X(ATOMS) X(HMMA) X(UNKNOWN) X(NOP) \
  X(BRA) X(BRA_DIV) X(BRX) X(CALL) X(RET) X(EXIT) X(BSSY) X(BSYNC) X(BREAK) X(WARPSYNC) X(BAR) X(B2R) X(MATCH) \
  X(ELECT) X(BMOV_OUT) X(BMOV_IN) X(S2R_CLOCK) X(LDL) X(STL) X(TRAP)
// clang-format on

enum Op : int64_t {
#define X(name) name,
  OPS(X)
#undef X
};

// Operand kinds; decode/row.py numbers them in the same order.
enum Kind : int64_t { kNone, kRegister, kUniformRegister, kPredicate, kImmediate, kConstant };
// Flags of an operand.
constexpr int64_t kNegated = 1, kAbsolute = 2, kInverted = 4, kNot = 8, kHighHalf = 16, kLowHalf = 32;

struct Operand {
  int64_t kind, number, flags, value, bank;  // a constant: value is the offset, number its index register or -1
};

// One instruction, all fields 64 bits wide: a row of the array that Python makes.
struct Instruction {
  int64_t op, guard, guard_not, uniform;
  int64_t dest_kind, dest, pred0, pred1;
  int64_t mods[6];
  int64_t target;
  int64_t address_mode, address_register, address_scale, address_uniform, address_offset;  // see Address below
  int64_t second_register, second_offset, second_uniform;  // LDGSTS: where it goes in shared memory
  int64_t width;
  Operand sources[kSources];
  int64_t in0, in0_not, in1, in1_not;  // predicates read, -1 for none
};

enum Address : int64_t { kNoAddress, kAddress32, kAddress64, kAddressUniformBase };

// Bytes of a thread's local memory; the stack begins at its end and grows down.
constexpr int kLocalBytes = 16384;

struct Fault : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Range {
  uint64_t begin, end;
};

struct Counters {
  uint64_t *issued, *lanes, *passes, *sectors;  // per instruction
};

struct Launch {
  const Instruction* program;
  int64_t length;
  const uint8_t* banks[8];
  int64_t bank_bytes[8];
  uint32_t grid[3], block[3];
  uint32_t cluster;
  int64_t shared_bytes;  // from the window's beginning, with the reserved kilobyte
  std::vector<Range> ranges;
  bool fake_memory;  // loads outside of `ranges` give numbers made up from the address; else they are an error
  uint64_t most_issues;
};

struct Group {
  int64_t pc;
  uint32_t mask;
};

struct Warp {
  uint32_t r[kRegisters][kLanes];
  uint32_t unknown[kRegisters];  // lanes whose value is not known
  uint32_t u[kUniform];
  bool u_unknown[kUniform];
  uint32_t p[kPredicates], p_unknown[kPredicates];  // one bit per lane; in uniform ones all bits are equal
  uint32_t barrier[16], waiting[16];
  int64_t barrier_resume[16];
  std::vector<Group> ready;
  uint32_t alive, at_warpsync, at_block;
  std::vector<Group> warpsync, block_waiters;
  uint32_t warpsync_mask;
  int block_barrier;
  int64_t block_count;
  uint64_t issued;
  int index;
  uint32_t voted, votes;
  std::vector<uint32_t> local;  // (word, lane): what does not fit in the registers
};

}  // namespace issue_model
