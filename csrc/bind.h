// Binding ops to Python: an op's <op>_bind.cpp adds its functions to the module, and tensors arrive as Tensor4.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <new>
#include <tuple>
#include <vector>

#include "common/dtype.h"
#include "common/isa.h"
#include "common/launch.h"
#include "common/tensor.h"

// SEGNEXT_BIND(op, m) { m.def(...); } in <op>_bind.cpp registers a function that bind_ops() calls. The CPU's
// definitions are inside #if defined(SEGNEXT_WITH_CPU), CUDA's inside #if defined(SEGNEXT_WITH_CUDA): a library may
// hold either or both.
#define SEGNEXT_BIND(op, m)                                                                           \
  static void bind_##op([[maybe_unused]] ::pybind11::module_& m);                                     \
  [[maybe_unused]] static const bool bound_##op = (::segnext::binders().push_back(&bind_##op), true); \
  static void bind_##op([[maybe_unused]] ::pybind11::module_& m)

namespace segnext {

namespace py = pybind11;

using Binder = void (*)(py::module_&);

// Filled by SEGNEXT_BIND while the library is loaded.
inline std::vector<Binder>& binders() {
  static std::vector<Binder> all;
  return all;
}

// Adds all ops of this library to the module.
inline void bind_ops(py::module_& m) {
#if defined(SEGNEXT_WITH_CUDA)
  m.attr("HAS_CUDA") = true;
  m.def("cuda_error", &cuda_error_text);
#else
  m.attr("HAS_CUDA") = false;
#endif
  for (const Binder bind : binders()) bind(m);
}

template <typename T = void>
T* pointer(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

template <size_t kSize>
void copy_tensors(const std::vector<Tensor4>& tensors, Tensor4 (&result)[kSize]) {
  if (tensors.size() > kSize) throw py::value_error("too many tensors in a list");
  std::copy(tensors.begin(), tensors.end(), result);
}

// Throws if a kernel reports, by returning false, that scratch memory is exhausted.
inline void throw_unless(bool enough_memory) {
  if (!enough_memory) throw std::bad_alloc();
}

// The address of device memory that a Python native.Workspace allocates.
inline void* allocated(const py::object& workspace, int64_t bytes) {
  return pointer(workspace(bytes).cast<uintptr_t>());
}

}  // namespace segnext

namespace pybind11::detail {

// Converts None, or (address, sizes, strides) of a tensor of up to four axes.
template <>
struct type_caster<segnext::Tensor4> {
  PYBIND11_TYPE_CASTER(segnext::Tensor4, const_name("tuple | None"));

  bool load(handle source, bool convert) {
    if (source.is_none()) return true;
    using View = std::tuple<uintptr_t, std::vector<int64_t>, std::vector<int64_t>>;
    make_caster<View> view;
    if (!view.load(source, convert)) return false;
    const auto [address, sizes, strides] = cast_op<View>(std::move(view));
    if (sizes.size() > 4 || sizes.size() != strides.size()) throw value_error("tensor: at most four axes");
    value.data = segnext::pointer(address);
    std::copy(sizes.begin(), sizes.end(), value.size);
    std::copy(strides.begin(), strides.end(), value.stride);
    return true;
  }
};

// Python passes an enum as its number.
template <typename Enum>
struct number_caster {
  PYBIND11_TYPE_CASTER(Enum, const_name("int"));

  bool load(handle source, bool convert) {
    make_caster<int> number;
    if (!number.load(source, convert)) return false;
    value = static_cast<Enum>(cast_op<int>(number));
    return true;
  }
};
template <>
struct type_caster<segnext::DType> : number_caster<segnext::DType> {};
template <>
struct type_caster<segnext::Isa> : number_caster<segnext::Isa> {};

}  // namespace pybind11::detail
