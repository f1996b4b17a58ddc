// The products of cpu/gemm.h on the tile registers of AMX.
//
// Two tiles of 16 rows times two of 16 columns: per 32 k, four tiles are loaded for four products. The 32 x 32 sums are
// stored to 4 KiB of the first-level cache, and the epilogue takes them from there as vectors.
// Tiles always have 16 rows. The last tile of a matrix is moved up to end with it; if the matrix has fewer rows, they
// are copied and rows of zeros follow. A row's sums are the same bits wherever the row lies in a tile, so they do not
// depend on how threads divide the rows.
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
  Real* sums;        // (kRows, kColumns)
};

// Whether tiles take a product; all others are the vectors'.
static inline bool tiles_take(const PackedWeights<BFloat16>& w) { return w.segment_k % kTileDepth == 0; }

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

// The sums of one or two tiles of rows and one or two of columns; the panel's columns begin at `panel`, and two of its
// steps of k are `step` elements apart.
template <int kRowTiles, int kColumnTiles>
static __attribute__((noinline)) void multiply_tiles(const Rows<const BFloat16>& a, int64_t rows, const BFloat16* panel,
                                                     int64_t step, const PackedWeights<BFloat16>& w,
                                                     const TileBlock& block) {
  FewRows few;
  const bool is_few = rows < kTileSide;
  const int64_t stride = is_few ? kTileDepth : a.stride;
  constexpr int64_t kBytes = sizeof(BFloat16), kColumnElements = 2 * kTileSide;
  tile_zero<0>();
  if (kColumnTiles == 2) tile_zero<1>();
  if (kRowTiles == 2) tile_zero<2>();
  if (kRowTiles == 2 && kColumnTiles == 2) tile_zero<3>();
  for (int64_t s = 0; s < w.segments; ++s) {
    const BFloat16* segment = a.data + s * a.segment_stride;
    for (int64_t k = 0; k < w.segment_k; k += kTileDepth, panel += kTileDepth / 2 * step) {
      const BFloat16* upper = segment + block.first[0] * a.stride + k;
      tile_load<4>(is_few ? few.copy(upper, a.stride, rows) : upper, stride * kBytes);
      tile_load<6>(panel, step * kBytes);
      tile_multiply<0, 4, 6>();
      if (kColumnTiles == 2) {
        tile_load<7>(panel + kColumnElements, step * kBytes);
        tile_multiply<1, 4, 7>();
      }
      if (kRowTiles == 2) {
        tile_load<5>(segment + block.first[1] * a.stride + k, stride * kBytes);
        tile_multiply<2, 5, 6>();
        if (kColumnTiles == 2) tile_multiply<3, 5, 7>();
      }
    }
  }
  constexpr int64_t kSumBytes = TileBlock::kColumns * sizeof(Real);
  Real* const lower = block.sums + kTileSide * TileBlock::kColumns;
  tile_store<0>(block.sums, kSumBytes);
  if (kColumnTiles == 2) tile_store<1>(block.sums + kTileSide, kSumBytes);
  if (kRowTiles == 2) tile_store<2>(lower, kSumBytes);
  if (kRowTiles == 2 && kColumnTiles == 2) tile_store<3>(lower + kTileSide, kSumBytes);
}

template <typename Epilogue>
static inline void gemm_on_tiles(const Rows<const BFloat16>& a, int64_t rows, const PackedWeights<BFloat16>& w,
                                 const Epilogue& epilogue) {
  static_assert(kLanes == kTileSide, "a tile's row of sums is a vector");
  alignas(64) Real sums[TileBlock::kRows * TileBlock::kColumns];
  const BFloat16* panel = w.data;
  for (int64_t column = 0; column < w.n; column += kPanel * kLanes) {
    const int64_t vectors = smaller(vectors_of(w.n - column), kPanel);
    const int64_t step = vectors * kLanes * 2;  // elements of the panel's step of k
    for (int64_t row = 0; row < rows; row += TileBlock::kRows) {
      const int64_t last = larger(rows - kTileSide, 0);  // where the last tile begins
      const TileBlock block{rows - row > kTileSide ? 2 : 1, {smaller(row, last), smaller(row + kTileSide, last)}, sums};
      for (int64_t vector = 0; vector < vectors; vector += 2) {
        const BFloat16* columns = panel + vector * kLanes * 2;
        const bool two = vector + 1 < vectors;
        if (block.tiles == 2) {
          two ? multiply_tiles<2, 2>(a, rows, columns, step, w, block)
              : multiply_tiles<2, 1>(a, rows, columns, step, w, block);
        } else {
          two ? multiply_tiles<1, 2>(a, rows, columns, step, w, block)
              : multiply_tiles<1, 1>(a, rows, columns, step, w, block);
        }
        for (int64_t tile = 0; tile < block.tiles; ++tile) {
          const int64_t begin = row + tile * kTileSide;  // rows before it are done already
          for (int64_t m = begin; m < smaller(begin + kTileSide, rows); ++m) {
            const Real* sum = sums + (tile * kTileSide + m - block.first[tile]) * TileBlock::kColumns;
            const int64_t n = column + vector * kLanes;
            epilogue(m, n, load(sum));
            if (two) epilogue(m, n + kLanes, load(sum + kLanes));
          }
        }
      }
    }
    panel += vectors * kLanes * w.elements();
  }
}

}  // namespace SEGNEXT_ISA
}  // namespace segnext

#endif
