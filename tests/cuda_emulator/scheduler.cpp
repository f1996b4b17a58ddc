// Runs a grid on one CPU thread. Each CUDA thread is a fibre that yields at barriers and at operations of its warp.
//
// A plain grid has one block alive at a time (in the random schedule four, interleaved), a cluster all of its blocks, a
// cooperative grid all blocks. A thread runs until it must wait; then the first ready lane of its warp continues, else
// the first ready warp. So a warp runs as far ahead of the others as barriers allow, and what a missing barrier would
// have ordered happens in the wrong order. In the three schedules, "first" means the lowest, the highest, or a random
// one; the random schedule also leaves a warp early, one time in eight.

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>

#include "session.h"
#include "threads.h"

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace emulator {

Device device;
Now now;

namespace {

constexpr size_t kRedZone = 4096;  // on both sides of a block's shared memory
constexpr int kRandomBlocks = 4;   // blocks of a plain grid that are alive at once in the random schedule
// NaN as float, as two bf16 or as two fp16; as an integer far outside any range, and unlikely to be a marker such as
// -1.
constexpr uint32_t kPoison = 0x7fc07fc0u;
constexpr uint32_t kNumber = 0x4e004e00u;  // a large number, in the random schedule: a kernel may use NaN as a marker

std::vector<std::unique_ptr<Fibre>> fibres;
std::vector<std::unique_ptr<Block>> blocks;
int threads_left;  // in the blocks that are alive
void* main_stack;
const void* main_bottom;
size_t main_size;
bool failed;
std::vector<std::unique_ptr<Found>> all_found;
std::mt19937 random_bits;
std::string text;

void switch_to(void** save, void* load, const void* bottom, size_t size) {
  __sanitizer_start_switch_fiber(nullptr, bottom, size);
  emulator_switch(save, load);
  __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
}

void enter(Fibre* next) {
  now.fibre = next;
  threadIdx = next->index;
  blockIdx = next->block->index;
}

void make_unready(Warp& warp, int lane) {
  warp.ready &= ~(1u << lane);
  if (warp.ready == 0) warp.block->ready &= ~(1u << warp.index);
}

int highest(unsigned bits) { return 31 - __builtin_clz(bits); }

int any_of(unsigned bits) {
  for (int skip = static_cast<int>(random_bits() % static_cast<unsigned>(__builtin_popcount(bits))); skip > 0; --skip) {
    bits &= bits - 1;
  }
  return lowest(bits);
}

// The thread that runs next, or null if none can.
Fibre* next_ready() {
  if (now.fibre != nullptr && now.fibre->warp->ready != 0) {
    Warp& warp = *now.fibre->warp;
    switch (session.schedule) {
      case Schedule::kForward: {
        const unsigned above = warp.ready & ~((2u << now.fibre->lane) - 1u);
        return warp.fibres[lowest(above != 0 ? above : warp.ready)];
      }
      case Schedule::kReverse: {
        const unsigned below = warp.ready & ((1u << now.fibre->lane) - 1u);
        return warp.fibres[highest(below != 0 ? below : warp.ready)];
      }
      case Schedule::kRandom:
        if (random_bits() % 8 != 0) return warp.fibres[any_of(warp.ready)];
    }
  }
  const size_t count = now.live.size();
  const size_t start = session.schedule == Schedule::kRandom ? random_bits() % count : 0;
  for (size_t i = 0; i < count; ++i) {
    const size_t at = (start + i) % count;
    Block& block = *now.live[session.schedule == Schedule::kReverse ? count - 1 - at : at];
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
  Fibre* self = now.fibre;
  switch_to(&self->stack.top, main_stack, main_bottom, main_size);
}

// Describes what the threads of the first blocked block are waiting for.
std::string deadlock() {
  for (const Block* block : now.live) {
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

void end_of_thread() {
  Fibre* self = now.fibre;
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
  if (block.exited == block.threads && now.launch->cluster > 1) {
    __asan_poison_memory_region(block.shared, now.launch->shared_bytes);  // its neighbours may no longer read it
  }
  if (--threads_left == 0) leave_for_main();
  give_way();
}

void thread_entry() {
  Fibre* self = now.fibre;
  if (main_bottom == nullptr) {
    __sanitizer_finish_switch_fiber(nullptr, &main_bottom, &main_size);
  } else {
    __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
  }
  now.launch->body(now.launch->argument);
  now.fibre = self;
  end_of_thread();
  __builtin_unreachable();
}

// Provides shared memory between zones that may not be touched; it is all poison, or kNumber in the random schedule.
void place_shared(Block& block, size_t bytes) {
  const size_t wanted = bytes + 2 * kRedZone;
  if (block.arena_bytes < wanted) {
    if (block.arena != nullptr) {
      __asan_unpoison_memory_region(block.arena, block.arena_bytes);  // the pages may be reused for anything
      munmap(block.arena, block.arena_bytes);
    }
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
  std::fill(words, words + (bytes + 3) / 4, session.schedule == Schedule::kRandom ? kNumber : kPoison);
}

void begin_block(Block& block, uint3 index, size_t first_fibre) {
  const dim3 size = now.launch->block;
  const int threads = static_cast<int>(size.x * size.y * size.z);
  block.index = index;
  block.threads = threads;
  block.exited = block.at_barrier = block.at_cluster = block.at_grid = block.votes = block.counted = 0;
  block.ready = 0;
  block.warps.resize(static_cast<size_t>((threads + kWarp - 1) / kWarp));
  place_shared(block, now.launch->shared_bytes);
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
  const dim3 grid = now.launch->grid;
  const size_t threads = static_cast<size_t>(now.launch->block.x) * now.launch->block.y * now.launch->block.z;
  while (fibres.size() < which.size() * threads) {
    fibres.push_back(std::make_unique<Fibre>());
    fibres.back()->stack.allocate();
  }
  while (blocks.size() < which.size()) blocks.push_back(std::make_unique<Block>());
  now.free_found.clear();
  for (auto& found : all_found) now.free_found.push_back(found.get());
  now.live.clear();
  for (size_t i = 0; i < which.size(); ++i) now.live.push_back(blocks[i].get());
  for (size_t i = 0; i < which.size(); ++i) {
    const auto linear = static_cast<uint64_t>(which[i]);
    const uint3 index = {static_cast<unsigned>(linear % grid.x), static_cast<unsigned>(linear / grid.x % grid.y),
                         static_cast<unsigned>(linear / grid.x / grid.y)};
    Block& block = *now.live[i];
    block.rank = static_cast<int>(i % static_cast<size_t>(now.launch->cluster));
    block.cluster = now.live.data() + (i - static_cast<size_t>(block.rank));
    begin_block(block, index, i * threads);
  }
  threads_left = static_cast<int>(which.size() * threads);
  now.fibre = nullptr;
  main_bottom = nullptr;  // the calling thread may differ from the last time
  Fibre* first = next_ready();
  enter(first);
  switch_to(&main_stack, first->stack.top, first->stack.bottom, kStackBytes);
  now.fibre = nullptr;
  if (failed) {
    for (auto& fibre : fibres) __asan_unpoison_memory_region(fibre->stack.bottom, kStackBytes);
  } else {
    begin_counting_block(now.live);
  }
}

}  // namespace

void make_ready(Warp& warp, unsigned lanes) {
  warp.ready |= lanes;
  warp.block->ready |= 1u << warp.index;
}

void give_way() {
  Fibre* self = now.fibre;
  Fibre* next = next_ready();
  if (next == self) return;
  if (next == nullptr) fail("%s", deadlock().c_str());
  enter(next);
  switch_to(&self->stack.top, next->stack.top, next->stack.bottom, kStackBytes);
  // now.fibre is this fibre again
}

void wait_as(State state) {
  now.fibre->state = state;
  make_unready(*now.fibre->warp, now.fibre->lane);
}

// Lets all threads of the block continue; the last thread at a barrier calls this.
void release(Block& block) {
  for (Warp& warp : block.warps) {
    for (unsigned lanes = warp.exist; lanes != 0; lanes &= lanes - 1) warp.fibres[lowest(lanes)]->state = State::kReady;
    make_ready(warp, warp.exist);
  }
  block.at_barrier = block.at_cluster = block.at_grid = 0;
}

void restart() {
  Fibre* self = now.fibre;
  now.fibre = nullptr;
  Fibre* next = next_ready();
  now.fibre = self;
  if (next == self) return;
  enter(next);
  switch_to(&self->stack.top, next->stack.top, next->stack.bottom, kStackBytes);
}

std::string place(const uint3& at) {
  return "(" + std::to_string(at.x) + ", " + std::to_string(at.y) + ", " + std::to_string(at.z) + ")";
}

std::string place(const char* file, int line) {
  const char* name = std::strrchr(file, '/');
  return std::string(name != nullptr ? name + 1 : file) + ":" + std::to_string(line);
}

Found* take_found() {
  if (now.free_found.empty()) {
    all_found.push_back(std::make_unique<Found>());
    now.free_found.push_back(all_found.back().get());
  }
  Found* found = now.free_found.back();
  now.free_found.pop_back();
  return found;
}

void give_back_found(Fibre* fibre) {
  if (fibre->found != nullptr && --fibre->found->readers == 0) now.free_found.push_back(fibre->found);
  fibre->found = nullptr;
}

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
  now.launch = &launch;
  blockDim = launch.block;
  gridDim = launch.grid;
  failed = false;
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
const void* warp_now() { return now.fibre->warp; }
const void* block_now() { return now.fibre->block; }

}  // namespace emulator
