// nmf2d on the CPU: `steps` times coef *= Xᵀ bases / (coef G + eps) with G = basesᵀ bases, then
// bases *= X coef / (bases H + eps) with H = coefᵀ coef; one last coef update; out = bases coefᵀ.
//
// Each step is one pass over X, 64 pixels at a time: numerator = tile · bases, denominator = coef · G, the new coef,
// and, while the tile is in the second-level cache, its part of X·coef and H. The first pass starts from
// coef = softmax(Xᵀ bases) and uses the same product as the numerator of its update. The last pass writes out.
// Between passes the chunks' parts are added in a fixed order, then bases and G are computed.
// X is read steps + 1 times (from the third-level cache if it fits) and out is written once. coef has R / D of X's
// size, the chunks' sums R / (pixels per chunk). FMAs: (2 steps + 2) D N R + (2 steps + 1) N R R; no product is
// computed twice.
// Where the instruction set multiplies BFloat16, the products with a BFloat16 X take bases and coef rounded to it. What
// they are updated from, and all that remains from step to step, is Real.
//   D 256, N 4096, R 16, 7 steps: 0.58 GFLOP and 36 MiB; at 110 GFLOP/s per core 2.6 ms on two cores.
//   D 512, N 4096, R 64, 7 steps: 4.8 GFLOP and 72 MiB; 22 ms.

#include "cpu/convert.h"
#include "cpu/exponential.h"
#include "cpu/pack.h"
#include "ops/nmf2d/nmf2d.h"
#include "ops/nmf2d/tiles.h"

namespace segnext {
namespace SEGNEXT_ISA {
namespace {

struct NmfSizes {
  int64_t channels, pixels, rank, padded_rank, out_channels;
  bool rounded;  // whether products with X are of BFloat16

  explicit NmfSizes(const Nmf2dParams& p)
      : channels(p.x.size[1]),
        pixels(p.x.size[2]),
        rank(p.bases.size[2]),
        padded_rank(padded(rank)),
        out_channels(p.out.size[1]),
        rounded(false) {
#if defined(SEGNEXT_BFLOAT16_PRODUCTS)
    rounded = p.dtype == DType::kBFloat16 && p.x.stride[1] == 1 && channels % k_step<BFloat16>() == 0;
#endif
  }

  // Number of rows of X·coef and of H below it, for a chunk or for the image.
  int64_t sum_rows() const { return channels + rank; }
};

// The memory of one image.
struct NmfState {
  Block bases, factors, gram, coef, partial, sums;  // factors: basesᵀ, or (projection bases)ᵀ
  BFloat16* packed;                                 // the bases, rounded

  NmfState(Arena& arena, const NmfSizes& s, int64_t chunks)
      : bases{arena.take<Real>(s.channels * s.padded_rank), s.padded_rank},
        factors{arena.take<Real>(s.rank * padded(s.out_channels)), padded(s.out_channels)},
        gram{arena.take<Real>(s.rank * s.padded_rank), s.padded_rank},
        coef{arena.take<Real>(s.pixels * s.padded_rank), s.padded_rank},
        partial{arena.take<Real>(chunks * s.sum_rows() * s.padded_rank), s.padded_rank},
        sums{arena.take<Real>(s.sum_rows() * s.padded_rank), s.padded_rank},
        packed(arena.take<BFloat16>(s.rounded ? packed_size<BFloat16>(s.rank, s.channels) : 0)) {}
};

// The memory of one thread.
struct NmfScratch {
  Real *tile, *transposed_tile;
  Block numerator, denominator;
  BFloat16 *transposed, *coef;  // a tile's X (channels, kTilePixels), and its coef as packed weights

