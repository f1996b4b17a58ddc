// Takes Python's place in a server (server.cpp) without it: the part of CPython's C interface that csrc uses, for
// values that came through a pipe. So csrc's bindings compile unchanged.
#pragma once

#include <cstddef>
#include <map>
#include <string>
#include <vector>

// None, a number, a text or a list. Integers and addresses have both numbers set, so that a float may be asked for.
struct PyObject {
  enum class Kind { kNone, kBoolean, kInteger, kFloat, kText, kList } kind = Kind::kNone;
  long long integer = 0;
  double real = 0.0;
  std::string text = {};
  std::vector<PyObject> items = {};
};

using Py_ssize_t = std::ptrdiff_t;
using PyCFunction = PyObject* (*)(PyObject*, PyObject*);
using FastFunction = PyObject* (*)(PyObject*, PyObject* const*, Py_ssize_t);
struct PyThreadState {};
struct PyMethodDef {
  const char* ml_name;
  PyCFunction ml_meth;
  int ml_flags;
  const char* ml_doc;
};
struct PyModuleDef_Slot {
  int slot;
  void* value;
};
struct PyModuleDef {
  int base;
  const char* name;
  const char* doc;
  Py_ssize_t size;
  PyMethodDef* methods;
  PyModuleDef_Slot* slots;
  void *traverse, *clear, *free;
};

// What Python would keep: its error, and the functions and constants of the module.
struct Interpreter {
  std::string error, text;
  std::map<std::string, FastFunction> functions;
  std::map<std::string, PyObject> constants;
};
inline Interpreter interpreter;
inline PyObject none, false_object{PyObject::Kind::kBoolean, 0}, true_object{PyObject::Kind::kBoolean, 1, 1.0};

// Python has one object for None, one for True and one for False, and their addresses tell them.
inline PyObject* as_python(PyObject& value) {
  if (value.kind == PyObject::Kind::kNone) return &none;
  if (value.kind == PyObject::Kind::kBoolean) return value.integer != 0 ? &true_object : &false_object;
  return &value;
}

#define PyMODINIT_FUNC extern "C" PyModuleDef*
#define PyModuleDef_HEAD_INIT 0
#define Py_mod_exec 2
#define METH_FASTCALL 128
#define Py_None (&::none)
#define Py_True (&::true_object)
#define Py_False (&::false_object)
#define PyExc_TypeError "TypeError"
#define PyExc_ValueError "ValueError"
#define PyExc_IndexError "IndexError"
#define PyExc_RuntimeError "RuntimeError"

inline PyModuleDef* PyModuleDef_Init(PyModuleDef* definition) { return definition; }
inline int PyModule_AddFunctions(PyObject*, PyMethodDef* definition) {
  interpreter.functions[definition->ml_name] =
      reinterpret_cast<FastFunction>(reinterpret_cast<void (*)()>(definition->ml_meth));
  return 0;
}
inline int PyModule_AddObjectRef(PyObject*, const char* name, PyObject* value) {
  interpreter.constants[name] = *value;
  return 0;
}

inline void PyErr_SetString(const char* kind, const char* text) { interpreter.error = kind, interpreter.text = text; }
inline PyObject* PyErr_NoMemory() { return PyErr_SetString("MemoryError", ""), nullptr; }
inline const char* PyErr_Occurred() { return interpreter.error.empty() ? nullptr : interpreter.error.c_str(); }
inline void PyErr_Clear() { interpreter.error.clear(); }
// Of the message only the format is kept, which says enough where it does not occur in a test that passes.
template <typename... T>
PyObject* PyErr_Format(const char* kind, const char* format, T...) {
  return PyErr_SetString(kind, format), nullptr;
}

inline PyThreadState* PyEval_SaveThread() { return nullptr; }
inline void PyEval_RestoreThread(PyThreadState*) {}

inline PyObject* Py_NewRef(PyObject* object) { return new PyObject(*object); }
inline void Py_DecRef(PyObject* object) { delete object; }
inline PyObject* PyBool_FromLong(long value) { return Py_NewRef(value ? Py_True : Py_False); }
inline PyObject* PyLong_FromLongLong(long long value) {
  return new PyObject{PyObject::Kind::kInteger, value, static_cast<double>(value)};
}
inline PyObject* PyLong_FromLong(long value) { return PyLong_FromLongLong(value); }
inline PyObject* PyFloat_FromDouble(double value) { return new PyObject{PyObject::Kind::kFloat, 0, value}; }
inline PyObject* PyUnicode_FromString(const char* text) { return new PyObject{PyObject::Kind::kText, 0, 0.0, text}; }

inline long long PyLong_AsLongLong(PyObject* object) {
  if (object->kind == PyObject::Kind::kInteger) return object->integer;
  PyErr_SetString(PyExc_TypeError, "an integer is required");
  return -1;
}
inline unsigned long long PyLong_AsUnsignedLongLong(PyObject* object) { return PyLong_AsLongLong(object); }
inline double PyFloat_AsDouble(PyObject* object) {
  if (object->kind == PyObject::Kind::kInteger || object->kind == PyObject::Kind::kFloat) return object->real;
  PyErr_SetString(PyExc_TypeError, "a number is required");
  return -1.0;
}

inline bool PyTuple_Check(PyObject*) { return false; }
inline bool PyList_Check(PyObject* object) { return object->kind == PyObject::Kind::kList; }
inline Py_ssize_t PyTuple_Size(PyObject*) { return 0; }
inline Py_ssize_t PyList_Size(PyObject* object) { return object->items.size(); }
inline PyObject* PyTuple_GetItem(PyObject*, Py_ssize_t) { return nullptr; }
inline PyObject* PyList_GetItem(PyObject* object, Py_ssize_t i) { return as_python(object->items[i]); }

// Only bindings of CUDA kernels call objects.
PyObject* PyObject_CallFunctionObjArgs(PyObject* function, ...);
