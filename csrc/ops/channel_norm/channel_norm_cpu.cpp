// channel_norm on the CPU: a pixel's channels are read three times (for mean, variance, result) while they are in the
// first-level cache. Bytes: x and out once.

#include "cpu/convert.h"
#include "cpu/rows.h"
#include "ops/channel_norm/channel_norm.h"

namespace segnext {
namespace SEGNEXT_ISA {
namespace {

constexpr int64_t kTile = 64;  // pixels

float sum_of(Vec v) {
  float lanes[kLanes], total = 0.0f;
  store(lanes, v);
  for (float lane : lanes) total += lane;
  return total;
}

template <typename T>
void normalise(const T* x, int64_t channels, const float* weight, const float* bias, float eps, T* out) {
  const auto lanes_at = [channels](int64_t c) { return channels - c; };
  Vec sum = {};
  for (int64_t c = 0; c < channels; c += kLanes) sum += load_channels(x + c, 1, lanes_at(c));
  const float mean = sum_of(sum) / static_cast<float>(channels);
  Vec squares = {};
  for (int64_t c = 0; c < channels; c += kLanes) {
    if (lanes_at(c) >= kLanes) {
      const Vec deviation = load_vector(x + c) - mean;
      squares += deviation * deviation;
    } else {
      for (int64_t i = 0; i < lanes_at(c); ++i) {
        const float deviation = to_real(x[c + i]) - mean;
        squares[i] += deviation * deviation;
      }
    }
  }
  const float scale = 1.0f / __builtin_sqrtf(sum_of(squares) / static_cast<float>(channels) + eps);
  for (int64_t c = 0; c < channels; c += kLanes) {
    const Vec value = (load_channels(x + c, 1, lanes_at(c)) - mean) * scale;
    store_channels(out + c, 1, lanes_at(c),
                   value * load_channels(weight + c, 1, lanes_at(c)) + load_channels(bias + c, 1, lanes_at(c)));
  }
}

template <typename T>
void run(const ChannelNormParams& p, int threads) {
  const float *weight = static_cast<const float*>(p.weight.data), *bias = static_cast<const float*>(p.bias.data);
  const int64_t pixels = p.x.size[2] * p.x.size[3];
#pragma omp parallel num_threads(threads)
  {
    const Member me = this_member();
    for_each_tile(pixels, me.begin(p.x.size[0] * pixels), me.end(p.x.size[0] * pixels), kTile, [&](const Pixels& tile) {
      const T* x = static_cast<const T*>(p.x.data) + tile.image * p.x.stride[0];
      T* out = static_cast<T*>(p.out.data) + tile.image * p.out.stride[0];
      for (int64_t pixel = tile.first; pixel < tile.first + tile.count; ++pixel) {
        normalise(x + offset_in_image(p.x, pixel), p.x.size[1], weight, bias, p.eps,
                  out + offset_in_image(p.out, pixel));
      }
    });
  }
}

}  // namespace

void channel_norm_cpu(const ChannelNormParams& p, int threads) {
  p.dtype == DType::kBFloat16 ? run<BFloat16>(p, threads) : run<float>(p, threads);
}

}  // namespace SEGNEXT_ISA
}  // namespace segnext
