// The phases of a step of nmf2d. All blocks of an image share each phase; between two phases there is a barrier of
// these blocks or the end of a kernel. A block owns a slab of the image's pixels.
// clang-format off
//   pass     numerator = tile · bases, denominator = coef · Gram, new coef; the slab's share of X coef and coefᵀ coef
//   reduce   the slabs' shares are added
//   update   bases *= X coef / (bases coefᵀ coef + eps), into the other of two buffers: rows are still being read
//   gram     Gram = basesᵀ bases; after the last update also projection · bases, if the output needs it
// clang-format on
#pragma once

#include "ops/nmf2d/nmf2d_problem.cuh"

namespace segnext {

// Stores an element of the output's factors, (padded rank, padded output channels), where the output reads them.
template <typename T>
__device__ inline void put_factor(const ForwardProblem<T>& p, int64_t image, int r, int channel, float value) {
  float* turned = p.of_image(image) + p.state.turned;
  if constexpr (kOnTensorCores<T>) {
    pack_fragment(reinterpret_cast<__nv_bfloat16*>(turned), p.padded_out, r, channel, value);
  } else {
    store_global(turned + r * p.padded_out + channel, value);
  }
}

// Stores four elements of a row of bases in all copies; columns past the rank are zero.
template <typename T>
__device__ inline void put_bases(const ForwardProblem<T>& p, int64_t image, int64_t step, int row, int column,
                                 const float (&values)[4]) {
  float* state = p.of_image(image);
  Vec16<float>::from_floats(values).store_global(p.bases_of(image, step) + row * p.padded_rank + column);
  const int64_t slot = p.slot(step);
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    if (step == p.steps && !p.projected()) put_factor(p, image, column + j, row, values[j]);
    if constexpr (kOnTensorCores<T>) {
      pack_fragment(reinterpret_cast<__nv_bfloat16*>(state + p.state.packed), p.padded_rank, row, column + j,
                    values[j]);
    }
    if (slot >= 0 && row < p.channels && column + j < p.rank) {
      store_global(static_cast<float*>(p.saved_bases.data) + saved_offset(p.saved_bases, slot, image, row, column + j),
                   values[j]);
    }
  }
}

// Calls visit(row, column) for this thread's groups of four elements of a (rows, padded rank) matrix that all `blocks`
// share.
template <typename Visit>
__device__ inline void for_each_four(int rows, int padded_rank, int block, int blocks, const Visit& visit) {
  const int fours = padded_rank / 4;
  for (int64_t i = block * kNmfThreads + threadIdx.x; i < static_cast<int64_t>(rows) * fours;
       i += static_cast<int64_t>(blocks) * kNmfThreads) {
    visit(static_cast<int>(i / fours), static_cast<int>(i % fours) * 4);
  }
}

// An element of a matrix of floats, or of T.
template <typename T>
__device__ inline float either(const void* data, bool is_float, int64_t at) {
  return is_float ? load_global(static_cast<const float*>(data) + at)
                  : to_float(load_global(static_cast<const T*>(data) + at));
}

// Reads four elements of a row of the bases that the caller gave.
template <typename T>
__device__ inline void first_bases(const ForwardProblem<T>& p, int64_t image, int row, int column, float (&values)[4]) {
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    values[j] = row < p.channels && column + j < p.rank
                    ? either<T>(p.bases.data, p.bases_are_float, saved_offset(p.bases, 0, image, row, column + j))
                    : 0.0f;
  }
}

template <typename T>
__device__ inline void read_bases(const ForwardProblem<T>& p, int64_t image, int block, int blocks) {
  for_each_four(p.padded_channels, p.padded_rank, block, blocks, [&](int row, int column) {
    float values[4];
    first_bases(p, image, row, column, values);
    put_bases(p, image, 0, row, column, values);
  });
}

// Calls put(row, column, four) with projection · bases, where `bases` is in any memory. A warp makes four elements; its
// lanes take channels in turn.
template <typename T, typename Put>
__device__ inline void project(const ForwardProblem<T>& p, const float* bases, int block, int blocks, const Put& put) {
  const int fours = p.padded_rank / 4, lane = threadIdx.x % kWarp, warps = kNmfThreads / kWarp;
  for (int unit = block * warps + threadIdx.x / kWarp; unit < p.padded_out * fours; unit += blocks * warps) {
    const int row = unit / fours, column = unit % fours * 4;
    float sums[4] = {};
    for (int d = lane; row < p.out_channels && d < p.channels; d += kWarp) {
      const float weight = either<T>(p.projection.data, p.projection_is_float,
                                     row * p.projection.stride[0] + d * p.projection.stride[1]);
      const Vec16<float> four = *reinterpret_cast<const Vec16<float>*>(bases + d * p.padded_rank + column);
#pragma unroll
      for (int j = 0; j < 4; ++j) sums[j] = fmaf(weight, four.values[j], sums[j]);
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) sums[j] = warp_sum(sums[j]);
    if (lane == 0) put(row, column, sums);
  }
}

