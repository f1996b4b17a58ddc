// The phases of a level of nmf2d's backward, divided like those of a step of the forward. nmf2d_backward_cuda.cu has
// the maths.
// clang-format off
//   pass     per tile of pixels: numerators, denominators, gradients of coef and its numerator; the slab's share of
//            X [g(num) | C], and of Cᵀ [C | g(den)]
//   reduce   the slabs' shares are added, in their order
//   undo     the update of the bases that led to the level above: their gradient one level down, g(num') and g(den')
//   gram     BᵀB, Bᵀ g(den') + g(den')ᵀ B; and g(den') H, which needs whole rows, is added to the bases' gradient
// clang-format on
#pragma once

#include "ops/nmf2d/nmf2d_forward.cuh"

namespace segnext {

// Offsets, in floats, of an image's data in the workspace. A pair is two matrices side by side, [first | second], 2 R
// columns.
struct BackwardState {
  int64_t bases;        // [B | g(num')] (D, 2R)
  int64_t packed;       // the same as fragments
  int64_t grad_den;     // g(den') (D, R)
  int64_t grad_bases;   // (D, R)
  int64_t gram, cross;  // BᵀB and K' + K'ᵀ (R, R)
  int64_t sums, partial;
  int64_t grad_coef;  // (N, R)
  int64_t kept;       // g(num) of each level (levels, N, R)
  int64_t factors;    // the factors that g(num) and the saved coef of each level are multiplied by: (terms, R, D)
  int64_t size;
};

template <typename T>
struct BackwardProblem {
  Images<const T> grad, x;
  Images<T> grad_x;
  Tensor4 saved_bases, saved_coef;
  bool unrolled;
  int64_t images, pixels, last;  // last: the level of the last saved state
  int channels, rank, padded_channels, padded_rank;
  int slabs, slab, tile;
  float eps;
  BackwardState state;
  float* workspace;

  __host__ __device__ int ld_x() const { return padded_channels + Vec16<T>::kSize; }
  __host__ __device__ int ld_rank() const { return padded_rank + 4; }
  __host__ __device__ int pair() const { return 2 * padded_rank; }
  __host__ __device__ int ld_pair() const { return pair() + 4; }
  __host__ __device__ int ld_split() const { return pair() + 8; }
  __host__ __device__ int sum_rows() const { return padded_channels + padded_rank; }
  __host__ __device__ int64_t bottom() const { return unrolled ? 0 : last; }
  // Number of terms of grad_x: per level g(num) with its bases; per level except the lowest also its coef with g(num')
  // of the update of the bases that used it.
  __host__ __device__ int64_t levels() const { return last - bottom() + 1; }
  __host__ __device__ int64_t terms() const { return 2 * levels() - 1; }
  __device__ int64_t level_term(int64_t level) const { return level - bottom(); }
  __device__ int64_t coef_term(int64_t level) const { return levels() + level - bottom() - 1; }

  __device__ float* of_image(int64_t image) const { return workspace + image * state.size; }
  __device__ float saved_basis(int64_t level, int64_t image, int row, int r) const {
    const int64_t at = saved_offset(saved_bases, level, image, row, r);
    return row < channels && r < rank ? load_global(static_cast<const float*>(saved_bases.data) + at) : 0.0f;
  }
  __device__ float saved_weight(int64_t level, int64_t image, int64_t pixel, int r) const {
    const int64_t at = saved_offset(saved_coef, level, image, pixel, r);
    return pixel < pixels && r < rank ? load_global(static_cast<const float*>(saved_coef.data) + at) : 0.0f;
  }
};

template <typename T>
struct BackwardTile {
  T* x;
  float* pairs;        // [num | Xᵀ g(num')], then [g(num) | g(den)]
  float *coef, *grad;  // C, and g(C') until it becomes g(C)
  float* upper;        // the coef that the level's update made
  __nv_bfloat16 *high, *low;

