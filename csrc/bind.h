// Binding ops to Python: an op's <op>_bind.cpp adds its functions to the module, and tensors arrive as Tensor4.
#pragma once

#include <algorithm>
#include <cstdint>
#include <new>
#include <stdexcept>
#include <vector>

#include "common/dtype.h"
#include "common/isa.h"
#include "common/launch.h"
#include "common/tensor.h"
#include "python_module.h"

// SEGNEXT_BIND(op, m) { m.def(...); } in <op>_bind.cpp registers a function that bind_ops() calls. The CPU's
// definitions are inside #if defined(SEGNEXT_WITH_CPU), CUDA's inside #if defined(SEGNEXT_WITH_CUDA): a library may
// hold either or both.
#define SEGNEXT_BIND(op, m)                                                                           \
  static void bind_##op([[maybe_unused]] ::segnext::Module& m);                                       \
  [[maybe_unused]] static const bool bound_##op = (::segnext::binders().push_back(&bind_##op), true); \
  static void bind_##op([[maybe_unused]] ::segnext::Module& m)

namespace segnext {

using Binder = void (*)(Module&);

// Filled by SEGNEXT_BIND while the library is loaded.
inline std::vector<Binder>& binders() {
  static std::vector<Binder> all;
  return all;
}

// Adds all ops of this library to the module.
inline void bind_ops(Module& m) {
#if defined(SEGNEXT_WITH_CUDA)
  m.constant("HAS_CUDA", true);
  m.def("cuda_error", [](int status) { return cuda_error_text(status); });
#else
  m.constant("HAS_CUDA", false);
#endif
  for (const Binder bind : binders()) bind(m);
}

template <typename T = void>
T* pointer(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

template <size_t kSize>
void copy_tensors(const std::vector<Tensor4>& tensors, Tensor4 (&result)[kSize]) {
  if (tensors.size() > kSize) throw std::invalid_argument("too many tensors in a list");
  std::copy(tensors.begin(), tensors.end(), result);
}

// Throws if a kernel reports, by returning false, that scratch memory is exhausted.
inline void throw_unless(bool enough_memory) {
  if (!enough_memory) throw std::bad_alloc();
}

// The address of device memory that a Python native.Workspace allocates.
inline void* allocated(PyObject* workspace, int64_t bytes) {
  const Owned size = owned(to_python(bytes));
  const Owned memory = owned(PyObject_CallFunctionObjArgs(workspace, size.get(), nullptr));
  uintptr_t address = 0;
  if (!read(memory.get(), address)) throw std::invalid_argument("workspace: must return an address");
  return pointer(address);
}

// None, or (address, sizes, strides) of a tensor of up to four axes.
template <>
struct Argument<Tensor4> {
  static constexpr const char* kWhat = "None or (address, sizes, strides)";
  static bool read(PyObject* object, Tensor4& value) {
    if (object == Py_None) return true;
    const Items view(object);
    uintptr_t address = 0;
    if (view.size() != 3 || !segnext::read(view[0], address)) return false;
    const Items sizes(view[1]), strides(view[2]);
    if (sizes.size() < 0 || sizes.size() != strides.size()) return false;
    if (sizes.size() > 4) throw std::invalid_argument("tensor: at most four axes");
    value.data = pointer(address);
    return sizes.read_into(value.size) && strides.read_into(value.stride);
  }
};

}  // namespace segnext
