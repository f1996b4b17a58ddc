// conv2d_act on the CPU: a product of the pixels under the kernel and packed weights.
//
// The rows of the product come in one of three ways, all with the same packed weights:
//   1x1 kernels   With stride 1 and no padding, pixels are read in place.
//   wide outputs  The image's rows under the kernel are copied with their border of zeros. A window is Kh segments of
//                 Kw C neighbours there. This copies Kh / stride of the input.
//   others        Windows are gathered in tiles. This copies Kh Kw C elements per output pixel, 1 / Co of the product's
//                 multiplications.
// FLOPs: 2 Kh Kw C Co per output pixel.

#include "cpu/convert.h"
#include "cpu/gelu.h"
#include "cpu/memory.h"
#include "cpu/rows.h"
#include "ops/conv2d_act/conv2d_act.h"

namespace segnext {
namespace SEGNEXT_ISA {
namespace {

constexpr int64_t kTile = 96;     // pixels of a product
constexpr int64_t kWideRow = 48;  // a row of at least so many output pixels is a product of its own

template <typename Element>
struct PackedConvolution {
  Element* weight;
  float* bias;

  PackedConvolution(Arena& arena, int64_t out, int64_t taps, int64_t in)
      : weight(arena.take<Element>(packed_size<Element>(out, taps * padded_k<Element>(in)))),
        bias(arena.take<float>(padded(out))) {}
};

// Whether tiles take the product: `row` elements of a pixel are the shortest run of k.
template <typename Element>
bool on_tiles(int64_t taps, int64_t row) {
  return suits_tiles<Element>(row, taps * row);
}

// Writes element `at` of a panel of `size` elements.
template <typename Element>
void put(Element* panel, int64_t, int64_t at, float value) {
  panel[at] = from_real<Element>(value);
}

#if defined(SEGNEXT_TILES)
void put(Split* panel, int64_t size, int64_t at, float value) {
  BitsV high, low;
  split(broadcast(value), &high, &low);
  BFloat16* const highs = reinterpret_cast<BFloat16*>(panel);
  highs[at] = {static_cast<uint16_t>(high[0] >> 16)};
  highs[size + at] = {static_cast<uint16_t>(low[0] >> 16)};
}
#endif

// Packs w[n][k] = source(n, k) element by element: this happens once, when a model is deployed.
template <typename Element, typename Source>
void pack_weights(Element* panel, int64_t n, int64_t depth, Source source) {
  const int64_t step = std::is_same_v<Element, Split> ? 2 : k_step<Element>();  // pieces are BFloat16
  for (int64_t first = 0; first < n; first += kPanel * kLanes) {
    const int64_t last = first + smaller(vectors_of(n - first), kPanel) * kLanes;
    const int64_t size = (last - first) * blocks_of(depth, step) * step;
    int64_t at = 0;
    for (int64_t k = 0; k < depth; k += step) {
      for (int64_t column = first; column < last; ++column) {
        for (int64_t i = k; i < k + step; ++i) {
          put(panel, size, at++, column < n && i < depth ? source(column, i) : 0.0f);
        }
      }
    }
    panel += size;
  }
}

template <typename Element>
void pack(const Tensor4& weight, const Tensor4& bias, void* memory) {
  const int64_t out = weight.size[0], in = weight.size[1], height = weight.size[2], width = weight.size[3];
  const int64_t row = padded_k<Element>(in);
  const auto packed = laid_out<PackedConvolution<Element>>(memory, out, height * width, in);
  load_parameter<float>(bias, out, packed.bias);
  const auto source = [&](int64_t n, int64_t k) {
    const int64_t tap = k / row, channel = k % row;
    if (channel >= in) return 0.0f;
    return static_cast<const float*>(weight.data)[n * weight.stride[0] + channel * weight.stride[1] +
                                                  tap / width * weight.stride[2] + tap % width * weight.stride[3]];
  };
  const int64_t depth = height * width * row;
  if constexpr (std::is_same_v<Element, Split>) {
    if (!on_tiles<Split>(height * width, row)) {
      return pack_weights(reinterpret_cast<Real*>(packed.weight), out, depth, source);
    }
  }
  pack_weights(packed.weight, out, depth, source);
}

// Copies `count` pixels to rows of padded_k elements; the padding becomes zero.
template <typename T, typename Pixel>
void gather_rows(const T* source, int64_t channels, int64_t channel_stride, int64_t pixel_stride, int64_t count,
                 Pixel* out) {
  const int64_t row = padded_k<Pixel>(channels);
  if (channel_stride == 1) {
    for (int64_t p = 0; p < count; ++p) {
      for (int64_t c = 0; c < row; ++c) {
        out[p * row + c] = from_real<Pixel>(c < channels ? to_real(source[p * pixel_stride + c]) : 0.0f);
      }
    }
  } else {
    for (int64_t c = 0; c < row; ++c) {
      for (int64_t p = 0; p < count; ++p) {
        out[p * row + c] =
            from_real<Pixel>(c < channels ? to_real(source[p * pixel_stride + c * channel_stride]) : 0.0f);
      }
    }
  }
}

template <typename T, typename Out>
struct Convolution {
  using Element = ProductElement<T>;
  using Pixel = PixelElement<Element>;

