// The gradient of nmf2d on the CPU, from the bases and coef saved before each update: level 0 is the softmax's result,
// level s = steps the last one. Capital letters are (D, R) or (N, R) matrices of a level, g(Y) is the gradient of Y.
//
// A coef update C' = C * num / den, with num = Xᵀ B and den = C (BᵀB) + eps, gives per pixel
//
// clang-format off
//   g(num) = g(C') C / den
//   g(den) = -g(num) num / den
//   g(C)   = g(C') num / den + g(den) BᵀB
//   g(B)  += X g(num) + B (K + Kᵀ),   K = Cᵀ g(den)   sums over pixels
// clang-format on
//
// An update of the bases gives the same with D in place of N. On the way down a level, the update of the bases from B
// to B' (with C') is undone between two passes over X, by rows of D. It adds Xᵀ g(num') + C' (K' + K'ᵀ) to g(C') in the
// next pass, where g(num') is its (D, R) gradient.
//
// Each level is one pass over X in tiles, as in the forward: first [num | Xᵀ g(num')] = tile · [B | g(num')], then the
// chunk's sums X · [g(num) | C] and Cᵀ · [C | g(den)]. X C and CᵀC serve to undo the next update of the bases.
// grad_x = sum over levels of g(num) Bᵀ + C' g(num')ᵀ is one product over (2s + 1) R terms, in the pass of level 0. So
// it is written once, and values rounded to bfloat16 are never added up. Until then g(num) of each level is kept, which
// is as large as the saved coef; D N floats are never kept.
// FMAs: (6s + 4) D N R and (5s + 2) N R R. X is read s + 1 times, grad once; grad_x is written once.
//   D 256, N 4096, R 16, 6 steps: 1.4 GFLOP; at 110 GFLOP/s per core 6.3 ms on two cores.
//   D 512, N 4096, R 64, 6 steps: 11.8 GFLOP; 54 ms.
// "one_step" differentiates only the last coef update: one pass, 3 D N R.

#include "cpu/convert.h"
#include "ops/nmf2d/nmf2d.h"
#include "ops/nmf2d/tiles.h"

namespace segnext {
namespace SEGNEXT_ISA {
namespace {

struct NmfBackwardSizes {
  int64_t channels, pixels, rank, padded_rank;
  int64_t last;   // the last saved state: the one before the last coef update
  int64_t terms;  // grad_x = sum over terms of a coef-like column (of `weights`) and a bases-like row (of `factors`)

  explicit NmfBackwardSizes(const Nmf2dBackwardParams& p)
      : channels(p.x.size[1]),
        pixels(p.x.size[2]),
        rank(p.saved_bases.size[3]),
        padded_rank(padded(rank)),
        last(p.saved_bases.size[0] - 1),
        terms((p.unrolled ? 2 * last + 1 : 1) * rank) {}

  int64_t sum_rows() const { return channels + rank; }
  int64_t kept_levels() const { return terms > rank ? last : 0; }
  // The first term in which a level's g(num) meets its bases, and that in which its coef meets g(num').
  int64_t level_term(int64_t level) const { return terms > rank ? level * rank : 0; }
  int64_t bases_term(int64_t level) const { return (last + level) * rank; }
};

// The memory of one image. Pairs are side by side in one matrix, so that one product reads or writes both.
struct NmfBackwardState {
  Block bases_grad_num;  // [B | g(num')], (D, 2R)
  Block grad_den;        // g(den') (D, R)
  Block grad_bases;      // (D, R)
  Block gram, cross;     // BᵀB and K' + K'ᵀ, (R, R)
  Block grad_coef;       // (N, R)
  Block kept;            // g(num) of the levels from 1, (levels, N, R)
  Block factors;         // the bases-like side of the terms, (terms, D)
  Block partial, sums;   // rows of D: [X g(num) | X C]; rows of R: [CᵀC | K]

  NmfBackwardState(Arena& arena, const NmfBackwardSizes& s, int64_t chunks)
      : bases_grad_num{arena.take<Real>(s.channels * 2 * s.padded_rank), 2 * s.padded_rank},
        grad_den{arena.take<Real>(s.channels * s.padded_rank), s.padded_rank},
        grad_bases{arena.take<Real>(s.channels * s.padded_rank), s.padded_rank},
        gram{arena.take<Real>(s.rank * s.padded_rank), s.padded_rank},
        cross{arena.take<Real>(s.rank * s.padded_rank), s.padded_rank},
        grad_coef{arena.take<Real>(s.pixels * s.padded_rank), s.padded_rank},
        kept{arena.take<Real>(s.kept_levels() * s.pixels * s.padded_rank), s.padded_rank},
        factors{arena.take<Real>(s.terms * padded(s.channels)), padded(s.channels)},
        partial{arena.take<Real>(chunks * s.sum_rows() * 2 * s.padded_rank), 2 * s.padded_rank},
        sums{arena.take<Real>(s.sum_rows() * 2 * s.padded_rank), 2 * s.padded_rank} {}
};

// The memory of one thread.
struct NmfBackwardScratch {
  Real *tile, *grad_tile, *transposed_tile;
  Block num;                // [num | Xᵀ g(num')]
  Block grad_num_coef_den;  // [g(num) | C | g(den)]
  Block den, coef;          // coef: C after the last update, or C' of the level above
  Block weights;

