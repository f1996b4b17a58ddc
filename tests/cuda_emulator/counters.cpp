// Counts what a warp's accesses cost: sectors of global memory, passes over the banks of shared memory.
//
// Lanes run one after the other, so the requests of a warp are assembled afterwards: the n-th accesses of all lanes
// from one place in the code are one request. The hardware does the same while the lanes stay together.

#include <algorithm>
#include <array>
#include <map>
#include <tuple>
#include <unordered_set>
#include <vector>

#include "emulator/emulator.h"
#include "session.h"

namespace emulator {

bool counting = false;

namespace {

constexpr uint64_t kSector = 32;
constexpr uint64_t kBanks = 32, kBankBytes = 4, kPassBytes = kBanks * kBankBytes;

struct Request {
  Access kind;
  size_t bytes;
  std::vector<uint64_t> addresses;
};

struct CountedWarp {
  std::map<std::pair<const void*, int>, int> times;          // (place, lane) -> accesses so far
  std::map<std::tuple<const void*, int>, Request> requests;  // (place, n of the n-th access)
};

std::map<const void*, std::map<const void*, CountedWarp>> blocks;
Counters counters;
std::array<std::unordered_set<uint64_t>, 2> sectors;

void count_global(const Request& request, Traffic& traffic, std::unordered_set<uint64_t>& touched) {
  std::vector<uint64_t> unique;
  for (uint64_t address : request.addresses) {
    for (uint64_t s = address / kSector; s <= (address + request.bytes - 1) / kSector; ++s) unique.push_back(s);
  }
  std::sort(unique.begin(), unique.end());
  unique.erase(std::unique(unique.begin(), unique.end()), unique.end());
  std::vector<uint64_t> places = request.addresses;
  std::sort(places.begin(), places.end());
  places.erase(std::unique(places.begin(), places.end()), places.end());
  traffic.units += static_cast<int64_t>(unique.size());
  traffic.fewest += static_cast<int64_t>((places.size() * request.bytes + kSector - 1) / kSector);
  touched.insert(unique.begin(), unique.end());
}

// Accesses of 8 bytes are served half a warp at a time, those of 16 bytes a quarter at a time.
void count_shared(const Request& request, Traffic& traffic) {
  const size_t together = request.bytes <= 4 ? 32 : kPassBytes / request.bytes;
  for (size_t first = 0; first < request.addresses.size(); first += together) {
    std::array<std::vector<uint64_t>, kBanks> words;
    for (size_t i = first; i < request.addresses.size() && i < first + together; ++i) {
      for (uint64_t w = request.addresses[i] / kBankBytes; w <= (request.addresses[i] + request.bytes - 1) / kBankBytes;
           ++w) {
        std::vector<uint64_t>& bank = words[w % kBanks];
        if (std::find(bank.begin(), bank.end(), w) == bank.end()) bank.push_back(w);
      }
    }
    size_t passes = 1;
    for (const auto& bank : words) passes = std::max(passes, bank.size());
    traffic.units += static_cast<int64_t>(passes);
    traffic.fewest += 1;
  }
}

}  // namespace

__attribute__((noinline)) void count(Access kind, const void* address, size_t bytes) {
  const void* where = __builtin_return_address(0);
  CountedWarp& warp = blocks[block_now()][warp_now()];
  const int time = warp.times[{where, lane()}]++;
  Request& request = warp.requests[{where, time}];
  request.kind = kind;
  request.bytes = bytes;
  request.addresses.push_back(reinterpret_cast<uint64_t>(address));
}

void count_block_ends(const void* block) {
  for (const auto& [address, warp] : blocks[block]) {
    for (const auto& [key, request] : warp.requests) {
      Traffic* const all[] = {&counters.load_global, &counters.store_global, &counters.load_shared,
                              &counters.store_shared};
      const int kind = static_cast<int>(request.kind);
      Traffic& traffic = *all[kind];
      ++traffic.requests;
      traffic.bytes += static_cast<int64_t>(request.bytes * request.addresses.size());
      if (kind < 2) {
        count_global(request, traffic, sectors[static_cast<size_t>(kind)]);
      } else {
        count_shared(request, traffic);
      }
    }
  }
  blocks.erase(block);
}

void start_counting() {
  counters = {};
  blocks.clear();
  for (auto& set : sectors) set.clear();
  counting = true;
}

Counters stop_counting() {
  counting = false;
  counters.load_global.touched = static_cast<int64_t>(sectors[0].size());
  counters.store_global.touched = static_cast<int64_t>(sectors[1].size());
  return counters;
}

}  // namespace emulator
