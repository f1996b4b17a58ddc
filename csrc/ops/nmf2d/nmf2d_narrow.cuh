// nmf2d of ranks up to 16, with the slab in shared memory and two barriers of an image's blocks per step.
// clang-format off
//   pass     numerator = tile · bases, denominator = coef · Gram, new coef; the slab's share of X coef and coefᵀ coef
//   barrier
//   reduce   the shares are added; each block adds a few of the sums
//   barrier
//   update   every block updates all bases and their Gram matrix, 2 D R R multiply-adds, in its own shared memory
// clang-format on
// No third barrier is needed. The next pass overwrites a share after the second barrier, before which all blocks have
// read it. The sums are overwritten after the next step's first barrier, before which all blocks have used them for
// their update. No barrier is needed at the end either: no block reads another's shared memory after the last step's
// second barrier.
// All products run on tensor cores for 16-bit X, with each state matrix in two bfloat16 (block_products.cuh), else as
// float FMAs.
#pragma once

#include "ops/nmf2d/nmf2d_forward.cuh"

namespace segnext {

constexpr int kNarrow = 16;           // rank, padded
constexpr int kNarrowParts = 16 + 8;  // row of a matrix in two parts, so that ldmatrix has no bank conflicts
constexpr int kNarrowUnit = 32;       // pixels or channels per warp: two fragments use each one of the state
constexpr int kNarrowSums = kNarrow * kNarrow;
static_assert(kNarrowSums == kNmfThreads, "a thread an element of a Gram matrix");

// A block's shared memory. In a cluster the slab's share overlaps the parts of the bases, which are not needed between
// the numerators of a pass and the update after the second barrier.
template <typename T>
struct NarrowShared {
  T* x;
  float *coef, *numerator, *bases, *gram, *scratch, *share, *factors;
  SplitMatrix coef_parts, bases_parts, gram_parts, factor_parts;

