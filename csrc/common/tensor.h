// A tensor as the bindings pass it: address, sizes, and strides in elements.
#pragma once

#include <cstdint>

namespace segnext {

struct Tensor4 {
  void* data = nullptr;  // null if an optional tensor is absent
  int64_t size[4] = {};
  int64_t stride[4] = {};
};

}  // namespace segnext
