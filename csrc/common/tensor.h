// A tensor as the bindings pass it: address, sizes, strides in elements.
#pragma once

#include <cstdint>

namespace segnext {

struct Tensor4 {
  void* data = nullptr;  // null: an absent optional tensor
  int64_t size[4] = {};
  int64_t stride[4] = {};
};

}  // namespace segnext
