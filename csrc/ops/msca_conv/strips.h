// The forward of msca_conv, streamed: a = root(x); out = a + sum over pairs of column(row(a)), all depthwise.
//
// A unit of work is kLanes channels of one image, or of one column tile if the image is wide. It proceeds down the
// image in quads of four rows and keeps only what later rows still need, in rings of quads:
//   x      the rows that the root reaches
//   a      the newest quads of the root's output, with the row strips' halo left and right
//   strip  for each pair the row strip's output, as many quads as the column strip reaches up and down
// With SegNeXt's kernels these are 8 + 16 + 60 rows: with their margins 767 KiB for 128 columns of 16 floats. They fit
// a second-level cache of 1 MiB, while whole planes do not. A register tile is four rows by kColumns pixels, so a
// column strip of K taps loads (K + 3) kColumns + 4 K vectors for 4 K kColumns FMAs. The root is K column strips, one
// per column of its taps. Outside the image a ring holds zeros. Every convolution pads its *own* input, so the strips
// must see neither the root's bias nor its output beyond the border.
#pragma once

#include "cpu/memory.h"
#include "cpu/rows.h"
#include "ops/msca_conv/msca_conv.h"

namespace segnext {
namespace SEGNEXT_ISA {

constexpr int64_t kQuad = 4;
#if SEGNEXT_VECTOR_REGISTERS == 32
constexpr int64_t kColumns = 4, kRun = 12;  // pixels of a register tile: for columns and root, for row strips
#else
constexpr int64_t kColumns = 2, kRun = 8;
#endif
constexpr int64_t kRingBytes = 800 * 1024;  // for the rings, in a second-level cache of 1 MiB

// The sizes of the kernels. Their packed weights are, for each block of kLanes channels, the root's bias and taps
// (column by column), then for each pair the row's bias and taps and the column's bias and taps.
struct StripKernels {
  int64_t channels, root, pairs;
  int64_t row[kMaxStrips], column[kMaxStrips];

  // Packed vectors per block of channels.
  int64_t vectors() const {
    int64_t count = 1 + root * root;
    for (int64_t i = 0; i < pairs; ++i) count += 2 + row[i] + column[i];
    return count;
  }
  int64_t packed_reals() const { return padded(channels) * vectors(); }
  // Columns that the longest row strip reaches to either side.
  int64_t side() const {
    int64_t most = 0;
    for (int64_t i = 0; i < pairs; ++i) most = larger(row[i] / 2, most);
    return most;
  }
  // Quads that a pair's column strip reaches up and down, and the most over all pairs.
  int64_t ahead(int64_t pair) const { return blocks_of(column[pair] / 2, kQuad); }
  int64_t ahead() const {
    int64_t most = 0;
    for (int64_t i = 0; i < pairs; ++i) most = larger(ahead(i), most);
    return most;
  }
};

static inline StripKernels strip_kernels(const MscaConvWeights& w) {
  StripKernels k{w.root_weight.size[0], w.root_weight.size[2], w.strips, {}, {}};
  for (int64_t i = 0; i < k.pairs; ++i) {
    k.row[i] = w.row_weight[i].size[3];
    k.column[i] = w.column_weight[i].size[2];
  }
  return k;
}

template <typename T>
static inline void pack_strips(const MscaConvWeights& w, Real* out) {
  const StripKernels k = strip_kernels(w);
  for (int64_t channel = 0; channel < k.channels; channel += kLanes) {
    const auto vector = [&](const Tensor4& t, int64_t offset) {
      for (int64_t lane = 0; lane < kLanes; ++lane) {
        const bool given = t.data != nullptr && channel + lane < k.channels;
        *out++ = given ? to_real(static_cast<const T*>(t.data)[(channel + lane) * t.stride[0] + offset]) : 0.0f;
      }
    };
    vector(w.root_bias, 0);
    for (int64_t j = 0; j < k.root; ++j) {
      for (int64_t i = 0; i < k.root; ++i)
        vector(w.root_weight, i * w.root_weight.stride[2] + j * w.root_weight.stride[3]);
    }
    for (int64_t i = 0; i < k.pairs; ++i) {
      const Tensor4 &row = w.row_weight[i], &column = w.column_weight[i];
      vector(w.row_bias[i], 0);
      for (int64_t tap = 0; tap < k.row[i]; ++tap) vector(row, tap * row.stride[3]);
      vector(w.column_bias[i], 0);
      for (int64_t tap = 0; tap < k.column[i]; ++tap) vector(column, tap * column.stride[2]);
    }
  }
}

// The column tiles of an image, and the lengths of the rings' rows in pixels.
struct StripTiles {
  int64_t tile, tiles, x_row, a_row, strip_row;

