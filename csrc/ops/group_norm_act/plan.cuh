// group_norm_act on a GPU: how the work is divided, and which elements each thread processes.
#pragma once

#include "cuda/device.cuh"
#include "ops/group_norm_act/group_norm_act.h"

namespace segnext {
namespace group_norm {

constexpr int kNormThreads = 256;
constexpr int kNormWarps = kNormThreads / kWarp;
// The blocks are several per multiprocessor, but few enough that each can read its group's sums again. The number does
// not depend on the device, so neither do the results.
constexpr int64_t kNormBlocks = 1024, kMostChunks = 128;
constexpr int kBatch = 4;  // steps of a thread whose loads are in flight together

// Rows: a block processes pixels of an image with all their channels; a thread always has the same `vector` channels.
// Planes: a block processes pixels of one channel of an image, `vector` of them per step.
struct NormPlan {
  bool rows;
  int vector;  // elements per step: 16 bytes of them, or 1
  int items;   // steps for an image's pixels (rows: pixels; planes: vectors of pixels)
  int chunk;   // steps per block, except for the last one
  int chunks;  // per image (rows) or per channel of an image (planes)
  bool dense;  // pixel p of every tensor is at p times the stride of w
};

// Sizes in 32 bits, because 64-bit divisions would cost more than the arithmetic; Python refuses larger ones. Offsets
// into tensors have 64 bits.
struct NormShape {
  int batch, channels, groups, group_channels, width, pixels;

  explicit NormShape(const GroupNormActParams& p)
      : batch(static_cast<int>(p.x.size[0])),
        channels(static_cast<int>(p.x.size[1])),
        groups(static_cast<int>(p.groups)),
        group_channels(static_cast<int>(p.x.size[1] / p.groups)),
        width(static_cast<int>(p.x.size[3])),
        pixels(static_cast<int>(p.x.size[2] * p.x.size[3])) {}
};

// Everything that a kernel needs besides its tensors.
struct NormTask {
  NormShape shape;
  NormPlan plan;
  float eps;
  bool relu;
  DType affine_dtype;
  bool parameter_vectors;  // weight and bias can be read 16 bytes at a time

  int64_t blocks() const { return int64_t{shape.batch} * plan.chunks * (plan.rows ? 1 : shape.channels); }
  // The partial sums of a group: entries() is their number per image and group, elements(e) how many elements entry e
  // covers.
  __device__ int entries() const { return plan.rows ? plan.chunks : plan.chunks * shape.group_channels; }
  __device__ int items_of(int chunk) const {
    const int left = plan.items - chunk * plan.chunk;
    return left < plan.chunk ? left : plan.chunk;
  }
  __device__ float elements(int e) const {
    const int chunk = e < plan.chunks ? e : e % plan.chunks;  // only planes need the division
    return static_cast<float>(items_of(chunk)) * static_cast<float>(plan.rows ? shape.group_channels : plan.vector);
  }
  __device__ int64_t entry(int n, int group, int e) const {
    return plan.rows ? (int64_t{n} * plan.chunks + e) * shape.groups + group
                     : (int64_t{n} * shape.channels + group * shape.group_channels) * plan.chunks + e;
  }
  __device__ float parameter(const Tensor4& tensor, int c) const {
    const int64_t at = c * tensor.stride[0];
    if (affine_dtype == DType::kFloat32) return load_global(static_cast<const float*>(tensor.data) + at);
    if (affine_dtype == DType::kFloat16) return to_float(load_global(static_cast<const __half*>(tensor.data) + at));
    return to_float(load_global(static_cast<const __nv_bfloat16*>(tensor.data) + at));
  }

  // Reads kCount parameters from channel c on, a multiple of kCount.
  template <int kCount>
  __device__ void parameters(const Tensor4& tensor, int c, float (&values)[kCount]) const {
    if constexpr (kCount > 1) {
      if (parameter_vectors && affine_dtype == DType::kFloat32) return load_vectors<float>(tensor, c, values);
      if constexpr (kCount == 8) {
        if (parameter_vectors && affine_dtype == DType::kFloat16) return load_vectors<__half>(tensor, c, values);
        if (parameter_vectors) return load_vectors<__nv_bfloat16>(tensor, c, values);
      }
    }
    for (int i = 0; i < kCount; ++i) values[i] = parameter(tensor, c + i);
  }

 private:
  template <typename T, int kCount>
  __device__ static void load_vectors(const Tensor4& tensor, int c, float (&values)[kCount]) {
    constexpr int kSize = Vec16<T>::kSize;
#pragma unroll
    for (int i = 0; i < kCount; i += kSize) {
      const Vec16<T> vector = Vec16<T>::load_global(static_cast<const T*>(tensor.data) + c + i);
#pragma unroll
      for (int j = 0; j < kSize; ++j) values[i + j] = to_float(vector.values[j]);
    }
  }
};

// The work of this thread: items first, first + step, ... below last, of these channels.
struct NormPart {
  int n, chunk, channel;  // channel: the thread's first
  int first, last, step;
  int lane, lanes;  // rows: the thread's place among those with the same channels; planes: the thread
  bool idle;

  __device__ NormPart(const NormTask& t, int block) {
    const int thread = threadIdx.x;
    if (t.plan.rows) {
      n = block / t.plan.chunks;
      chunk = block % t.plan.chunks;
      const int across = t.shape.channels / t.plan.vector;
      lanes = kNormThreads / across;
      lane = thread / across;
      channel = thread % across * t.plan.vector;
      idle = lane >= lanes;
    } else {
      chunk = block % t.plan.chunks;
      channel = block / t.plan.chunks % t.shape.channels;
      n = block / t.plan.chunks / t.shape.channels;
      lanes = kNormThreads;
      lane = thread;
      idle = false;
    }
    first = chunk * t.plan.chunk + lane;
    last = idle ? first : first - lane + t.items_of(chunk);
    step = lanes;
  }
};

template <typename T, int kVec>
struct NormItem {
  float values[kVec];

  __device__ static const T* address(const NormTask& t, const Tensor4& x, const NormPart& part, int item) {
    const unsigned pixel = static_cast<unsigned>(t.plan.rows ? item : item * kVec);
    const unsigned width = static_cast<unsigned>(t.shape.width);
    const int64_t at = t.plan.dense ? pixel * x.stride[3] : pixel / width * x.stride[2] + pixel % width * x.stride[3];
    return static_cast<const T*>(x.data) + part.n * x.stride[0] + part.channel * x.stride[1] + at;
  }
  __device__ static NormItem load(const NormTask& t, const Tensor4& x, const NormPart& part, int item) {
    const T* from = address(t, x, part, item);
    NormItem result;
    if constexpr (kVec > 1) {
      Vec16<T>::load_global(from).to_floats(result.values);
    } else {
      result.values[0] = to_float(load_global(from));
    }
    return result;
  }
  __device__ void store(const NormTask& t, const Tensor4& x, const NormPart& part, int item) const {
    T* to = const_cast<T*>(address(t, x, part, item));
    if constexpr (kVec > 1) {
      Vec16<T>::from_floats(values).store_global(to);
    } else {
      store_global(to, from_float<T>(values[0]));
    }
  }
};

}  // namespace group_norm
}  // namespace segnext
