// Measures the ceiling of one core for products of bfloat16 tiles (AMX-BF16): tdpbf16ps from registers, on four
// independent sums, as a 2x2 block of a matrix product has them. Each instruction adds a product of 16x32 by 32x16.
// Built by roofline.py with -O3. The target is the function's own, so that the library loads on every x86-64.

#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

constexpr int kRows = 16, kRowBytes = 64;              // of every tile
constexpr int kTiles = 8;                              // 0 to 3 are sums, 4 and 5 left factors, 6 and 7 right factors
constexpr double kFlops = 2.0 * kRows * kRows * 32;    // of one instruction
constexpr int kRequest = 0x1023, kPermitted = 0x1022;  // ARCH_REQ_XCOMP_PERM, ARCH_GET_XCOMP_PERM
constexpr int kTileData = 18;                          // XFEATURE_XTILEDATA

// Whether CPU and system have tiles and let this process use them. Linux enlarges a thread's state only on request,
// and whether it was granted must be read back.
static bool may_use_tiles() {
  unsigned a, b, c, d;
  constexpr unsigned kOsXsave = 1u << 27, kAmxBf16 = 1u << 22, kAmxTile = 1u << 24;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & kOsXsave)) return false;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d & kAmxBf16) || !(d & kAmxTile)) return false;
  constexpr unsigned kTileState = 3u << 17;  // configuration and data
  asm volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
  if ((a & kTileState) != kTileState) return false;
  syscall(SYS_arch_prctl, kRequest, kTileData);
  unsigned long permitted = 0;
  return syscall(SYS_arch_prctl, kPermitted, &permitted) == 0 && (permitted >> kTileData & 1);
}

struct alignas(64) Configuration {
  unsigned char palette = 1, start_row = 0, reserved[14] = {};
  unsigned short row_bytes[16] = {};
  unsigned char rows[16] = {};
};

__attribute__((target("amx-tile,amx-bf16"))) static double tile_flops(long rounds, float* sink) {
  Configuration configuration;
  for (int tile = 0; tile < kTiles; ++tile) {
    configuration.rows[tile] = kRows;
    configuration.row_bytes[tile] = kRowBytes;
  }
  alignas(64) unsigned short factor[kRows * kRowBytes / 2];
  for (unsigned short& value : factor) value = 0x3f00;  // 0.5 in bfloat16
  alignas(64) float sums[kRows * kRowBytes / 4];
  // the intrinsics do not say that they read memory
  asm volatile("" : : "r"(&configuration), "r"(factor) : "memory");
  _tile_loadconfig(&configuration);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_loadd(4, factor, kRowBytes);
  _tile_loadd(5, factor, kRowBytes);
  _tile_loadd(6, factor, kRowBytes);
  _tile_loadd(7, factor, kRowBytes);
  for (long round = 0; round < rounds; ++round) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, sums, kRowBytes);
  _tile_release();
  asm volatile("" : : "r"(sums) : "memory");
  *sink += sums[0];
  return 4 * kFlops * static_cast<double>(rounds);
}

// Runs `rounds` times four instructions; returns the floating-point operations done, 0 where there are no tiles.
extern "C" double flops(long rounds, float* sink) { return may_use_tiles() ? tile_flops(rounds, sink) : 0.0; }