  StripTiles(const StripKernels& k, int64_t width) : tile(width), tiles(1) {
    for (resize(k); bytes(k) > kRingBytes && tile > 32; resize(k)) {
      ++tiles;
      tile = blocks_of(width, tiles);
    }
    tiles = blocks_of(width, tile);
  }
  int64_t x_reals(const StripKernels& k) const { return (k.root + kQuad - 1) * x_row * kLanes; }
  int64_t a_reals(const StripKernels& k) const { return (k.ahead() + 1) * kQuad * a_row * kLanes; }
  int64_t strip_reals(const StripKernels& k, int64_t pair) const {
    return (2 * k.ahead(pair) + 1) * kQuad * strip_row * kLanes;
  }

 private:
  void resize(const StripKernels& k) {
    strip_row = tile + kRun;  // register tiles may run past the end
    a_row = strip_row + 2 * k.side();
    x_row = a_row + k.root - 1;
  }
  int64_t bytes(const StripKernels& k) const {
    int64_t reals = x_reals(k) + a_reals(k);
    for (int64_t i = 0; i < k.pairs; ++i) reals += strip_reals(k, i);
    return reals * static_cast<int64_t>(sizeof(Real));
  }
};

struct StripScratch {
  Real *x, *a, *strip[kMaxStrips];

  StripScratch(Arena& arena, const StripKernels& k, const StripTiles& tiling)
      : x(arena.take<Real>(tiling.x_reals(k))), a(arena.take<Real>(tiling.a_reals(k))) {
    for (int64_t i = 0; i < k.pairs; ++i) strip[i] = arena.take<Real>(tiling.strip_reals(k, i));
  }
};

// Adds one row of input to output rows kLow to kHigh of a quad. `w` is the row's tap for output row 0; its tap for
// output row r is r taps before that.
template <int kLow, int kHigh>
static inline __attribute__((always_inline)) void column_step(Vec (&sum)[kQuad][kColumns], const Real* pixel,
                                                              const Real* w) {
  Vec x[kColumns];
#pragma GCC unroll 4
  for (int p = 0; p < kColumns; ++p) x[p] = load(pixel + p * kLanes);
#pragma GCC unroll 4
  for (int r = kLow; r <= kHigh; ++r) {
    const Vec weight = load(w - r * kLanes);
#pragma GCC unroll 4
    for (int p = 0; p < kColumns; ++p) sum[r][p] += weight * x[p];
  }
}

// sum[r] += sum over taps of w[tap] * rows[r + tap], for four output rows at once.
static inline __attribute__((always_inline)) void column_strip(Vec (&sum)[kQuad][kColumns], const Real* const* rows,
                                                               int64_t offset, const Real* w, int64_t taps) {
  const auto at = [&](int64_t i) { return rows[i] + offset; };
  const Real* last = w + (taps - 1) * kLanes;
  // This call precedes the branch: the compiler hoists a product that two branches share and adds it without an FMA.
  // The row would then be rounded differently from the same row at another place in its quad.
  column_step<0, 0>(sum, at(0), w);
  if (taps == 1) {
    column_step<1, 1>(sum, at(1), w + kLanes);
    column_step<2, 2>(sum, at(2), w + 2 * kLanes);
    column_step<3, 3>(sum, at(3), w + 3 * kLanes);
    return;
  }
  column_step<0, 1>(sum, at(1), w + kLanes);
  column_step<0, 2>(sum, at(2), w + 2 * kLanes);
  for (int64_t i = 3; i < taps; ++i) column_step<0, 3>(sum, at(i), w + i * kLanes);
  column_step<1, 3>(sum, at(taps), last + kLanes);
  column_step<2, 3>(sum, at(taps + 1), last + 2 * kLanes);
  column_step<3, 3>(sum, at(taps + 2), last + 3 * kLanes);
}

// out[x] = sum over taps of w[tap] * in[x + tap], plus bias. The bias comes last: a large one would round every partial
// sum.
static inline void row_strip(const Real* in, Real* out, int64_t pixels, Vec bias, const Real* w, int64_t taps) {
  for (int64_t x = 0; x < pixels; x += kRun) {
    Vec sum[kRun] = {};
    const Real* pixel = in + x * kLanes;
    for (int64_t tap = 0; tap < taps; ++tap, pixel += kLanes) {
      const Vec weight = load(w + tap * kLanes);
#pragma GCC unroll 12
      for (int p = 0; p < kRun; ++p) sum[p] += weight * load(pixel + p * kLanes);
    }
#pragma GCC unroll 12
    for (int p = 0; p < kRun; ++p) store(out + (x + p) * kLanes, sum[p] + bias);
  }
}

// Rows [first, last) and columns [left, right) of one image, for kLanes channels.
template <typename T>
struct StripUnit {
  const Tensor4 &x, &out;
  const StripKernels& k;
  const StripTiles& tiling;
  const StripScratch& s;
  const Real* weights;  // packed, of this block of channels
  int64_t image, channel, left, right, first, last;

