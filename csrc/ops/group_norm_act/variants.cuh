// group_norm_act on a GPU, for the launchers: the plan of a call, its workspace, and the choice of a kernel's variant.
#pragma once

#include <algorithm>
#include <type_traits>

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

template <size_t kCount>
NormTask task_of(const GroupNormActParams& p, const Tensor4 (&tensors)[kCount]) {
  NormTask t{NormShape(p), {}, static_cast<float>(p.eps), p.relu, p.affine_dtype, true};
  const int vector = static_cast<int>(16 / element_bytes(p.dtype)), channels = t.shape.channels;
  NormPlan& plan = t.plan;
  plan.dense = true;
  bool row_vectors = channels % vector == 0 && channels / vector <= kNormThreads;
  bool plane_vectors = t.shape.pixels % vector == 0;
  for (const Tensor4& x : tensors) {
    plan.dense = plan.dense && is_dense(x);
    row_vectors = row_vectors && takes_vectors(x, true, vector);
    plane_vectors = plane_vectors && is_dense(x) && takes_vectors(x, false, vector);
  }
  plan.rows = p.x.stride[1] == 1 && channels > 1 && (row_vectors || channels <= kNormThreads);
  plan.vector = (plan.rows ? row_vectors : plane_vectors) ? vector : 1;
  plan.items = plan.rows ? t.shape.pixels : t.shape.pixels / plan.vector;
  for (const Tensor4* x : {&p.weight, &p.bias}) {
    if (x->data == nullptr) continue;  // the backward has no bias
    t.parameter_vectors = t.parameter_vectors && x->stride[0] == 1 && reinterpret_cast<uintptr_t>(x->data) % 16 == 0;
  }
  const int64_t others = int64_t{t.shape.batch} * (plan.rows ? 1 : channels);
  const int64_t per_pass = kBatch * (plan.rows ? kNormThreads / (channels / plan.vector) : kNormThreads);
  int64_t chunks = (plan.items + per_pass - 1) / per_pass;
  chunks = std::min(chunks, others > 0 ? std::max<int64_t>(kNormBlocks / others, 1) : 1);
  chunks = std::min(chunks, kMostChunks);
  if (chunks == 0) return t;  // no pixels
  plan.chunk = static_cast<int>((plan.items + chunks - 1) / chunks);
  plan.chunks = (plan.items + plan.chunk - 1) / plan.chunk;
  return t;
}

// Offsets into the workspace, in elements of float2.
struct Places {
  int64_t of_channels, of_groups, end;

  explicit Places(const NormTask& t) {
    const int64_t rows = int64_t{t.shape.batch} * t.plan.chunks;
    of_channels = rows * (t.plan.rows ? t.shape.groups : t.shape.channels);
    of_groups = of_channels + rows * t.shape.channels;
    end = of_groups + (t.plan.rows ? rows * t.shape.groups : 0);
  }
};

// Calls f(element, vector, rows) with the types and constants of the kernels to run.
template <typename F>
int with_variant(DType dtype, const NormPlan& plan, F f) {
  return with_element_type(dtype, [&](auto element) {
    constexpr int kVec = 16 / sizeof(element);
    using Vector = std::integral_constant<int, kVec>;
    using Single = std::integral_constant<int, 1>;
    if (plan.rows)
      return plan.vector > 1 ? f(element, Vector(), std::true_type()) : f(element, Single(), std::true_type());
    return plan.vector > 1 ? f(element, Vector(), std::false_type()) : f(element, Single(), std::false_type());
  });
}

inline size_t group_bytes(const NormTask& t) {
  return static_cast<size_t>(t.plan.rows ? t.shape.groups + t.shape.groups % 2 : 2) * sizeof(float2);
}

// Bytes for two floats per channel of every thread.
inline size_t thread_bytes(const NormTask& t) {
  if (!t.plan.rows) return kNormThreads * sizeof(float2);
  const int lanes = kNormThreads / (t.shape.channels / t.plan.vector);
  return static_cast<size_t>(lanes * row_pitch(t.shape.channels)) * 2 * sizeof(float);
}

// Launches the first kernel of forward and backward: mean and M2 of every part.
int launch_statistics(DType dtype, const NormTask& t, const Tensor4& x, float2* parts, void* stream);

}  // namespace group_norm
}  // namespace segnext