  NmfBackwardScratch(Arena& arena, const NmfBackwardSizes& s)
      : tile(arena.take<Real>(tile_reals(s.channels))),
        grad_tile(arena.take<Real>(tile_reals(s.channels))),
        transposed_tile(arena.take<Real>(s.terms * kTilePixels)),
        num{arena.take<Real>(kTilePixels * 2 * s.padded_rank), 2 * s.padded_rank},
        grad_num_coef_den{arena.take<Real>(kTilePixels * 3 * s.padded_rank), 3 * s.padded_rank},
        den{arena.take<Real>(kTilePixels * s.padded_rank), s.padded_rank},
        coef{arena.take<Real>(kTilePixels * s.padded_rank), s.padded_rank},
        weights{arena.take<Real>(kTilePixels * s.terms), s.terms} {}
};

// The gradient of factor * num / (den + eps), a row of R. On return `grad` is the part that goes directly to the
// factor.
void ratio_backward(int64_t count, const Real* factor, const Real* num, const Real* den, Real eps, Real* grad,
                    Real* grad_num, Real* grad_den) {
  for (int64_t i = 0; i < count; i += kLanes) {
    const Vec below = load(den + i) + eps, ratio = load(num + i) / below;
    const Vec above = load(grad + i) * load(factor + i) / below;
    store(grad_num + i, above);
    store(grad_den + i, -above * ratio);
    store(grad + i, load(grad + i) * ratio);
  }
}

// Adds the gradient of the softmax's argument to grad_num, a row of R.
void softmax_backward(int64_t count, const Real* coef, const Real* grad, Real* grad_num) {
  Real sum = 0.0f;
  for (int64_t i = 0; i < count; ++i) sum += grad[i] * coef[i];
  for (int64_t i = 0; i < count; ++i) grad_num[i] += coef[i] * (grad[i] - sum);
}

template <typename T>
class NmfBackward {
 public:
  NmfBackward(const Nmf2dBackwardParams& params, int threads)
      : p_(params),
        sizes_(params),
        eps_(static_cast<Real>(params.eps)),
        chunking_(params.x.size[0], sizes_.pixels, sizes_.rank, sizes_.channels + sizes_.terms / 2),
        state_bytes_(bytes_of<NmfBackwardState>(sizes_, chunking_.chunks)),
        memory_(chunking_.group * state_bytes_, bytes_of<NmfBackwardScratch>(sizes_), threads) {}

  bool is_exhausted() const { return memory_.is_exhausted(); }

  // Every thread of a team calls this.
  void run() const {
    const Member me;
    const auto s = memory_.own<NmfBackwardScratch>(me, sizes_);
    const int64_t images = p_.x.size[0], bottom = p_.unrolled ? 0 : sizes_.last;
    for (int64_t begin = 0; begin < images; begin += chunking_.group) {
      const int64_t group = smaller(chunking_.group, images - begin);
      for_each_row_block(group, sizes_.channels,
                         [&](int64_t i, int64_t first, int64_t count) { start(begin + i, first, count); });
      for (int64_t level = sizes_.last; level >= bottom; --level) {
        for_each_row_block(group, sizes_.rank, [&](int64_t i, int64_t first, int64_t count) {
          small_products(level, begin + i, first, count);
        });
        for_each_chunk_tile(group, sizes_.pixels, chunking_,
                            [&](int64_t i, int64_t chunk, int64_t first, int64_t count, bool chunk_begins) {
                              pass(level, begin + i, s, chunk, first, count, chunk_begins);
                            });
        if (level == bottom) break;
        for_each_row_block(group, sizes_.sum_rows(), [&](int64_t i, int64_t first, int64_t count) {
          const NmfBackwardState state = state_of(begin + i);
          sum_chunks(state.partial, sizes_.sum_rows(), chunking_.chunks, first, count, state.sums);
        });
        for_each_in_team(group, [&](int64_t i) { add_transposed(state_of(begin + i)); });
        for_each_row_block(group, sizes_.channels, [&](int64_t i, int64_t first, int64_t count) {
          undo_bases_update(level - 1, begin + i, s, first, count);
        });
      }
    }
  }