  int64_t height() const { return x.size[2]; }
  int64_t width() const { return x.size[3]; }
  int64_t lanes() const { return x.size[1] - channel; }
  bool is_inside(int64_t row) const { return row >= 0 && row < height(); }
  // The place of a row in a ring of `quads` quads. Rows count from `first` and may be negative.
  static int64_t slot(int64_t row, int64_t quads) {
    const int64_t rows = quads * kQuad;
    return (row % rows + rows) % rows;
  }
  Real* x_at(int64_t row) const {
    const int64_t rows = k.root + kQuad - 1;
    return s.x + (row % rows + rows) % rows * tiling.x_row * kLanes;
  }
  Real* a_at(int64_t row) const { return s.a + slot(row, k.ahead() + 1) * tiling.a_row * kLanes; }
  Real* strip_at(int64_t pair, int64_t row) const {
    return s.strip[pair] + slot(row, 2 * k.ahead(pair) + 1) * tiling.strip_row * kLanes;
  }

  // Loads image row first + row into the ring of x.
  void load_x(int64_t row) const {
    Real* target = x_at(row);
    const int64_t origin = left - k.side() - k.root / 2;  // the image column of the ring's first pixel
    const int64_t begin = larger(origin, 0), end = smaller(right + k.side() + k.root / 2, width());
    if (!is_inside(first + row)) {
      std::memset(target, 0, tiling.x_row * kLanes * sizeof(Real));
      return;
    }
    std::memset(target, 0, (begin - origin) * kLanes * sizeof(Real));
    std::memset(target + (end - origin) * kLanes, 0, (tiling.x_row - (end - origin)) * kLanes * sizeof(Real));
    const T* source = static_cast<const T*>(x.data) + image * x.stride[0] + channel * x.stride[1] +
                      (first + row) * x.stride[2] + begin * x.stride[3];
    target += (begin - origin) * kLanes;
    if (x.stride[1] == 1 && lanes() >= kLanes) {
      for (int64_t i = 0; i < end - begin; ++i) store(target + i * kLanes, load_vector(source + i * x.stride[3]));
    } else {
      for (int64_t lane = 0; lane < kLanes; ++lane) {
        const T* pixel = source + lane * x.stride[1];
        for (int64_t i = 0; i < end - begin; ++i) {
          target[i * kLanes + lane] = lane < lanes() ? to_real(pixel[i * x.stride[3]]) : 0.0f;
        }
      }
    }
  }

  // Computes the root's output for a quad, zero outside the image's columns. Its rows outside the image are never read.
  void produce_a(int64_t quad) const {
    const int64_t row = quad * kQuad, origin = left - k.side();
    const int64_t begin = larger(origin, 0) - origin, end = smaller(right + k.side(), width()) - origin;
    const Real* rows[kQuad + kMaxRoot - 1];
    for (int64_t i = 0; i < kQuad + k.root - 1; ++i) rows[i] = x_at(row - k.root / 2 + i);
    Real* target[kQuad];
    for (int64_t r = 0; r < kQuad; ++r) {
      target[r] = a_at(row + r);
      std::memset(target[r], 0, begin * kLanes * sizeof(Real));
      std::memset(target[r] + end * kLanes, 0, (tiling.a_row - end) * kLanes * sizeof(Real));
    }
    const Vec bias = load(weights);
    for (int64_t x0 = begin; x0 < end; x0 += kColumns) {
      Vec sum[kQuad][kColumns] = {};
      for (int64_t j = 0; j < k.root; ++j) {
        column_strip(sum, rows, (x0 + j) * kLanes, weights + (1 + j * k.root) * kLanes, k.root);
      }
#pragma GCC unroll 4
      for (int r = 0; r < kQuad; ++r) {
#pragma GCC unroll 4
        for (int p = 0; p < kColumns; ++p) {
          if (x0 + p < end) store(target[r] + (x0 + p) * kLanes, sum[r][p] + bias);
        }
      }
    }
  }

