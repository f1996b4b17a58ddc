// The products of cpu/gemm.h on the tile registers of AMX.
//
// Two tiles of 16 rows times two of 16 columns: per 32 k, four tiles are loaded for four products. The 32 x 32 sums are
// stored to 4 KiB of the first-level cache, and the epilogue takes them from there as vectors.
// Tiles always have 16 rows. The last tile of a matrix is moved up to end with it; if the matrix has fewer rows, they
// are copied and rows of zeros follow. A row's sums are the same bits wherever the row lies in a tile, so they do not
// depend on how threads divide the rows.
//
// Rows of floats and weights in pieces (Split) make three products of bfloat16: low x high, high x low, high x high.
// What is missing, low x low, is 2^-16 of the product at most. Sums that are not finite are computed again with whole
// numbers, since Inf in two pieces times a weight of one piece is Inf x 0.
#pragma once

#include "cpu/packed_weights.h"
#include "cpu/tile_registers.h"

#if defined(SEGNEXT_TILES)

namespace segnext {
namespace SEGNEXT_ISA {

// What tiles compute at once: up to two tiles of rows and of columns.
struct TileBlock {
  static constexpr int64_t kRows = 2 * kTileSide, kColumns = 2 * kTileSide;

  int64_t tiles;     // of rows
  int64_t first[2];  // the row that each begins with
  bool two_columns;
  Real* sums;  // (kRows, kColumns)

  // The block of rows from `row` on.
  TileBlock(int64_t row, int64_t rows, Real* sums)
      : tiles(rows - row > kTileSide ? 2 : 1), first{begin(row, rows), begin(row + kTileSide, rows)}, sums(sums) {}

  static int64_t begin(int64_t row, int64_t rows) { return smaller(row, larger(rows - kTileSide, 0)); }
};

// The `rows` rows of 32 k at p, at most 16, with rows of zeros behind them.
struct FewRows {
  BFloat16 data[kTileSide][kTileDepth];

  const BFloat16* copy(const BFloat16* p, int64_t stride, int64_t rows) {
    for (int64_t i = 0; i < kTileSide; ++i) {
      if (i < rows) {
        std::memcpy(data[i], p + i * stride, sizeof data[i]);
      } else {
        std::memset(data[i], 0, sizeof data[i]);
      }
    }
    return data[0];
  }
};

// Adds a product to the tiles of sums 0 to 3. The block's columns of the weights begin at `panel`, and two steps of k
// are `step` elements apart.
template <int kRowTiles, int kColumnTiles>
static __attribute__((noinline)) void add_product(const Rows<const BFloat16>& a, int64_t rows, const BFloat16* panel,
                                                  int64_t step, int64_t segment_k, int64_t segments,
                                                  const TileBlock& block) {
  FewRows few;
  const bool is_few = rows < kTileSide;
  const int64_t stride = is_few ? kTileDepth : a.stride;
  constexpr int64_t kBytes = sizeof(BFloat16), kNextColumns = 2 * kTileSide;
  for (int64_t s = 0; s < segments; ++s) {
    const BFloat16* segment = a.data + s * a.segment_stride;
    for (int64_t k = 0; k < segment_k; k += kTileDepth, panel += kTileDepth / 2 * step) {
      const BFloat16* upper = segment + block.first[0] * a.stride + k;
      tile_load<4>(is_few ? few.copy(upper, a.stride, rows) : upper, stride * kBytes);
      tile_load<6>(panel, step * kBytes);
      tile_multiply<0, 4, 6>();
      if (kColumnTiles == 2) {
        tile_load<7>(panel + kNextColumns, step * kBytes);
        tile_multiply<1, 4, 7>();
      }
      if (kRowTiles == 2) {
        tile_load<5>(segment + block.first[1] * a.stride + k, stride * kBytes);
        tile_multiply<2, 5, 6>();
        if (kColumnTiles == 2) tile_multiply<3, 5, 7>();
      }
    }
  }
}

static inline void add_product(const Rows<const BFloat16>& a, int64_t rows, const BFloat16* panel, int64_t step,
                               int64_t segment_k, int64_t segments, const TileBlock& block) {
  if (block.tiles == 2) {
    block.two_columns ? add_product<2, 2>(a, rows, panel, step, segment_k, segments, block)
                      : add_product<2, 1>(a, rows, panel, step, segment_k, segments, block);
  } else {
    block.two_columns ? add_product<1, 2>(a, rows, panel, step, segment_k, segments, block)
                      : add_product<1, 1>(a, rows, panel, step, segment_k, segments, block);
  }
}

static inline void clear_sums() {
  tile_zero<0>();
  tile_zero<1>();
  tile_zero<2>();
  tile_zero<3>();
}

static inline void store_sums(const TileBlock& block) {
  constexpr int64_t kBytes = TileBlock::kColumns * sizeof(Real);
  Real* const lower = block.sums + kTileSide * TileBlock::kColumns;
  tile_store<0>(block.sums, kBytes);
  if (block.two_columns) tile_store<1>(block.sums + kTileSide, kBytes);
  if (block.tiles == 2) tile_store<2>(lower, kBytes);
  if (block.tiles == 2 && block.two_columns) tile_store<3>(lower + kTileSide, kBytes);
}

// BFloat16 rows, which are multiplied where they lie.
struct WholeRows {
  const Rows<const BFloat16>& a;
  int64_t rows;
  const PackedWeights<BFloat16>& w;

