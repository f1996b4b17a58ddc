// channel_norm on the CPU: a pixel's channels are read three times (for mean, variance, result) while they are in the
// first-level cache. Bytes: x and out once.
//
// Groups of kLanes pixels: each has a vector of partial sums, and one transpose turns these into a vector of the
// pixels' sums. Adding up the lanes of one pixel at a time takes 1.5 times as long at 32 channels.

#include "cpu/convert.h"
#include "cpu/rows.h"
#include "cpu/transpose.h"
#include "ops/channel_norm/channel_norm.h"

namespace segnext {
namespace SEGNEXT_ISA {
namespace {

constexpr int kSums = 4;  // per pixel: an addition takes four cycles and does not wait for the one before

// term(x[c]) summed over a pixel's channels, in parts. `term` takes a vector or a number.
template <typename T, typename Term>
SEGNEXT_INLINE Vec partial_sums(const T* x, int64_t channels, const Term& term) {
  Vec sums[kSums] = {};
  int64_t c = 0;
  for (; c + kSums * kLanes <= channels; c += kSums * kLanes) {
    for (int i = 0; i < kSums; ++i) sums[i] += term(load_vector(x + c + i * kLanes));
  }
  for (; c + kLanes <= channels; c += kLanes) sums[0] += term(load_vector(x + c));
  for (; c < channels; ++c) sums[1][0] += term(to_real(x[c]));
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

// The sum of each row's lanes.
SEGNEXT_INLINE Vec sums_of_rows(Vec (&rows)[kLanes]) {
  transpose(rows);
  for (int half = kLanes / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) rows[i] += rows[i + half];
  }
  return rows[0];
}

template <typename T>
void normalise(const T* const (&x)[kLanes], int64_t channels, const float* weight, const float* bias, float eps,
               T* const (&out)[kLanes], int64_t pixels) {
  Vec rows[kLanes];
  float means[kLanes], variances[kLanes];
  const float count = static_cast<float>(channels);
  for (int i = 0; i < kLanes; ++i) rows[i] = partial_sums(x[i], channels, [](auto value) { return value; });
  store(means, sums_of_rows(rows) / count);
  for (int i = 0; i < kLanes; ++i) {
    const float mean = means[i];
    rows[i] = partial_sums(x[i], channels, [mean](auto value) { return (value - mean) * (value - mean); });
  }
  store(variances, sums_of_rows(rows) / count);
  for (int i = 0; i < pixels; ++i) {
    const float mean = means[i], scale = 1.0f / __builtin_sqrtf(variances[i] + eps);
    for (int64_t c = 0; c < channels; c += kLanes) {
      const int64_t lanes = channels - c;
      const Vec value = (load_channels(x[i] + c, 1, lanes) - mean) * scale;
      store_channels(out[i] + c, 1, lanes,
                     value * load_channels(weight + c, 1, lanes) + load_channels(bias + c, 1, lanes));
    }
  }
}

template <typename T>
void run(const ChannelNormParams& p, [[maybe_unused]] int threads) {
  const float *weight = static_cast<const float*>(p.weight.data), *bias = static_cast<const float*>(p.bias.data);
  const int64_t in_image = p.x.size[2] * p.x.size[3], total = p.x.size[0] * in_image;
#pragma omp parallel num_threads(threads)
  {
    const Member me;
    for_each_tile(in_image, me.begin(total), me.end(total), kLanes, [&](const Pixels& tile) {
      const T* x[kLanes];
      T* out[kLanes];
      for (int64_t i = 0; i < kLanes; ++i) {
        const int64_t pixel = tile.first + smaller(i, tile.count - 1);  // a short group repeats its last pixel
        x[i] = pixel_at<const T>(p.x, tile.image, pixel);
        out[i] = pixel_at<T>(p.out, tile.image, pixel);
      }
      normalise(x, p.x.size[1], weight, bias, p.eps, out, tile.count);
    });
  }
}

}  // namespace

void channel_norm_cpu(const ChannelNormParams& p, int threads) {
  p.dtype == DType::kBFloat16 ? run<BFloat16>(p, threads) : run<float>(p, threads);
}

}  // namespace SEGNEXT_ISA
}  // namespace segnext
