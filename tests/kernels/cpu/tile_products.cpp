// Checks the products on tile registers (cpu/gemm_on_tiles.h) against sums in double, for every way in which a matrix
// fits its tiles. Memory is as large as the matrices, so that a sanitizer sees a step beyond them. Prints a digest of
// all sums: the hardware and the software form must print the same. test_tile_products.py builds it in both forms.

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "common/isa.h"
#include "cpu/gemm.h"
#include "cpu/pack.h"
#include "cpu/team.h"

namespace segnext {
namespace amx {
namespace {

uint64_t state = 88172645463325252u;
uint64_t digest = 1469598103934665603u;

// xorshift64
uint64_t random_bits() {
  state ^= state << 13;
  state ^= state >> 7;
  return state ^= state << 17;
}

// Between -16 and 16, of several magnitudes.
template <typename T>
T random_element() {
  const uint64_t bits = random_bits();
  const float unit = static_cast<float>(static_cast<int64_t>(bits >> 40) - (1 << 23)) * 0x1p-23f;
  return from_real<T>(std::ldexp(unit, static_cast<int>(bits % 9) - 4));
}

void add_to_digest(float sum) {
  uint32_t bits;
  std::memcpy(&bits, &sum, sizeof bits);
  digest = (digest ^ bits) * 1099511628211u;
}

int64_t ceiling(int64_t n, int64_t block) { return (n + block - 1) / block * block; }

// Of the sum of the products' magnitudes: float32's sums, and 2^-16 for the product of the lows.
template <typename Element>
constexpr double kTolerance = std::is_same_v<Element, Split> ? 0x1p-15 : 1e-6;

template <typename Element>
bool check(int64_t rows, int64_t depth, int64_t columns, int64_t segments, int64_t gap) {
  using Pixel = PixelElement<Element>;
  const int64_t stride = depth * segments + gap, elements = rows * stride - gap;
  Pixel* const a = static_cast<Pixel*>(std::malloc(elements * sizeof(Pixel)));
  for (int64_t i = 0; i < elements; ++i) a[i] = random_element<Pixel>();
  const int64_t width = ceiling(columns, kLanes), k_total = depth * segments;
  std::vector<Pixel> weight(k_total * columns);
  for (Pixel& w : weight) w = random_element<Pixel>();
  Element* const packed = static_cast<Element*>(
      std::aligned_alloc(64, ceiling(packed_size<Element>(columns, depth, segments) * sizeof(Element), 64)));
  pack_matrix(Matrix<Pixel>{weight.data(), columns, k_total, 1, columns}, packed);
  std::vector<float> sums(rows * width);
  std::vector<int> times(rows * width);
  {
    const Member me;
    gemm(Rows<const Pixel>{a, stride, depth}, rows, PackedWeights<Element>{packed, columns, depth, segments},
         [&](int64_t m, int64_t n, Vec sum) {
           store(sums.data() + m * width + n, sum);
           ++times[m * width + n];
         });
  }
  bool right = true;
  for (int64_t m = 0; m < rows; ++m) {
    for (int64_t n = 0; n < width; n += kLanes) right = right && times[m * width + n] == 1;
    for (int64_t n = 0; n < columns; ++n) {
      double sum = 0, size = 0;
      for (int64_t k = 0; k < k_total; ++k) {
        const double product = double{to_real(a[m * stride + k])} * to_real(weight[k * columns + n]);
        sum += product;
        size += std::fabs(product);
      }
      right = right && std::fabs(sums[m * width + n] - sum) <= kTolerance<Element> * size;
      add_to_digest(sums[m * width + n]);
    }
  }
  std::free(a);
  std::free(packed);
  if (!right) {
    std::printf("wrong: %ld rows, %ld columns, %ld segments of %ld, gap %ld\n", static_cast<long>(rows),
                static_cast<long>(columns), static_cast<long>(segments), static_cast<long>(depth),
                static_cast<long>(gap));
  }
  return right;
}

}  // namespace
}  // namespace amx
}  // namespace segnext

int main() {
  if (const char* reason = segnext::reason_against_tiles()) {
    std::printf("no tiles: %s\n", reason);
    return 77;
  }
  int cases = 0, wrong = 0;
  for (const int64_t rows : {1, 2, 15, 16, 17, 31, 32, 33, 40, 47, 48, 49, 65}) {
    for (const int64_t depth : {32, 64, 160, 48}) {  // the last is no multiple of a tile's 32, and left to vectors
      for (const int64_t columns : {1, 16, 17, 48, 64, 100, 144}) {
        for (const int64_t segments : {1, 3}) {
          for (const int64_t gap : {0, 24}) {
            cases += 2;
            wrong += !segnext::amx::check<segnext::amx::BFloat16>(rows, depth, columns, segments, gap);
            wrong += !segnext::amx::check<segnext::amx::Split>(rows, depth, columns, segments, gap);
          }
        }
      }
    }
  }
  std::printf("%d cases, %d wrong, digest %016lx\n", cases, wrong, static_cast<unsigned long>(segnext::amx::digest));
  return wrong != 0;
}
