// SIMD vectors of the instruction set that a file is compiled for, and sizes counted in vectors.
//
// Every *_cpu.cpp is compiled once per instruction set with -DSEGNEXT_ISA=<name>. All that it defines is in the
// namespace segnext::<name>, so the linker can never merge an AVX-512 copy of a function into a build that also serves
// older machines. For the same reason these files use no inline functions of the standard library.
//
// Ops declared with SEGNEXT_FOR_EACH_ISA_AND_FLOAT64 are compiled once more with -DSEGNEXT_FLOAT64, into
// segnext::float64. There Real, the type that kernels compute in, is double, and e^x and erf come from the C library.
// This build exists for gradcheck: it must be correct, not fast, so it targets no instruction set.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX512F__)
#define SEGNEXT_VECTOR_BYTES 64
#elif defined(__AVX2__)
#define SEGNEXT_VECTOR_BYTES 32
#else
#define SEGNEXT_VECTOR_BYTES 16
#endif

// Tiles of sums are as large as the vector registers allow: AVX-512 and NEON have 32 of them, AVX2 and SSE have 16.
#if defined(__AVX512F__) || defined(__aarch64__)
#define SEGNEXT_VECTOR_REGISTERS 32
#else
#define SEGNEXT_VECTOR_REGISTERS 16
#endif

#if defined(__AMX_BF16__) || defined(__AMXBF16__)  // clang's name for it until version 15
#define SEGNEXT_TILES
#endif

// For functions that take arrays of vectors, which stay in registers only if the function is inlined.
#define SEGNEXT_INLINE __attribute__((always_inline)) static inline

namespace segnext {
namespace SEGNEXT_ISA {

#if defined(SEGNEXT_FLOAT64)
typedef double Real;
typedef int64_t Int;
#else
typedef float Real;
typedef int32_t Int;  // as wide as Real
#endif

constexpr int kLanes = SEGNEXT_VECTOR_BYTES / sizeof(Real);

typedef Real Vec __attribute__((vector_size(SEGNEXT_VECTOR_BYTES)));
typedef Int IntV __attribute__((vector_size(SEGNEXT_VECTOR_BYTES)));

static inline Vec load(const Real* p) {
  Vec v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

static inline void store(Real* p, Vec v) { std::memcpy(p, &v, sizeof v); }

static inline Vec broadcast(Real x) { return x - Vec{}; }

static inline IntV broadcast(Int x) { return x - IntV{}; }

static inline Vec max(Vec a, Vec b) { return a > b ? a : b; }

static inline Vec min(Vec a, Vec b) { return a < b ? a : b; }

// Sizes and indices.
static inline constexpr int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

static inline constexpr int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

// Blocks that cover `size` elements.
static inline constexpr int64_t blocks_of(int64_t size, int64_t block) { return (size + block - 1) / block; }

// Vectors that cover `size` Reals, and the Reals in them.
static inline constexpr int64_t vectors_of(int64_t size) { return blocks_of(size, kLanes); }

static inline constexpr int64_t padded(int64_t size) { return vectors_of(size) * kLanes; }

}  // namespace SEGNEXT_ISA
}  // namespace segnext
