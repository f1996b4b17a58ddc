// The instruction sets of the CPU kernels: which were built, which this machine has.
#pragma once

namespace segnext {

// In the order of growing capability; Python uses the same numbers.
enum class Isa : int { kGeneric = 0, kAvx2 = 1, kAvx512 = 2, kAvx512Bf16 = 3 };

// The best instruction set that was built and that this machine can run.
Isa best_isa();

}  // namespace segnext

// Calls segnext::<isa>::function(...) for a run-time Isa.
#if defined(SEGNEXT_X86)
#define SEGNEXT_DISPATCH(isa, function, ...)                                           \
  ((isa) == ::segnext::Isa::kAvx512Bf16 ? ::segnext::avx512bf16::function(__VA_ARGS__) \
   : (isa) == ::segnext::Isa::kAvx512   ? ::segnext::avx512::function(__VA_ARGS__)     \
   : (isa) == ::segnext::Isa::kAvx2     ? ::segnext::avx2::function(__VA_ARGS__)       \
                                        : ::segnext::generic::function(__VA_ARGS__))
#define SEGNEXT_FOR_EACH_ISA(declaration) \
  namespace generic {                     \
  declaration                             \
  }                                       \
  namespace avx2 {                        \
  declaration                             \
  }                                       \
  namespace avx512 {                      \
  declaration                             \
  }                                       \
  namespace avx512bf16 {                  \
  declaration                             \
  }
#else
#define SEGNEXT_DISPATCH(isa, function, ...) (::segnext::generic::function(__VA_ARGS__))
#define SEGNEXT_FOR_EACH_ISA(declaration) \
  namespace generic {                     \
  declaration                             \
  }
#endif

// The same for an op with a build for float64 (cpu/vector.h), which serves that dtype whatever the Isa. That build is
// for torch.autograd.gradcheck, for which float32 is too coarse: every op with a gradient has it, except conv_ffn,
// whose backward consists of PyTorch's matrix products around dwconv_gelu's. setup.py finds these ops by the name of
// the second macro.
#define SEGNEXT_DISPATCH_DTYPE(dtype, isa, function, ...)                            \
  ((dtype) == ::segnext::DType::kFloat64 ? ::segnext::float64::function(__VA_ARGS__) \
                                         : SEGNEXT_DISPATCH(isa, function, __VA_ARGS__))
#define SEGNEXT_FOR_EACH_ISA_AND_FLOAT64(declaration) \
  SEGNEXT_FOR_EACH_ISA(declaration)                   \
  namespace float64 {                                 \
  declaration                                         \
  }
