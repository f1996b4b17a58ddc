// group_norm_act on a GPU: how the work is divided, and which elements each thread processes.
#pragma once

#include <cstring>
#include <type_traits>

#include "cuda/device.cuh"
#include "ops/group_norm_act/group_norm_act.h"

namespace segnext {
namespace group_norm {

constexpr int kNormThreads = 256;
constexpr int kNormWarps = kNormThreads / kWarp;
// The blocks are several per multiprocessor, but few enough that reading its groups' sums costs a block little. The
// number does not depend on the device, so neither do the results.
constexpr int64_t kNormBlocks = 1024, kMostChunks = 256;
constexpr int kAcross = 8;  // fewest vectors across a slab: 128 bytes, a whole line of the caches
// Steps of a thread whose loads are in flight together. The backward has three tensors to load.
constexpr int kBatch = 4, kBackwardBatch = 2;

// Rows: a block processes pixels of an image with the channels of one slab, which is whole groups; a thread always has
// the same `vector` channels. Planes: a slab is one channel, and a block processes `vector` pixels of it per step.
struct NormPlan {
  bool rows;
  bool one_group;  // the channels of a thread are always of one group
  bool dense;      // pixel p of every tensor is at p times the stride of w
  int vector;      // elements per step: 16 bytes of them, or 1
  int slab;        // channels
  int slabs;       // per image
  int groups;      // that a slab touches
  int items;       // steps for an image's pixels (rows: pixels; planes: vectors of pixels)
  int chunk;       // steps per block, except for the last one
  int chunks;      // per slab
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

// One step of a thread, as it is in memory: a float per element would take twice the registers while it waits.
template <typename T, int kVec>
struct NormStep {
  using Word = std::conditional_t<(kVec > 1), Vec16<unsigned>, T>;
  Word word;

  __device__ static NormStep load(const T* address) {
    return {segnext::load_global(reinterpret_cast<const Word*>(address))};
  }
  __device__ void store(T* address) const { segnext::store_global(reinterpret_cast<Word*>(address), word); }
  __device__ void to_floats(float (&floats)[kVec]) const {
    if constexpr (std::is_same_v<T, __nv_bfloat16> && kVec > 1) {  // one instruction each; CUDA's conversion takes two
#pragma unroll
      for (int i = 0; i < kVec; i += 2) {
        floats[i] = __uint_as_float(word.values[i / 2] << 16);
        floats[i + 1] = __uint_as_float(word.values[i / 2] & 0xffff0000u);
      }
    } else {
      T values[kVec];
      memcpy(values, &word, sizeof(word));
#pragma unroll
      for (int i = 0; i < kVec; ++i) floats[i] = to_float(values[i]);
    }
  }
  __device__ static NormStep from_floats(const float (&floats)[kVec]) {
    T values[kVec];
    NormStep result;
#pragma unroll
    for (int i = 0; i < kVec; ++i) values[i] = from_float<T>(floats[i]);
    memcpy(&result.word, values, sizeof(values));
    return result;
  }
};

// The constants of a kernel: its elements, and how a thread's channels lie.
template <typename Element, int kVector, bool kInRows, bool kOneGroup>
struct NormVariant {
  using T = Element;
  using Step = NormStep<T, kVector>;
  static constexpr bool kRows = kInRows;
  static constexpr int kVec = kVector;                       // elements per step
  static constexpr int kChannels = kRows ? kVec : 1;         // of a thread
  static constexpr int kGroups = kOneGroup ? 1 : kChannels;  // of a thread, at most
  static constexpr int kResident = kGroups > 4 ? 2 : 3;      // blocks per multiprocessor without spills
};

// Everything that a kernel needs besides its tensors.
struct NormTask {
  NormShape shape;
  NormPlan plan;
  float eps;
  bool relu;
  DType affine_dtype;
  bool parameter_vectors;  // weight and bias can be read 16 bytes at a time

