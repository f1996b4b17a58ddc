// How the last kernel of msca_conv's backward stores the gradients of the parameters.
#pragma once

#include "cuda/device.cuh"
#include "ops/msca_conv/strips.cuh"

namespace segnext {

// Contiguous gradients of weights (C, 1, taps...) and biases (C); a bias is null if there is none.
template <typename T>
struct MscaConvGradients {
  StripSizes sizes;
  int64_t channels;
  T *root_weight, *root_bias;
  T *row_weight[kMaxStrips], *row_bias[kMaxStrips], *column_weight[kMaxStrips], *column_bias[kMaxStrips];

  __device__ static void store_tap(T* weight, T* bias, int tap, int taps, int64_t c, float value) {
    if (tap < taps) {
      store_global(weight + c * taps + tap, from_float<T>(value));
    } else if (bias != nullptr) {
      store_global(bias + c, from_float<T>(value));
    }
  }
  __device__ void store(int64_t i, float value) const {
    const int vector = static_cast<int>(i / channels);
    const int64_t c = i % channels;
    if (vector <= sizes.root * sizes.root) {
      store_tap(root_weight, root_bias, vector, sizes.root * sizes.root, c, value);
      return;
    }
    int pair = sizes.pairs - 1;
    while (vector < sizes.at[pair]) --pair;
    if (vector < sizes.column_at(pair)) {
      store_tap(row_weight[pair], row_bias[pair], vector - sizes.at[pair], sizes.row[pair], c, value);
      return;
    }
    const int tap = vector - sizes.column_at(pair), taps = sizes.column[pair];
    if (tap < taps) {
      store_tap(column_weight[pair], nullptr, tap, taps, c, value);
    } else if (pair == 0) {
      for (int other = 0; other < sizes.pairs; ++other) store_tap(nullptr, column_bias[other], 0, 0, c, value);
    }
  }
};

template <typename T>
MscaConvGradients<T> gradients_of(const MscaConvBackwardParams& p, int64_t channels) {
  const StripSizes s = strip_sizes(p.forward.weights);
  MscaConvGradients<T> gradients{
      s, channels, static_cast<T*>(p.grad_root_weight.data), static_cast<T*>(p.grad_root_bias.data), {}, {}, {}, {}};
  for (int i = 0; i < s.pairs; ++i) {
    gradients.row_weight[i] = static_cast<T*>(p.grad_row_weight[i].data);
    gradients.row_bias[i] = static_cast<T*>(p.grad_row_bias[i].data);
    gradients.column_weight[i] = static_cast<T*>(p.grad_column_weight[i].data);
    gradients.column_bias[i] = static_cast<T*>(p.grad_column_bias[i].data);
  }
  return gradients;
}

}  // namespace segnext