  __device__ explicit BackwardTile(const BackwardProblem<T>& p) {
    x = reinterpret_cast<T*>(shared_memory());
    pairs = reinterpret_cast<float*>(x + p.tile * p.ld_x());
    coef = pairs + p.tile * p.ld_pair();
    grad = coef + p.tile * p.ld_rank();
    upper = grad + p.tile * p.ld_rank();
    high = reinterpret_cast<__nv_bfloat16*>(upper + p.tile * p.ld_rank());
    low = high + p.tile * p.ld_split();
  }
  static size_t bytes_per_pixel(const BackwardProblem<T>& p) {
    const size_t parts = kOnTensorCores<T> ? 2 * p.ld_split() * sizeof(__nv_bfloat16) : 0;
    return p.ld_x() * sizeof(T) + (p.ld_pair() + 3 * p.ld_rank()) * sizeof(float) + parts;
  }
};

// Stores four elements of a row of a (D, R) matrix everywhere that products read them: in the half of the pairs that
// begins at column `half`, and in the factors of a term.
template <typename T>
__device__ inline void put_factor(const BackwardProblem<T>& p, int64_t image, int half, int64_t term, int row,
                                  int column, const float (&values)[4]) {
  float* state = p.of_image(image);
  Vec16<float>::from_floats(values).store_global(state + p.state.bases + row * p.pair() + half + column);
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const int64_t factor = (term * p.padded_rank + column + j) * p.padded_channels + row;
    if (term >= 0) store_global(state + p.state.factors + factor, values[j]);
    if constexpr (kOnTensorCores<T>) {
      auto* packed = reinterpret_cast<__nv_bfloat16*>(state + p.state.packed);
      pack_fragment(packed, p.pair(), row, half + column + j, values[j]);
    }
  }
}

// Starts with the last level's bases, whose gradient is still zero.
template <typename T>
__device__ inline void begin(const BackwardProblem<T>& p, int64_t image, int block, int blocks) {
  float* state = p.of_image(image);
  for_each_four(p.padded_channels, p.padded_rank, block, blocks, [&](int row, int column) {
    const float none[4] = {};
    float values[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) values[j] = p.saved_basis(p.last, image, row, column + j);
    put_factor(p, image, 0, p.level_term(p.last), row, column, values);
    put_factor(p, image, p.padded_rank, -1, row, column, none);
    const Vec16<float> zero{};
    zero.store_global(state + p.state.grad_bases + row * p.padded_rank + column);
    zero.store_global(state + p.state.grad_den + row * p.padded_rank + column);
  });
}

// Calls visit(pixel, r) for this thread's groups of four elements of a (tile, R) matrix.
template <typename Visit>
__device__ inline void for_each_of_tile(int pixels, int padded_rank, const Visit& visit) {
  const int fours = padded_rank / 4;
  for (int i = threadIdx.x; i < pixels * fours; i += kNmfThreads) visit(i / fours, i % fours * 4);
}

// Multiplies a tile by [B | g(num')] and calls put(pixel, column, sum) for each of the 2 R columns.
template <typename T, typename Put>
__device__ inline void times_pairs(const BackwardProblem<T>& p, const T* tile, int64_t image, const Put& put) {
  const float* state = p.of_image(image);
  if constexpr (kOnTensorCores<T>) {
    rows_times_fragments(tile, p.ld_x(), p.tile, p.padded_channels,
                         reinterpret_cast<const __nv_bfloat16*>(state + p.state.packed), p.pair(),
                         [&](int pixel, int column, float first, float second) {
                           put(pixel, column, first);
                           put(pixel, column + 1, second);
                         });
  } else {
    rows_times(tile, p.ld_x(), p.tile, p.padded_channels, state + p.state.bases, p.pair(), p.pair(),
               [&](int pixel, int column, const float (&sums)[4]) {
#pragma unroll
                 for (int j = 0; j < 4; ++j) put(pixel, column + j, sums[j]);
               });
  }
}

template <typename T>
__device__ inline void put_split(const BackwardProblem<T>& p, const BackwardTile<T>& s, int pixel, int column,
                                 float value) {
  if constexpr (kOnTensorCores<T>) {
    const Split parts = split(value);
    store_shared(s.high + pixel * p.ld_split() + column, parts.high);
    store_shared(s.low + pixel * p.ld_split() + column, parts.low);
  }
}

// Adds the slab's share of tileᵀ right, R columns from `column` on. `right` is in floats, or in two parts from column
// `part`.
template <typename T>
__device__ inline void add_share(const BackwardProblem<T>& p, const BackwardTile<T>& s, const float* right,
                                 int ld_right, int part, float* partial, int column, bool accumulate) {
  if constexpr (kOnTensorCores<T>) {
    outer_sum_fragments(s.x, p.ld_x(), p.padded_channels, SplitMatrix{s.high + part, s.low + part}, p.ld_split(),
                        p.padded_rank, p.tile, partial + column, p.pair(), accumulate);
  } else {
    outer_sum(s.x, p.ld_x(), p.padded_channels, right, ld_right, p.padded_rank, p.tile, partial + column, p.pair(),
              accumulate);
  }
}

