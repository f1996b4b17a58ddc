// Calls the CPU kernels of another machine's instruction sets for a client (library.py) at the other end of a pipe. The
// program runs under an emulator, which has no Python.
//
// The server first writes the names of its constants and functions. Then it answers calls until its input ends. A call
// is the function's name, the memory that the arguments point to, and the arguments; the answer is a status with its
// text, the result, and that memory afterwards. Numbers are little-endian and 8 bytes wide.

#include <Python.h>

#include <cstdio>
#include <cstdlib>

extern "C" PyModuleDef* PyInit__C();  // csrc/module.cpp

namespace {

constexpr int64_t kLine = 64;  // Memory has its address modulo this number, as on the client.
constexpr int64_t kGuard = 1024;
constexpr unsigned char kUntouched = 0xa5;

void read(void* target, int64_t size) {
  if (static_cast<int64_t>(std::fread(target, 1, size, stdin)) != size) std::exit(0);
}

void write(const void* source, int64_t size) { std::fwrite(source, 1, size, stdout); }

int64_t read_number() {
  int64_t number;
  read(&number, sizeof number);
  return number;
}

void write_number(int64_t number) { write(&number, sizeof number); }

std::string read_text() {
  std::string text(read_number(), '\0');
  read(text.data(), text.size());
  return text;
}

void write_text(const std::string& text) {
  write_number(text.size());
  write(text.data(), text.size());
}

// A copy of the client's memory, between guards that no kernel may write to.
class Memory {
 public:
  Memory() : size_(read_number()) {
    const int64_t misalignment = read_number();
    all_.assign(size_ + 2 * kGuard + 2 * kLine, kUntouched);
    unsigned char* first = all_.data() + kGuard;
    const int64_t up =
        (kLine + misalignment - static_cast<int64_t>(reinterpret_cast<uintptr_t>(first) % kLine)) % kLine;
    data_ = first + up;
    read(data_, size_);
  }
  Memory(Memory&&) = default;

  unsigned char* data() const { return data_; }
  void send() const { write(data_, size_); }
  bool guards_are_whole() const {
    for (const unsigned char* p = all_.data(); p < all_.data() + all_.size(); ++p) {
      if ((p < data_ || p >= data_ + size_) && *p != kUntouched) return false;
    }
    return true;
  }

 private:
  int64_t size_;
  std::vector<unsigned char> all_;
  unsigned char* data_;
};

PyObject integer(int64_t x) { return {PyObject::Kind::kInteger, x, static_cast<double>(x)}; }

PyObject read_value(const std::vector<Memory>& memory) {
  switch (read_number()) {
    case 'b':
      return read_number() != 0 ? true_object : false_object;
    case 'i':
      return integer(read_number());
    case 'f': {
      double real;
      read(&real, sizeof real);
      return {PyObject::Kind::kFloat, 0, real};
    }
    case 'a': {
      const int64_t index = read_number(), offset = read_number();
      return integer(static_cast<int64_t>(reinterpret_cast<uintptr_t>(memory[index].data() + offset)));
    }
    case 'l': {
      PyObject list{PyObject::Kind::kList};
      for (int64_t left = read_number(); left > 0; --left) list.items.push_back(read_value(memory));
      return list;
    }
    default:
      return {};
  }
}

void write_value(const PyObject& value) {
  switch (value.kind) {
    case PyObject::Kind::kFloat:
      write_number('f');
      return write(&value.real, sizeof value.real);
    case PyObject::Kind::kText:
      write_number('t');
      return write_text(value.text);
    case PyObject::Kind::kBoolean:
    case PyObject::Kind::kInteger:
      write_number('i');
      return write_number(value.integer);
    default:
      return write_number('n');
  }
}

void answer(const std::string& name) {
  std::vector<Memory> memory;
  for (int64_t left = read_number(); left > 0; --left) memory.emplace_back();
  PyObject arguments = read_value(memory);
  std::vector<PyObject*> given;
  for (PyObject& argument : arguments.items) given.push_back(as_python(argument));
  interpreter.error.clear();
  interpreter.text.clear();
  PyObject* result = interpreter.functions.at(name)(nullptr, given.data(), given.size());
  for (const Memory& part : memory) {
    if (!part.guards_are_whole()) {
      PyErr_SetString(PyExc_RuntimeError, (name + " writes outside of the memory that it is given").c_str());
    }
  }
  write_text(interpreter.error.empty() ? "done" : interpreter.error);
  write_text(interpreter.text);
  write_value(result == nullptr ? none : *result);
  for (const Memory& part : memory) part.send();
  std::fflush(stdout);
  delete result;
}

}  // namespace

int main() {
  const PyModuleDef_Slot& fill = PyInit__C()->slots[0];
  reinterpret_cast<int (*)(PyObject*)>(fill.value)(nullptr);
  write_number(interpreter.constants.size());
  for (const auto& [name, value] : interpreter.constants) {
    write_text(name);
    write_value(value);
  }
  write_number(interpreter.functions.size());
  for (const auto& [name, function] : interpreter.functions) write_text(name);
  std::fflush(stdout);
  for (;;) answer(read_text());
}