  const Conv2dActParams& p;
  const PackedConvolution<Element>& packed;
  int64_t row;  // elements of one pixel

  int64_t taps() const { return p.kernel[0] * p.kernel[1]; }
  bool is_pointwise() const { return taps() == 1 && p.stride == 1 && p.padding == 0; }
  bool by_rows() const { return !is_pointwise() && p.out.size[3] >= kWideRow; }
  // The elements of one copied row of the image, from the first window's left column to the last window's right one.
  int64_t row_length() const { return ((p.out.size[3] - 1) * p.stride + p.kernel[1]) * row; }
  int64_t scratch_elements() const {
    return by_rows() ? p.kernel[0] * row_length() : kTile * (is_pointwise() ? padded(p.x.size[1]) : taps() * row);
  }

  const T* image(int64_t index) const { return static_cast<const T*>(p.x.data) + index * p.x.stride[0]; }

  // Copies `count` pixels of the image's row y, from `column` on; zeros outside the image.
  void copy_pixels(const T* x, int64_t y, int64_t column, int64_t count, Pixel* out) const {
    const int64_t width = p.x.size[3], end = column + count;
    const bool inside = y >= 0 && y < p.x.size[2] && column < width && end > 0;
    if (!inside) {
      std::memset(out, 0, count * row * sizeof(Pixel));
      return;
    }
    const int64_t first = larger(column, 0), last = smaller(end, width);
    std::memset(out, 0, (first - column) * row * sizeof(Pixel));
    gather_rows(x + y * p.x.stride[2] + first * p.x.stride[3], p.x.size[1], p.x.stride[1], p.x.stride[3], last - first,
                out + (first - column) * row);
    std::memset(out + (last - column) * row, 0, (end - last) * row * sizeof(Pixel));
  }

  void product(const Rows<const Pixel>& a, int64_t segments, const Pixels& pixels) const {
    const int64_t channels = p.out.size[1];
    Out* out = static_cast<Out*>(p.out.data) + pixels.image * p.out.stride[0];
    gemm(a, pixels.count,
         PackedWeights<Element>{packed.weight, channels, taps() * row / segments, segments,
                                on_tiles<Element>(taps(), row)},
         [&](int64_t m, int64_t n, Vec sum) {
           sum += load(packed.bias + n);
           if (p.activation == Activation::kGelu) sum = gelu_for<Out>(sum);
           if (p.activation == Activation::kRelu) sum = sum < Vec{} ? Vec{} : sum;  // NaN stays
           store_channels(out + offset_in_image(p.out, pixels.first + m) + n * p.out.stride[1], p.out.stride[1],
                          channels - n, sum);
         });
  }

