// A Python module in C++, against the stable ABI of CPython 3.10: one library serves 3.10 and every later version.
// Functions are lambdas without captures; their arguments come by position and are read by Argument<T>.
#pragma once

#include <pyconfig.h>
#if !defined(Py_GIL_DISABLED)  // free-threaded CPython has no stable ABI: its library serves one version
#define Py_LIMITED_API 0x030A0000
#endif
#include <Python.h>

#include <array>
#include <cstdint>
#include <memory>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

// SEGNEXT_MODULE(name, m) { m.def(...); } defines the module that `import name` finds.
#define SEGNEXT_MODULE(name, m)                                                                                       \
  static void fill_##name(::segnext::Module& m);                                                                      \
  PyMODINIT_FUNC PyInit_##name() {                                                                                    \
    static PyModuleDef_Slot slots[] = {{Py_mod_exec, reinterpret_cast<void*>(&::segnext::fill_module<&fill_##name>)}, \
                                       {0, nullptr}};                                                                 \
    static PyModuleDef definition = {                                                                                 \
        PyModuleDef_HEAD_INIT, #name, nullptr, 0, nullptr, slots, nullptr, nullptr, nullptr};                         \
    return PyModuleDef_Init(&definition);                                                                             \
  }                                                                                                                   \
  static void fill_##name(::segnext::Module& m)

namespace segnext {

// Thrown where Python's own error is set already.
struct PythonError {};

struct Release {
  void operator()(PyObject* object) const { Py_DecRef(object); }
};
using Owned = std::unique_ptr<PyObject, Release>;

// Takes a new reference; throws if Python gave none because of an error.
inline Owned owned(PyObject* object) {
  if (object == nullptr) throw PythonError();
  return Owned(object);
}

// Lets other Python threads run while a kernel computes.
class WithoutGil {
 public:
  WithoutGil() : state_(PyEval_SaveThread()) {}
  ~WithoutGil() { PyEval_RestoreThread(state_); }
  WithoutGil(const WithoutGil&) = delete;
  WithoutGil& operator=(const WithoutGil&) = delete;

 private:
  PyThreadState* state_;
};

// Makes the C++ exception that is being handled Python's error.
inline void set_error() {
  try {
    throw;
  } catch (const PythonError&) {
  } catch (const std::bad_alloc&) {
    PyErr_NoMemory();
  } catch (const std::out_of_range& error) {
    PyErr_SetString(PyExc_IndexError, error.what());
  } catch (const std::invalid_argument& error) {
    PyErr_SetString(PyExc_ValueError, error.what());
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
  }
}

// How a T is read: read() returns false if the object is none, perhaps with Python's error set; kWhat names a T.
template <typename T, typename = void>
struct Argument;

template <typename T>
bool read(PyObject* object, T& value) {
  return Argument<T>::read(object, value);
}

template <>
struct Argument<bool> {
  static constexpr const char* kWhat = "True or False";
  static bool read(PyObject* object, bool& value) {
    value = object == Py_True;
    return value || object == Py_False;
  }
};

template <typename T>
struct Argument<T, std::enable_if_t<std::is_integral_v<T>>> {
  static constexpr const char* kWhat = std::is_signed_v<T> ? "an integer in range" : "an integer >= 0 in range";
  static bool read(PyObject* object, T& value) {
    using Wide = std::conditional_t<std::is_signed_v<T>, long long, unsigned long long>;
    Wide wide;
    if constexpr (std::is_signed_v<T>) {
      wide = PyLong_AsLongLong(object);
    } else {
      wide = PyLong_AsUnsignedLongLong(object);
    }
    value = static_cast<T>(wide);
    return value == wide && (wide != static_cast<Wide>(-1) || PyErr_Occurred() == nullptr);
  }
};

// Python passes an enum as its number.
template <typename T>
struct Argument<T, std::enable_if_t<std::is_enum_v<T>>> {
  static constexpr const char* kWhat = Argument<int>::kWhat;
  static bool read(PyObject* object, T& value) {
    int number;
    if (!segnext::read(object, number)) return false;
    value = static_cast<T>(number);
    return true;
  }
};

template <typename T>
struct Argument<T, std::enable_if_t<std::is_floating_point_v<T>>> {
  static constexpr const char* kWhat = "a number";
  static bool read(PyObject* object, T& value) {
    const double wide = PyFloat_AsDouble(object);
    value = static_cast<T>(wide);
    return wide != -1.0 || PyErr_Occurred() == nullptr;
  }
};

// Any object, borrowed for the call.
template <>
struct Argument<PyObject*> {
  static constexpr const char* kWhat = "an object";
  static bool read(PyObject* object, PyObject*& value) {
    value = object;
    return true;
  }
};

// The items of a tuple or list, borrowed; the size of anything else is -1.
class Items {
 public:
  explicit Items(PyObject* object)
      : object_(object),
        is_tuple_(PyTuple_Check(object)),
        size_(is_tuple_              ? PyTuple_Size(object)
              : PyList_Check(object) ? PyList_Size(object)
                                     : -1) {}

  Py_ssize_t size() const { return size_; }
  PyObject* operator[](Py_ssize_t i) const {
    return is_tuple_ ? PyTuple_GetItem(object_, i) : PyList_GetItem(object_, i);
  }
  template <typename T>
  bool read_into(T* values) const {
    for (Py_ssize_t i = 0; i < size_; ++i) {
      if (!read((*this)[i], values[i])) return false;
    }
    return true;
  }

 private:
  PyObject* object_;
  bool is_tuple_;
  Py_ssize_t size_;
};

template <typename T>
struct Argument<std::vector<T>> {
  static constexpr const char* kWhat = "a list or tuple of values of one kind";
  static bool read(PyObject* object, std::vector<T>& value) {
    const Items items(object);
    if (items.size() < 0) return false;
    value.resize(items.size());
    return items.read_into(value.data());
  }
};

template <typename T, size_t kSize>
struct Argument<std::array<T, kSize>> {
  static constexpr const char* kWhat = "a list or tuple of fixed length";
  static bool read(PyObject* object, std::array<T, kSize>& value) {
    const Items items(object);
    return items.size() == static_cast<Py_ssize_t>(kSize) && items.read_into(value.data());
  }
};

// Reads values of several kinds; returns how many could be read before one could not.
template <typename Objects, typename... T>
size_t read_each(const Objects& objects, std::tuple<T...>& values) {
  size_t next = 0;
  const auto read_all = [&](auto&... value) { return ((read(objects[next], value) && ++next) && ...); };
  std::apply(read_all, values);
  return next;
}

template <typename... T>
struct Argument<std::tuple<T...>> {
  static constexpr const char* kWhat = "a list or tuple of fixed length";
  static bool read(PyObject* object, std::tuple<T...>& value) {
    const Items items(object);
    return items.size() == sizeof...(T) && read_each(items, value) == sizeof...(T);
  }
};

// A new reference to a result as Python sees it.
inline PyObject* to_python(bool value) { return PyBool_FromLong(value); }
inline PyObject* to_python(int value) { return PyLong_FromLong(value); }
inline PyObject* to_python(int64_t value) { return PyLong_FromLongLong(value); }
inline PyObject* to_python(double value) { return PyFloat_FromDouble(value); }
inline PyObject* to_python(const std::string& value) { return PyUnicode_FromString(value.c_str()); }
inline PyObject* to_python(const char* value) {
  return value == nullptr ? Py_NewRef(Py_None) : PyUnicode_FromString(value);
}
inline PyObject* to_python(PyObject* value) { return value; }  // is a new reference already

// A lambda as a function of Python. Its type is its own, so there is one definition for each.
template <typename Function, typename Result, typename... T>
class Bound {
 public:
  static PyMethodDef* define(const char* name, Function function) {
    function_.emplace(function);
    definition_[0] = {name, reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(&call)), METH_FASTCALL, nullptr};
    return definition_;
  }

 private:
  static PyObject* call(PyObject*, PyObject* const* given, Py_ssize_t count) {
    try {
      if (count != sizeof...(T)) {
        return PyErr_Format(PyExc_TypeError, "%s: the number of arguments must be %zd, got %zd", definition_[0].ml_name,
                            static_cast<Py_ssize_t>(sizeof...(T)), count);
      }
      std::tuple<T...> values;
      const size_t read = read_each(given, values);
      if (read != sizeof...(T)) return refuse(read, given[read]);
      if constexpr (std::is_void_v<Result>) {
        std::apply(*function_, values);
        return Py_NewRef(Py_None);
      } else {
        return to_python(std::apply(*function_, values));
      }
    } catch (...) {
      set_error();
      return nullptr;
    }
  }

  static PyObject* refuse(size_t index, PyObject* given) {
    static constexpr const char* kWhat[] = {Argument<T>::kWhat..., ""};
    PyErr_Clear();
    return PyErr_Format(PyExc_TypeError, "%s: argument %zd must be %s, got %.200R", definition_[0].ml_name,
                        static_cast<Py_ssize_t>(index), kWhat[index], given);
  }

  static inline std::optional<Function> function_;
  static inline PyMethodDef definition_[2] = {};
};

class Module {
 public:
  explicit Module(PyObject* module) : module_(module) {}

  template <typename Function>
  void def(const char* name, Function function) {
    add(name, function, &Function::operator());
  }
  template <typename T>
  void constant(const char* name, T value) {
    if (PyModule_AddObjectRef(module_, name, owned(to_python(value)).get()) != 0) throw PythonError();
  }

 private:
  template <typename Function, typename Result, typename... T>
  void add(const char* name, Function function, Result (Function::*)(T...) const) {
    using Call = Bound<Function, Result, std::remove_cv_t<std::remove_reference_t<T>>...>;
    if (PyModule_AddFunctions(module_, Call::define(name, function)) != 0) throw PythonError();
  }

  PyObject* module_;
};

template <void (*kFill)(Module&)>
int fill_module(PyObject* object) {
  try {
    Module module(object);
    kFill(module);
    return 0;
  } catch (...) {
    set_error();
    return -1;
  }
}

}  // namespace segnext