  __host__ __device__ int64_t blocks() const { return int64_t{shape.batch} * plan.slabs * plan.chunks; }
  // The partial sums of a group: entries() is their number per image and group, elements(e) how many elements entry e
  // covers.
  __host__ __device__ int entries() const { return plan.rows ? plan.chunks : plan.chunks * shape.group_channels; }
  __device__ int items_of(int chunk) const {
    const int left = plan.items - chunk * plan.chunk;
    return left < plan.chunk ? left : plan.chunk;
  }
  template <typename V>
  __device__ float elements(int e) const {
    const int chunk = V::kRows ? e : e % plan.chunks;
    return static_cast<float>(items_of(chunk)) * static_cast<float>(V::kRows ? shape.group_channels : V::kVec);
  }
  // The entries of a group are neighbours, so that a warp reads them in few lines.
  __device__ int64_t entry(int n, int group, int e) const {
    return (int64_t{n} * shape.groups + group) * entries() + e;
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
  int n, slab, chunk;
  int channel;  // the thread's first
  int first, last, step;
  int lane, lanes;  // rows: the thread's place among those with the same channels; planes: the thread
  bool idle;

  __device__ NormPart(const NormTask& t, int block) {
    const int thread = threadIdx.x;
    if (t.plan.rows) {  // blocks beside each other read the slabs of the same pixels
      slab = block % t.plan.slabs;
      const int image_chunk = block / t.plan.slabs;
      chunk = image_chunk % t.plan.chunks;
      n = image_chunk / t.plan.chunks;
      const int across = t.plan.slab / t.plan.vector;
      lanes = kNormThreads / across;
      lane = thread / across;
      channel = slab * t.plan.slab + thread % across * t.plan.vector;
      idle = lane >= lanes;
    } else {
      chunk = block % t.plan.chunks;
      const int image_slab = block / t.plan.chunks;
      slab = image_slab % t.plan.slabs;
      n = image_slab / t.plan.slabs;
      lanes = kNormThreads;
      lane = thread;
      channel = slab;
      idle = false;
    }
    first = chunk * t.plan.chunk + lane;
    last = idle ? first : first - lane + t.items_of(chunk);
    step = lanes;
  }
};

// Calls visit(b, address) for those of the kCount items from `item` on that the thread has; kFull: it has them all. The
// choice between dense and other tensors stands outside the loop, so that nothing is between the loads of a batch.
template <typename V, int kCount, bool kFull, typename Visit>
__device__ inline void for_each_step(const NormTask& t, const Tensor4& x, const NormPart& part, int item, Visit visit) {
  using T = typename V::T;
  constexpr int kPixels = V::kVec / V::kChannels;  // per item
  T* const base = static_cast<T*>(x.data) + part.n * x.stride[0] + part.channel * x.stride[1];
  if (t.plan.dense) {
    const int64_t pitch = kPixels * x.stride[3], step = part.step * pitch;
    T* at = base + item * pitch;
#pragma unroll
    for (int b = 0; b < kCount; ++b, at += step) {
      if (kFull || item + b * part.step < part.last) visit(b, at);
    }
    return;
  }
#pragma unroll
  for (int b = 0; b < kCount; ++b) {
    if (!kFull && item + b * part.step >= part.last) continue;
    const unsigned pixel = static_cast<unsigned>((item + b * part.step) * kPixels);
    const unsigned width = static_cast<unsigned>(t.shape.width);
    visit(b, base + pixel / width * x.stride[2] + pixel % width * x.stride[3]);
  }
}

// Items that the thread does not have become zeros.
template <typename V, bool kFull = false, int kCount>
__device__ inline void load_steps(const NormTask& t, const Tensor4& x, const NormPart& part, int item,
                                  typename V::Step (&steps)[kCount]) {
#pragma unroll
  for (int b = 0; b < kCount; ++b) steps[b] = typename V::Step{};
  for_each_step<V, kCount, kFull>(t, x, part, item,
                                  [&](int b, const typename V::T* from) { steps[b] = V::Step::load(from); });
}

template <typename V, int kCount>
__device__ inline void store_steps(const NormTask& t, const Tensor4& x, const NormPart& part, int item,
                                   const typename V::Step (&steps)[kCount]) {
  for_each_step<V, kCount, false>(t, x, part, item, [&](int b, typename V::T* to) { steps[b].store(to); });
}

}  // namespace group_norm
}  // namespace segnext
