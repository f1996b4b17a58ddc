// Settings and results of a test, used between launches.
#pragma once

#include <cstdint>
#include <string>

namespace emulator {

enum class Schedule : int { kForward, kReverse, kRandom };

struct Session {
  Schedule schedule = Schedule::kForward;
  unsigned seed = 0;
  int64_t launches = 0, blocks = 0;
};
inline Session session;

// Requests of whole warps, summed over everything that was counted.
struct Traffic {
  int64_t requests = 0;
  int64_t units = 0;    // sectors of 32 bytes (global), passes over the banks (shared)
  int64_t fewest = 0;   // units if the same bytes were dense (global), or free of conflicts (shared)
  int64_t bytes = 0;    // bytes that were requested
  int64_t touched = 0;  // distinct sectors over the whole count (global)
};

struct Counters {
  Traffic load_global, store_global, load_shared, store_shared;
};

const std::string& failure();  // the text of the last launch that failed
void start_counting();
Counters stop_counting();

// Calls between the scheduler and the counters.
const void* warp_now();
const void* block_now();
void count_block_ends(const void* block);

}  // namespace emulator