 private:
  NmfBackwardState state_of(int64_t image) const {
    return memory_.shared_at<NmfBackwardState>(image % chunking_.group * state_bytes_, sizes_, chunking_.chunks);
  }

  void start(int64_t image, int64_t first, int64_t count) const {
    const NmfBackwardState state = state_of(image);
    const Block bases = state.bases_grad_num.from_row(first), grad = state.grad_bases.from_row(first);
    read_matrix<Real>(p_.saved_bases, sizes_.last, image, first, count, bases);
    transpose_rows(bases, count, sizes_.rank, state.factors.from_row(sizes_.level_term(sizes_.last)), first);
    std::memset(grad.data, 0, count * grad.stride * sizeof(Real));
  }

  // Computes BᵀB of this level, and K' + K'ᵀ of the update that made the next level's bases.
  void small_products(int64_t level, int64_t image, int64_t first, int64_t count) const {
    const NmfBackwardState state = state_of(image);
    gram_rows(state.bases_grad_num, sizes_.channels, sizes_.rank, first, count, state.gram);
    if (level == sizes_.last) return;
    const Block cross = state.cross.from_row(first);
    product(state.bases_grad_num.transposed().from_row(first), count, sizes_.channels, state.grad_den, sizes_.rank,
            cross);
    product(state.grad_den.transposed().from_row(first), count, sizes_.channels, state.bases_grad_num, sizes_.rank,
            cross, true);
  }

  void pass(int64_t level, int64_t image, const NmfBackwardScratch& s, int64_t chunk, int64_t first, int64_t count,
            bool chunk_begins) const {
    const NmfBackwardState state = state_of(image);
    const int64_t rank = sizes_.rank, width = sizes_.padded_rank;
    const bool is_last = level == sizes_.last, is_bottom = level == 0 || !p_.unrolled;
    const Factor x = read_tile(Image<const T>(p_.x, image), first, count, s.tile);
    const Block grad_num = s.grad_num_coef_den, coef = grad_num.from_column(width);
    const Block grad_den = coef.from_column(width), grad = state.grad_coef.from_row(first);
    read_matrix<Real>(p_.saved_coef, level, image, first, count, coef);
    product(coef.factor(), count, rank, state.gram, rank, s.den);
    Factor grad_out{};
    if (is_last) {
      product(x, count, sizes_.channels, state.bases_grad_num, rank, s.num);
      grad_out = read_tile(Image<const T>(p_.grad, image), first, count, s.grad_tile);
      product(grad_out, count, sizes_.channels, state.bases_grad_num, rank, grad);
      last_coef(count, coef, s);
    } else {
      product(x, count, sizes_.channels, state.bases_grad_num, width + rank, s.num);
      read_matrix<Real>(p_.saved_coef, level + 1, image, first, count, s.coef);
      product(s.coef.factor(), count, rank, state.cross, rank, grad, true);
      add_right_half(count, s.num, grad);
    }
    for (int64_t i = 0; i < count; ++i) {
      ratio_backward(rank, coef.row(i), s.num.row(i), s.den.row(i), eps_, grad.row(i), grad_num.row(i),
                     grad_den.row(i));
    }
    if (!is_bottom) {
      product(grad_den.factor(), count, rank, state.gram, rank, grad, true);
      const Block own = state.partial.from_row(chunk * sizes_.sum_rows());
      product(x.transposed(), sizes_.channels, count, grad_num, width + rank, own, !chunk_begins);
      if (is_last) product(grad_out.transposed(), sizes_.channels, count, s.coef, rank, own, true);
      product(coef.transposed(), rank, count, coef, width + rank, own.from_row(sizes_.channels), !chunk_begins);
      const Block kept = state.kept.from_row((level - 1) * sizes_.pixels + first);
      for (int64_t i = 0; i < count; ++i) std::memcpy(kept.row(i), grad_num.row(i), width * sizeof(Real));
      return;
    }
    if (p_.unrolled) {
      product(grad_den.factor(), count, rank, state.gram, rank, grad, true);
      for (int64_t i = 0; i < count; ++i) softmax_backward(rank, coef.row(i), grad.row(i), grad_num.row(i));
    }
    write_grad_x(image, state, s, first, count);
  }

  // Computes the coef that out was made from.
  void last_coef(int64_t count, const Block& coef, const NmfBackwardScratch& s) const {
    for (int64_t i = 0; i < count; ++i) {
      for (int64_t r = 0; r < sizes_.rank; r += kLanes) {
        const Vec value = load(coef.row(i) + r) * load(s.num.row(i) + r);
        store(s.coef.row(i) + r, value / (load(s.den.row(i) + r) + eps_));
      }
    }
  }