__device__ inline void add_products(const float* left, const float* right, ThreadSums<4>& sums) {
  const Vec16<float> lefts = *reinterpret_cast<const Vec16<float>*>(left),
                     rights = *reinterpret_cast<const Vec16<float>*>(right);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) sums.values[i][j] = fmaf(lefts.values[i], rights.values[j], sums.values[i][j]);
  }
}

// Calls put(row, column, four) with leftᵀ right (R, R), or, if kBoth, leftᵀ right + rightᵀ left, both in any memory. A
// warp makes four by four sums over the rows; its lanes take rows in turn.
template <bool kBoth, typename Put>
__device__ inline void gram_of(const float* left, int ld_left, const float* right, int ld_right, int rows,
                               int padded_rank, int block, int blocks, const Put& put) {
  const int fours = padded_rank / 4, lane = threadIdx.x % kWarp, warps = kNmfThreads / kWarp;
  for (int unit = block * warps + threadIdx.x / kWarp; unit < fours * fours; unit += blocks * warps) {
    const int row = unit / fours * 4, column = unit % fours * 4;
    ThreadSums<4> sums;
    sums.clear();
    for (int d = lane; d < rows; d += kWarp) {
      const float *lefts = left + static_cast<int64_t>(d) * ld_left,
                  *rights = right + static_cast<int64_t>(d) * ld_right;
      add_products(lefts + row, rights + column, sums);
      if constexpr (kBoth) add_products(rights + row, lefts + column, sums);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) sums.values[i][j] = warp_sum(sums.values[i][j]);
      if (lane == 0) put(row + i, column, sums.values[i]);
    }
  }
}

// A `put` for gram_of that stores a dense matrix.
__device__ inline auto to_matrix(float* matrix, int columns) {
  return [=](int row, int column, const float (&four)[4]) {
    Vec16<float>::from_floats(four).store_global(matrix + row * columns + column);
  };
}

// The Gram matrix and, after the last update, the factors of the output.
template <typename T>
__device__ inline void gram(const ForwardProblem<T>& p, int64_t step, int64_t image, int block, int blocks) {
  const float* bases = p.bases_of(image, step);
  float* state = p.of_image(image);
  gram_of<false>(bases, p.padded_rank, bases, p.padded_rank, p.padded_channels, p.padded_rank, block, blocks,
                 to_matrix(state + p.state.gram, p.padded_rank));
  if (step < p.steps || !p.projected()) return;
  project(p, bases, block, blocks, [&](int row, int column, const float (&four)[4]) {
#pragma unroll
    for (int j = 0; j < 4; ++j) put_factor(p, image, column + j, row, four[j]);
  });
}

// sums[i] = the sum over slabs of share(slab)[i], in groups of four. Each of `lanes` neighbouring lanes adds every
// lanes-th slab, with up to eight loads in flight; then the lanes add their sums in a tree. The order depends only on
// the number of slabs.
template <typename Share>
__device__ inline void reduce_shares(int64_t fours, int slabs, int block, int blocks, const Share& share, float* sums) {
  int lanes = 1;
  while (lanes < kWarp && 8 * lanes < slabs) lanes *= 2;
  const int groups = kNmfThreads / lanes, lane = threadIdx.x % lanes;
  for (int64_t first = static_cast<int64_t>(block) * groups; first < fours;
       first += static_cast<int64_t>(blocks) * groups) {
    const int64_t four = first + threadIdx.x / lanes;
    const int end = four < fours ? slabs : 0;
    Vec16<float> sum{};
#pragma unroll 8
    for (int slab = lane; slab < end; slab += lanes) {
      const Vec16<float> own = *reinterpret_cast<const Vec16<float>*>(share(slab) + 4 * four);
#pragma unroll
      for (int j = 0; j < 4; ++j) sum.values[j] += own.values[j];
    }
    for (int offset = lanes / 2; offset > 0; offset /= 2) {
#pragma unroll
      for (int j = 0; j < 4; ++j) sum.values[j] += __shfl_xor_sync(kFullWarp, sum.values[j], offset);
    }
    if (lane == 0 && four < fours) sum.store_global(sums + 4 * four);
  }
}

