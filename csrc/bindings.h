// What the parts of the Python module _C share: tensors as Python passes them.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <new>
#include <tuple>
#include <vector>

#include "common/isa.h"
#include "common/tensor.h"

namespace segnext {

namespace py = pybind11;

template <typename T = void>
T* pointer(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

// None, or (address, sizes, strides) of a tensor of up to four axes.
inline Tensor4 tensor(const py::handle& value) {
  Tensor4 result;
  if (value.is_none()) return result;
  const auto [address, sizes, strides] =
      value.cast<std::tuple<uintptr_t, std::vector<int64_t>, std::vector<int64_t>>>();
  if (sizes.size() > 4 || sizes.size() != strides.size()) throw py::value_error("tensor: at most four axes");
  result.data = pointer(address);
  std::copy(sizes.begin(), sizes.end(), result.size);
  std::copy(strides.begin(), strides.end(), result.stride);
  return result;
}

template <size_t kSize>
void tensors(const py::list& values, Tensor4 (&result)[kSize]) {
  if (values.size() > kSize) throw py::value_error("too many tensors in a list");
  for (size_t i = 0; i < values.size(); ++i) result[i] = tensor(values[i]);
}

inline void throw_unless(bool enough_memory) {
  if (!enough_memory) throw std::bad_alloc();
}

void bind_inference(py::module_& m);
void bind_cuda(py::module_& m);

}  // namespace segnext
