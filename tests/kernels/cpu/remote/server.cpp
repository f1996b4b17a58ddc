// Calls the CPU kernels of another machine's instruction sets for a client (library.py) at the other end of a pipe. The
// program runs under an emulator, which has no Python.
//
// The server first writes the names of its constants and functions. Then it answers calls until its input ends. A call
// is the function's name, the memory that the arguments point to, and the arguments; the answer is a status with its
// text, the result, and that memory afterwards. Numbers are little-endian and 8 bytes wide.

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>

#include "pybind11/pybind11.h"

using pybind11::Value;

void initialise(pybind11::module_& module);  // csrc/module.cpp

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

Value read_value(const std::vector<Memory>& memory) {
  switch (read_number()) {
    case 'i':
      return Value::of(read_number());
    case 'f': {
      double real;
      read(&real, sizeof real);
      return Value::of(real);
    }
    case 'a': {
      const int64_t index = read_number(), offset = read_number();
      return Value::of(static_cast<int64_t>(reinterpret_cast<uintptr_t>(memory[index].data() + offset)));
    }
    case 'l': {
      Value list{Value::Kind::kList, 0, 0.0, {}};
      for (int64_t left = read_number(); left > 0; --left) list.items.push_back(read_value(memory));
      return list;
    }
    default:
      return {};
  }
}

void answer(const pybind11::module_& module, const std::string& name) {
  std::vector<Memory> memory;
  for (int64_t left = read_number(); left > 0; --left) memory.emplace_back();
  const Value arguments = read_value(memory);
  std::string status = "done", text;
  Value result;
  try {
    result = module.functions.at(name)(arguments);
    for (const Memory& part : memory) {
      if (!part.guards_are_whole()) throw std::runtime_error(name + " writes outside of the memory that it is given");
    }
  } catch (const std::bad_alloc&) {
    status = "MemoryError";
  } catch (const pybind11::index_error& error) {
    status = "IndexError", text = error.what();
  } catch (const pybind11::value_error& error) {
    status = "ValueError", text = error.what();
  } catch (const std::exception& error) {
    status = "RuntimeError", text = error.what();
  }
  write_text(status);
  write_text(text);
  write_number(result.kind == Value::Kind::kFloat ? 'f' : result.kind == Value::Kind::kInteger ? 'i' : 'n');
  write(result.kind == Value::Kind::kFloat ? static_cast<const void*>(&result.real) : &result.integer, 8);
  for (const Memory& part : memory) part.send();
  std::fflush(stdout);
}

}  // namespace

int main() {
  pybind11::module_ module;
  initialise(module);
  write_number(module.constants.size());
  for (const auto& [name, value] : module.constants) {
    write_text(name);
    write_number(value);
  }
  write_number(module.functions.size());
  for (const auto& [name, function] : module.functions) write_text(name);
  std::fflush(stdout);
  for (;;) answer(module, read_text());
}
