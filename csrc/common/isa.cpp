#include "common/isa.h"

#if defined(SEGNEXT_X86) && defined(__linux__) && !defined(SEGNEXT_SOFTWARE_TILES)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#elif defined(SEGNEXT_ARM) && defined(__linux__)
#include <sys/auxv.h>
#elif defined(SEGNEXT_ARM) && defined(__APPLE__)
#include <sys/sysctl.h>
#endif

namespace segnext {

#if defined(SEGNEXT_X86)
namespace {

[[maybe_unused]] bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}

[[maybe_unused]] bool has_avx512bf16() { return has_avx512() && __builtin_cpu_supports("avx512bf16"); }

}  // namespace
#elif defined(SEGNEXT_ARM)
namespace {

[[maybe_unused]] bool has_bf16() {
#if defined(__linux__)
  constexpr unsigned long kBf16 = 1ul << 14;  // HWCAP2_BF16, which the headers of older systems lack
  return getauxval(AT_HWCAP2) & kBf16;
#elif defined(__APPLE__)
  int has = 0;
  size_t size = sizeof has;
  return sysctlbyname("hw.optional.arm.FEAT_BF16", &has, &size, nullptr, 0) == 0 && has != 0;
#else
  return false;
#endif
}

}  // namespace
#endif

Isa best_isa() {
  // AVX-512 means the subset that every server core since 2017 has; the kernels need no more.
  SEGNEXT_AVX512BF16(if (has_avx512bf16()) return Isa::kAvx512Bf16;)
  SEGNEXT_AVX512(if (has_avx512()) return Isa::kAvx512;)
  SEGNEXT_AVX2(if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return Isa::kAvx2;)
  SEGNEXT_NEONBF16(if (has_bf16()) return Isa::kNeonBf16;)
  SEGNEXT_NEON(return Isa::kNeon;)
  return Isa::kGeneric;
}

#if !defined(SEGNEXT_X86) || defined(SEGNEXT_WITHOUT_AMX)

const char* reason_against_tiles() { return "AMX is not built"; }

#elif defined(SEGNEXT_SOFTWARE_TILES)

const char* reason_against_tiles() { return has_avx512bf16() ? nullptr : "this CPU has no AVX512-BF16"; }

#elif !defined(__linux__)

const char* reason_against_tiles() { return "only Linux is asked for AMX"; }

#else

namespace {

constexpr long kTileData = 18;  // the number of the tiles' part of a thread's saved state
constexpr long kGetPermission = 0x1022, kRequestPermission = 0x1023;  // of arch_prctl

bool cpu_has_tiles() {
  unsigned a, b, c, d;
  if (!has_avx512bf16() || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  constexpr unsigned kBfloat16 = 1u << 22, kTile = 1u << 24;
  if ((d & kBfloat16) == 0 || (d & kTile) == 0) return false;
  unsigned low, high;  // which state the system saves and restores
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  constexpr unsigned kBothTileStates = 3u << 17;
  return (low & kBothTileStates) == kBothTileStates;
}

const char* ask_for_tiles() {
  if (!cpu_has_tiles()) return "this CPU has no AMX, or the system does not enable it";
  if (syscall(SYS_arch_prctl, kRequestPermission, kTileData) != 0) {
    return errno == ENOSPC ? "the system refuses AMX: a thread's stack for signals is too small for its state"
                           : "the system refuses AMX (arch_prctl)";
  }
  unsigned long granted = 0;
  if (syscall(SYS_arch_prctl, kGetPermission, &granted) != 0 || (granted >> kTileData & 1) == 0) {
    return "the system does not grant AMX (arch_prctl)";
  }
  return nullptr;
}

}  // namespace

const char* reason_against_tiles() {
  static const char* const reason = ask_for_tiles();
  return reason;
}

#endif

}  // namespace segnext
