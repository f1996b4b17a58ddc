// The tile registers of AMX, and a software form of them for machines without.
//
// There are eight registers of 16 rows x 64 bytes. multiply<c, a, b>() adds a product of two bfloat16 tiles to 16 x 16
// float32 sums: a has 16 rows of 32 k, b has 16 rows of 16 columns x 2 k (the order that cpu/gemm.h packs). All eight
// keep their full size, so one configuration serves every product: K that is no multiple of 32 and fewer than 16 rows
// are the caller's affair (cpu/gemm_on_tiles.h).
//
// A thread configures its tiles when it enters a parallel region and releases them when it leaves (TileScope). Nothing
// is remembered between regions, since other libraries configure the same threads' tiles for themselves.
//
// The software form (-DSEGNEXT_SOFTWARE_TILES) has the hardware's arithmetic: for each of the 16 x 16 sums, the
// products of even and of odd k are two chains of fused multiply-adds from zero; their sum is added to the element.
// Each step rounds to nearest even, and numbers below the smallest normal one count as zero, on the way in and on the
// way out.
#pragma once

#include <cstdint>
#include <cstring>

#include "cpu/packed_weights.h"
#include "cpu/vector.h"

#if defined(SEGNEXT_TILES)

namespace segnext {
namespace SEGNEXT_ISA {

constexpr int64_t kTileSide = 16;   // rows of a tile, and its columns of 4 bytes
constexpr int64_t kTileBytes = 64;  // of a row

#if defined(SEGNEXT_SOFTWARE_TILES)

struct SoftwareTile {
  alignas(64) unsigned char rows[kTileSide][kTileBytes];
};
static thread_local SoftwareTile software_tiles[8];

static inline float without_subnormal(float x) { return __builtin_fabsf(x) < 0x1p-126f ? 0.0f * x : x; }

static inline float tile_bfloat16(const unsigned char* p) {
  uint16_t half;
  std::memcpy(&half, p, sizeof half);
  const uint32_t bits = static_cast<uint32_t>(half) << 16;
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return without_subnormal(x);
}

template <int kTile>
static inline void tile_zero() {
  std::memset(software_tiles[kTile].rows, 0, sizeof software_tiles[kTile].rows);
}

template <int kTile>
static inline void tile_load(const void* p, int64_t stride) {
  for (int64_t i = 0; i < kTileSide; ++i) {
    std::memcpy(software_tiles[kTile].rows[i], static_cast<const char*>(p) + i * stride, kTileBytes);
  }
}

template <int kTile>
static inline void tile_store(void* p, int64_t stride) {
  for (int64_t i = 0; i < kTileSide; ++i) {
    std::memcpy(static_cast<char*>(p) + i * stride, software_tiles[kTile].rows[i], kTileBytes);
  }
}

template <int kSum, int kA, int kB>
static inline void tile_multiply() {
  for (int64_t m = 0; m < kTileSide; ++m) {
    float chain[2][kTileSide] = {}, sum[kTileSide];
    for (int64_t k = 0; k < kTileDepth; ++k) {
      const float a = tile_bfloat16(software_tiles[kA].rows[m] + 2 * k);
      for (int64_t n = 0; n < kTileSide; ++n) {
        const float b = tile_bfloat16(software_tiles[kB].rows[k / 2] + 4 * n + 2 * (k % 2));
        chain[k % 2][n] = without_subnormal(__builtin_fmaf(a, b, chain[k % 2][n]));
      }
    }
    std::memcpy(sum, software_tiles[kSum].rows[m], sizeof sum);
    for (int64_t n = 0; n < kTileSide; ++n) {
      const float both = without_subnormal(chain[0][n] + chain[1][n]);
      sum[n] = without_subnormal(without_subnormal(sum[n]) + both);
    }
    std::memcpy(software_tiles[kSum].rows[m], sum, sizeof sum);
  }
}

struct TileScope {
  TileScope() {}
  ~TileScope() {}
};

#else

template <int kTile>
SEGNEXT_INLINE void tile_zero() {
  asm volatile("tilezero %%tmm%c0" ::"i"(kTile));
}

// `stride` bytes between two rows.
template <int kTile>
SEGNEXT_INLINE void tile_load(const void* p, int64_t stride) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(p), "r"(stride), "i"(kTile) : "memory");
}

template <int kTile>
SEGNEXT_INLINE void tile_store(void* p, int64_t stride) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(p), "r"(stride), "i"(kTile) : "memory");
}

template <int kSum, int kA, int kB>
SEGNEXT_INLINE void tile_multiply() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kSum), "i"(kA), "i"(kB));
}

struct TileScope {
  TileScope() {
    struct alignas(64) {
      uint8_t palette = 1, start_row = 0, reserved[14] = {};
      uint16_t row_bytes[16] = {};
      uint8_t rows[16] = {};
    } configuration;
    static_assert(sizeof configuration == 64, "as the instruction reads it");
    for (int tile = 0; tile < 8; ++tile) {
      configuration.row_bytes[tile] = kTileBytes;
      configuration.rows[tile] = kTileSide;
    }
    asm volatile("ldtilecfg %0" ::"m"(configuration));
  }
  ~TileScope() { asm volatile("tilerelease"); }
};

#endif

}  // namespace SEGNEXT_ISA
}  // namespace segnext

#endif
