#include "runtime/weights.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "runtime/error.h"

namespace segnext::runtime {
namespace {

uint16_t to_bfloat16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

std::string text(const std::vector<int64_t>& shape) {
  std::string result = "(";
  for (size_t i = 0; i < shape.size(); ++i) result += (i > 0 ? ", " : "") + std::to_string(shape[i]);
  return one_line(result + ")");
}

}  // namespace

Parameter::Parameter(std::vector<float> values, const std::vector<int64_t>& shape)
    : values_(std::move(values)), shape_(shape) {}

Parameter Parameter::as(DType dtype) const {
  if (dtype == DType::kFloat32) return *this;
  Parameter result;
  result.shape_ = shape_;
  result.bfloat16_.resize(values_.size());
  std::transform(values_.begin(), values_.end(), result.bfloat16_.begin(), to_bfloat16);
  return result;
}

Tensor4 Parameter::tensor() const {
  Tensor4 result;
  if (shape_.empty()) return result;
  // the kernels only read parameters
  result.data = bfloat16_.empty() ? static_cast<void*>(const_cast<float*>(values_.data()))
                                  : static_cast<void*>(const_cast<uint16_t*>(bfloat16_.data()));
  int64_t stride = 1;
  for (size_t axis = shape_.size(); axis-- > 0;) {
    result.size[axis] = shape_[axis];
    result.stride[axis] = stride;
    stride *= shape_[axis];
  }
  return result;
}

Parameter Weights::take(const std::string& name, const std::vector<int64_t>& shape) {
  const auto found = file_.tensors().find(name);
  if (found == file_.tensors().end()) {
    throw Error(SEGNEXT_BAD_FILE, joined({"must have every tensor of its network, lacks ", name}));
  }
  const TensorEntry& entry = found->second;
  if (entry.shape != shape || entry.dtype != "F32") {
    throw Error(SEGNEXT_BAD_FILE, joined({"must have ", name, " as ", text(shape), " F32 for its configuration, got ",
                                          text(entry.shape), " ", entry.dtype}));
  }
  std::vector<float> values(static_cast<size_t>(entry.bytes) / sizeof(float));
  file_.read(entry, values.data());
  if (!std::all_of(values.begin(), values.end(), [](float value) { return std::isfinite(value); })) {
    throw Error(SEGNEXT_BAD_FILE, joined({"must have finite weights, got NaN or Inf in ", name}));
  }
  taken_.push_back(name);
  return {std::move(values), shape};
}

void Weights::expect_all_taken() const {
  if (taken_.size() == file_.tensors().size()) return;
  for (const auto& [name, entry] : file_.tensors()) {
    if (std::find(taken_.begin(), taken_.end(), name) == taken_.end()) {
      throw Error(SEGNEXT_BAD_FILE, joined({"must have the tensors of its network alone, got ", one_line(name)}));
    }
  }
}

}  // namespace segnext::runtime
