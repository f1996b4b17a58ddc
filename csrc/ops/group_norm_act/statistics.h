// Sums over pixels for group_norm_act: per chunk, around the chunk's mean, and per image, merged from its chunks.
#pragma once

#include "cpu/memory.h"
#include "cpu/rows.h"

namespace segnext {
namespace SEGNEXT_ISA {

constexpr int64_t kChunkElements = 32768, kChunkPixels = 256;
constexpr int64_t kUnroll = 4;  // pixels per iteration: they share the loads and stores of the channels' sums
constexpr int kForwardSums = 3, kBackwardSums = 5;

// The sizes of one step. A chunk is `chunk` pixels of an image.
struct StepSizes {
  int64_t images, channels, groups, row, pixels, chunk, chunks;  // row: the channels padded to whole vectors

  StepSizes(int64_t images, int64_t channels, int64_t groups, int64_t pixels)
      : images(images), channels(channels), groups(groups), row(padded(channels)), pixels(pixels) {
    chunk = smaller(larger(kChunkElements / row, 2 * kUnroll), kChunkPixels);
    chunks = blocks_of(pixels, chunk);
  }

  int64_t units() const { return images * chunks; }
  int64_t first(int64_t unit) const { return unit % chunks * chunk; }
  int64_t count(int64_t unit) const { return smaller(pixels - first(unit), chunk); }
  Pixels chunk_at(int64_t unit) const { return {unit / chunks, first(unit), count(unit)}; }
  // One over the elements of a group.
  double share() const { return 1.0 / (static_cast<double>(channels / groups) * static_cast<double>(pixels)); }
};

// One chunk's sums per channel: arrays of `row` Reals.
struct ChunkSums {
  Real *mean, *squares, *deviation;  // m, q, d
  Real *grad, *product;              // a, b; backward only
};

static inline ChunkSums chunk_sums(Real* all, const StepSizes& s, int arrays, int64_t unit) {
  Real* own = all + unit * arrays * s.row;
  return {own, own + s.row, own + 2 * s.row, own + 3 * s.row, own + 4 * s.row};
}

// Calls visit(Together, pixel) for `count` pixels. Together::value is the number of pixels, from `pixel` on, of a call.
template <int64_t kCount>
struct Together {
  static constexpr int64_t value = kCount;
};
template <typename Visit>
static inline void for_each_pixel(int64_t count, const Visit& visit) {
  int64_t i = 0;
  for (; i + kUnroll <= count; i += kUnroll) visit(Together<kUnroll>{}, i);
  for (; i < count; ++i) visit(Together<1>{}, i);
}

static inline void clear(Real* values, int64_t count) { std::memset(values, 0, count * sizeof(Real)); }

template <typename T>
static inline void chunk_mean(const Rows<const T>& x, int64_t count, const StepSizes& s, Real* mean) {
  const int64_t width = s.row, stride = x.stride;  // copies, which the stores below cannot change
  clear(mean, width);
  for_each_pixel(count, [=](auto together, int64_t i) {
    const T* row = x.data + i * stride;
    for (int64_t c = 0; c < width; c += kLanes) {
      Vec sum = load(mean + c);
      for (int64_t p = 0; p < decltype(together)::value; ++p) sum += load_vector(row + p * stride + c);
      store(mean + c, sum);
    }
  });
  const Real share = 1.0f / static_cast<Real>(count);
  for (int64_t c = 0; c < width; c += kLanes) store(mean + c, load(mean + c) * share);
}

// Adds to `squares` and `deviation`.
template <int64_t kCount, typename T>
static inline void add_deviations(const T* x, int64_t stride, int64_t c, const ChunkSums& sums,
                                  Vec (&centred)[kCount]) {
  const Vec mean = load(sums.mean + c);
  Vec squares = load(sums.squares + c), deviation = load(sums.deviation + c);
  for (int64_t p = 0; p < kCount; ++p) {
    centred[p] = load_vector(x + p * stride + c) - mean;
    squares += centred[p] * centred[p];
    deviation += centred[p];
  }
  store(sums.squares + c, squares);
  store(sums.deviation + c, deviation);
}

// An image's statistics and gradient sums per channel, merged from its chunks.
struct ImageSums {
  double *mean, *rstd;     // of the channel's group
  double *grad, *product;  // sums of g and of g (x - mean); backward only
  double *sum, *weighted;  // scratch

  ImageSums(Arena& arena, const StepSizes& s)
      : mean(arena.take<double>(s.row)),
        rstd(arena.take<double>(s.row)),
        grad(arena.take<double>(s.row)),
        product(arena.take<double>(s.row)),
        sum(arena.take<double>(s.row)),
        weighted(arena.take<double>(s.row)) {}
};

// target[c] = the sum of values over the channels of c's group.
static inline void spread_group_sums(const double* values, const StepSizes& s, double* target) {
  const int64_t width = s.channels / s.groups;
  for (int64_t first = 0; first < s.channels; first += width) {
    double total = 0.0;
    for (int64_t c = first; c < first + width; ++c) total += values[c];
    for (int64_t c = first; c < first + width; ++c) target[c] = total;
  }
}

static inline void merge_statistics(Real* all, const StepSizes& s, int arrays, int64_t image, double eps,
                                    const ImageSums& m) {
  const double share = s.share();
  for (int64_t c = 0; c < s.channels; ++c) m.sum[c] = 0.0;
  for (int64_t i = 0; i < s.chunks; ++i) {
    const ChunkSums part = chunk_sums(all, s, arrays, image * s.chunks + i);
    const double count = static_cast<double>(s.count(i));
    for (int64_t c = 0; c < s.channels; ++c) m.sum[c] += count * part.mean[c] + part.deviation[c];
  }
  spread_group_sums(m.sum, s, m.mean);
  for (int64_t c = 0; c < s.channels; ++c) {
    m.mean[c] *= share;
    m.sum[c] = 0.0;
  }
  for (int64_t i = 0; i < s.chunks; ++i) {
    const ChunkSums part = chunk_sums(all, s, arrays, image * s.chunks + i);
    const double count = static_cast<double>(s.count(i));
    for (int64_t c = 0; c < s.channels; ++c) {
      const double apart = part.mean[c] - m.mean[c];
      m.sum[c] += part.squares[c] + apart * (2.0 * part.deviation[c] + count * apart);
    }
  }
  spread_group_sums(m.sum, s, m.rstd);
  for (int64_t c = 0; c < s.channels; ++c) {
    const double variance = m.rstd[c] * share;
    m.rstd[c] = 1.0 / __builtin_sqrt((variance < 0.0 ? 0.0 : variance) + eps);  // rounding may go below zero; NaN stays
  }
}

static inline void merge_gradients(Real* all, const StepSizes& s, int64_t image, const ImageSums& m) {
  for (int64_t c = 0; c < s.channels; ++c) m.grad[c] = m.product[c] = 0.0;
  for (int64_t i = 0; i < s.chunks; ++i) {
    const ChunkSums part = chunk_sums(all, s, kBackwardSums, image * s.chunks + i);
    for (int64_t c = 0; c < s.channels; ++c) {
      m.grad[c] += part.grad[c];
      m.product[c] += part.product[c] + (part.mean[c] - m.mean[c]) * part.grad[c];
    }
  }
}

}  // namespace SEGNEXT_ISA
}  // namespace segnext
