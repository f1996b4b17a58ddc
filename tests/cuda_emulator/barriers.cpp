// Barriers of blocks, clusters and grids; shared memory and asynchronous copies into it.

#include <cstring>

#include "threads.h"

namespace emulator {

void block_barrier(const char* file, int line) {
  Fibre* self = now.fibre;
  Block& block = *self->block;
  if (block.at_barrier == 0) {
    block.file = file;
    block.line = line;
  } else if (block.line != line || std::strcmp(block.file, file) != 0) {
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
  Block& block = *now.fibre->block;
  block.votes += vote;
  block_barrier(file, line);
  const int votes = block.votes;
  if (++block.counted == block.threads) block.votes = block.counted = 0;
  // no thread may vote again before all have read
  block_barrier(file, line);
  return votes;
}

void cluster_barrier(const char* file, int line) {
  Fibre* self = now.fibre;
  Block& block = *self->block;
  self->file = file;
  self->line = line;
  wait_as(State::kCluster);
  ++block.at_cluster;
  for (int i = 0; i < now.launch->cluster; ++i) {
    if (block.cluster[i]->at_cluster < block.threads) return give_way();
  }
  for (int i = 0; i < now.launch->cluster; ++i) release(*block.cluster[i]);
  restart();
}

void grid_barrier(const char* file, int line) {
  Fibre* self = now.fibre;
  if (!now.launch->cooperative) fail("grid_sync (%s) in a grid that is not cooperative", place(file, line).c_str());
  Block& block = *self->block;
  self->file = file;
  self->line = line;
  ++block.at_grid;
  wait_as(State::kGrid);
  for (const Block* other : now.live) {
    if (other->at_grid < other->threads) return give_way();
  }
  for (Block* other : now.live) release(*other);
  restart();
}

unsigned char* shared_memory() { return now.fibre->block->shared; }

int cluster_rank() { return now.fibre->block->rank; }

int cluster_size() { return now.launch->cluster; }

void* map_shared(const void* shared, int rank) {
  const Block& block = *now.fibre->block;
  const auto offset = static_cast<const unsigned char*>(shared) - block.shared;
  if (rank < 0 || rank >= now.launch->cluster || offset < 0 ||
      offset > static_cast<int64_t>(now.launch->shared_bytes)) {
    fail("cluster_map: rank %d of %d, offset %lld", rank, now.launch->cluster, static_cast<long long>(offset));
  }
  return block.cluster[rank]->shared + offset;
}

void copy_async(void* shared, const uint32_t (&data)[4]) {
  Fibre* self = now.fibre;
  self->copies.push_back({shared, {data[0], data[1], data[2], data[3]}, self->groups});
}

void commit_copies() { ++now.fibre->groups; }

void wait_copies(int pending) {
  Fibre* self = now.fibre;
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

}  // namespace emulator