// Makes g(C') of the last level from out = B C'ᵀ, and grad C' as the first share of the bases' gradient.
template <typename T>
__device__ inline void from_output(const BackwardProblem<T>& p, const BackwardTile<T>& s, int64_t image, int64_t first,
                                   int count, float* partial, bool accumulate) {
  const float* state = p.of_image(image);
  rows_times(s.coef, p.ld_rank(), p.tile, p.padded_rank, state + p.state.gram, p.padded_rank, p.padded_rank,
             [&](int pixel, int r, const float (&below)[4]) {
#pragma unroll
               for (int j = 0; j < 4; ++j) {
                 const float above = load_shared(s.coef + pixel * p.ld_rank() + r + j) *
                                     load_shared(s.pairs + pixel * p.ld_pair() + r + j);
                 const float value = pixel < count && r + j < p.rank ? above / (below[j] + p.eps) : 0.0f;
                 store_shared(s.upper + pixel * p.ld_rank() + r + j, value);
                 put_split(p, s, pixel, r + j, value);
               }
             });
  load_tile(p.grad, image, first, count, p.channels, s.x, p.ld_x(), p.tile, p.padded_channels);
  cp_async_wait<0>();
  __syncthreads();
  times_pairs(p, s.x, image, [&](int pixel, int column, float sum) {
    if (column < p.padded_rank) store_shared(s.grad + pixel * p.ld_rank() + column, sum);
  });
  if (p.last == p.bottom()) return;
  add_share(p, s, s.upper, p.ld_rank(), 0, partial, 0, accumulate);
  __syncthreads();
  load_tile(p.x, image, first, count, p.channels, s.x, p.ld_x(), p.tile, p.padded_channels);
  cp_async_wait<0>();
}

// The gradients of factor * num / (den + eps): of the numerator, of the denominator, and of the factor.
struct Ratio {
  float grad_num, grad_den, grad_factor;
};

__device__ inline Ratio ratio_backward(float grad, float factor, float num, float den, float eps) {
  const float below = den + eps, ratio = num / below, above = grad * factor / below;
  return {above, -above * ratio, grad * ratio};
}

// Adds the gradient of the softmax's argument to g(num) of each pixel; one thread per pixel.
template <typename T>
__device__ inline void softmax_backward(const BackwardProblem<T>& p, const BackwardTile<T>& s) {
  for (int pixel = threadIdx.x; pixel < p.tile; pixel += kNmfThreads) {
    const float *grad = s.grad + pixel * p.ld_rank(), *coef = s.coef + pixel * p.ld_rank();
    float* grad_num = s.pairs + pixel * p.ld_pair();
    float sum = 0.0f;
    for (int r = 0; r < p.rank; ++r) sum = fmaf(load_shared(grad + r), load_shared(coef + r), sum);
    for (int r = 0; r < p.rank; ++r) {
      const float share = load_shared(coef + r) * (load_shared(grad + r) - sum);
      store_shared(grad_num + r, load_shared(grad_num + r) + share);
    }
  }
}

