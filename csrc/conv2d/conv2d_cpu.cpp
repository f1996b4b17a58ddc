// conv2d on the CPU: a product of gathered pixels and packed weights.
//
// For a tile of output pixels the kernel's window is gathered into rows of Kh Kw C (a copy of K / Co of the product's
// work: below 4 % from 32 output channels on); a 1x1 kernel reads pixels where they lie. Outside the image the window
// is zero. FLOPs: 2 Kh Kw C Co a pixel.

#include <omp.h>

#include <cstdlib>

#include "common/gelu.h"
#include "common/rows.h"
#include "conv2d/conv2d.h"

namespace segnext {
namespace SEGNEXT_ISA {
namespace {

constexpr int64_t kTile = 96;  // pixels of a product

template <typename Element>
struct Packed {
  Element* weight;
  float* bias;

  Packed(Arena& arena, int64_t out, int64_t taps, int64_t in)
      : weight(arena.take<Element>(packed_size<Element>(out, taps * row_elements<Element>(in)))),
        bias(arena.take<float>(vectors_of(out) * kLanes)) {}
};

template <typename Element>
void pack(const Tensor4& weight, const Tensor4& bias, void* memory) {
  const int64_t out = weight.size[0], in = weight.size[1], height = weight.size[2], width = weight.size[3];
  const int64_t row = row_elements<Element>(in);
  Arena arena{static_cast<char*>(memory)};
  const Packed<Element> packed(arena, out, height * width, in);
  pack_weights(packed.weight, out, height * width * row, 1, [&](int64_t n, int64_t k) {
    const int64_t tap = k / row, channel = k % row;
    if (channel >= in) return 0.0f;
    return static_cast<const float*>(weight.data)[n * weight.stride[0] + channel * weight.stride[1] +
                                                  tap / width * weight.stride[2] + tap % width * weight.stride[3]];
  });
  load_parameter<float>(bias, out, packed.bias);
}

template <typename T>
struct Window {
  using Element = typename Product<T>::Element;

  const Conv2dParams& p;
  int64_t row;  // elements of one pixel

  // The windows of output pixels [first, first + count) of one image.
  void gather(int64_t image, int64_t first, int64_t count, Element* out) const {
    const T* x = static_cast<const T*>(p.x.data) + image * p.x.stride[0];
    for (int64_t pixel = first; pixel < first + count; ++pixel) {
      const int64_t top = pixel / p.out.size[3] * p.stride - p.padding;
      const int64_t left = pixel % p.out.size[3] * p.stride - p.padding;
      for (int64_t i = top; i < top + p.kernel[0]; ++i) {
        const bool row_inside = i >= 0 && i < p.x.size[2];
        for (int64_t j = left; j < left + p.kernel[1]; ++j, out += row) {
          if (row_inside && j >= 0 && j < p.x.size[3]) {
            gather_rows(x + i * p.x.stride[2] + j * p.x.stride[3], p.x.size[1], p.x.stride[1], 0, 1, out);
          } else {
            std::memset(out, 0, row * sizeof(Element));
          }
        }
      }
    }
  }
};

template <typename T, typename Out>
bool run(const Conv2dParams& p, int threads) {
  using Element = typename Product<T>::Element;
  const int64_t row = row_elements<Element>(p.x.size[1]), taps = p.kernel[0] * p.kernel[1];
  const int64_t channels = p.out.size[1], pixels = p.out.size[2] * p.out.size[3];
  if (p.out.size[0] * channels * pixels == 0) return true;
  Arena found{static_cast<char*>(const_cast<void*>(p.packed))};
  const Packed<Element> packed(found, channels, taps, p.x.size[1]);
  const int64_t bytes = (kTile * taps * row * static_cast<int64_t>(sizeof(Element)) + 63) / 64 * 64;
  char* memory = static_cast<char*>(std::malloc(threads * bytes));
  if (memory == nullptr) return false;
  const bool is_pointwise = taps == 1 && p.stride == 1 && p.padding == 0;
  Out* out = static_cast<Out*>(p.out.data);
#pragma omp parallel num_threads(threads)
  {
    const int64_t member = omp_get_thread_num(), team = omp_get_num_threads();
    Element* scratch = reinterpret_cast<Element*>(memory + member * bytes);
    for_each_tile(p.out.size[0], pixels, kTile, member, team, [&](int64_t image, int64_t first, int64_t count) {
      Pixels<Element> a{scratch, taps * row, 0};
      if (is_pointwise) {
        a = pixel_rows<T>(p.x, image, first, count, scratch);
      } else {
        Window<T>{p, row}.gather(image, first, count, scratch);
      }
      gemm(a, count, PackedWeights<Element>{packed.weight, channels, taps * row, 1},
           [&](int64_t m, int64_t n, FloatV sum) {
             sum += load(packed.bias + n);
             if (p.activation == Activation::kGelu) sum = gelu_for<Out>(sum);
             if (p.activation == Activation::kRelu) sum = sum < FloatV{} ? FloatV{} : sum;  // NaN stays
             store_channels(out + image * p.out.stride[0] + offset_in_image(p.out, first + m) + n * p.out.stride[1],
                            p.out.stride[1], channels - n, sum);
           });
    });
  }
  std::free(memory);
  return true;
}

template <typename Element>
int64_t packed_bytes(const Tensor4& weight) {
  Arena measure{nullptr};
  Packed<Element>(measure, weight.size[0], weight.size[2] * weight.size[3], weight.size[1]);
  return measure.used;
}

}  // namespace

int64_t conv2d_packed_bytes(DType dtype, const Tensor4& weight) {
  return dtype == DType::kBFloat16 ? packed_bytes<Product<BFloat16>::Element>(weight) : packed_bytes<float>(weight);
}

void conv2d_pack_cpu(DType dtype, const Tensor4& weight, const Tensor4& bias, void* packed) {
  dtype == DType::kBFloat16 ? pack<Product<BFloat16>::Element>(weight, bias, packed)
                            : pack<float>(weight, bias, packed);
}

bool conv2d_cpu(const Conv2dParams& p, int threads) {
  if (p.dtype == DType::kBFloat16) {
    return p.out_dtype == DType::kBFloat16 ? run<BFloat16, BFloat16>(p, threads) : run<BFloat16, float>(p, threads);
  }
  return p.out_dtype == DType::kBFloat16 ? run<float, BFloat16>(p, threads) : run<float, float>(p, threads);
}

}  // namespace SEGNEXT_ISA
}  // namespace segnext