  void produce_strip(int64_t pair, int64_t quad, const Real* w) const {
    for (int64_t row = quad * kQuad; row < (quad + 1) * kQuad; ++row) {
      Real* target = strip_at(pair, row);
      if (is_inside(first + row)) {
        const Real* source = a_at(row) + (k.side() - k.row[pair] / 2) * kLanes;
        row_strip(source, target, right - left, load(w), w + kLanes, k.row[pair]);
      } else {
        std::memset(target, 0, tiling.strip_row * kLanes * sizeof(Real));
      }
    }
  }

  // Computes the output rows of a quad: the root's output plus every column strip's.
  void finish(int64_t quad) const {
    const int64_t row = quad * kQuad;
    const Real* a[kQuad];
    for (int64_t r = 0; r < kQuad; ++r) a[r] = a_at(row + r) + k.side() * kLanes;
    Vec bias = {};
    const Real* column[kMaxStrips];
    const Real* rows[kMaxStrips][kQuad + kMaxStripTaps - 1];
    const Real* w = weights + (1 + k.root * k.root) * kLanes;
    for (int64_t i = 0; i < k.pairs; ++i) {
      w += (1 + k.row[i]) * kLanes;
      bias += load(w);
      column[i] = w + kLanes;
      w += (1 + k.column[i]) * kLanes;
      for (int64_t j = 0; j < kQuad + k.column[i] - 1; ++j) rows[i][j] = strip_at(i, row - k.column[i] / 2 + j);
    }
    T* target = static_cast<T*>(out.data) + image * out.stride[0] + channel * out.stride[1] +
                (first + row) * out.stride[2] + left * out.stride[3];
    const int64_t count = smaller(last - first - row, kQuad);
    for (int64_t x0 = 0; x0 < right - left; x0 += kColumns) {
      Vec sum[kQuad][kColumns];
#pragma GCC unroll 4
      for (int r = 0; r < kQuad; ++r) {
#pragma GCC unroll 4
        for (int p = 0; p < kColumns; ++p) sum[r][p] = load(a[r] + (x0 + p) * kLanes) + bias;
      }
      for (int64_t i = 0; i < k.pairs; ++i) column_strip(sum, rows[i], x0 * kLanes, column[i], k.column[i]);
#pragma GCC unroll 4
      for (int r = 0; r < kQuad; ++r) {
#pragma GCC unroll 4
        for (int p = 0; p < kColumns; ++p) {
          if (r < count && x0 + p < right - left) {
            store_channels(target + r * out.stride[2] + (x0 + p) * out.stride[3], out.stride[1], lanes(), sum[r][p]);
          }
        }
      }
    }
  }

  void run() const {
    const int64_t ahead = k.ahead(), quads = blocks_of(last - first, kQuad);
    int64_t loaded = -ahead * kQuad - k.root / 2;  // rows of x before this one are in the ring or past use
    for (int64_t quad = -2 * ahead; quad < quads; ++quad) {
      const int64_t newest = quad + ahead, row = newest * kQuad;
      if (first + row + kQuad > 0 && first + row < height()) {
        for (loaded = larger(loaded, row - k.root / 2); loaded < row + kQuad + k.root / 2; ++loaded) load_x(loaded);
        produce_a(newest);
      }
      const Real* w = weights + (1 + k.root * k.root) * kLanes;
      for (int64_t i = 0; i < k.pairs; ++i) {
        if (quad >= -2 * k.ahead(i)) produce_strip(i, quad + k.ahead(i), w);
        w += (2 + k.row[i] + k.column[i]) * kLanes;
      }
      if (quad >= 0) finish(quad);
    }
  }
};

// Runs one thread's contiguous range of the rows of all units. A unit is divided where two threads' ranges meet.
template <typename T>
static inline void run_strips(const Tensor4& x, const Tensor4& out, const StripKernels& k, const StripTiles& tiling,
                              const Real* packed, const StripScratch& scratch, const Member& me) {
  const int64_t height = x.size[2], blocks = vectors_of(k.channels);
  const int64_t total = x.size[0] * blocks * tiling.tiles * height;
  const int64_t last = me.end(total);
  for (int64_t row = me.begin(total); row < last;) {
    const int64_t unit = row / height, first = row % height;
    const int64_t end = smaller(first + last - row, height);
    const int64_t block = unit / tiling.tiles % blocks, left = unit % tiling.tiles * tiling.tile;
    const int64_t right = smaller(left + tiling.tile, x.size[3]);
    StripUnit<T>{x,
                 out,
                 k,
                 tiling,
                 scratch,
                 packed + block * k.vectors() * kLanes,
                 unit / tiling.tiles / blocks,
                 block * kLanes,
                 left,
                 right,
                 first,
                 end}
        .run();
    row += end - first;
  }
}

}  // namespace SEGNEXT_ISA
}  // namespace segnext