  void output_row(int64_t index, int64_t y, Pixel* scratch) const {
    for (int64_t i = 0; i < p.kernel[0]; ++i) {
      copy_pixels(image(index), y * p.stride - p.padding + i, -p.padding, row_length() / row,
                  scratch + i * row_length());
    }
    product({scratch, p.stride * row, row_length()}, p.kernel[0], {index, y * p.out.size[3], p.out.size[3]});
  }

  void tile(const Pixels& pixels, Pixel* scratch) const {
    if (is_pointwise()) {
      product(read_rows<Pixel, T>(p.x, pixels, k_step<Pixel>(), scratch), 1, pixels);
      return;
    }
    Pixel* out = scratch;
    for (int64_t pixel = pixels.first; pixel < pixels.first + pixels.count; ++pixel) {
      const int64_t top = pixel / p.out.size[3] * p.stride - p.padding;
      const int64_t left = pixel % p.out.size[3] * p.stride - p.padding;
      for (int64_t i = 0; i < p.kernel[0]; ++i, out += p.kernel[1] * row) {
        copy_pixels(image(pixels.image), top + i, left, p.kernel[1], out);
      }
    }
    product({scratch, taps() * row}, 1, pixels);
  }

  bool run(int threads) const {
    const int64_t images = p.out.size[0], height = p.out.size[2], pixels = height * p.out.size[3];
    if (images * p.out.size[1] * pixels == 0) return true;
    const TeamMemory memory(0, bytes_of<Array<Pixel>>(scratch_elements()), threads);
    if (memory.is_exhausted()) return false;
#pragma omp parallel num_threads(threads)
    {
      const Member me;
      Pixel* const scratch = memory.own<Array<Pixel>>(me, scratch_elements()).data;
      if (by_rows()) {
        for (int64_t y = me.begin(images * height); y < me.end(images * height); ++y) {
          output_row(y / height, y % height, scratch);
        }
      } else {
        for_each_tile(pixels, me.begin(images * pixels), me.end(images * pixels), kTile,
                      [&](const Pixels& some) { tile(some, scratch); });
      }
    }
    return true;
  }
};

template <typename T, typename Out>
bool run(const Conv2dActParams& p, int threads) {
  using Element = ProductElement<T>;
  const int64_t row = padded_k<Element>(p.x.size[1]);
  const auto packed =
      laid_out<PackedConvolution<Element>>(p.packed, p.out.size[1], p.kernel[0] * p.kernel[1], p.x.size[1]);
  return Convolution<T, Out>{p, packed, row}.run(threads);
}

template <typename Element>
int64_t packed_bytes(const Tensor4& weight) {
  return bytes_of<PackedConvolution<Element>>(weight.size[0], weight.size[2] * weight.size[3], weight.size[1]);
}

}  // namespace

int64_t conv2d_act_packed_bytes(DType dtype, const Tensor4& weight) {
  return dtype == DType::kBFloat16 ? packed_bytes<ProductElement<BFloat16>>(weight)
                                   : packed_bytes<ProductElement<float>>(weight);
}

void conv2d_act_pack_cpu(DType dtype, const Tensor4& weight, const Tensor4& bias, void* packed) {
  dtype == DType::kBFloat16 ? pack<ProductElement<BFloat16>>(weight, bias, packed)
                            : pack<ProductElement<float>>(weight, bias, packed);
}

bool conv2d_act_cpu(const Conv2dActParams& p, int threads) {
  if (p.dtype == DType::kBFloat16) {
    return p.out_dtype == DType::kBFloat16 ? run<BFloat16, BFloat16>(p, threads) : run<BFloat16, float>(p, threads);
  }
  return p.out_dtype == DType::kBFloat16 ? run<float, BFloat16>(p, threads) : run<float, float>(p, threads);
}

}  // namespace SEGNEXT_ISA
}  // namespace segnext