  NmfScratch(Arena& arena, const NmfSizes& s)
      : tile(arena.take<Real>(tile_reals(larger(s.channels, s.out_channels)))),
        transposed_tile(arena.take<Real>(s.rank * kTilePixels)),
        numerator{arena.take<Real>(larger(kTilePixels, kRowBlock) * s.padded_rank), s.padded_rank},
        denominator{arena.take<Real>(larger(kTilePixels, kRowBlock) * s.padded_rank), s.padded_rank},
        transposed(arena.take<BFloat16>(s.rounded ? kTilePixels * s.channels : 0)),
        coef(arena.take<BFloat16>(s.rounded ? packed_size<BFloat16>(s.rank, kTilePixels) : 0)) {}
};

// factor *= numerator / (denominator + eps), in PyTorch's order of operations.
void update(const Block& factor, const Block& numerator, const Block& denominator, int64_t rows, Real eps) {
  for (int64_t i = 0; i < rows * factor.stride; i += kLanes) {
    const Vec value = load(factor.data + i) * load(numerator.data + i);
    store(factor.data + i, value / (load(denominator.data + i) + eps));
  }
}

void softmax(const Real* logits, int64_t count, Real* out) {
  Real largest = -__builtin_inff();
  for (int64_t i = 0; i < count; ++i) largest = logits[i] > largest ? logits[i] : largest;
  // A NaN anywhere makes the sum NaN, and with it all of the row.
  for (int64_t i = 0; i < padded(count); i += kLanes) {
    store(out + i, exp_negative(load(logits + i) - largest));
  }
  Real sum = 0.0f;
  for (int64_t i = 0; i < count; ++i) sum += out[i];
  for (int64_t i = 0; i < padded(count); i += kLanes) store(out + i, load(out + i) / sum);
}

// The index of the saved state before update `step`, or -1 if it is not saved.
int64_t slot(const Nmf2dParams& p, int64_t step) {
  const int64_t kept = p.saved_bases.size[0];
  if (kept == p.steps + 1) return step;
  return kept == 1 && step == p.steps ? 0 : -1;
}

// A tile of X and its two products.
template <typename T>
struct NmfTile {
  const NmfSizes& sizes;
  const NmfScratch& s;
  int64_t count;
  const T* pixels;
  int64_t stride;
  Factor x;

  NmfTile(const Image<const T>& image, const NmfSizes& sizes, int64_t first, int64_t count, const NmfScratch& s)
      : sizes(sizes),
        s(s),
        count(count),
        pixels(image.pixel(first)),
        stride(image.pixel_stride),
        x(sizes.rounded ? Factor{} : read_tile(image, first, count, s.tile)) {}

  void times_bases(const NmfState& state, const Block& out) const {
#if defined(SEGNEXT_BFLOAT16_PRODUCTS)
    if constexpr (std::is_same_v<T, BFloat16>) {
      if (sizes.rounded) {
        gemm(Rows<const T>{pixels, stride}, count, PackedWeights<T>{state.packed, sizes.rank, sizes.channels, 1},
             [&](int64_t m, int64_t n, Vec sum) { store(out.row(m) + n, sum); });
        return;
      }
    }
#endif
    product(x, count, sizes.channels, state.bases, sizes.rank, out);
  }

