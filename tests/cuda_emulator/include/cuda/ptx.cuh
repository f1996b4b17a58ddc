// csrc/cuda/ptx.cuh for the emulator.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cmath>
#include <cstdint>

namespace segnext {

namespace detail {

struct alignas(16) Bytes16 {  // the sanitizer checks its alignment
  uint32_t words[4];
};

inline void load_matrices(uint32_t* r, int matrices, bool transposed, const void* row) {
  const int lane = emulator::lane();
  emulator::Slot brought{};
  std::memcpy(brought.words, &row, sizeof row);
  if (lane < 8 * matrices) {
    if (emulator::counting) emulator::count(emulator::Access::kLoadShared, row, 16);
    const Bytes16 readable = *static_cast<const Bytes16*>(row);
    std::memcpy(brought.words + 4, &readable, sizeof readable);
  }
  const emulator::Slot* rows = emulator::exchange(emulator::WarpOp::kLoadMatrix, 0xffffffffu, brought);
  for (int i = 0; i < matrices; ++i) {
    uint16_t pair[2];
    for (int j = 0; j < 2; ++j) {
      const int along = 2 * (lane % 4) + j, across = lane / 4;
      const int at_row = transposed ? along : across, at_column = transposed ? across : along;
      const uint32_t word = rows[8 * i + at_row].words[4 + at_column / 2];
      pair[j] = static_cast<uint16_t>(word >> (16 * (at_column % 2)));
    }
    r[i] = pair[0] | static_cast<uint32_t>(pair[1]) << 16;
  }
}

inline void multiply(emulator::WarpOp op, float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  emulator::Slot brought{};
  std::memcpy(brought.words, a, sizeof a);
  std::memcpy(brought.words + 4, b, sizeof b);
  const emulator::Slot* products = emulator::exchange(op, 0xffffffffu, brought);
  float sums[4];
  std::memcpy(sums, products[emulator::lane()].words, sizeof sums);
  for (int i = 0; i < 4; ++i) d[i] += sums[i];
}

}  // namespace detail

inline unsigned opaque(unsigned value) { return value; }

inline void cp_async16(void* shared, const void* global, bool valid) {
  detail::Bytes16 line{};
  if (valid) {
    if (emulator::counting) emulator::count(emulator::Access::kLoadGlobal, global, 16);
    line = *static_cast<const detail::Bytes16*>(global);
  }
  if (emulator::counting) emulator::count(emulator::Access::kStoreShared, shared, 16);
  // Lets the sanitizer check the target of the write now; the target keeps its values until the wait.
  auto* place = static_cast<volatile detail::Bytes16*>(shared);
  for (int i = 0; i < 4; ++i) place->words[i] = place->words[i];
  emulator::copy_async(shared, line.words);
}

inline void cp_async_commit() { emulator::commit_copies(); }

template <int kPending>
inline void cp_async_wait() {
  emulator::wait_copies(kPending);
}

inline void ldmatrix_x4(uint32_t (&r)[4], const void* row) { detail::load_matrices(r, 4, false, row); }
inline void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row) { detail::load_matrices(r, 4, true, row); }
inline void ldmatrix_x2(uint32_t (&r)[2], const void* row) { detail::load_matrices(r, 2, false, row); }
inline void ldmatrix_x2_trans(uint32_t (&r)[2], const void* row) { detail::load_matrices(r, 2, true, row); }

template <typename T>
inline void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);
template <>
inline void mma_m16n8k16<__half>(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  detail::multiply(emulator::WarpOp::kMmaHalf, d, a, b);
}
template <>
inline void mma_m16n8k16<__nv_bfloat16>(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  detail::multiply(emulator::WarpOp::kMmaBFloat16, d, a, b);
}

template <typename T>
inline void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const float (&c)[4]) {
  float sums[4] = {c[0], c[1], c[2], c[3]};
  mma_m16n8k16<T>(sums, a, b);
  std::memcpy(d, sums, sizeof sums);
}
template <typename T>
inline void mma_m16n8k8(float (&d)[4], const uint32_t (&a)[2], uint32_t b, const float (&c)[4]) {
  mma_m16n8k16<T>(d, {a[0], a[1], 0, 0}, {b, 0}, c);
}
template <typename T>
inline void mma_m16n8k8(float (&d)[4], const uint32_t (&a)[2], uint32_t b) {
  mma_m16n8k8<T>(d, a, b, d);
}

inline int cluster_rank() { return emulator::cluster_rank(); }
inline int cluster_size() { return emulator::cluster_size(); }
inline void cluster_sync(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  emulator::cluster_barrier(file, line);
}
template <typename T>
inline T* cluster_map(T* shared, int rank) {
  return static_cast<T*>(emulator::map_shared(shared, rank));
}
inline void grid_sync(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  emulator::grid_barrier(file, line);
}

// The exact functions, except that subnormals are zero.
inline float exp2_approx(float x) {
  const float result = std::exp2(x);
  return result < 0x1p-126f ? 0.0f : result;  // NaN is kept
}
inline float reciprocal_approx(float x) {
  const bool subnormal = std::fabs(x) < 0x1p-126f;
  const float result = 1.0f / (subnormal ? std::copysign(0.0f, x) : x);
  return std::fabs(result) < 0x1p-126f ? std::copysign(0.0f, x) : result;
}
inline float max_or_nan(float a, float b) {
  if (a != a || b != b) return std::nanf("");
  if (a == b) return std::signbit(a) ? b : a;
  return a > b ? a : b;
}

template <typename T>
inline uint32_t pack_pair(float first, float second) {
  return T(first).bits | static_cast<uint32_t>(T(second).bits) << 16;
}

inline void store_global16(void* address, const uint32_t (&words)[4]) {
  if (emulator::counting) emulator::count(emulator::Access::kStoreGlobal, address, 16);
  std::memcpy(static_cast<detail::Bytes16*>(address)->words, words, sizeof words);
}

}  // namespace segnext