  __host__ __device__ explicit NarrowShared(unsigned char* memory, const ForwardProblem<T>& p, size_t& used) {
    used = 0;
    const auto take = [&](size_t bytes) {
      unsigned char* start = memory + used;
      used += (bytes + 15) / 16 * 16;
      return start;
    };
    const auto floats = [&](int rows, int ld) {
      return reinterpret_cast<float*>(take(sizeof(float) * static_cast<size_t>(rows) * ld));
    };
    const auto parts = [&](int rows) {
      const size_t elements = static_cast<size_t>(rows) * kNarrowParts;
      auto* high = reinterpret_cast<__nv_bfloat16*>(take(2 * elements * sizeof(__nv_bfloat16)));
      return SplitMatrix{high, high + elements};
    };
    const int most = p.padded_out > p.padded_channels ? p.padded_out : p.padded_channels;
    x = reinterpret_cast<T*>(take(static_cast<size_t>(p.tile) * p.row_of_tile() * sizeof(T)));
    coef = floats(p.tile, p.ld_rank());
    bases = floats(p.padded_channels, kNarrow);
    const size_t before = used;
    if constexpr (kOnTensorCores<T>) {
      bases_parts = factor_parts = parts(most);
      share = reinterpret_cast<float*>(bases_parts.high);
    } else {
      factors = share = floats(p.projected() ? p.padded_out : 0, kNarrow);
    }
    const size_t with_share = before + sizeof(float) * static_cast<size_t>(p.sum_rows()) * kNarrow;
    if (p.in_clusters && used < with_share) used = with_share;
    if constexpr (kOnTensorCores<T>) {
      coef_parts = parts(p.tile);
      gram_parts = parts(kNarrow);
      scratch = floats(kNmfThreads / kWarp, kNarrowSums);
    } else {
      numerator = floats(p.tile, p.ld_rank());
      gram = floats(kNarrow, kNarrow);
      if (!p.projected()) factors = bases;
    }
  }
};

// Stores four elements of a row of (rows, 16) state as floats and in two parts.
template <typename T>
__device__ inline void store_state(float* state, const SplitMatrix& parts, int row, int column,
                                   const float (&values)[4]) {
  store_four(state + row * kNarrow + column, values);
  if constexpr (kOnTensorCores<T>) {
    store_parts(parts, row * kNarrowParts + column, {values[0], values[1]});
    store_parts(parts, row * kNarrowParts + column + 2, {values[2], values[3]});
  }
}

template <typename T>
__device__ inline void narrow_read_bases(const ForwardProblem<T>& p, const NarrowShared<T>& s, int64_t image) {
  for_each_four(p.padded_channels, kNarrow, 0, 1, [&](int row, int column) {
    float values[4];
    first_bases(p, image, row, column, values);
    store_state<T>(s.bases, s.bases_parts, row, column, values);
  });
}

// Saves the bases before update `step`, if they are wanted. One block per image does it.
template <typename T>
__device__ inline void narrow_save_bases(const ForwardProblem<T>& p, const NarrowShared<T>& s, int64_t step,
                                         int64_t image, int slab) {
  const int64_t slot = p.slot(step);
  if (slot < 0 || slab != 0) return;
  for (int i = threadIdx.x; i < p.channels * p.rank; i += kNmfThreads) {
    const int row = i / p.rank, r = i % p.rank;
    store_global(static_cast<float*>(p.saved_bases.data) + saved_offset(p.saved_bases, slot, image, row, r),
                 load_shared(s.bases + row * kNarrow + r));
  }
}

// Calls put(element, sum) with matrixᵀ matrix (16, 16) of (rows, 16) state, one element per thread. rows is a multiple
// of 16.
template <typename T, typename Put>
__device__ inline void narrow_gram(const NarrowShared<T>& s, const float* matrix, int ld, const SplitMatrix& parts,
                                   int rows, const Put& put) {
  if constexpr (kOnTensorCores<T>) {
    gram_fragments(parts, kNarrowParts, rows, s.scratch + threadIdx.x / kWarp * kNarrowSums);
    __syncthreads();
    float sum = 0.0f;
#pragma unroll
    for (int warp = 0; warp < kNmfThreads / kWarp; ++warp) {
      sum += load_shared(s.scratch + warp * kNarrowSums + threadIdx.x);
    }
    put(threadIdx.x, sum);
  } else {
    gram_of<false>(matrix, ld, matrix, ld, rows, kNarrow, 0, 1, [&](int row, int column, const float (&sums)[4]) {
#pragma unroll
      for (int j = 0; j < 4; ++j) put(row * kNarrow + column + j, sums[j]);
    });
  }
}

// Stores the Gram matrix of the bases where the denominators read it.
template <typename T>
__device__ inline void narrow_bases_gram(const ForwardProblem<T>& p, const NarrowShared<T>& s) {
  narrow_gram(s, s.bases, kNarrow, s.bases_parts, p.padded_channels, [&](int element, float sum) {
    if constexpr (kOnTensorCores<T>) {
      const Split parts = split(sum);
      const int at = element / kNarrow * kNarrowParts + element % kNarrow;
      store_shared(s.gram_parts.high + at, parts.high);
      store_shared(s.gram_parts.low + at, parts.low);
    } else {
      store_shared(s.gram + element, sum);
    }
  });
}

// Makes the pass's coef from that of the step before; with kFirst, only the numerators, which the softmax starts from.
template <bool kFirst, typename T>
__device__ inline void narrow_coef(const ForwardProblem<T>& p, const NarrowShared<T>& s, int count) {
  const int ld = p.ld_rank();
  if constexpr (kOnTensorCores<T>) {
    const int lane = threadIdx.x % kWarp;
    StateFragments gram;
    if constexpr (!kFirst) gram.load(s.gram_parts, kNarrowParts);
    for (int row = threadIdx.x / kWarp * kNarrowUnit; row < p.tile; row += kNmfThreads / kWarp * kNarrowUnit) {
      float above[2][2][4] = {};
#pragma unroll 4
      for (int k = 0; k < p.padded_channels; k += 16) {
        StateFragments bases;
        bases.load(s.bases_parts.at(k * kNarrowParts), kNarrowParts);
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          uint32_t a[4];
          load_a_fragment<true>(a, s.x + (row + 16 * i) * p.ld_x() + k, p.ld_x());
#pragma unroll
          for (int j = 0; j < 2; ++j) multiply_fragment(above[i][j], s.x, a, bases.high[j], bases.low[j]);
        }
      }
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float below[2][4] = {};
        if constexpr (!kFirst) {
          uint32_t high[4], low[4];
          load_a_fragment<true>(high, s.coef_parts.high + (row + 16 * i) * kNarrowParts, kNarrowParts);
          load_a_fragment<true>(low, s.coef_parts.low + (row + 16 * i) * kNarrowParts, kNarrowParts);
#pragma unroll
          for (int j = 0; j < 2; ++j) multiply_split(below[j], high, low, gram.high[j], gram.low[j]);
        }
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int pixel = row + 16 * i + 8 * half + lane / 4;
#pragma unroll
          for (int j = 0; j < 2; ++j) {
            const int r = 8 * j + lane % 4 * 2;
            Two* coef = reinterpret_cast<Two*>(s.coef + pixel * ld + r);
            Two result = {{above[i][j][2 * half], above[i][j][2 * half + 1]}};
            if constexpr (!kFirst) {
              const Two before = load_shared(coef);
#pragma unroll
              for (int e = 0; e < 2; ++e) {
                result.values[e] = updated(p, pixel < count && r + e < p.rank, before.values[e], result.values[e],
                                           below[j][2 * half + e]);
              }
              // only this warp has read these parts, and all its lanes have
              store_parts(s.coef_parts, pixel * kNarrowParts + r, result.values);
            }
            store_shared(coef, result);
          }
        }
      }
    }
  } else {
    float* target = kFirst ? s.coef : s.numerator;
    rows_times(s.x, p.ld_x(), p.tile, p.padded_channels, s.bases, kNarrow, kNarrow,
               [&](int pixel, int r, const float (&sums)[4]) { store_four(target + pixel * ld + r, sums); });
    if constexpr (!kFirst) {
      __syncthreads();
      rows_times(s.coef, ld, p.tile, kNarrow, s.gram, kNarrow, kNarrow, [&](int pixel, int r, const float (&below)[4]) {
        float values[4];
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          values[j] = updated(p, pixel < count && r + j < p.rank, load_shared(s.coef + pixel * ld + r + j),
                              load_shared(s.numerator + pixel * ld + r + j), below[j]);
        }
        store_four(s.numerator + pixel * ld + r, values);  // only this thread has read the old value
      });
    }
  }
}

