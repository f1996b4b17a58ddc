// The emulator's interface for the headers in this folder: grids of fibres on one CPU thread.
#pragma once

#include <cstddef>
#include <cstdint>

struct uint3 {
  unsigned x, y, z;
};

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

// Those of the running thread; they change at every switch.
extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;

namespace emulator {

// The values that a lane brings to an operation of its warp, and those that it receives from the others.
struct alignas(16) Slot {
  uint32_t words[16];
};

enum class WarpOp : int { kSync, kShuffle, kVote, kLoadMatrix, kMmaHalf, kMmaBFloat16 };
enum class Access : int { kLoadGlobal, kStoreGlobal, kLoadShared, kStoreShared };

struct Launch {
  dim3 grid, block;
  size_t shared_bytes;
  int cluster;       // blocks along x; 1 for none
  bool cooperative;  // all blocks alive at once
  void (*body)(void*);
  void* argument;
};

// Runs a grid to its end. Returns a cudaError_t; 999, with a text, for errors that only an emulator detects.
int run(const Launch& launch);

// Ends the launch with an error text; the other fibres stay where they are.
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

void block_barrier(const char* file, int line);
int block_count(bool vote, const char* file, int line);  // a barrier, and the number of true votes
void cluster_barrier(const char* file, int line);
void grid_barrier(const char* file, int line);

// Waits until all lanes of `mask` have come. Returns 32 slots: what each lane brought, or, for kLoadMatrix and kMma*,
// what each receives.
const Slot* exchange(WarpOp op, unsigned mask, const Slot& brought);
unsigned named_lanes(unsigned mask);  // those of the mask that exist
int lane();

unsigned char* shared_memory();
void* map_shared(const void* shared, int rank);
int cluster_rank();
int cluster_size();

// Copies 16 bytes that arrive in shared memory when the thread waits for their group, not before.
void copy_async(void* shared, const uint32_t (&data)[4]);
void commit_copies();
void wait_copies(int pending);

// The properties of the emulated device; tests set them.
struct Device {
  int resident_blocks = 8;
  int largest_cluster = 16;          // 0: a device without clusters
  size_t shared_limit = 227 * 1024;  // per block
};
extern Device device;

extern bool counting;
void count(Access kind, const void* address, size_t bytes);

}  // namespace emulator
