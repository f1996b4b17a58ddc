// Runs the sm_90 machine code of one thread block, warp by warp, and counts what is issued: the functions that Python
// calls.
//
// Integers, predicates, addresses, control flow, memory, float32 arithmetic and mma are exact, so loops run as often as
// on the chip. What is not computed (wgmma, mma of TF32) leaves unknown values; a branch on one is an error.

#include <algorithm>
#include <cstring>

#include "machine.h"

namespace {

const char* const kNames[] = {
#define X(name) #name,
    OPS(X)
#undef X
};

}  // namespace

extern "C" {

// The names of the operations by number, one per line.
const char* issue_model_operations() {
  static const std::string names = [] {
    std::string all;
    for (const char* name : kNames) all += std::string(name) + "\n";
    return all;
  }();
  return names.c_str();
}

int64_t issue_model_fields() { return sizeof(issue_model::Instruction) / 8; }

// Runs one block. Returns the warp instructions issued, or -1 and the text in `error`; `longest` gets the most that one
// warp issued.
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
