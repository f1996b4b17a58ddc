#include "runtime/placement.h"

#include <algorithm>
#include <cstdlib>
#include <iterator>
#include <string>
#include <vector>

#if defined(_OPENMP)
#include <omp.h>
#endif

#include "runtime/error.h"

namespace segnext::runtime {
namespace {

constexpr const char* kNames[] = {"generic", "avx2", "avx512", "avx512bf16", "amx", "neon", "neonbf16"};  // by Isa

std::vector<Isa> built() {
  return {SEGNEXT_GENERIC(Isa::kGeneric, ) SEGNEXT_AVX2(Isa::kAvx2, ) SEGNEXT_AVX512(Isa::kAvx512, ) SEGNEXT_AVX512BF16(
      Isa::kAvx512Bf16, ) SEGNEXT_AMX(Isa::kAmx, ) SEGNEXT_NEON(Isa::kNeon, ) SEGNEXT_NEONBF16(Isa::kNeonBf16, )};
}

bool is_built(Isa isa) {
  const std::vector<Isa> sets = built();
  return std::find(sets.begin(), sets.end(), isa) != sets.end();
}

std::string names(const std::vector<Isa>& sets) {
  std::string result;
  for (const Isa isa : sets) result += (result.empty() ? "" : ", ") + std::string(kNames[static_cast<int>(isa)]);
  return result;
}

const char* wanted_set() {
  const char* name = std::getenv("SEGNEXT_CPU_ISA");
  return name == nullptr || *name == '\0' ? nullptr : name;
}

// The set of what is not computed on tiles.
Isa vectors() {
  const Isa best = best_isa();
  if (!is_built(best)) {
    throw Error(SEGNEXT_UNSUPPORTED, joined({"cannot run: this library was built for ", names(built()),
                                             " alone, which this machine does not have; build it for all sets"}));
  }
  const char* wanted = wanted_set();
  if (wanted == nullptr || std::string(wanted) == "amx") return best;
  const auto found = std::find(std::begin(kNames), std::end(kNames), std::string(wanted));
  const auto isa = static_cast<Isa>(found - std::begin(kNames));
  if (found == std::end(kNames) || isa > best || !is_built(isa)) {
    throw Error(SEGNEXT_UNSUPPORTED,
                joined({"cannot run: SEGNEXT_CPU_ISA must name a set that is built (", names(built()),
                        ") and that this machine has, got ", one_line(wanted), "; unset it"}));
  }
  return isa;
}

// Products of bfloat16 go to AMX's tiles where there are any. This asks the system for them.
Isa set_of_bfloat16(Isa vectors) {
  const char* wanted = wanted_set();
  const bool is_named = wanted != nullptr && std::string(wanted) == "amx";
  if (wanted != nullptr && !is_named) return vectors;
  const char* reason = is_built(Isa::kAmx) ? reason_against_tiles() : "it is not built";
  if (reason == nullptr) return Isa::kAmx;
  if (is_named) {
    throw Error(SEGNEXT_UNSUPPORTED, joined({"cannot run: SEGNEXT_CPU_ISA=amx does not run here: ", reason}));
  }
  return vectors;
}

}  // namespace

Placement placement(DType dtype, int threads) {
#if defined(_OPENMP)
  if (threads == 0) threads = omp_get_max_threads();
#else
  threads = 1;
#endif
  const Isa set = vectors();
  return {dtype, dtype == DType::kBFloat16 ? set_of_bfloat16(set) : set, set, threads};
}

}  // namespace segnext::runtime
