// The instruction sets of the CPU kernels: which were built, which this machine has.
#pragma once

namespace segnext {

// In the order of growing capability, x86's before Arm's; Python uses the same numbers.
enum class Isa : int { kGeneric = 0, kAvx2 = 1, kAvx512 = 2, kAvx512Bf16 = 3, kAmx = 4, kNeon = 5, kNeonBf16 = 6 };

// The best instruction set that was built and that this machine can run, AMX apart.
Isa best_isa();

// AMX: why its tiles cannot be used here, or nullptr if they can. The first call asks the system for them. Until a
// process has asked, it may not touch them; and it should not ask in vain, because every signal's frame grows by the
// tiles' 8 KiB, and a strict sandbox may kill a process that does.
const char* reason_against_tiles();

}  // namespace segnext

// SEGNEXT_AVX2(...) and its like keep their argument only if that instruction set is built. setup.py defines
// SEGNEXT_WITHOUT_<set> for each one that it leaves out. If it leaves out generic C++, SEGNEXT_FALLBACK names the set
// that replaces it: on Arm always, where generic C++ would be NEON.
#if defined(SEGNEXT_FALLBACK)
#define SEGNEXT_GENERIC(...)
#else
#define SEGNEXT_FALLBACK generic
#define SEGNEXT_GENERIC(...) __VA_ARGS__
#endif
#if defined(SEGNEXT_X86) && !defined(SEGNEXT_WITHOUT_AVX2)
#define SEGNEXT_AVX2(...) __VA_ARGS__
#else
#define SEGNEXT_AVX2(...)
#endif
#if defined(SEGNEXT_X86) && !defined(SEGNEXT_WITHOUT_AVX512)
#define SEGNEXT_AVX512(...) __VA_ARGS__
#else
#define SEGNEXT_AVX512(...)
#endif
#if defined(SEGNEXT_X86) && !defined(SEGNEXT_WITHOUT_AVX512BF16)
#define SEGNEXT_AVX512BF16(...) __VA_ARGS__
#else
#define SEGNEXT_AVX512BF16(...)
#endif
#if defined(SEGNEXT_ARM) && !defined(SEGNEXT_WITHOUT_NEON)
#define SEGNEXT_NEON(...) __VA_ARGS__
#else
#define SEGNEXT_NEON(...)
#endif
#if defined(SEGNEXT_ARM) && !defined(SEGNEXT_WITHOUT_NEONBF16)
#define SEGNEXT_NEONBF16(...) __VA_ARGS__
#else
#define SEGNEXT_NEONBF16(...)
#endif

#if defined(SEGNEXT_X86) && !defined(SEGNEXT_WITHOUT_AMX)
#define SEGNEXT_AMX(...) __VA_ARGS__
#else
#define SEGNEXT_AMX(...)
#endif

// clang-format off
// Calls segnext::<isa>::function(...) for a run-time Isa.
#define SEGNEXT_DISPATCH(isa, function, ...)                                                                         \
  (SEGNEXT_AMX((isa) == ::segnext::Isa::kAmx ? ::segnext::amx::function(__VA_ARGS__) :)                              \
   SEGNEXT_AVX512BF16((isa) == ::segnext::Isa::kAvx512Bf16 ? ::segnext::avx512bf16::function(__VA_ARGS__) :)         \
   SEGNEXT_AVX512((isa) == ::segnext::Isa::kAvx512 ? ::segnext::avx512::function(__VA_ARGS__) :)                     \
   SEGNEXT_AVX2((isa) == ::segnext::Isa::kAvx2 ? ::segnext::avx2::function(__VA_ARGS__) :)                           \
   SEGNEXT_NEONBF16((isa) == ::segnext::Isa::kNeonBf16 ? ::segnext::neonbf16::function(__VA_ARGS__) :)               \
   SEGNEXT_NEON((isa) == ::segnext::Isa::kNeon ? ::segnext::neon::function(__VA_ARGS__) :)                           \
   ((void)(isa), ::segnext::SEGNEXT_FALLBACK::function(__VA_ARGS__)))

#define SEGNEXT_FOR_EACH_ISA(declaration)                    \
  SEGNEXT_GENERIC(namespace generic { declaration })         \
  SEGNEXT_AVX2(namespace avx2 { declaration })               \
  SEGNEXT_AVX512(namespace avx512 { declaration })           \
  SEGNEXT_AVX512BF16(namespace avx512bf16 { declaration })   \
  SEGNEXT_AMX(namespace amx { declaration })                 \
  SEGNEXT_NEON(namespace neon { declaration })               \
  SEGNEXT_NEONBF16(namespace neonbf16 { declaration })
// clang-format on

// The same for an op with a build for float64 (cpu/vector.h), which is called for that dtype whatever the Isa. That
// build is for torch.autograd.gradcheck, for which float32 is too coarse. Every op with a gradient has it, except
// conv_ffn, which in float64 and in its backward calls the kernels of gated_pointwise and dwconv_gelu. setup.py finds
// these ops by the name of the second macro.
#define SEGNEXT_DISPATCH_DTYPE(dtype, isa, function, ...)                            \
  ((dtype) == ::segnext::DType::kFloat64 ? ::segnext::float64::function(__VA_ARGS__) \
                                         : SEGNEXT_DISPATCH(isa, function, __VA_ARGS__))
#define SEGNEXT_FOR_EACH_ISA_AND_FLOAT64(declaration) \
  SEGNEXT_FOR_EACH_ISA(declaration)                   \
  namespace float64 {                                 \
  declaration                                         \
  }