// One tile of the pass of `level`.
template <typename T>
__device__ inline void pass_tile(const BackwardProblem<T>& p, const BackwardTile<T>& s, int64_t level, int64_t image,
                                 int64_t first, int count, float* partial, bool accumulate) {
  float* state = p.of_image(image);
  float* grad_coef = state + p.state.grad_coef + first * p.padded_rank;
  const bool is_last = level == p.last, is_bottom = level == p.bottom();
  load_tile(p.x, image, first, count, p.channels, s.x, p.ld_x(), p.tile, p.padded_channels);
  for_each_of_tile(p.tile, p.padded_rank, [&](int pixel, int r) {
    Vec16<float> grad{};
    if (!is_last && pixel < count) grad = Vec16<float>::load_global(grad_coef + pixel * p.padded_rank + r);
    grad.store_shared(s.grad + pixel * p.ld_rank() + r);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int64_t at = pixel < count ? first + pixel : p.pixels;
      store_shared(s.coef + pixel * p.ld_rank() + r + j, p.saved_weight(level, image, at, r + j));
      if (!is_last) store_shared(s.upper + pixel * p.ld_rank() + r + j, p.saved_weight(level + 1, image, at, r + j));
    }
  });
  cp_async_wait<0>();
  __syncthreads();
  times_pairs(p, s.x, image,
              [&](int pixel, int column, float sum) { store_shared(s.pairs + pixel * p.ld_pair() + column, sum); });
  __syncthreads();
  if (is_last) {
    from_output(p, s, image, first, count, partial, accumulate);
  } else {  // what the update of the bases above sends to the coef that it used
    rows_times(s.upper, p.ld_rank(), p.tile, p.padded_rank, state + p.state.cross, p.padded_rank, p.padded_rank,
               [&](int pixel, int r, const float (&sums)[4]) {
#pragma unroll
                 for (int j = 0; j < 4; ++j) {
                   float* grad = s.grad + pixel * p.ld_rank() + r + j;
                   const float* right = s.pairs + pixel * p.ld_pair() + p.padded_rank + r + j;
                   store_shared(grad, load_shared(grad) + sums[j] + load_shared(right));
                 }
               });
  }
  __syncthreads();
  rows_times(s.coef, p.ld_rank(), p.tile, p.padded_rank, state + p.state.gram, p.padded_rank, p.padded_rank,
             [&](int pixel, int r, const float (&below)[4]) {
#pragma unroll
               for (int j = 0; j < 4; ++j) {
                 float* pair = s.pairs + pixel * p.ld_pair() + r + j;
                 float* grad = s.grad + pixel * p.ld_rank() + r + j;
                 const float coef = load_shared(s.coef + pixel * p.ld_rank() + r + j);
                 Ratio ratio = ratio_backward(load_shared(grad), coef, load_shared(pair), below[j], p.eps);
                 if (pixel >= count || r + j >= p.rank) ratio = {0.0f, 0.0f, 0.0f};
                 store_shared(pair, ratio.grad_num);
                 store_shared(pair + p.padded_rank, ratio.grad_den);
                 store_shared(grad, ratio.grad_factor);
                 put_split(p, s, pixel, r + j, ratio.grad_num);
                 put_split(p, s, pixel, p.padded_rank + r + j, coef);
               }
             });
  __syncthreads();
  if (p.unrolled) {
    rows_times(s.pairs + p.padded_rank, p.ld_pair(), p.tile, p.padded_rank, state + p.state.gram, p.padded_rank,
               p.padded_rank, [&](int pixel, int r, const float (&sums)[4]) {
#pragma unroll
                 for (int j = 0; j < 4; ++j) {
                   float* grad = s.grad + pixel * p.ld_rank() + r + j;
                   store_shared(grad, load_shared(grad) + sums[j]);
                 }
               });
    __syncthreads();
    if (is_bottom) {
      softmax_backward(p, s);
      __syncthreads();
    }
  }
  float* kept = state + p.state.kept + (p.level_term(level) * p.pixels + first) * p.padded_rank;
  for_each_of_tile(count, p.padded_rank, [&](int pixel, int r) {
    Vec16<float>::load_shared(s.pairs + pixel * p.ld_pair() + r).store_global(kept + pixel * p.padded_rank + r);
    const Vec16<float> grad = Vec16<float>::load_shared(s.grad + pixel * p.ld_rank() + r);
    if (!is_bottom) grad.store_global(grad_coef + pixel * p.padded_rank + r);
  });
  if (is_bottom) return;
  add_share(p, s, s.pairs, p.ld_pair(), 0, partial, 0, accumulate || is_last);
  add_share(p, s, s.coef, p.ld_rank(), p.padded_rank, partial, p.padded_rank, accumulate);
  float* grams = partial + static_cast<int64_t>(p.padded_channels) * p.pair();
  outer_sum(s.coef, p.ld_rank(), p.padded_rank, s.coef, p.ld_rank(), p.padded_rank, p.tile, grams, p.pair(),
            accumulate);
  outer_sum(s.coef, p.ld_rank(), p.padded_rank, s.pairs + p.padded_rank, p.ld_pair(), p.padded_rank, p.tile,
            grams + p.padded_rank, p.pair(), accumulate);
}

template <typename T>
__device__ inline void reduce(const BackwardProblem<T>& p, int64_t image, int block, int blocks) {
  const float* partial = p.of_image(image) + p.state.partial;
  const int64_t share = static_cast<int64_t>(p.sum_rows()) * p.pair();
  reduce_shares(
      share / 4, p.slabs, block, blocks, [&](int slab) { return partial + slab * share; },
      p.of_image(image) + p.state.sums);
}

