// The scheduler's records of threads, warps and blocks, for the barriers and operations that make them wait.
#pragma once

#include <string>
#include <vector>

#include "emulator/emulator.h"
#include "fibre.h"

namespace emulator {

constexpr int kWarp = 32;

enum class State { kReady, kWarp, kBlock, kCluster, kGrid, kDone };

struct Block;
struct Warp;

struct Copy {
  void* shared;
  uint32_t data[4];
  int group;
};

// The values that the lanes of one operation receive. It is reused once the last of them comes to its next operation.
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
  int groups;  // groups of copies that are committed
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
  const char* file;  // the place of the barrier where threads wait
  int line;
  std::vector<Warp> warps;
  unsigned char* arena = nullptr;
  size_t arena_bytes = 0;
  unsigned char* shared = nullptr;
};

// The launch that is running.
struct Now {
  const Launch* launch = nullptr;
  Fibre* fibre = nullptr;    // the thread that is running
  std::vector<Block*> live;  // blocks that are alive
  std::vector<Found*> free_found;
};
extern Now now;

void make_ready(Warp& warp, unsigned lanes);
void wait_as(State state);   // for the thread that is running
void give_way();             // to the next thread that can run; returns when it is this thread's turn again
void release(Block& block);  // all threads of the block may go on
void restart();              // chooses the next thread to run as at the beginning
Found* take_found();
void give_back_found(Fibre* fibre);

inline int lowest(unsigned bits) { return __builtin_ctz(bits); }

std::string place(const uint3& at);
std::string place(const char* file, int line);

}  // namespace emulator
