// The part of CUDA's C++ that kernels use, for g++: qualifiers, vector types, barriers, warps, atomics, intrinsics.
#pragma once

#include <climits>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "emulator/emulator.h"

#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(bytes) alignas(bytes)

using std::isfinite;
using std::isinf;
using std::isnan;

// The runtime's calls that launchers make.

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorCooperativeLaunchTooLarge = 720,
  cudaErrorNotSupported = 801,
  cudaErrorUnknown = 999
};
using cudaStream_t = struct CUstream_st*;

const char* cudaGetErrorString(cudaError_t status);

inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}

inline cudaError_t cudaSetDevice(int device) { return device == 0 ? cudaSuccess : cudaErrorInvalidValue; }

inline cudaError_t cudaMemsetAsync(void* address, int value, size_t bytes, cudaStream_t) {
  std::memset(address, value, bytes);
  return cudaSuccess;
}

// Vector types.

#define EMULATOR_VECTORS(name, type)                                                          \
  struct alignas(2 * sizeof(type)) name##2 { type x, y; };                                    \
  struct alignas(4 * sizeof(type) < 16 ? 4 * sizeof(type) : 16) name##4 { type x, y, z, w; }; \
  inline name##2 make_##name##2(type x, type y) { return {x, y}; }                            \
  inline name##4 make_##name##4(type x, type y, type z, type w) { return {x, y, z, w}; }
EMULATOR_VECTORS(char, signed char)
EMULATOR_VECTORS(uchar, unsigned char)
EMULATOR_VECTORS(short, short)
EMULATOR_VECTORS(ushort, unsigned short)
EMULATOR_VECTORS(int, int)
EMULATOR_VECTORS(uint, unsigned)
EMULATOR_VECTORS(longlong, long long)
EMULATOR_VECTORS(ulonglong, unsigned long long)
EMULATOR_VECTORS(float, float)
EMULATOR_VECTORS(double, double)
#undef EMULATOR_VECTORS

// Barriers.

inline void __syncthreads(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  emulator::block_barrier(file, line);
}
inline int __syncthreads_count(int vote, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  return emulator::block_count(vote != 0, file, line);
}
inline int __syncthreads_or(int vote, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  return emulator::block_count(vote != 0, file, line) != 0;
}
inline int __syncthreads_and(int vote, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  return emulator::block_count(vote == 0, file, line) == 0;
}
inline void __syncwarp(unsigned mask = 0xffffffffu) { emulator::exchange(emulator::WarpOp::kSync, mask, {}); }

inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __threadfence_system() {}

// Operations of warps.

constexpr int warpSize = 32;

namespace emulator {

template <typename T>
const Slot* exchange_value(WarpOp op, unsigned mask, T value) {
  static_assert(std::is_trivially_copyable<T>::value && sizeof(T) <= 16, "a value in registers");
  Slot slot{};
  std::memcpy(slot.words, &value, sizeof value);
  return exchange(op, mask, slot);
}

template <typename T>
T shuffle(unsigned mask, T value, int source) {
  const Slot* slots = exchange_value(WarpOp::kShuffle, mask, value);
  if (!((named_lanes(mask) >> source) & 1u)) fail("a shuffle reads lane %d, which takes no part in it", source);
  T result;
  std::memcpy(&result, slots[source].words, sizeof result);
  return result;
}

}  // namespace emulator

template <typename T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
  const int first = emulator::lane() & -width;
  return emulator::shuffle(mask, value, first + (source & (width - 1)));
}

template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32) {
  const int lane = emulator::lane(), source = lane ^ lanes;
  return emulator::shuffle(mask, value, source < (lane & -width) + width ? source : lane);
}

template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned lanes, int width = 32) {
  const int lane = emulator::lane(), source = lane + static_cast<int>(lanes);
  return emulator::shuffle(mask, value, source < (lane & -width) + width ? source : lane);
}

template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned lanes, int width = 32) {
  const int lane = emulator::lane(), source = lane - static_cast<int>(lanes);
  return emulator::shuffle(mask, value, source >= (lane & -width) ? source : lane);
}

inline unsigned __ballot_sync(unsigned mask, int vote) {
  const emulator::Slot* slots = emulator::exchange_value(emulator::WarpOp::kVote, mask, vote);
  unsigned result = 0;
  for (int lane = 0; lane < 32; ++lane) {
    if ((emulator::named_lanes(mask) >> lane) & 1u) result |= (slots[lane].words[0] != 0 ? 1u : 0u) << lane;
  }
  return result;
}
inline int __any_sync(unsigned mask, int vote) { return __ballot_sync(mask, vote) != 0; }
inline int __all_sync(unsigned mask, int vote) { return __ballot_sync(mask, !vote) == 0; }

