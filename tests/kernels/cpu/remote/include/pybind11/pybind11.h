// Takes the place of pybind11 in a server (server.cpp) without Python: the ops' bindings compile unchanged, and their
// arguments are values that came through a pipe.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <stdexcept>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

namespace pybind11 {

// None, a number or a list. Integers and addresses have both fields set, so that a float may be asked for.
struct Value {
  enum class Kind { kNone, kInteger, kFloat, kList } kind = Kind::kNone;
  int64_t integer = 0;
  double real = 0.0;
  std::vector<Value> items;

  static Value of(int64_t x) { return {Kind::kInteger, x, static_cast<double>(x), {}}; }
  static Value of(double x) { return {Kind::kFloat, 0, x, {}}; }
};

class value_error : public std::runtime_error {
  using std::runtime_error::runtime_error;
};
class index_error : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct gil_scoped_release {
  ~gil_scoped_release() {}
};

// Only bindings of CUDA kernels call objects.
struct object {
  object operator()(int64_t argument) const;
  template <typename T>
  T cast() const;
};

struct handle {
  const Value* value;

  bool is_none() const { return value->kind == Value::Kind::kNone; }
};

namespace detail {

template <typename T, typename = void>
struct type_caster;

template <typename T>
using make_caster = type_caster<std::remove_cv_t<std::remove_reference_t<T>>>;

template <typename T, typename Caster>
const T& cast_op(const Caster& caster) {
  return caster.value;
}

// The name in Python's messages is not used.
#define PYBIND11_TYPE_CASTER(type, name) \
  type value {}

template <typename T>
struct type_caster<T, std::enable_if_t<std::is_arithmetic_v<T>>> {
  T value{};

  bool load(handle source, bool) {
    const Value& given = *source.value;
    if (given.kind == Value::Kind::kInteger) {
      value = static_cast<T>(given.integer);
      return true;
    }
    value = static_cast<T>(given.real);
    return given.kind == Value::Kind::kFloat && std::is_floating_point_v<T>;
  }
};

template <typename T>
bool load_into(const Value& source, T& target) {
  make_caster<T> caster;
  if (!caster.load(handle{&source}, true)) return false;
  target = cast_op<T>(caster);
  return true;
}

template <typename T>
struct type_caster<std::vector<T>> {
  std::vector<T> value;

  bool load(handle source, bool) {
    value.resize(source.value->items.size());
    bool is_right = source.value->kind == Value::Kind::kList;
    for (size_t i = 0; is_right && i < value.size(); ++i) is_right = load_into(source.value->items[i], value[i]);
    return is_right;
  }
};

template <typename T, size_t kSize>
struct type_caster<std::array<T, kSize>> {
  std::array<T, kSize> value{};

  bool load(handle source, bool) {
    bool is_right = source.value->items.size() == kSize;
    for (size_t i = 0; is_right && i < kSize; ++i) is_right = load_into(source.value->items[i], value[i]);
    return is_right;
  }
};

template <typename... T>
struct type_caster<std::tuple<T...>> {
  std::tuple<T...> value;

  bool load(handle source, bool) { return load_items(*source.value, std::index_sequence_for<T...>{}); }

 private:
  template <size_t... kIndex>
  bool load_items(const Value& source, std::index_sequence<kIndex...>) {
    return source.items.size() == sizeof...(T) && (load_into(source.items[kIndex], std::get<kIndex>(value)) && ...);
  }
};

}  // namespace detail

// The functions and constants of the library by name.
class module_ {
 public:
  using Function = std::function<Value(const Value&)>;
  std::map<std::string, Function> functions;
  std::map<std::string, int64_t> constants;

  struct Attribute {
    int64_t& constant;
    void operator=(int64_t value) { constant = value; }
  };
  Attribute attr(const char* name) { return {constants[name]}; }

  template <typename Callable>
  void def(const char* name, Callable callable) {
    functions[name] = wrapped(callable, &Callable::operator());
  }

 private:
  template <typename Callable, typename Result, typename... Arguments>
  static Function wrapped(Callable callable, Result (Callable::*)(Arguments...) const) {
    return [callable](const Value& values) -> Value {
      using Given = std::tuple<std::remove_cv_t<std::remove_reference_t<Arguments>>...>;
      detail::type_caster<Given> given;
      if (!given.load(handle{&values}, true)) throw value_error("arguments of another type or number");
      if constexpr (std::is_void_v<Result>) {
        std::apply(callable, given.value);
        return {};
      } else {
        using Wide = std::conditional_t<std::is_floating_point_v<Result>, double, int64_t>;
        return Value::of(static_cast<Wide>(std::apply(callable, given.value)));
      }
    };
  }
};

#define PYBIND11_MODULE(name, variable) void initialise(::pybind11::module_& variable)

}  // namespace pybind11