// partial(slab) is the address of a slab's share.
template <typename T, typename Partial>
__device__ inline void reduce(const ForwardProblem<T>& p, int64_t image, int block, int blocks,
                              const Partial& partial) {
  reduce_shares(static_cast<int64_t>(p.sum_rows()) * p.padded_rank / 4, p.slabs, block, blocks, partial,
                p.of_image(image) + p.state.sums);
}

// Makes the bases after update `step` from those before it.
template <typename T>
__device__ inline void update(const ForwardProblem<T>& p, int64_t step, int64_t image, int block, int blocks) {
  const float* sums = p.of_image(image) + p.state.sums;
  const float* coef_gram = sums + static_cast<int64_t>(p.padded_channels) * p.padded_rank;
  const float* bases = p.bases_of(image, step);
  for_each_four(p.padded_channels, p.padded_rank, block, blocks, [&](int row, int column) {
    float below[4] = {}, values[4];
#pragma unroll 8
    for (int k = 0; k < p.padded_rank; ++k) {
      const float factor = load_global(bases + row * p.padded_rank + k);
      const Vec16<float> grams = Vec16<float>::load_global(coef_gram + k * p.padded_rank + column);
#pragma unroll
      for (int j = 0; j < 4; ++j) below[j] = fmaf(factor, grams.values[j], below[j]);
    }
    const Vec16<float> own = Vec16<float>::load_global(bases + row * p.padded_rank + column);
    const Vec16<float> above = Vec16<float>::load_global(sums + row * p.padded_rank + column);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const bool exists = row < p.channels && column + j < p.rank;
      values[j] = exists ? own.values[j] * above.values[j] / (below[j] + p.eps) : 0.0f;
    }
    put_bases(p, image, step + 1, row, column, values);
  });
}

// The softmax of rows of numerators gives rows of coef; one thread per pixel.
__device__ inline void softmax_rows(const float* logits, int ld, int pixels, int rank, int padded_rank, float* coef) {
  for (int pixel = threadIdx.x; pixel < pixels; pixel += kNmfThreads) {
    const float* row = logits + pixel * ld;
    float largest = -INFINITY, sum = 0.0f;
    for (int r = 0; r < rank; ++r) largest = fmaxf(largest, load_shared(row + r));
    for (int r = 0; r < rank; ++r) {
      const float power = expf(load_shared(row + r) - largest);  // a NaN makes the sum NaN, and so the whole row
      sum += power;
      store_shared(coef + pixel * ld + r, power);
    }
    for (int r = 0; r < padded_rank; ++r) {
      store_shared(coef + pixel * ld + r, r < rank ? load_shared(coef + pixel * ld + r) / sum : 0.0f);
    }
  }
}

template <typename T>
__device__ inline void save_coef(const ForwardProblem<T>& p, int64_t slot, int64_t image, int64_t first, int count,
                                 const float* coef) {
  if (slot < 0) return;
  for (int i = threadIdx.x; i < count * p.rank; i += kNmfThreads) {
    const int pixel = i / p.rank, r = i % p.rank;
    store_global(static_cast<float*>(p.saved_coef.data) + saved_offset(p.saved_coef, slot, image, first + pixel, r),
                 load_shared(coef + pixel * p.ld_rank() + r));
  }
}

// Writes the tile's coef in two parts, for tensor cores.
template <typename T>
__device__ inline void split_coef(const ForwardProblem<T>& p, const ForwardTile<T>& s) {
  if constexpr (kOnTensorCores<T>) {
    const int twos = p.padded_rank / 2;
    for (int i = threadIdx.x; i < p.tile * twos; i += kNmfThreads) {
      const int pixel = i / twos, r = i % twos * 2;
      const Two two = load_shared(reinterpret_cast<const Two*>(s.coef + pixel * p.ld_rank() + r));
      store_parts(s.parts, pixel * p.ld_split() + r, two.values);
    }
  }
}

// coef * numerator / (denominator + eps). Elements outside the matrix must not reach the sums, for any eps.
template <typename T>
__device__ inline float updated(const ForwardProblem<T>& p, bool exists, float factor, float numerator, float below) {
  return exists ? factor * numerator / (below + p.eps) : 0.0f;
}

