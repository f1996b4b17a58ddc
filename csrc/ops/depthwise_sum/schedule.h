// The forward of depthwise_sum as a list of stages between planes, which streams down the image in bands of rows.
//
// Each plane holds the rows that a band of output needs: the band, and a margin above and below, as far as the
// convolutions behind the plane reach. From one band to the next the rows of both margins are kept and moved to the
// plane's top, so that every row is computed once. Images whose planes fit the budget as a whole are one band.
#pragma once

#include "cpu/depthwise.h"
#include "ops/depthwise_sum/depthwise_sum.h"
#include "ops/depthwise_sum/units.h"

namespace segnext {
namespace SEGNEXT_ISA {

constexpr int kMaxPlanes = kMaxConvolutions + 2;
constexpr int kX = 0, kOut = 1;            // the planes of x and of a branch's result, or of the sum
constexpr int64_t kPlanesBytes = 4 << 20;  // of a thread: its share of a third-level cache
constexpr int64_t kLeastBand = 24;         // bands are multiples of it: whole tiles at dilations up to 4 and of 6

// Plane `to` = a convolution of plane `from`, or `from` itself, plus plane `base`. Then the result is stored as that of
// branch `stored`, or not if that is negative; a stored result need not be in `to`.
struct Stage {
  int convolution;  // negative: none
  int from, to;
  int base;  // negative: none
  int stored;
};

struct Schedule {
  Stage stage[kMaxConvolutions + kMaxBranches];
  int count = 0, planes = 2;
  int64_t margin[kMaxPlanes] = {};  // rows of each plane that a row of output needs above and below
  int64_t band = 0;

  Schedule() = default;
  Schedule(const DepthwiseSumParams& p, const Blocks& all, int first, int last) {
    int64_t most = 0;
    for (int b = first; b < last; ++b) most = larger(most, reach_of(p, all.branch[b]));
    margin[kX] = most + reach_of(p, all.root);
    int a = kX;
    for (int i = all.root.begin; i < all.root.end; ++i) {
      add({i, a, planes, -1, -1});
      margin[planes] = most + reach_of(p, Chain{i + 1, all.root.end});
      a = planes++;
    }
    if (p.combine == Combine::kSum) {
      add_sum(p, all, a);
    } else {
      for (int b = first; b < last; ++b) add_branch(p, all.branch[b], a, -1, b);
    }
    choose_band(p);
  }
  int64_t rows(int plane, int64_t height) const { return smaller(band + 2 * margin[plane], height); }

 private:
  void add(const Stage& next) { stage[count++] = next; }

  // The sum begins with a itself where a branch is empty, which costs no copy.
  void add_sum(const DepthwiseSumParams& p, const Blocks& all, int a) {
    int left = all.branches, base = -1;
    for (int b = 0; b < all.branches && base < 0; ++b) {
      if (all.branch[b].length() == 0) base = a;
    }
    bool is_taken = base < 0;  // one empty branch is the base already, if there is one
    left -= !is_taken;
    if (left == 0) return add({-1, a, a, -1, 0});
    for (int b = 0; b < all.branches; ++b) {
      if (all.branch[b].length() == 0 && !is_taken) {
        is_taken = true;
        continue;
      }
      add_branch(p, all.branch[b], a, base, --left == 0 ? 0 : -1);
      base = kOut;
    }
  }

  void add_branch(const DepthwiseSumParams& p, Chain chain, int a, int base, int stored) {
    int from = a;
    for (int i = chain.begin; i < chain.end - 1; ++i) {
      add({i, from, planes, -1, -1});
      margin[planes] = reach_of(p, Chain{i + 1, chain.end});
      from = planes++;
    }
    if (chain.length() > 0) {
      add({chain.end - 1, from, kOut, base, stored});
    } else {
      add({-1, a, base < 0 ? a : kOut, base, stored});
    }
  }

  // The most rows whose planes fit.
  void choose_band(const DepthwiseSumParams& p) {
    const int64_t height = p.x.size[2];
    const int64_t row = (p.x.size[3] + 2 * kBorder) * kLanes * static_cast<int64_t>(sizeof(Real));
    band = height;
    if (planes * (height + 2 * kBorder) * row <= kPlanesBytes) return;
    int64_t margins = 0;
    for (int i = 0; i < planes; ++i) margins += 2 * (margin[i] + kBorder);
    const int64_t fit = (kPlanesBytes / row - margins) / planes;
    band = smaller(larger(fit / kLeastBand, 1) * kLeastBand, height);
  }
};

// One schedule, or one per branch where each has channels of its own, and what their planes take together.
struct Schedules {
  Schedule schedule[kMaxBranches];
  int planes = 0;
  int64_t rows[kMaxPlanes] = {};

  Schedules(const DepthwiseSumParams& p, const Blocks& all) {
    const int count = all.is_split ? all.branches : 1;
    for (int i = 0; i < count; ++i) {
      schedule[i] = all.is_split ? Schedule(p, all, i, i + 1) : Schedule(p, all, 0, all.branches);
      if (all.is_copy(i)) continue;
      planes = planes > schedule[i].planes ? planes : schedule[i].planes;
      for (int j = 0; j < schedule[i].planes; ++j) rows[j] = larger(rows[j], schedule[i].rows(j, p.x.size[2]));
    }
  }
  const Schedule& of(const Blocks& all, const Block& block) const { return schedule[all.is_split ? block.first : 0]; }
};

}  // namespace SEGNEXT_ISA
}  // namespace segnext