  void enter(const TileBlock&) {}

  void multiply(const TileBlock& block, const BFloat16* panel, int64_t vectors, int64_t vector) const {
    clear_sums();
    add_product(a, rows, panel + vector * kLanes * 2, vectors * kLanes * 2, w.segment_k, w.segments, block);
    store_sums(block);
  }
};

// Rows of floats. Those of a block are split once, for all columns.
struct SplitRows {
  const Rows<const Real>& a;
  int64_t rows;
  const PackedWeights<Split>& w;
  BFloat16 *high, *low;  // (TileBlock::kRows, elements())

  int64_t elements() const { return w.segments * w.segment_k; }

  void enter(const TileBlock& block) {
    for (int64_t i = 0; i < block.tiles * kTileSide; ++i) {
      const int64_t row = block.first[i / kTileSide] + i % kTileSide;
      BFloat16 *to_high = high + i * elements(), *to_low = low + i * elements();
      if (row >= rows) {
        std::memset(to_high, 0, elements() * sizeof(BFloat16));
        std::memset(to_low, 0, elements() * sizeof(BFloat16));
        continue;
      }
      for (int64_t s = 0; s < w.segments; ++s) {
        const Real* from = a.data + row * a.stride + s * a.segment_stride;
        for (int64_t k = 0; k < w.segment_k; k += kLanes, to_high += kLanes, to_low += kLanes) {
          BitsV upper, lower;
          split(load(from + k), &upper, &lower);
          const HalfBitsV halves[2] = {__builtin_convertvector(upper >> 16, HalfBitsV),
                                       __builtin_convertvector(lower >> 16, HalfBitsV)};
          std::memcpy(to_high, &halves[0], sizeof halves[0]);
          std::memcpy(to_low, &halves[1], sizeof halves[1]);
        }
      }
    }
  }

  void multiply(const TileBlock& block, const Split* panel, int64_t vectors, int64_t vector) const {
    const int64_t step = vectors * kLanes * 2;
    const BFloat16* highs = reinterpret_cast<const BFloat16*>(panel) + vector * kLanes * 2;
    const BFloat16* lows = highs + vectors * kLanes * elements();
    TileBlock own = block;  // its rows in the pieces
    own.first[0] = 0;
    own.first[1] = kTileSide;
    const auto add = [&](const BFloat16* pixels, const BFloat16* weights) {
      add_product({pixels, elements()}, TileBlock::kRows, weights, step, elements(), 1, own);
    };
    clear_sums();
    add(low, highs);
    add(high, lows);
    add(high, highs);
    store_sums(block);
    mend(block, highs, lows, step);
  }

