// The units of work of depthwise_sum: which channels and branches each has, and its share of the cost.
#pragma once

#include "cpu/depthwise.h"
#include "ops/depthwise_sum/depthwise_sum.h"

namespace segnext {
namespace SEGNEXT_ISA {

// Convolutions [begin, end) of a call.
struct Chain {
  int begin, end;

  int length() const { return end - begin; }
};

static inline int64_t taps_of(const Tensor4& weight) { return weight.size[2] * weight.size[3]; }

// Rows that a convolution reaches up and down.
static inline int64_t reach_of(const DepthwiseSumParams& p, int convolution) {
  return p.weight[convolution].size[2] / 2 * p.dilation[convolution][0];
}

static inline int64_t reach_of(const DepthwiseSumParams& p, Chain chain) {
  int64_t rows = 0;
  for (int i = chain.begin; i < chain.end; ++i) rows += reach_of(p, i);
  return rows;
}

// Channels [channel, channel + lanes) through branches [first, last). kSplit has one branch in each, whose weights
// begin at channel `origin`.
struct Block {
  int64_t channel, lanes, origin;
  int first, last;
};

// All blocks of channels of a call. A unit of work is a block of one image.
struct Blocks {
  Chain root, branch[kMaxBranches];
  int64_t count;                                                            // of blocks
  int64_t origin[kMaxBranches], width[kMaxBranches], blocks[kMaxBranches];  // kSplit: of each branch
  bool is_split;
  int branches;
  int64_t channels;

  explicit Blocks(const DepthwiseSumParams& p)
      : root{0, p.length[0]},
        count(vectors_of(p.x.size[1])),
        is_split(p.combine == Combine::kSplit),
        branches(p.branches),
        channels(p.x.size[1]) {
    int next = root.end;
    int64_t taken = 0;
    for (int b = 0; b < branches; ++b) {
      branch[b] = {next, next + p.length[1 + b]};
      next = branch[b].end;
      width[b] = branch[b].length() == 0 ? 0 : p.weight[branch[b].begin].size[0];
      taken += width[b];
    }
    if (!is_split) return;
    count = 0;
    for (int b = 0, from = 0; b < branches; ++b) {
      if (branch[b].length() == 0) width[b] = channels - taken;
      origin[b] = from;
      from += width[b];
      // Channels that are only copied are one block.
      blocks[b] = is_copy(b) ? 1 : vectors_of(width[b]);
      count += blocks[b];
    }
  }
  bool is_copy(int b) const { return is_split && branch[b].length() == 0 && root.length() == 0; }

  Block at(int64_t index) const {
    if (!is_split) {
      const int64_t channel = index * kLanes;
      return {channel, smaller(channels - channel, kLanes), 0, 0, branches};
    }
    int b = 0;
    while (index >= blocks[b]) index -= blocks[b++];
    const int64_t offset = index * kLanes;
    const int64_t lanes = is_copy(b) ? width[b] : smaller(width[b] - offset, kLanes);
    return {origin[b] + offset, lanes, origin[b], b, b + 1};
  }
};

// Calls visit(convolution, channel of its weights) for the root's and the block's convolutions.
template <typename Visit>
static inline void for_each_convolution(const Blocks& all, const Block& block, const Visit& visit) {
  for (int i = all.root.begin; i < all.root.end; ++i) visit(i, block.channel);
  for (int i = all.branch[block.first].begin; i < all.branch[block.last - 1].end; ++i) {
    visit(i, block.channel - block.origin);
  }
}

// What a pixel of a block costs, in FMAs of vectors: its taps, and copies at about four each.
static inline int64_t cost_of(const DepthwiseSumParams& p, const Blocks& all, const Block& block) {
  int64_t cost = 8;
  for_each_convolution(all, block, [&](int i, int64_t) { cost += 4 + taps_of(p.weight[i]); });
  return cost;
}

}  // namespace SEGNEXT_ISA
}  // namespace segnext
