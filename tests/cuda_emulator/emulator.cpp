// Runs a grid on one CPU thread: each CUDA thread a fibre that gives way at barriers and operations of its warp.
//
// A plain grid has one block alive at a time (four, interleaved, in the random schedule), a cluster all of its blocks,
// a cooperative grid all. A thread runs until it must wait; then the first ready lane of its warp goes on, then the
// first ready warp, so a warp runs as far ahead of the others as barriers let it: what a missing barrier would have
// ordered then happens in the wrong order. The schedules differ in what "first" is: the lowest, the highest, or any.

#include "emulator/emulator.h"

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "emulator/sixteen_bits.h"
#include "fibre.h"
#include "session.h"

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace emulator {

Device device;

namespace {

constexpr int kWarp = 32;
constexpr size_t kRedZone = 4096;  // on both sides of a block's shared memory
constexpr int kRandomBlocks = 4;   // of a plain grid alive at once in the random schedule
// NaN as float, as two bf16 or fp16; as an integer far outside, and not a likely mark such as -1.
constexpr uint32_t kPoison = 0x7fc07fc0u;

enum class State { kReady, kWarp, kBlock, kCluster, kGrid, kDone };

struct Block;
struct Warp;

struct Copy {
  void* shared;
  uint32_t data[4];
  int group;
};

// What the lanes of one operation find; taken again once the last of them comes to its next operation.
struct Found {
  Slot slots[kWarp];
  int readers;
};

struct Fibre {
  Stack stack;
  Block* block;
  Warp* warp;
  int lane;
  uint3 index;
  State state;
  const char* file;
  int line;
  std::vector<Copy> copies;
  int groups;  // committed
  Found* found;
};

struct Warp {
  Block* block;
  int index;
  unsigned exist, ready, done, waiting;
  Fibre* fibres[kWarp];
  unsigned masks[kWarp];
  WarpOp ops[kWarp];
  Slot brought[kWarp];
};

struct Block {
  uint3 index;
  int rank;         // in its cluster
  Block** cluster;  // its blocks
  unsigned ready;   // warps with a ready lane
  int threads, exited, at_barrier, at_cluster, at_grid, votes, counted;
  const char* file;  // of the barrier where threads wait
  int line;
  std::vector<Warp> warps;
  unsigned char* arena = nullptr;
  size_t arena_bytes = 0;
  unsigned char* shared = nullptr;
};

const Launch* launch_now;
Fibre* current;
std::vector<std::unique_ptr<Fibre>> fibres;
std::vector<std::unique_ptr<Block>> blocks;
std::vector<Block*> live;
int threads_left;  // of the blocks that are alive
void* main_stack;
const void* main_bottom;
size_t main_size;
bool failed;
std::vector<std::unique_ptr<Found>> all_found;
std::vector<Found*> free_found;
std::mt19937 random_bits;
unsigned grid_arrivals;
std::string text;

void switch_to(void** save, void* load, const void* bottom, size_t size) {
  __sanitizer_start_switch_fiber(nullptr, bottom, size);
  emulator_switch(save, load);
  __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
}

void enter(Fibre* next) {
  current = next;
  threadIdx = next->index;
  blockIdx = next->block->index;
}

void make_ready(Warp& warp, unsigned lanes) {
  warp.ready |= lanes;
  warp.block->ready |= 1u << warp.index;
}

void make_unready(Warp& warp, int lane) {
  warp.ready &= ~(1u << lane);
  if (warp.ready == 0) warp.block->ready &= ~(1u << warp.index);
}

int lowest(unsigned bits) { return __builtin_ctz(bits); }
int highest(unsigned bits) { return 31 - __builtin_clz(bits); }

int any_of(unsigned bits) {
  for (int skip = static_cast<int>(random_bits() % static_cast<unsigned>(__builtin_popcount(bits))); skip > 0; --skip) {
    bits &= bits - 1;
  }
  return lowest(bits);
}

// The thread that goes on, or null where none can.
Fibre* next_ready() {
  if (current != nullptr && current->warp->ready != 0) {
    Warp& warp = *current->warp;
    switch (session.schedule) {
      case Schedule::kForward: {
        const unsigned above = warp.ready & ~((2u << current->lane) - 1u);
        return warp.fibres[lowest(above != 0 ? above : warp.ready)];
      }
      case Schedule::kReverse: {
        const unsigned below = warp.ready & ((1u << current->lane) - 1u);
        return warp.fibres[highest(below != 0 ? below : warp.ready)];
      }
      case Schedule::kRandom:
        if (random_bits() % 8 != 0) return warp.fibres[any_of(warp.ready)];
    }
  }
  const size_t count = live.size();
  const size_t start = session.schedule == Schedule::kRandom ? random_bits() % count : 0;
  for (size_t i = 0; i < count; ++i) {
    const size_t at = (start + i) % count;
    Block& block = *live[session.schedule == Schedule::kReverse ? count - 1 - at : at];
    if (block.ready == 0) continue;
    switch (session.schedule) {
      case Schedule::kForward: {
        Warp& warp = block.warps[static_cast<size_t>(lowest(block.ready))];
        return warp.fibres[lowest(warp.ready)];
      }
      case Schedule::kReverse: {
        Warp& warp = block.warps[static_cast<size_t>(highest(block.ready))];
        return warp.fibres[highest(warp.ready)];
      }
      case Schedule::kRandom: {
        Warp& warp = block.warps[static_cast<size_t>(any_of(block.ready))];
        return warp.fibres[any_of(warp.ready)];
      }
    }
  }
  return nullptr;
}

void leave_for_main() {
  Fibre* self = current;
  switch_to(&self->stack.top, main_stack, main_bottom, main_size);
}

std::string place(const uint3& at) {
  return "(" + std::to_string(at.x) + ", " + std::to_string(at.y) + ", " + std::to_string(at.z) + ")";
}

std::string place(const char* file, int line) {
  const char* name = std::strrchr(file, '/');
  return std::string(name != nullptr ? name + 1 : file) + ":" + std::to_string(line);
}

// What the threads of the first block that cannot go on are waiting for.
std::string deadlock() {
  for (const Block* block : live) {
    if (block->exited == block->threads) continue;
    int at_warp = 0;
    const Fibre *first = nullptr, *first_at_warp = nullptr;
    for (const Warp& warp : block->warps) {
      for (int lane = 0; lane < kWarp; ++lane) {
        if (!((warp.exist >> lane) & 1u)) continue;
        const Fibre* fibre = warp.fibres[lane];
        if (fibre->state == State::kWarp) {
          ++at_warp;
          if (first_at_warp == nullptr) first_at_warp = fibre;
        } else if (fibre->state != State::kDone && first == nullptr) {
          first = fibre;
        }
      }
    }
    std::string result = "block " + place(block->index) + ": no thread can go on; of " +
                         std::to_string(block->threads) + " threads " + std::to_string(block->exited) + " have ended";
    if (block->at_barrier + block->at_cluster + block->at_grid > 0) {
      result += ", " + std::to_string(block->at_barrier + block->at_cluster + block->at_grid) + " wait at a " +
                (block->at_barrier > 0   ? "block's"
                 : block->at_cluster > 0 ? "cluster's"
                                         : "grid's") +
                " barrier (" + place(first->file, first->line) + ")";
    }
    if (at_warp > 0) {
      result += ", " + std::to_string(at_warp) + " wait for lanes of their warp (the first is thread " +
                place(first_at_warp->index) + ")";
    }
    return result;
  }
  return "no thread can go on";
}

void give_way() {
  Fibre* self = current;
  Fibre* next = next_ready();
  if (next == self) return;
  if (next == nullptr) fail("%s", deadlock().c_str());
  enter(next);
  switch_to(&self->stack.top, next->stack.top, next->stack.bottom, kStackBytes);
  // `current` is this fibre again
}

void wait_as(State state) {
  current->state = state;
  make_unready(*current->warp, current->lane);
}

// The last one at a barrier lets all threads of the block go; the next to run is chosen afresh.
void release(Block& block) {
  for (Warp& warp : block.warps) {
    for (unsigned lanes = warp.exist; lanes != 0; lanes &= lanes - 1) warp.fibres[lowest(lanes)]->state = State::kReady;
    make_ready(warp, warp.exist);
  }
  block.at_barrier = block.at_cluster = block.at_grid = 0;
}

void restart() {
  Fibre* self = current;
  current = nullptr;
  Fibre* next = next_ready();
  current = self;
  if (next == self) return;
  enter(next);
  switch_to(&self->stack.top, next->stack.top, next->stack.bottom, kStackBytes);
}

void end_of_thread() {
  Fibre* self = current;
  Block& block = *self->block;
  if (self->stack.overflowed())
    fail("thread %s: the emulator's stack of 128 KiB is too small", place(self->index).c_str());
  self->state = State::kDone;
  self->warp->done |= 1u << self->lane;
  make_unready(*self->warp, self->lane);
  ++block.exited;
  if (block.at_barrier > 0)
    fail("%s", ("block " + place(block.index) + ": thread " + place(self->index) + " ends while " +
                std::to_string(block.at_barrier) + " threads wait at the barrier " + place(block.file, block.line))
                   .c_str());
  if (block.exited == block.threads && launch_now->cluster > 1) {
    __asan_poison_memory_region(block.shared, launch_now->shared_bytes);  // its neighbours may not look here any more
  }
  if (--threads_left == 0) leave_for_main();
  give_way();
}

void thread_entry() {
  Fibre* self = current;
  if (main_bottom == nullptr) {
    __sanitizer_finish_switch_fiber(nullptr, &main_bottom, &main_size);
  } else {
    __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
  }
  launch_now->body(launch_now->argument);
  current = self;
  end_of_thread();
  __builtin_unreachable();
}

// Shared memory whose every byte is poison, between zones that may not be touched.
void place_shared(Block& block, size_t bytes) {
  const size_t wanted = bytes + 2 * kRedZone;
  if (block.arena_bytes < wanted) {
    if (block.arena != nullptr) munmap(block.arena, block.arena_bytes);
    void* memory = mmap(nullptr, wanted, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    block.arena = static_cast<unsigned char*>(memory);
    block.arena_bytes = wanted;
    __asan_poison_memory_region(block.arena, wanted);
  }
  block.shared = block.arena + kRedZone;
  __asan_poison_memory_region(block.arena, block.arena_bytes);
  __asan_unpoison_memory_region(block.shared, bytes);
  auto* words = reinterpret_cast<uint32_t*>(block.shared);  // a last partial word reaches into the red zone
  std::fill(words, words + (bytes + 3) / 4, kPoison);
}

void begin_block(Block& block, uint3 index, size_t first_fibre) {
  const dim3 size = launch_now->block;
  const int threads = static_cast<int>(size.x * size.y * size.z);
  block.index = index;
  block.threads = threads;
  block.exited = block.at_barrier = block.at_cluster = block.at_grid = block.votes = block.counted = 0;
  block.ready = 0;
  block.warps.resize(static_cast<size_t>((threads + kWarp - 1) / kWarp));
  place_shared(block, launch_now->shared_bytes);
  for (size_t w = 0; w < block.warps.size(); ++w) {
    Warp& warp = block.warps[w];
    warp.block = &block;
    warp.index = static_cast<int>(w);
    warp.ready = warp.done = warp.waiting = 0;
    const int lanes = threads - static_cast<int>(w) * kWarp;
    warp.exist = lanes >= kWarp ? ~0u : (1u << lanes) - 1u;
    for (int lane = 0; lane < kWarp && lane < lanes; ++lane) {
      const unsigned at = static_cast<unsigned>(w) * kWarp + static_cast<unsigned>(lane);
      Fibre* fibre = fibres[first_fibre + at].get();
      fibre->block = &block;
      fibre->warp = &warp;
      fibre->lane = lane;
      fibre->index = {at % size.x, at / size.x % size.y, at / size.x / size.y};
      fibre->state = State::kReady;
      fibre->copies.clear();
      fibre->groups = 0;
      fibre->found = nullptr;
      fibre->stack.begin(thread_entry);
      warp.fibres[lane] = fibre;
    }
    make_ready(warp, warp.exist);
  }
}

void begin_counting_block(const std::vector<Block*>& alive) {
  if (!counting) return;
  for (const Block* block : alive) count_block_ends(block);
}

// Runs the blocks with these linear indices together until all their threads have ended.
void run_together(const std::vector<int64_t>& which) {
  const dim3 grid = launch_now->grid;
  const size_t threads = static_cast<size_t>(launch_now->block.x) * launch_now->block.y * launch_now->block.z;
  while (fibres.size() < which.size() * threads) {
    fibres.push_back(std::make_unique<Fibre>());
    fibres.back()->stack.allocate();
  }
  while (blocks.size() < which.size()) blocks.push_back(std::make_unique<Block>());
  free_found.clear();
  for (auto& found : all_found) free_found.push_back(found.get());
  live.clear();
  for (size_t i = 0; i < which.size(); ++i) live.push_back(blocks[i].get());
  for (size_t i = 0; i < which.size(); ++i) {
    const auto linear = static_cast<uint64_t>(which[i]);
    const uint3 index = {static_cast<unsigned>(linear % grid.x), static_cast<unsigned>(linear / grid.x % grid.y),
                         static_cast<unsigned>(linear / grid.x / grid.y)};
    Block& block = *live[i];
    block.rank = static_cast<int>(i % static_cast<size_t>(launch_now->cluster));
    block.cluster = live.data() + (i - static_cast<size_t>(block.rank));
    begin_block(block, index, i * threads);
  }
  threads_left = static_cast<int>(which.size() * threads);
  current = nullptr;
  main_bottom = nullptr;  // another thread may call than the last time
  Fibre* first = next_ready();
  enter(first);
  switch_to(&main_stack, first->stack.top, first->stack.bottom, kStackBytes);
  current = nullptr;
  if (failed) {
    for (auto& fibre : fibres) __asan_unpoison_memory_region(fibre->stack.bottom, kStackBytes);
  } else {
    begin_counting_block(live);
  }
}

}  // namespace

void fail(const char* format, ...) {
  char buffer[1024];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(buffer, sizeof buffer, format, arguments);
  va_end(arguments);
  text = buffer;
  failed = true;
  leave_for_main();
  __builtin_unreachable();
}

const std::string& failure() { return text; }

int run(const Launch& launch) {
  const uint64_t threads = static_cast<uint64_t>(launch.block.x) * launch.block.y * launch.block.z;
  const uint64_t grid = static_cast<uint64_t>(launch.grid.x) * launch.grid.y * launch.grid.z;
  if (threads == 0 || threads > 1024 || grid == 0 || launch.grid.x > 0x7fffffffu || launch.grid.y > 65535 ||
      launch.grid.z > 65535) {
    return 9;  // cudaErrorInvalidConfiguration
  }
  if (launch.shared_bytes > device.shared_limit) return 1;  // cudaErrorInvalidValue
  if (launch.cluster < 1 || (launch.cluster > 1 && launch.cluster > device.largest_cluster) ||
      launch.grid.x % static_cast<unsigned>(launch.cluster) != 0) {
    return 1;
  }
  if (launch.cooperative && grid > static_cast<uint64_t>(device.resident_blocks)) return 720;
  launch_now = &launch;
  blockDim = launch.block;
  gridDim = launch.grid;
  failed = false;
  grid_arrivals = 0;
  random_bits.seed(session.seed);
  ++session.launches;
  session.blocks += static_cast<int64_t>(grid);
  size_t together = static_cast<size_t>(launch.cluster);
  if (launch.cooperative) together = grid;
  const bool plain = together == 1;
  std::vector<int64_t> groups(grid / together);
  std::iota(groups.begin(), groups.end(), 0);
  if (session.schedule == Schedule::kReverse) std::reverse(groups.begin(), groups.end());
  if (session.schedule == Schedule::kRandom) {
    for (size_t i = groups.size(); i > 1; --i) std::swap(groups[i - 1], groups[random_bits() % i]);
  }
  const size_t at_once = plain && session.schedule == Schedule::kRandom ? kRandomBlocks : 1;
  std::vector<int64_t> which;
  for (size_t g = 0; g < groups.size() && !failed; g += at_once) {
    which.clear();
    for (size_t i = g; i < groups.size() && i < g + at_once; ++i) {
      for (size_t j = 0; j < together; ++j)
        which.push_back(groups[i] * static_cast<int64_t>(together) + static_cast<int64_t>(j));
    }
    run_together(which);
  }
  return failed ? 999 : 0;
}

void block_barrier(const char* file, int line) {
  Fibre* self = current;
  Block& block = *self->block;
  if (block.at_barrier == 0) {
    block.file = file;
    block.line = line;
  } else if (block.line != line) {
    fail("block %s: thread %s is at the barrier %s while others wait at %s", place(block.index).c_str(),
         place(self->index).c_str(), place(file, line).c_str(), place(block.file, block.line).c_str());
  }
  if (block.exited > 0) {
    fail("block %s: thread %s waits at the barrier %s, and %d threads have ended", place(block.index).c_str(),
         place(self->index).c_str(), place(file, line).c_str(), block.exited);
  }
  self->file = file;
  self->line = line;
  wait_as(State::kBlock);
  if (++block.at_barrier < block.threads) return give_way();
  release(block);
  restart();
}

int block_count(bool vote, const char* file, int line) {
  Block& block = *current->block;
  block.votes += vote;
  block_barrier(file, line);
  const int votes = block.votes;
  if (++block.counted == block.threads) block.votes = block.counted = 0;
  // nobody votes again before all have read
  block_barrier(file, line);
  return votes;
}

void cluster_barrier(const char* file, int line) {
  Fibre* self = current;
  Block& block = *self->block;
  self->file = file;
  self->line = line;
  wait_as(State::kCluster);
  ++block.at_cluster;
  for (int i = 0; i < launch_now->cluster; ++i) {
    if (block.cluster[i]->at_cluster < block.threads) return give_way();
  }
  for (int i = 0; i < launch_now->cluster; ++i) release(*block.cluster[i]);
  restart();
}

void grid_barrier(unsigned* counter, const char* file, int line) {
  Fibre* self = current;
  if (!launch_now->cooperative) fail("grid_sync (%s) in a grid that is not cooperative", place(file, line).c_str());
  Block& block = *self->block;
  self->file = file;
  self->line = line;
  if (++block.at_grid == block.threads) {
    if (*counter != grid_arrivals) {
      fail("grid_sync (%s): the counter is %u after %u arrivals; it must be zero when the grid starts",
           place(file, line).c_str(), *counter, grid_arrivals);
    }
    *counter = ++grid_arrivals;
  }
  wait_as(State::kGrid);
  for (const Block* other : live) {
    if (other->at_grid < other->threads) return give_way();
  }
  for (Block* other : live) release(*other);
  restart();
}

namespace {

// A (16x16) B (16x8) from the lanes' fragments; each lane finds its four sums. The layout is in csrc/common/ptx.cuh.
template <typename Format>
void multiply(const Warp& warp, Found& found) {
  float a[16][16], b[16][8];
  for (int lane = 0; lane < kWarp; ++lane) {
    const uint32_t* words = warp.brought[lane].words;
    const int g = lane / 4, t = 2 * (lane % 4);
    for (int i = 0; i < 4; ++i) {
      a[g + 8 * (i % 2)][t + 8 * (i / 2)] = Format::decode(static_cast<uint16_t>(words[i]));
      a[g + 8 * (i % 2)][t + 8 * (i / 2) + 1] = Format::decode(static_cast<uint16_t>(words[i] >> 16));
    }
    for (int i = 0; i < 2; ++i) {
      b[t + 8 * i][g] = Format::decode(static_cast<uint16_t>(words[4 + i]));
      b[t + 8 * i + 1][g] = Format::decode(static_cast<uint16_t>(words[4 + i] >> 16));
    }
  }
  float d[16][8] = {};
  for (int row = 0; row < 16; ++row) {
    for (int k = 0; k < 16; ++k) {
      for (int column = 0; column < 8; ++column) d[row][column] += a[row][k] * b[k][column];
    }
  }
  for (int lane = 0; lane < kWarp; ++lane) {
    const int g = lane / 4, t = 2 * (lane % 4);
    const float sums[4] = {d[g][t], d[g][t + 1], d[g + 8][t], d[g + 8][t + 1]};
    std::memcpy(found.slots[lane].words, sums, sizeof sums);
  }
}

// All lanes have come: what each will find.
void perform(const Warp& warp, WarpOp op, unsigned lanes, Found& found) {
  switch (op) {
    case WarpOp::kSync:
      return;
    case WarpOp::kShuffle:
    case WarpOp::kVote:
      for (; lanes != 0; lanes &= lanes - 1) std::memcpy(&found.slots[lowest(lanes)], &warp.brought[lowest(lanes)], 16);
      return;
    case WarpOp::kLoadMatrix:
      std::memcpy(found.slots, warp.brought, sizeof found.slots);
      return;
    case WarpOp::kMmaHalf:
      return multiply<HalfFormat>(warp, found);
    case WarpOp::kMmaBFloat16:
      return multiply<BFloat16Format>(warp, found);
  }
}

}  // namespace

namespace {

Found* take_found() {
  if (free_found.empty()) {
    all_found.push_back(std::make_unique<Found>());
    free_found.push_back(all_found.back().get());
  }
  Found* found = free_found.back();
  free_found.pop_back();
  return found;
}

void give_back_found(Fibre* fibre) {
  if (fibre->found != nullptr && --fibre->found->readers == 0) free_found.push_back(fibre->found);
  fibre->found = nullptr;
}

}  // namespace

const Slot* exchange(WarpOp op, unsigned mask, const Slot& brought) {
  Fibre* self = current;
  Warp& warp = *self->warp;
  give_back_found(self);
  const unsigned bit = 1u << self->lane, named = mask & warp.exist;
  if (!(mask & bit))
    fail("thread %s: lane %d is not in its own mask %08x", place(self->index).c_str(), self->lane, mask);
  if (named & warp.done) {
    fail("thread %s: an operation of the warp with mask %08x, but lanes %08x have ended", place(self->index).c_str(),
         mask, named & warp.done);
  }
  for (unsigned others = named & warp.waiting; others != 0; others &= others - 1) {
    const int other = lowest(others);
    if (warp.ops[other] != op || warp.masks[other] != mask) {
      fail("thread %s: lanes %d and %d of a warp meet in different operations or with different masks (%08x, %08x)",
           place(self->index).c_str(), self->lane, other, mask, warp.masks[other]);
    }
    break;  // those that wait have been compared with each other
  }
  if (op >= WarpOp::kLoadMatrix && named != ~0u) fail("ldmatrix and mma need a whole warp");
  if (op <= WarpOp::kVote) {
    std::memcpy(&warp.brought[self->lane], &brought, 16);
  } else {
    warp.brought[self->lane] = brought;
  }
  warp.ops[self->lane] = op;
  warp.masks[self->lane] = mask;
  warp.waiting |= bit;
  wait_as(State::kWarp);
  if ((warp.waiting & named) == named) {
    Found* found = take_found();
    found->readers = __builtin_popcount(named);
    perform(warp, op, named, *found);
    warp.waiting &= ~named;
    for (unsigned lanes = named; lanes != 0; lanes &= lanes - 1) {
      Fibre* fibre = warp.fibres[lowest(lanes)];
      fibre->state = State::kReady;
      fibre->found = found;
    }
    make_ready(warp, named);
  }
  give_way();
  return self->found->slots;
}

unsigned named_lanes(unsigned mask) { return mask & current->warp->exist; }

int lane() { return current->lane; }

unsigned char* shared_memory() { return current->block->shared; }

int cluster_rank() { return current->block->rank; }

int cluster_size() { return launch_now->cluster; }

void* map_shared(const void* shared, int rank) {
  const Block& block = *current->block;
  const auto offset = static_cast<const unsigned char*>(shared) - block.shared;
  if (rank < 0 || rank >= launch_now->cluster || offset < 0 ||
      offset > static_cast<int64_t>(launch_now->shared_bytes)) {
    fail("cluster_map: rank %d of %d, offset %lld", rank, launch_now->cluster, static_cast<long long>(offset));
  }
  return block.cluster[rank]->shared + offset;
}

void copy_async(void* shared, const uint32_t (&data)[4]) {
  Fibre* self = current;
  self->copies.push_back({shared, {data[0], data[1], data[2], data[3]}, self->groups});
}

void commit_copies() { ++current->groups; }

void wait_copies(int pending) {
  Fibre* self = current;
  size_t kept = 0;
  for (const Copy& copy : self->copies) {
    if (copy.group < self->groups - pending) {
      std::memcpy(copy.shared, copy.data, sizeof copy.data);
    } else {
      self->copies[kept++] = copy;
    }
  }
  self->copies.resize(kept);
}

const void* warp_now() { return current->warp; }
const void* block_now() { return current->block; }

}  // namespace emulator
