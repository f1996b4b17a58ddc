// The folded weights of a file, taken one by one: each is checked against the shape that the configuration asks for.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <vector>

#include "common/dtype.h"
#include "common/tensor.h"
#include "runtime/safetensors.h"

namespace segnext::runtime {

// A tensor of up to four axes without gaps, and its memory.
class Parameter {
 public:
  Parameter() = default;  // absent
  Parameter(std::vector<float> values, const std::vector<int64_t>& shape);

  // The same numbers in another dtype, rounded to the nearest even.
  Parameter as(DType dtype) const;

  const std::vector<float>& values() const { return values_; }
  Tensor4 tensor() const;

 private:
  std::vector<float> values_;
  std::vector<uint16_t> bfloat16_;  // in place of the values, if that is the dtype
  std::vector<int64_t> shape_;
};

class Weights {
 public:
  explicit Weights(SafetensorsFile& file) : file_(file) {}

  // Reads a tensor: float32, of this shape, all numbers finite. Throws Error with SEGNEXT_BAD_FILE.
  Parameter take(const std::string& name, const std::vector<int64_t>& shape);

  // Throws Error unless every tensor of the file was taken.
  void expect_all_taken() const;

 private:
  SafetensorsFile& file_;
  std::vector<std::string> taken_;
};

}  // namespace segnext::runtime
