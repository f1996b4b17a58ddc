// The depthwise parameters of msca_conv as Python passes them, for the ops that hold them.
#pragma once

#include "bind.h"
#include "ops/msca_conv/msca_conv.h"

namespace segnext {

using Tensors = std::vector<Tensor4>;

inline MscaConvWeights msca_conv_weights(Tensor4 root_weight, Tensor4 root_bias, const Tensors& row_weights,
                                         const Tensors& column_weights, const Tensors& row_biases,
                                         const Tensors& column_biases) {
  MscaConvWeights w{root_weight, root_bias, static_cast<int>(row_weights.size()), {}, {}, {}, {}};
  copy_tensors(row_weights, w.row_weight);
  copy_tensors(column_weights, w.column_weight);
  copy_tensors(row_biases, w.row_bias);
  copy_tensors(column_biases, w.column_bias);
  return w;
}

}  // namespace segnext
