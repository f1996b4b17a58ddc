// Measures the ceiling of one core for products of bfloat16 pairs: independent vdpbf16ps in registers that touch no
// memory. Each adds two products to each of 16 float32 sums (AVX512-BF16).
// Built by roofline.py with -O3. The target is the function's own, so that the library loads on every x86-64.

#include <immintrin.h>

// Twelve chains, as in fma_ceiling.cpp: more than latency (up to 8 cycles) x throughput (1 per cycle).
#define FOR_EACH_CHAIN(use) use(a) use(b) use(c) use(d) use(e) use(f) use(g) use(h) use(i) use(j) use(k) use(l)
constexpr int kChains = 12;
constexpr int kLanes = 16;

// Each begins with a value of its own, or the compiler would see that they are equal.
#define DECLARE(chain) __m512 chain = _mm512_set1_ps(*sink + static_cast<float>(__COUNTER__));
#define DOT(chain) chain = _mm512_dpbf16_ps(chain, left, right);
#define ADD(chain) sum = _mm512_add_ps(sum, chain);

__attribute__((target("avx512f,avx512bf16"))) static double dot_flops(long rounds, float* sink) {
  const __m512bh left = (__m512bh)_mm512_set1_epi16(0x3f00);   // 0.5 in bfloat16
  const __m512bh right = (__m512bh)_mm512_set1_epi16(0x3c00);  // 1 / 128
  FOR_EACH_CHAIN(DECLARE)
  for (long round = 0; round < rounds; ++round) {
    FOR_EACH_CHAIN(DOT)
  }
  __m512 sum = _mm512_setzero_ps();
  FOR_EACH_CHAIN(ADD)
  float lanes[kLanes];
  _mm512_storeu_ps(lanes, sum);
  for (float lane : lanes) *sink += lane;
  return 2.0 * 2 * kLanes * kChains * static_cast<double>(rounds);
}

// Runs `rounds` times kChains instructions; returns the floating-point operations done, 0 where the CPU has none.
extern "C" double flops(long rounds, float* sink) {
  return __builtin_cpu_supports("avx512bf16") ? dot_flops(rounds, sink) : 0.0;
}
