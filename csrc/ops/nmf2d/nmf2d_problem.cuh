// The parameters of nmf2d's forward kernels: sizes, and the layout of the state in the workspace and in shared memory.
#pragma once

#include "ops/nmf2d/image_tiles.cuh"
#include "ops/nmf2d/nmf2d.h"

namespace segnext {

enum class NmfVariant : int { kAuto = -1, kStreaming = 0, kGrid = 1, kCluster = 2 };

constexpr int kClusterBlocks = 16;

// Offsets, in floats, of an image's data in the workspace.
struct ForwardState {
  int64_t bases, other_bases, turned, packed, gram, sums, partial, coef, projected, size;
};

template <typename T>
struct ForwardProblem {
  Images<const T> x;
  Images<T> out;
  Tensor4 bases, projection, saved_bases, saved_coef;
  bool bases_are_float, projection_is_float;
  bool in_clusters;  // whether the slabs' shares of the sums are in the shared memory of a cluster
  int64_t images, pixels, steps;
  int channels, rank, padded_channels, padded_rank;
  int out_channels, padded_out;  // those of the projection, else those of X
  int slabs, slab, tile;  // slabs per image, pixels per slab, pixels of a slab that are in shared memory at a time
  float eps;
  ForwardState state;
  float* workspace;

  __host__ __device__ int ld_x() const { return padded_channels + Vec16<T>::kSize; }
  __host__ __device__ int ld_out() const { return padded_out + Vec16<T>::kSize; }
  __host__ __device__ int row_of_tile() const { return ld_out() > ld_x() ? ld_out() : ld_x(); }  // out overwrites X
  __host__ __device__ int ld_rank() const { return padded_rank + 4; }
  __host__ __device__ int ld_split() const { return padded_rank + 8; }
  __host__ __device__ int sum_rows() const { return padded_channels + padded_rank; }
  __host__ __device__ bool projected() const { return projection.data != nullptr; }

  __device__ float* of_image(int64_t image) const { return workspace + image * state.size; }
  __device__ float* bases_of(int64_t image, int64_t step) const {
    return of_image(image) + (step % 2 == 0 ? state.bases : state.other_bases);
  }
  // The index of the saved state before update `step`, or -1 if it is not saved.
  __device__ int64_t slot(int64_t step) const {
    const int64_t kept = saved_bases.size[0];
    if (kept == steps + 1) return step;
    return kept == 1 && step == steps ? 0 : -1;
  }
};

// A block's shared memory: the tile of X, which out overwrites at the end; numerators and coef; for tensor cores also
// coef in two parts; in a cluster the slab's share of the sums.
template <typename T>
struct ForwardTile {
  T* x;
  float *numerator, *coef, *partial;
  SplitMatrix parts;  // of coef

  __device__ explicit ForwardTile(const ForwardProblem<T>& p) {
    x = reinterpret_cast<T*>(shared_memory());
    numerator = reinterpret_cast<float*>(x + p.tile * p.row_of_tile());
    coef = numerator + p.tile * p.ld_rank();
    partial = coef + p.tile * p.ld_rank();
    if constexpr (kOnTensorCores<T>) {
      parts.high = reinterpret_cast<__nv_bfloat16*>(partial);
      parts.low = parts.high + p.tile * p.ld_split();
      partial = reinterpret_cast<float*>(parts.low + p.tile * p.ld_split());
    }
  }

  static size_t bytes(const ForwardProblem<T>& p, bool with_partial) {
    const size_t share = with_partial ? static_cast<size_t>(p.sum_rows()) * p.padded_rank * sizeof(float) : 0;
    return p.tile * bytes_per_pixel(p) + share;
  }
  static size_t bytes_per_pixel(const ForwardProblem<T>& p) {
    const size_t split = kOnTensorCores<T> ? 2 * p.ld_split() * sizeof(__nv_bfloat16) : 0;
    return p.row_of_tile() * sizeof(T) + 2 * p.ld_rank() * sizeof(float) + split;
  }
};

}  // namespace segnext