// The first coef: the softmax over each pixel's numerators, in their place, one thread per pixel.
template <typename T>
__device__ inline void narrow_softmax(const ForwardProblem<T>& p, const NarrowShared<T>& s) {
  softmax_rows(s.coef, p.ld_rank(), p.tile, p.rank, kNarrow, s.coef);
  if constexpr (kOnTensorCores<T>) {
    for (int pixel = threadIdx.x; pixel < p.tile; pixel += kNmfThreads) {
      for (int r = 0; r < kNarrow; r += 2) {
        const Two two = load_shared(reinterpret_cast<const Two*>(s.coef + pixel * p.ld_rank() + r));
        store_parts(s.coef_parts, pixel * kNarrowParts + r, two.values);
      }
    }
  }
}

// The slab's share of X coef (D, 16), followed by that of coefᵀ coef (16, 16).
template <typename T>
__device__ inline void narrow_share(const ForwardProblem<T>& p, const NarrowShared<T>& s, float* share) {
  if constexpr (kOnTensorCores<T>) {
    const int lane = threadIdx.x % kWarp;
    for (int row = threadIdx.x / kWarp * kNarrowUnit; row < p.padded_channels;
         row += kNmfThreads / kWarp * kNarrowUnit) {
      float sums[2][2][4] = {};
#pragma unroll 4
      for (int k = 0; k < p.tile; k += 16) {
        StateFragments coef;
        coef.load(s.coef_parts.at(k * kNarrowParts), kNarrowParts);
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          uint32_t a[4];
          load_a_fragment<false>(a, s.x + k * p.ld_x() + row + 16 * i, p.ld_x());
#pragma unroll
          for (int j = 0; j < 2; ++j) multiply_fragment(sums[i][j], s.x, a, coef.high[j], coef.low[j]);
        }
      }
#pragma unroll
      for (int i = 0; i < 2; ++i) {
#pragma unroll
        for (int j = 0; j < 2; ++j) {
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            const int at = (row + 16 * i + 8 * half + lane / 4) * kNarrow + 8 * j + lane % 4 * 2;
            *reinterpret_cast<Two*>(share + at) = {{sums[i][j][2 * half], sums[i][j][2 * half + 1]}};
          }
        }
      }
    }
  } else {
    outer_sum(s.x, p.ld_x(), p.padded_channels, s.coef, p.ld_rank(), kNarrow, p.tile, share, kNarrow, false);
  }
  float* gram = share + p.padded_channels * kNarrow;
  narrow_gram(s, s.coef, p.ld_rank(), s.coef_parts, p.tile, [&](int element, float sum) { gram[element] = sum; });
}