template <typename T, typename Combine>
T emulator_reduce(unsigned mask, T value, Combine combine) {
  const emulator::Slot* slots = emulator::exchange_value(emulator::WarpOp::kVote, mask, value);
  bool first = true;
  T result{};
  for (int lane = 0; lane < 32; ++lane) {
    if (!((emulator::named_lanes(mask) >> lane) & 1u)) continue;
    T other;
    std::memcpy(&other, slots[lane].words, sizeof other);
    result = first ? other : combine(result, other);
    first = false;
  }
  return result;
}
template <typename T>
T __reduce_add_sync(unsigned mask, T value) {
  return emulator_reduce(mask, value,
                         [](T a, T b) { return static_cast<T>(static_cast<unsigned>(a) + static_cast<unsigned>(b)); });
}
template <typename T>
T __reduce_max_sync(unsigned mask, T value) {
  return emulator_reduce(mask, value, [](T a, T b) { return a > b ? a : b; });
}
template <typename T>
T __reduce_min_sync(unsigned mask, T value) {
  return emulator_reduce(mask, value, [](T a, T b) { return a < b ? a : b; });
}

// Atomics. One thread runs at a time, so plain code is atomic.

template <typename T, typename Change>
T emulator_atomic(T* address, Change change) {
  const T old = *address;
  *address = change(old);
  return old;
}
template <typename T>
using EmulatorSame = typename std::common_type<T>::type;  // keeps the type from being deduced from the value

template <typename T>
T atomicAdd(T* address, EmulatorSame<T> value) {
  if constexpr (std::is_same<T, int>::value) {
    return emulator_atomic(
        address, [&](int old) { return static_cast<int>(static_cast<unsigned>(old) + static_cast<unsigned>(value)); });
  } else {
    return emulator_atomic(address, [&](T old) { return static_cast<T>(old + value); });
  }
}
template <typename T>
T atomicMax(T* address, EmulatorSame<T> value) {
  return emulator_atomic(address, [&](T old) { return old > value ? old : value; });
}
template <typename T>
T atomicMin(T* address, EmulatorSame<T> value) {
  return emulator_atomic(address, [&](T old) { return old < value ? old : value; });
}
template <typename T>
T atomicOr(T* address, EmulatorSame<T> value) {
  return emulator_atomic(address, [&](T old) { return old | value; });
}
template <typename T>
T atomicAnd(T* address, EmulatorSame<T> value) {
  return emulator_atomic(address, [&](T old) { return old & value; });
}
template <typename T>
T atomicExch(T* address, EmulatorSame<T> value) {
  return emulator_atomic(address, [&](T) { return value; });
}
template <typename T>
T atomicCAS(T* address, EmulatorSame<T> expected, EmulatorSame<T> value) {
  return emulator_atomic(address, [&](T old) { return old == expected ? value : old; });
}

// Intrinsics. `volatile` keeps each rounding separate.

#define EMULATOR_ROUNDED(name, expression) \
  inline float name(float a, float b) {    \
    volatile float result = (expression);  \
    return result;                         \
  }
EMULATOR_ROUNDED(__fadd_rn, a + b)
EMULATOR_ROUNDED(__fsub_rn, a - b)
EMULATOR_ROUNDED(__fmul_rn, a* b)
EMULATOR_ROUNDED(__fdiv_rn, a / b)
EMULATOR_ROUNDED(__fdividef, a / b)
#undef EMULATOR_ROUNDED
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fsqrt_rn(float x) { return std::sqrt(x); }
inline float __frsqrt_rn(float x) { return static_cast<float>(1.0 / std::sqrt(static_cast<double>(x))); }
inline float rsqrtf(float x) { return __frsqrt_rn(x); }
inline double rsqrt(double x) { return 1.0 / std::sqrt(x); }
inline float __expf(float x) { return std::exp(x); }
inline float __exp10f(float x) { return std::pow(10.0f, x); }
inline float __logf(float x) { return std::log(x); }
inline float __log2f(float x) { return std::log2(x); }
inline float __powf(float x, float y) { return std::pow(x, y); }
inline float __saturatef(float x) { return x != x ? 0.0f : std::fmin(std::fmax(x, 0.0f), 1.0f); }

template <typename To, typename From>
To emulator_bits(From from) {
  static_assert(sizeof(To) == sizeof(From), "the same bits");
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}
inline unsigned __float_as_uint(float x) { return emulator_bits<unsigned>(x); }
inline int __float_as_int(float x) { return emulator_bits<int>(x); }
inline float __uint_as_float(unsigned x) { return emulator_bits<float>(x); }
inline float __int_as_float(int x) { return emulator_bits<float>(x); }
inline int __float2int_rn(float x) { return static_cast<int>(std::nearbyint(x)); }
inline int __float2int_rz(float x) { return static_cast<int>(x); }

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x)); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>((static_cast<uint64_t>(a) * b) >> 32); }

template <typename T>
T __ldg(const T* address) {
  return *address;
}

template <typename A, typename B>
typename std::common_type<A, B>::type min(A a, B b) {
  using T = typename std::common_type<A, B>::type;
  return static_cast<T>(b) < static_cast<T>(a) ? static_cast<T>(b) : static_cast<T>(a);
}
template <typename A, typename B>
typename std::common_type<A, B>::type max(A a, B b) {
  using T = typename std::common_type<A, B>::type;
  return static_cast<T>(a) < static_cast<T>(b) ? static_cast<T>(b) : static_cast<T>(a);
}