  void add_right_half(int64_t count, const Block& pairs, const Block& out) const {
    for (int64_t i = 0; i < count; ++i) {
      const Real* right = pairs.row(i) + sizes_.padded_rank;
      for (int64_t r = 0; r < sizes_.rank; r += kLanes) store(out.row(i) + r, load(out.row(i) + r) + load(right + r));
    }
  }

  // Writes the tile's grad_x from all terms: the bottom level's g(num) is in the scratch, those of other levels were
  // kept.
  void write_grad_x(int64_t image, const NmfBackwardState& state, const NmfBackwardScratch& s, int64_t first,
                    int64_t count) const {
    const int64_t rank = sizes_.rank;
    for (int64_t i = 0; i < count; ++i) {
      std::memcpy(s.weights.row(i), s.grad_num_coef_den.row(i), rank * sizeof(Real));
      for (int64_t level = 1; level <= sizes_.kept_levels(); ++level) {
        const Real* kept = state.kept.row((level - 1) * sizes_.pixels + first + i);
        std::memcpy(s.weights.row(i) + sizes_.level_term(level), kept, rank * sizeof(Real));
        const Real* coef = static_cast<const Real*>(p_.saved_coef.data) + level * p_.saved_coef.stride[0] +
                           image * p_.saved_coef.stride[1] + (first + i) * p_.saved_coef.stride[2];
        widen(coef, p_.saved_coef.stride[3], rank, s.weights.row(i) + sizes_.bases_term(level));
      }
    }
    reconstruct(s.weights, sizes_.terms, state.factors, Image<T>(p_.grad_x, image), first, count, s.tile,
                s.transposed_tile);
  }

  // K becomes K + Kᵀ.
  void add_transposed(const NmfBackwardState& state) const {
    const Block k = state.sums.from_row(sizes_.channels).from_column(sizes_.padded_rank);
    for (int64_t i = 0; i < sizes_.rank; ++i) {
      for (int64_t j = 0; j <= i; ++j) k.row(i)[j] = k.row(j)[i] = k.row(i)[j] + k.row(j)[i];
    }
  }

  // Computes rows [first, first + count) of the gradient of this level's bases from that of the next level's.
  void undo_bases_update(int64_t level, int64_t image, const NmfBackwardScratch& s, int64_t first,
                         int64_t count) const {
    const NmfBackwardState state = state_of(image);
    const int64_t rank = sizes_.rank, width = sizes_.padded_rank;
    const Block bases = state.bases_grad_num.from_row(first), grad_num = bases.from_column(width);
    const Block grad_den = state.grad_den.from_row(first), grad = state.grad_bases.from_row(first);
    const Block sums = state.sums.from_row(first), coef_gram = state.sums.from_row(sizes_.channels);
    // The coef update of the level above completes the gradient of its bases.
    product(bases.factor(), count, rank, coef_gram.from_column(width), rank, grad, true);
    for (int64_t i = 0; i < count; ++i) {
      for (int64_t r = 0; r < rank; r += kLanes) store(grad.row(i) + r, load(grad.row(i) + r) + load(sums.row(i) + r));
    }
    read_matrix<Real>(p_.saved_bases, level, image, first, count, bases);
    product(bases.factor(), count, rank, coef_gram, rank, s.den);
    for (int64_t i = 0; i < count; ++i) {
      ratio_backward(rank, bases.row(i), sums.row(i) + width, s.den.row(i), eps_, grad.row(i), grad_num.row(i),
                     grad_den.row(i));
    }
    product(grad_den.factor(), count, rank, coef_gram, rank, grad, true);
    transpose_rows(bases, count, rank, state.factors.from_row(sizes_.level_term(level)), first);
    transpose_rows(grad_num, count, rank, state.factors.from_row(sizes_.bases_term(level + 1)), first);
  }

  const Nmf2dBackwardParams& p_;
  const NmfBackwardSizes sizes_;
  const Real eps_;
  const Chunking chunking_;
  const int64_t state_bytes_;
  const TeamMemory memory_;
};

template <typename T>
bool backward(const Nmf2dBackwardParams& p, int threads) {
  const NmfBackward<T> work(p, threads);
  if (work.is_exhausted()) return false;
#pragma omp parallel num_threads(threads)
  work.run();
  return true;
}

}  // namespace

bool nmf2d_backward_cpu(const Nmf2dBackwardParams& params, int threads) {
  return SEGNEXT_WITH_ELEMENT(params.dtype, backward, params, threads);
}

}  // namespace SEGNEXT_ISA
}  // namespace segnext
