#include "common/isa.h"

namespace segnext {

#if defined(SEGNEXT_X86)
namespace {

[[maybe_unused]] bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}

}  // namespace
#endif

Isa best_isa() {
  // AVX-512 means the subset that every server core since 2017 has; the kernels need no more.
  SEGNEXT_AVX512BF16(if (has_avx512() && __builtin_cpu_supports("avx512bf16")) return Isa::kAvx512Bf16;)
  SEGNEXT_AVX512(if (has_avx512()) return Isa::kAvx512;)
  SEGNEXT_AVX2(if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return Isa::kAvx2;)
  return Isa::kGeneric;
}

}  // namespace segnext