  void transposed_times(const Block& coef, const Block& out, bool accumulate) const {
#if defined(SEGNEXT_BFLOAT16_PRODUCTS)
    if constexpr (std::is_same_v<T, BFloat16>) {
      if (sizes.rounded) {
        transpose_pixels({pixels, stride}, count, sizes.channels, kTilePixels, s.transposed);
        pack_rounded(coef.data, coef.stride, 0, count, kTilePixels, sizes.rank, kTilePixels, s.coef);
        gemm(Rows<const T>{s.transposed, kTilePixels}, sizes.channels,
             PackedWeights<T>{s.coef, sizes.rank, kTilePixels, 1}, [&](int64_t m, int64_t n, Vec sum) {
               Real* at = out.row(m) + n;
               store(at, accumulate ? load(at) + sum : sum);
             });
        return;
      }
    }
#endif
    product(x.transposed(), sizes.channels, count, coef, sizes.rank, out, accumulate);
  }
};

template <typename T>
void pass(const Nmf2dParams& p, int64_t step, int64_t image, const NmfSizes& sizes, const NmfState& state,
          const NmfScratch& s, int64_t chunk, int64_t first, int64_t count, bool chunk_begins) {
  const NmfTile<T> x(Image<const T>(p.x, image), sizes, first, count, s);
  const Block coef = state.coef.from_row(first);
  x.times_bases(state, s.numerator);
  if (step == 0) {
    for (int64_t i = 0; i < count; ++i) softmax(s.numerator.row(i), sizes.rank, coef.row(i));
    if (slot(p, 0) >= 0) write_matrix(coef, p.saved_coef, slot(p, 0), image, first, count);
  }
  product(coef.factor(), count, sizes.rank, state.gram, sizes.rank, s.denominator);
  update(coef, s.numerator, s.denominator, count, static_cast<Real>(p.eps));
  if (step == p.steps) {
    reconstruct(coef, sizes.rank, state.factors, Image<T>(p.out, image), first, count, s.tile, s.transposed_tile);
    return;
  }
  if (slot(p, step + 1) >= 0) write_matrix(coef, p.saved_coef, slot(p, step + 1), image, first, count);
  const Block own = state.partial.from_row(chunk * sizes.sum_rows());
  x.transposed_times(coef, own, !chunk_begins);
  upper_gram(coef, count, sizes.rank, own.from_row(sizes.channels), !chunk_begins);
}

// Writes rows [first, first + count) of projection · bases as columns of the factors: D P R FMAs instead of D P N
// later.
void project(const Nmf2dParams& p, const NmfSizes& s, const NmfState& state, const NmfScratch& scratch, int64_t first,
             int64_t count) {
  const int64_t stride = p.projection.stride[0];
  const Factor rows{static_cast<const Real*>(p.projection.data) + first * stride, stride, 1};
  product(rows, count, s.channels, state.bases, s.rank, scratch.denominator);
  transpose_rows(scratch.denominator, count, s.rank, state.factors, first);
}

// Keeps rows [first, first + count) of the bases for update `step` in the forms that are needed.
void keep_bases(const Nmf2dParams& p, const NmfSizes& s, int64_t step, int64_t image, const NmfState& state,
                int64_t first, int64_t count) {
  const Block rows = state.bases.from_row(first);
#if defined(SEGNEXT_BFLOAT16_PRODUCTS)
  if (s.rounded) {
    pack_rounded(rows.data, rows.stride, first, count, first + count, s.rank, s.channels, state.packed);
  }
#endif
  if (slot(p, step) >= 0) write_matrix(rows, p.saved_bases, slot(p, step), image, first, count);
  if (step == p.steps && p.projection.data == nullptr) transpose_rows(rows, count, s.rank, state.factors, first);
}

template <typename T>
bool forward(const Nmf2dParams& p, int threads) {
  const NmfSizes sizes(p);
  const int64_t images = p.x.size[0], rank = sizes.rank;
  const Chunking chunking(images, sizes.pixels, rank, sizes.channels);
  const Tensor4 bases = over_images(p.bases, images);

  const int64_t state_bytes = bytes_of<NmfState>(sizes, chunking.chunks);
  const TeamMemory memory(chunking.group * state_bytes, bytes_of<NmfScratch>(sizes), threads);
  if (memory.is_exhausted()) return false;
  const auto state_of = [&](int64_t image) {
    return memory.shared_at<NmfState>(image % chunking.group * state_bytes, sizes, chunking.chunks);
  };

#pragma omp parallel num_threads(threads)
  {
    const Member me;
    const auto s = memory.own<NmfScratch>(me, sizes);
    for (int64_t begin = 0; begin < images; begin += chunking.group) {
      const int64_t group = smaller(chunking.group, images - begin);
      for_each_row_block(group, sizes.channels, [&](int64_t i, int64_t first, int64_t count) {
        const NmfState state = state_of(begin + i);
        const auto read = p.bases_dtype == DType::kFloat32 ? read_matrix<float> : read_matrix<T>;
        read(bases, 0, begin + i, first, count, state.bases.from_row(first));
        keep_bases(p, sizes, 0, begin + i, state, first, count);
      });
      for (int64_t step = 0; step <= p.steps; ++step) {
        if (step == p.steps && p.projection.data != nullptr) {
          for_each_row_block(group, sizes.out_channels, [&](int64_t i, int64_t first, int64_t count) {
            project(p, sizes, state_of(begin + i), s, first, count);
          });
        }
        for_each_row_block(group, rank, [&](int64_t i, int64_t first, int64_t count) {
          const NmfState state = state_of(begin + i);
          gram_rows(state.bases, sizes.channels, rank, first, count, state.gram);
        });
        for_each_chunk_tile(group, sizes.pixels, chunking,
                            [&](int64_t i, int64_t chunk, int64_t first, int64_t count, bool chunk_begins) {
                              pass<T>(p, step, begin + i, sizes, state_of(begin + i), s, chunk, first, count,
                                      chunk_begins);
                            });
        if (step == p.steps) break;
        for_each_row_block(group, sizes.sum_rows(), [&](int64_t i, int64_t first, int64_t count) {
          const NmfState state = state_of(begin + i);
          sum_chunks(state.partial, sizes.sum_rows(), chunking.chunks, first, count, state.sums);
        });
        for_each_in_team(group, [&](int64_t i) { mirror(state_of(begin + i).sums.from_row(sizes.channels), rank); });
        for_each_row_block(group, sizes.channels, [&](int64_t i, int64_t first, int64_t count) {
          const NmfState state = state_of(begin + i);
          const Block rows = state.bases.from_row(first);
          product(rows.factor(), count, rank, state.sums.from_row(sizes.channels), rank, s.denominator);
          update(rows, state.sums.from_row(first), s.denominator, count, static_cast<Real>(p.eps));
          keep_bases(p, sizes, step + 1, begin + i, state, first, count);
        });
      }
    }
  }
  return true;
}

}  // namespace

bool nmf2d_forward_cpu(const Nmf2dParams& params, int threads) {
  return SEGNEXT_WITH_ELEMENT(params.dtype, forward, params, threads);
}

}  // namespace SEGNEXT_ISA
}  // namespace segnext
