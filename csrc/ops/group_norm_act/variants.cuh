// group_norm_act on a GPU, for the launchers: the plan of a call, its workspace, and the choice of a kernel's variant.
#pragma once

#include <algorithm>

#include "ops/group_norm_act/moments.cuh"

namespace segnext {
namespace group_norm {

inline int64_t element_bytes(DType dtype) { return dtype == DType::kFloat32 ? 4 : 2; }

// Whether this tensor can be read in aligned steps of 16 bytes, along channels (rows) or along w (planes).
inline bool takes_vectors(const Tensor4& x, bool rows, int64_t vector) {
  if (x.data == nullptr) return true;
  const int inner = rows ? 1 : 3;
  for (int axis = 0; axis < 4; ++axis) {
    if (x.size[axis] == 1 || (axis == inner && x.stride[axis] == 1)) continue;
    if (axis == inner || (!(axis == 2 && !rows) && x.stride[axis] % vector != 0)) return false;
  }
  return reinterpret_cast<uintptr_t>(x.data) % 16 == 0;
}

inline bool is_dense(const Tensor4& x) {
  return x.data == nullptr || x.size[2] == 1 || x.stride[2] == x.size[3] * x.stride[3];
}

// Divides the channels into as many slabs as there can be: whole groups, equal, and whole vectors of at least one line.
inline int slabs_of(const NormShape& shape, int vector) {
  const int fewest = vector > 1 ? kAcross * vector : kWarp;
  for (int slabs = shape.channels / fewest; slabs > 1; --slabs) {
    if (shape.groups % slabs == 0 && shape.channels / slabs % vector == 0) return slabs;
  }
  return 1;
}

template <size_t kCount>
NormTask task_of(const GroupNormActParams& p, const Tensor4 (&tensors)[kCount]) {
  NormTask t{NormShape(p), {}, static_cast<float>(p.eps), p.relu, p.affine_dtype, true};
  const int vector = static_cast<int>(16 / element_bytes(p.dtype)), channels = t.shape.channels;
  NormPlan& plan = t.plan;
  plan.dense = true;
  bool row_vectors = channels % vector == 0, plane_vectors = t.shape.pixels % vector == 0;
  for (const Tensor4& x : tensors) {
    plan.dense = plan.dense && is_dense(x);
    row_vectors = row_vectors && takes_vectors(x, true, vector);
    plane_vectors = plane_vectors && is_dense(x) && takes_vectors(x, false, vector);
  }
  plan.rows = p.x.stride[1] == 1 && channels > 1;
  if (plan.rows) {
    plan.vector = row_vectors ? vector : 1;
    plan.slabs = slabs_of(t.shape, plan.vector);
    plan.slab = channels / plan.slabs;
    plan.groups = plan.slab / t.shape.group_channels;
    plan.one_group = t.shape.group_channels % plan.vector == 0;
    plan.items = t.shape.pixels;
    plan.rows = plan.slab / plan.vector <= kNormThreads;
  }
  if (!plan.rows) {
    plan.vector = plane_vectors ? vector : 1;
    plan.slabs = channels;
    plan.slab = plan.groups = 1;
    plan.one_group = true;
    plan.items = t.shape.pixels / plan.vector;
  }
  for (const Tensor4* x : {&p.weight, &p.bias}) {
    if (x->data == nullptr) continue;  // the backward has no bias
    t.parameter_vectors = t.parameter_vectors && x->stride[0] == 1 && reinterpret_cast<uintptr_t>(x->data) % 16 == 0;
  }
  const int64_t slabs = int64_t{t.shape.batch} * plan.slabs;  // of all images
  if (slabs == 0 || plan.items == 0) return t;
  // every chunk except for the last one is whole batches of all threads
  const int64_t lanes = plan.rows ? kNormThreads / (plan.slab / plan.vector) : kNormThreads;
  const int64_t batches = (plan.items + kBatch * lanes - 1) / (kBatch * lanes);
  const int64_t most = std::min(std::max<int64_t>(kNormBlocks / slabs, 1), kMostChunks);
  plan.chunk = static_cast<int>((batches + most - 1) / most * kBatch * lanes);
  plan.chunks = (plan.items + plan.chunk - 1) / plan.chunk;
  return t;
}

// Offsets into the workspace, in elements of float2.
struct Places {
  int64_t of_channels, of_groups, end;

  explicit Places(const NormTask& t) {
    of_channels = int64_t{t.shape.batch} * t.shape.groups * t.entries();
    of_groups = of_channels + int64_t{t.shape.batch} * t.plan.chunks * t.shape.channels;
    end = of_groups + (t.plan.rows ? of_channels : 0);
  }
};

// Calls f with the variant of the kernels to run.
template <typename F>
int with_variant(DType dtype, const NormPlan& plan, F f) {
  return with_element_type(dtype, [&](auto element) {
    using T = decltype(element);
    constexpr int kVec = 16 / sizeof(T);
    if (!plan.rows)
      return plan.vector > 1 ? f(NormVariant<T, kVec, false, true>()) : f(NormVariant<T, 1, false, true>());
    if (plan.vector == 1) return f(NormVariant<T, 1, true, true>());
    return plan.one_group ? f(NormVariant<T, kVec, true, true>()) : f(NormVariant<T, kVec, true, false>());
  });
}

inline size_t group_bytes(const NormTask& t) {
  return static_cast<size_t>(t.plan.groups + t.plan.groups % 2) * sizeof(float2);
}

// Bytes for a block's threads, each with two floats for `own` of its channels or groups.
inline size_t thread_bytes(const NormTask& t, int own) {
  if (!t.plan.rows) return kNormThreads * sizeof(float2);
  const int across = t.plan.slab / t.plan.vector, lanes = kNormThreads / across;
  return static_cast<size_t>(lanes * row_pitch(across * own, own)) * 2 * sizeof(float);
}

// Launches the first kernel of forward and backward: mean and M2 of every part.
int launch_statistics(DType dtype, const NormTask& t, const Tensor4& x, float2* parts, void* stream);

}  // namespace group_norm
}  // namespace segnext