// One tile of the pass of `step`. X is in shared memory and, from step 1 on, coef is in s.coef, and in two parts. The
// new coef is left in s.coef; numerators and coef swap places.
template <typename T>
__device__ inline void pass_tile(const ForwardProblem<T>& p, ForwardTile<T>& s, int64_t step, int64_t image,
                                 int64_t first, int count, float* partial, bool accumulate) {
  const float *state = p.of_image(image), *gram = state + p.state.gram;
  const int ld = p.ld_rank();
  if constexpr (kOnTensorCores<T>) {
    const auto sink = [&](int pixel, int r, float a, float b) {
      store_shared(reinterpret_cast<Two*>(s.numerator + pixel * ld + r), Two{{a, b}});
    };
    const auto* packed = reinterpret_cast<const __nv_bfloat16*>(state + p.state.packed);
    rows_times_fragments(s.x, p.ld_x(), p.tile, p.padded_channels, packed, p.padded_rank, sink);
  } else {
    const auto sink = [&](int pixel, int r, const float (&sums)[4]) { store_four(s.numerator + pixel * ld + r, sums); };
    rows_times(s.x, p.ld_x(), p.tile, p.padded_channels, p.bases_of(image, step), p.padded_rank, p.padded_rank, sink);
  }
  __syncthreads();
  if (step == 0) {
    softmax_rows(s.numerator, ld, p.tile, p.rank, p.padded_rank, s.coef);
    __syncthreads();
    save_coef(p, p.slot(0), image, first, count, s.coef);
    split_coef(p, s);
    if constexpr (kOnTensorCores<T>) __syncthreads();
  }
  // overwrites the numerators: a thread reads no others than its own
  const auto update_two = [&](int pixel, int r, float first_below, float second_below) {
    Two* target = reinterpret_cast<Two*>(s.numerator + pixel * ld + r);
    const Two above = load_shared(target), coef = load_shared(reinterpret_cast<Two*>(s.coef + pixel * ld + r));
    const bool exists = pixel < count;
    store_shared(target, Two{{updated(p, exists && r < p.rank, coef.values[0], above.values[0], first_below),
                              updated(p, exists && r + 1 < p.rank, coef.values[1], above.values[1], second_below)}});
  };
  if constexpr (kOnTensorCores<T>) {
    parts_times_symmetric(s.parts, p.ld_split(), p.tile, gram, p.padded_rank, update_two);
  } else {
    rows_times(s.coef, ld, p.tile, p.padded_rank, gram, p.padded_rank, p.padded_rank,
               [&](int pixel, int r, const float (&below)[4]) {
                 update_two(pixel, r, below[0], below[1]);
                 update_two(pixel, r + 2, below[2], below[3]);
               });
  }
  float* const numerator = s.numerator;
  s.numerator = s.coef;
  s.coef = numerator;
  __syncthreads();
  if (step == p.steps) {
    const float* factors = state + p.state.turned;
    if constexpr (kOnTensorCores<T>) {
      split_coef(p, s);
      __syncthreads();
      parts_times_fragments(s.parts, p.ld_split(), p.tile, p.padded_rank,
                            reinterpret_cast<const __nv_bfloat16*>(factors), p.padded_out,
                            [&](int pixel, int channel, float first_sum, float second_sum) {
                              store_two(s.x + pixel * p.ld_out() + channel, first_sum, second_sum);
                            });
    } else {
      rows_times(s.coef, ld, p.tile, p.padded_rank, factors, p.padded_out, p.padded_out,
                 [&](int pixel, int channel, const float (&sums)[4]) {
                   store_four(s.x + pixel * p.ld_out() + channel, sums);
                 });
    }
    __syncthreads();
    store_tile(p.out, image, first, count, p.out_channels, s.x, p.ld_out());
    return;
  }
  save_coef(p, p.slot(step + 1), image, first, count, s.coef);
  float* grams = partial + static_cast<int64_t>(p.padded_channels) * p.padded_rank;
  if constexpr (kOnTensorCores<T>) {
    split_coef(p, s);
    __syncthreads();
    outer_sum_fragments(s.x, p.ld_x(), p.padded_channels, s.parts, p.ld_split(), p.padded_rank, p.tile, partial,
                        p.padded_rank, accumulate);
    gram_parts(s.parts, p.ld_split(), p.padded_rank, p.tile, grams, accumulate);
  } else {
    outer_sum(s.x, p.ld_x(), p.padded_channels, s.coef, ld, p.padded_rank, p.tile, partial, p.padded_rank, accumulate);
    outer_sum(s.coef, ld, p.padded_rank, s.coef, ld, p.padded_rank, p.tile, grams, p.padded_rank, accumulate);
  }
}

}  // namespace segnext