// Makes the bases after an update from those before it and the image's sums; one thread reads and writes an element.
template <typename T>
__device__ inline void narrow_update(const ForwardProblem<T>& p, const NarrowShared<T>& s, const float* sums) {
  const float* coef_gram = sums + p.padded_channels * kNarrow;
  if constexpr (kOnTensorCores<T>) {
    const int lane = threadIdx.x % kWarp;
    StateFragments gram;
    gram.load_symmetric(coef_gram, kNarrow);
    for (int unit = threadIdx.x / kWarp; unit < p.padded_channels / 16; unit += kNmfThreads / kWarp) {
      Two own[2][2];  // [half of the rows][half of the columns]
      uint32_t high[4], low[4];
      float below[2][4] = {};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int at = (unit * 16 + i % 2 * 8 + lane / 4) * kNarrow + i / 2 * 8 + lane % 4 * 2;
        own[i % 2][i / 2] = load_shared(reinterpret_cast<const Two*>(s.bases + at));
        const float (&values)[2] = own[i % 2][i / 2].values;
        const Split first = split(values[0]), second = split(values[1]);
        high[i] = bits_of(first.high, second.high);
        low[i] = bits_of(first.low, second.low);
      }
#pragma unroll
      for (int j = 0; j < 2; ++j) multiply_split(below[j], high, low, gram.high[j], gram.low[j]);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int half = i % 2, j = i / 2, row = unit * 16 + half * 8 + lane / 4, column = j * 8 + lane % 4 * 2;
        const Two above = load_global(reinterpret_cast<const Two*>(sums + row * kNarrow + column));
        Two result;
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          result.values[e] = updated(p, row < p.channels && column + e < p.rank, own[half][j].values[e],
                                     above.values[e], below[j][2 * half + e]);
        }
        store_shared(reinterpret_cast<Two*>(s.bases + row * kNarrow + column), result);
        store_parts(s.bases_parts, row * kNarrowParts + column, result.values);
      }
    }
  } else {
    for_each_four(p.padded_channels, kNarrow, 0, 1, [&](int row, int column) {
      float below[4] = {}, above[4], own[4], values[4];
      for (int k = 0; k < kNarrow; ++k) {
        const float factor = load_shared(s.bases + row * kNarrow + k);
        float grams[4];
        Vec16<float>::load_global(coef_gram + k * kNarrow + column).to_floats(grams);
#pragma unroll
        for (int j = 0; j < 4; ++j) below[j] = fmaf(factor, grams[j], below[j]);
      }
      load_four(s.bases + row * kNarrow + column, own);
      Vec16<float>::load_global(sums + row * kNarrow + column).to_floats(above);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        values[j] = updated(p, row < p.channels && column + j < p.rank, own[j], above[j], below[j]);
      }
      __syncwarp();  // four threads of this warp share a row: all have read it
      store_four(s.bases + row * kNarrow + column, values);
    });
  }
}

// Reads the rows of projection · bases, which all blocks have made, to where the output reads its factors.
template <typename T>
__device__ inline void narrow_read_factors(const ForwardProblem<T>& p, const NarrowShared<T>& s,
                                           const float* projected) {
  for_each_four(p.padded_out, kNarrow, 0, 1, [&](int row, int column) {
    float values[4];
    Vec16<float>::load_global(projected + row * kNarrow + column).to_floats(values);
    if constexpr (kOnTensorCores<T>) {
      store_parts(s.factor_parts, row * kNarrowParts + column, {values[0], values[1]});
      store_parts(s.factor_parts, row * kNarrowParts + column + 2, {values[2], values[3]});
    } else {
      store_four(s.factors + row * kNarrow + column, values);
    }
  });
}

// out = coef factorsᵀ, which overwrites X. The factors are the bases, or projection · bases.
template <typename T>
__device__ inline void narrow_out(const ForwardProblem<T>& p, const NarrowShared<T>& s) {
  const int ld = p.ld_out();
  if constexpr (kOnTensorCores<T>) {
    const int lane = threadIdx.x % kWarp;
    for (int column = threadIdx.x / kWarp * 16; column < p.padded_out; column += kNmfThreads / kWarp * 16) {
      uint32_t b_high[2][2], b_low[2][2];
      load_b_fragments<true>(b_high, s.factor_parts.high + column * kNarrowParts, kNarrowParts);
      load_b_fragments<true>(b_low, s.factor_parts.low + column * kNarrowParts, kNarrowParts);
#pragma unroll 2
      for (int row = 0; row < p.tile; row += 16) {
        uint32_t high[4], low[4];
        load_a_fragment<true>(high, s.coef_parts.high + row * kNarrowParts, kNarrowParts);
        load_a_fragment<true>(low, s.coef_parts.low + row * kNarrowParts, kNarrowParts);
        T* target = s.x + (row + lane / 4) * ld + column + lane % 4 * 2;
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          float sums[4] = {};
          multiply_split(sums, high, low, b_high[j], b_low[j]);
          store_two(target + 8 * j, sums[0], sums[1]);
          store_two(target + 8 * ld + 8 * j, sums[2], sums[3]);
        }
      }
    }
  } else {
    const int columns = p.padded_out / 4;
    for (int unit = threadIdx.x; unit < p.tile * columns; unit += kNmfThreads) {
      const int pixel = unit / columns, channel = unit % columns * 4;
      float sums[4] = {};
#pragma unroll
      for (int k = 0; k < kNarrow; k += 4) {
        float coef[4];
        load_four(s.coef + pixel * p.ld_rank() + k, coef);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          float factors[4];
          load_four(s.factors + (channel + j) * kNarrow + k, factors);
#pragma unroll
          for (int e = 0; e < 4; ++e) sums[j] = fmaf(coef[e], factors[e], sums[j]);
        }
      }
#pragma unroll
      for (int j = 0; j < 4; ++j) store_shared(s.x + pixel * ld + channel + j, from_float<T>(sums[j]));
    }
  }
}

}  // namespace segnext
