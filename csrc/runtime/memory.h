// Memory that begins at a multiple of a cache line, as packed weights and activations have to.
#pragma once

#include <cstdint>
#include <memory>
#include <new>

#include "common/dtype.h"
#include "common/tensor.h"

namespace segnext::runtime {

class Memory {
 public:
  Memory() = default;
  // Uninitialised. Throws std::bad_alloc.
  explicit Memory(int64_t bytes) : data_(static_cast<char*>(::operator new(static_cast<size_t>(bytes), kLine))) {}

  char* data() const { return data_.get(); }

 private:
  static constexpr std::align_val_t kLine{64};
  struct Free {
    void operator()(char* data) const { ::operator delete(data, kLine); }
  };
  std::unique_ptr<char, Free> data_;
};

struct Shape {
  int64_t batch, channels, height, width;

  int64_t elements() const { return batch * channels * height * width; }
};

inline int64_t size_of(DType dtype) { return dtype == DType::kBFloat16 ? 2 : 4; }

// (N, C, H, W) with channels side by side, as all activations are.
inline Tensor4 view(void* data, const Shape& s) {
  return {data,
          {s.batch, s.channels, s.height, s.width},
          {s.height * s.width * s.channels, 1, s.width * s.channels, s.channels}};
}

inline Shape shape_of(const Tensor4& x) { return {x.size[0], x.size[1], x.size[2], x.size[3]}; }

}  // namespace segnext::runtime