// Undoes the update of the bases from `level` to the one above, by rows. gram() adds g(den') H.
template <typename T>
__device__ inline void undo(const BackwardProblem<T>& p, int64_t level, int64_t image, int block, int blocks) {
  float* state = p.of_image(image);
  const float* sums = state + p.state.sums;
  const float* grams = sums + static_cast<int64_t>(p.padded_channels) * p.pair();
  for_each_four(p.padded_channels, p.padded_rank, block, blocks, [&](int row, int column) {
    float grad[4], below[4] = {}, own[4], grad_num[4], grad_den[4];
    float* grad_bases = state + p.state.grad_bases + row * p.padded_rank + column;
    Vec16<float>::load_global(grad_bases).to_floats(grad);
#pragma unroll 4
    for (int k = 0; k < p.rank; ++k) {
      // K + Kᵀ: what the coef update of the level above sends to its bases completes their gradient
      const float upper = p.saved_basis(level + 1, image, row, k), lower = p.saved_basis(level, image, row, k);
      const Vec16<float> gram = Vec16<float>::load_global(grams + k * p.pair() + column);
      const Vec16<float> cross = Vec16<float>::load_global(grams + k * p.pair() + p.padded_rank + column);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const float turned = load_global(grams + (column + j) * p.pair() + p.padded_rank + k);
        grad[j] = fmaf(upper, cross.values[j] + turned, grad[j]);
        below[j] = fmaf(lower, gram.values[j], below[j]);
      }
    }
    const Vec16<float> sent = Vec16<float>::load_global(sums + static_cast<int64_t>(row) * p.pair() + column);
    const Vec16<float> num =
        Vec16<float>::load_global(sums + static_cast<int64_t>(row) * p.pair() + p.padded_rank + column);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      own[j] = p.saved_basis(level, image, row, column + j);
      Ratio ratio = ratio_backward(grad[j] + sent.values[j], own[j], num.values[j], below[j], p.eps);
      if (row >= p.channels || column + j >= p.rank) ratio = {0.0f, 0.0f, 0.0f};
      grad_num[j] = ratio.grad_num;
      grad_den[j] = ratio.grad_den;
      grad[j] = ratio.grad_factor;
    }
    Vec16<float>::from_floats(grad).store_global(grad_bases);
    Vec16<float>::from_floats(grad_den).store_global(state + p.state.grad_den + row * p.padded_rank + column);
    put_factor(p, image, 0, p.level_term(level), row, column, own);
    put_factor(p, image, p.padded_rank, p.coef_term(level + 1), row, column, grad_num);
  });
}

// The small products of `level`. The last level needs only BᵀB.
template <typename T>
__device__ inline void gram(const BackwardProblem<T>& p, int64_t level, int64_t image, int block, int blocks) {
  float* state = p.of_image(image);
  const float *bases = state + p.state.bases, *grad_den = state + p.state.grad_den;
  gram_of<false>(bases, p.pair(), bases, p.pair(), p.padded_channels, p.padded_rank, block, blocks,
                 to_matrix(state + p.state.gram, p.padded_rank));
  if (level == p.last) return;
  gram_of<true>(bases, p.pair(), grad_den, p.padded_rank, p.padded_channels, p.padded_rank, block, blocks,
                to_matrix(state + p.state.cross, p.padded_rank));
  const float* coef_gram = state + p.state.sums + static_cast<int64_t>(p.padded_channels) * p.pair();
  for_each_four(p.padded_channels, p.padded_rank, block, blocks, [&](int row, int column) {
    float* grad_bases = state + p.state.grad_bases + row * p.padded_rank + column;
    Vec16<float> grad = Vec16<float>::load_global(grad_bases);
#pragma unroll 8
    for (int k = 0; k < p.rank; ++k) {
      const float factor = load_global(grad_den + row * p.padded_rank + k);
      const Vec16<float> weights = Vec16<float>::load_global(coef_gram + k * p.pair() + column);
#pragma unroll
      for (int j = 0; j < 4; ++j) grad.values[j] = fmaf(factor, weights.values[j], grad.values[j]);
    }
    grad.store_global(grad_bases);
  });
}

}  // namespace segnext