  // Computes again what is not finite.
  void mend(const TileBlock& block, const BFloat16* highs, const BFloat16* lows, int64_t step) const {
    const IntV exponent = broadcast(Int{0x7f800000});
    for (int64_t i = 0; i < block.tiles * kTileSide; ++i) {
      const int64_t row = block.first[i / kTileSide] + i % kTileSide;
      for (int64_t j = 0; j < (block.two_columns ? 2 : 1) && row < rows; ++j) {
        Real* at = block.sums + i * TileBlock::kColumns + j * kLanes;
        const IntV is_wrong = ((IntV)load(at) & exponent) == exponent;
        Int any = 0;
        for (int lane = 0; lane < kLanes; ++lane) any |= is_wrong[lane];
        if (any == 0) continue;
        const Vec right = sum_of_whole(row, highs + j * kLanes * 2, lows + j * kLanes * 2, step);
        store(at, is_wrong ? right : load(at));
      }
    }
  }

  Vec sum_of_whole(int64_t row, const BFloat16* highs, const BFloat16* lows, int64_t step) const {
    Vec sum = {};
    for (int64_t k = 0; k < elements(); k += 2, highs += step, lows += step) {
      const Real* pixel = a.data + row * a.stride + k / w.segment_k * a.segment_stride + k % w.segment_k;
      BitsV high_pair, low_pair;
      std::memcpy(&high_pair, highs, sizeof high_pair);
      std::memcpy(&low_pair, lows, sizeof low_pair);
      sum += pixel[0] * ((Vec)(high_pair << 16) + (Vec)(low_pair << 16));
      sum += pixel[1] * ((Vec)(high_pair & 0xffff0000u) + (Vec)(low_pair & 0xffff0000u));
    }
    return sum;
  }
};

template <typename Product, typename Element, typename Epilogue>
static inline void for_each_block(Product product, int64_t rows, const PackedWeights<Element>& w,
                                  const Epilogue& epilogue) {
  static_assert(kLanes == kTileSide, "a tile's row of sums is a vector");
  alignas(64) Real sums[TileBlock::kRows * TileBlock::kColumns];
  const auto panels = [&](int64_t row, int64_t first_column, int64_t last_column) {
    TileBlock block(row, rows, sums);
    product.enter(block);
    for (int64_t column = first_column; column < last_column; column += kPanel * kLanes) {
      const int64_t vectors = smaller(vectors_of(w.n - column), kPanel);
      for (int64_t vector = 0; vector < vectors; vector += 2) {
        block.two_columns = vector + 1 < vectors;
        product.multiply(block, w.data + column * w.elements(), vectors, vector);
        const int64_t n = column + vector * kLanes;
        for (int64_t tile = 0; tile < block.tiles; ++tile) {
          const int64_t begin = row + tile * kTileSide;  // rows before it are done already
          for (int64_t m = begin; m < smaller(begin + kTileSide, rows); ++m) {
            const Real* sum = sums + (tile * kTileSide + m - block.first[tile]) * TileBlock::kColumns;
            epilogue(m, n, load(sum));
            if (block.two_columns) epilogue(m, n + kLanes, load(sum + kLanes));
          }
        }
      }
    }
  };
  if constexpr (std::is_same_v<Element, Split>) {  // a block of rows is split once for all panels
    for (int64_t row = 0; row < rows; row += TileBlock::kRows) panels(row, 0, w.n);
  } else {  // a panel of weights stays in the caches for all rows
    for (int64_t column = 0; column < w.n; column += kPanel * kLanes) {
      for (int64_t row = 0; row < rows; row += TileBlock::kRows) {
        panels(row, column, smaller(column + kPanel * kLanes, w.n));
      }
    }
  }
}

template <typename Epilogue>
static inline void gemm_on_tiles(const Rows<const BFloat16>& a, int64_t rows, const PackedWeights<BFloat16>& w,
                                 const Epilogue& epilogue) {
  for_each_block(WholeRows{a, rows, w}, rows, w, epilogue);
}

template <typename Epilogue>
static inline void gemm_on_tiles(const Rows<const Real>& a, int64_t rows, const PackedWeights<Split>& w,
                                 const Epilogue& epilogue) {
  const int64_t elements = TileBlock::kRows * w.segments * w.segment_k;  // suits_tiles limits them to 512 KiB
  BFloat16* pieces = static_cast<BFloat16*>(__builtin_alloca_with_align(2 * elements * sizeof(BFloat16), 512));
  for_each_block(SplitRows{a, rows, w, pieces, pieces + elements}, rows, w, epilogue);
}

}  // namespace SEGNEXT_ISA
}  // namespace segnext

#endif
