#include "common/isa.h"

#if defined(SEGNEXT_ARM) && defined(__linux__)
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
  SEGNEXT_AVX512BF16(if (has_avx512() && __builtin_cpu_supports("avx512bf16")) return Isa::kAvx512Bf16;)
  SEGNEXT_AVX512(if (has_avx512()) return Isa::kAvx512;)
  SEGNEXT_AVX2(if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return Isa::kAvx2;)
  SEGNEXT_NEONBF16(if (has_bf16()) return Isa::kNeonBf16;)
  SEGNEXT_NEON(return Isa::kNeon;)
  return Isa::kGeneric;
}

}  // namespace segnext
