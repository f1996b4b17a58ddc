// Measures the multiply-add ceiling of one core: independent FMAs in registers that touch no memory.
// Built by roofline.py with -O3 -march=native, so that the vectors are the machine's widest.

#if defined(__AVX512F__)
constexpr int kBytes = 64;
#elif defined(__AVX__)
constexpr int kBytes = 32;
#else
constexpr int kBytes = 16;
#endif
constexpr int kLanes = kBytes / 4;

typedef float Vector __attribute__((vector_size(kBytes)));

// Twelve chains: more than latency (4 cycles) x throughput (2 per cycle), and few enough for 16 registers together with
// both operands. They are single variables because compilers keep an array of them in memory.
#define FOR_EACH_CHAIN(use) use(a) use(b) use(c) use(d) use(e) use(f) use(g) use(h) use(i) use(j) use(k) use(l)
constexpr int kChains = 12;

// Each begins with a value of its own, or the compiler would see that they are equal.
#define DECLARE(chain) Vector chain = factor * (*sink + static_cast<float>(__COUNTER__));
#define MULTIPLY_ADD(chain) chain = chain * factor + term;
#define ADD(chain) sum += chain;

// Runs `rounds` times kChains vector FMAs; returns the floating-point operations done.
extern "C" double flops(long rounds, float* sink) {
  Vector factor = {}, term = {}, sum = {};
  factor += 0.5f + *sink;
  term += 1.0f + *sink;
  FOR_EACH_CHAIN(DECLARE)
  for (long round = 0; round < rounds; ++round) {
    FOR_EACH_CHAIN(MULTIPLY_ADD)
  }
  FOR_EACH_CHAIN(ADD)
  for (int lane = 0; lane < kLanes; ++lane) *sink += sum[lane];
  return 2.0 * kChains * kLanes * static_cast<double>(rounds);
}
