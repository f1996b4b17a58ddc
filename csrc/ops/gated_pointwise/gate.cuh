// The kernel that gated_pointwise's forward and backward share: a product over channels, multiplied by a gate.
// clang-format off
//   out[p][c] = (sum over k of in[p][k] weight[k][c] + bias[c]) * gate[p][c]   p: a pixel; bias and gate are optional
//   product[p][c] = factor[p][c] * gate[p][c]                                  only where the backward asks for it
// clang-format on
#pragma once

#include "ops/gated_pointwise/product.cuh"

namespace segnext {

// A batch of images as (image, pixel, channel). A tile of pixels never spans two images.
template <typename T>
struct ImageView {
  T* data;
  int64_t stride_image;
  StridedAxis pixels, channels;
  bool vectors;  // see MatrixView; valid only with the inner axis that pixels_inside() names

  // The image as (channels, pixels) if pixels are the inner axis, else as (pixels, channels).
  __host__ __device__ MatrixView<T> matrix(int64_t image, bool pixels_inside) const {
    T* start = data + image * stride_image;
    return pixels_inside ? MatrixView<T>{start, channels, pixels, vectors}
                         : MatrixView<T>{start, pixels, channels, vectors};
  }
};

// Whether pixels, rather than channels, are the inner axis of a (N, C, H, W) tensor.
inline bool pixels_inside(const Tensor4& t) { return t.stride[1] != 1 && t.stride[3] == 1; }

template <typename T>
ImageView<T> image_of(const Tensor4& t, bool pixels_inside) {
  if (t.data == nullptr) return {};
  const int64_t width = t.size[3];
  const bool plain = t.size[2] == 1 || t.stride[2] == width * t.stride[3];
  const StridedAxis pixels = plain ? plain_axis(t.size[2] * width, t.stride[3])
                                   : StridedAxis{t.size[2] * width, t.stride[3], width, t.stride[2]};
  const StridedAxis channels = plain_axis(t.size[1], t.stride[1]);
  T* data = static_cast<T*>(t.data);
  const StridedAxis &outer = pixels_inside ? channels : pixels, &inner = pixels_inside ? pixels : channels;
  const bool vectors = matrix<T>(data, outer, inner).vectors && is_aligned16<T>(data, t.stride[0]);
  return {data, t.stride[0], pixels, channels, vectors};
}

// Whether one stride leads through the pixels of all images, as in a dense channels_last tensor.
inline bool is_one_row(const Tensor4& t) {
  return t.data == nullptr || (t.stride[1] == 1 && t.stride[2] == t.size[3] * t.stride[3] &&
                               (t.size[0] == 1 || t.stride[0] == t.size[2] * t.stride[2]));
}

// Joins the images of a tensor for which is_one_row() holds into one image, so that small maps fill whole tiles.
inline Tensor4 as_one_row(const Tensor4& t) {
  if (t.data == nullptr) return t;
  return {t.data, {1, t.size[1], 1, t.size[0] * t.size[2] * t.size[3]}, {0, 1, 0, t.stride[3]}};
}

template <typename T>
MatrixView<const T> row_of(const Tensor4& bias) {
  return matrix<const T>(static_cast<const T*>(bias.data), plain_axis(1, 0), plain_axis(bias.size[0], bias.stride[0]));
}

template <typename T>
struct GateProblem {
  int64_t images;
  ImageView<const T> in;
  MatrixView<const T> weight;  // outer Co, inner Ci; swapped for the transposed product
  MatrixView<const T> bias;    // one row; data is null if there is none
  ImageView<const T> gate;     // data is null if there is none: the factor is then 1
  ImageView<T> out;            // its inner axis is also the epilogue's
  ImageView<const T> factor;   // data is null if there is no second result
  ImageView<T> product;
  bool out_pixels_inside;
};

// Reads `kVec` inner elements of row `outer`, starting at `inner`; elements beyond its end are zero.
template <typename T>
__device__ inline void read_row(const MatrixView<const T>& from, int64_t outer, int64_t inner,
                                float (&values)[Vec16<T>::kSize]) {
  const T* row = from.data + from.outer.offset(outer);
  if (from.vectors && inner + Vec16<T>::kSize <= from.inner.size) {
    Vec16<T>::load_global(row + inner).to_floats(values);
    return;
  }
#pragma unroll
  for (int e = 0; e < Vec16<T>::kSize; ++e) {
    const bool exists = inner + e < from.inner.size;
    values[e] = exists ? to_float(load_global(row + from.inner.offset(inner + e))) : 0.0f;
  }
}

template <typename T>
__device__ inline void write_row(const MatrixView<T>& to, int64_t outer, int64_t inner,
                                 const float (&values)[Vec16<T>::kSize]) {
  T* row = to.data + to.outer.offset(outer);
  if (to.vectors && inner + Vec16<T>::kSize <= to.inner.size) {
    Vec16<T>::from_floats(values).store_global(row + inner);
    return;
  }
#pragma unroll
  for (int e = 0; e < Vec16<T>::kSize; ++e) {
    if (inner + e < to.inner.size) store_global(row + to.inner.offset(inner + e), from_float<T>(values[e]));
  }
}

// Reads one vector of sums from shared memory. 16-bit types need two 16-byte loads. Half of eight neighbouring lanes
// load their second part first, else pairs of lanes would use the same bank.
template <int kVec>
__device__ inline void load_sums(const float* sums, int column, float (&values)[kVec]) {
  if constexpr (kVec == 4) {
    Vec16<float>::load_shared(sums + column).to_floats(values);
  } else {
    const bool flip = column / 32 % 2 != 0;
    const Vec16<float> one = Vec16<float>::load_shared(sums + column + (flip ? 4 : 0));
    const Vec16<float> other = Vec16<float>::load_shared(sums + column + (flip ? 0 : 4));
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      values[e] = flip ? other.values[e] : one.values[e];
      values[4 + e] = flip ? one.values[e] : other.values[e];
    }
  }
}

template <typename T, bool kInPixelsInside, bool kWeightInnerK>
struct GateKernel {
  using Tile = ProductTile<T, !kInPixelsInside, kWeightInnerK>;
  static constexpr int kVec = Vec16<T>::kSize;
  // The sums cross shared memory to become rows of vectors. Rows are 8 or 4 floats longer than necessary. The sums of a
  // fragment, pairs along channels or single ones along pixels, are then in different banks.
  static constexpr int kLdChannels = Tile::kN + 8, kLdPixels = Tile::kM + 4;
  static constexpr size_t kSumBytes =
      sizeof(float) * (Tile::kM * kLdChannels > Tile::kN * kLdPixels ? Tile::kM * kLdChannels : Tile::kN * kLdPixels);
  static constexpr size_t kSharedBytes = Tile::kSharedBytes > kSumBytes ? Tile::kSharedBytes : kSumBytes;
};

// The part of a tile that one thread finishes when all images are plain: one vector of channels of every kStep-th
// pixel.
template <typename Kernel>
struct PlainShare {
  static constexpr int kVec = Kernel::kVec, kVectors = Kernel::Tile::kN / kVec;  // vectors in a pixel's channels
  static constexpr int kStep = kProductThreads / kVectors, kRows = Kernel::Tile::kM / kStep;
  int row, column;    // its first row and column in the tile; further rows follow at distance kStep
  int rows;           // rows of the tile that exist
  bool has_channels;  // whether its channels exist

  __device__ PlainShare(int64_t pixels, int64_t pixel0, int64_t channels, int64_t channel0)
      : row(threadIdx.x / kVectors),
        column(threadIdx.x % kVectors * kVec),
        rows(left_of(pixels, pixel0, Kernel::Tile::kM)),
        has_channels(channel0 + column < channels) {}

  __device__ bool has(int i) const { return has_channels && row + i * kStep < rows; }

  // The address of this thread's first vector in an image.
  template <typename T>
  __device__ T* start(const MatrixView<T>& image, int64_t pixel0, int64_t channel0) const {
    return image.data + (pixel0 + row) * image.outer.stride + channel0 + column;
  }
};

template <typename T>
__device__ inline void store_vector(T* address, const float (&values)[Vec16<T>::kSize]) {
  uint32_t words[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if constexpr (sizeof(T) == 4) {
      words[i] = __float_as_uint(values[i]);
    } else {
      words[i] = pack_pair<T>(values[2 * i], values[2 * i + 1]);
    }
  }
  store_global16(address, words);
}

// The epilogue in the plain case. `gates` holds the thread's vectors of the gate, if there is one.
template <typename Kernel, typename T>
__device__ inline void finish_plain(const GateProblem<T>& p, const PlainShare<Kernel>& share, int64_t image,
                                    int64_t pixel0, int64_t channel0, const float* sums,
                                    const Vec16<T> (&gates)[PlainShare<Kernel>::kRows]) {
  using Share = PlainShare<Kernel>;
  constexpr int kVec = Kernel::kVec;
  const bool gated = p.gate.data != nullptr, with_product = p.factor.data != nullptr;
  const MatrixView<T> out = p.out.matrix(image, false), product = p.product.matrix(image, false);
  const MatrixView<const T> factor = p.factor.matrix(image, false);
  T* to = share.start(out, pixel0, channel0);
  T* to_product = share.start(product, pixel0, channel0);
  const T* from_factor = share.start(factor, pixel0, channel0);
  float biases[kVec] = {};
  if (p.bias.data != nullptr && share.has_channels) {
    Vec16<T>::load_global(p.bias.data + channel0 + share.column).to_floats(biases);
  }
#pragma unroll
  for (int i = 0; i < Share::kRows; ++i) {
    if (!share.has(i)) continue;
    float values[kVec], gate[kVec];
    load_sums(sums + (share.row + i * Share::kStep) * Kernel::kLdChannels, share.column, values);
    gates[i].to_floats(gate);
#pragma unroll
    for (int e = 0; e < kVec; ++e) values[e] = (values[e] + biases[e]) * (gated ? gate[e] : 1.0f);
    store_vector(to + i * Share::kStep * out.outer.stride, values);
    if (with_product) {
      float factors[kVec];
      Vec16<T>::load_global(from_factor + i * Share::kStep * factor.outer.stride).to_floats(factors);
#pragma unroll
      for (int e = 0; e < kVec; ++e) factors[e] *= gate[e];
      store_vector(to_product + i * Share::kStep * product.outer.stride, factors);
    }
  }
}

// Each block makes a tile of 128 pixels x 64 output channels. Tiles of the same pixels are neighbours in the grid, so
// the first of them brings the pixels to L2. kPlain: is_plain() holds for every operand and result as (pixels,
// channels).
template <typename T, bool kInPixelsInside, bool kWeightInnerK, bool kPlain>
__global__ void __launch_bounds__(kProductThreads, 2)
    gated_product_kernel(GateProblem<T> p, unsigned channel_tiles, unsigned pixel_tiles) {
  using Kernel = GateKernel<T, kInPixelsInside, kWeightInnerK>;
  using Tile = typename Kernel::Tile;
  constexpr int kVec = Kernel::kVec;
  const int64_t channel0 = static_cast<int64_t>(blockIdx.x % channel_tiles) * Tile::kN;
  const int64_t pixel0 = static_cast<int64_t>(blockIdx.x / channel_tiles % pixel_tiles) * Tile::kM;
  const int64_t image = blockIdx.x / channel_tiles / pixel_tiles;

  const MatrixView<const T> in = p.in.matrix(image, kInPixelsInside);
  // The gate's loads overlap with the product.
  const PlainShare<Kernel> share(p.out.pixels.size, pixel0, p.out.channels.size, channel0);
  Vec16<T> gates[PlainShare<Kernel>::kRows];
  if (kPlain && p.gate.data != nullptr) {
    const MatrixView<const T> gate = p.gate.matrix(image, false);
    const T* start = share.start(gate, pixel0, channel0);
#pragma unroll
    for (int i = 0; i < PlainShare<Kernel>::kRows; ++i) {
      if (share.has(i)) gates[i] = Vec16<T>::load_global(start + i * share.kStep * gate.outer.stride);
    }
  }
  Tile tile;
  tile.clear();
  tile.add((p.in.channels.size + Tile::kK - 1) / Tile::kK, reinterpret_cast<T*>(shared_memory()),
           [&](int64_t step, T* a, T* b) {
             const int64_t k = step * Tile::kK;
             if constexpr (kInPixelsInside) {
               stage<kPlain, Tile::kK, Tile::kM>(in, k, pixel0, a);
             } else {
               stage<kPlain, Tile::kM, Tile::kK>(in, pixel0, k, a);
             }
             if constexpr (kWeightInnerK) {
               stage<kPlain, Tile::kN, Tile::kK>(p.weight, channel0, k, b);
             } else {
               stage<kPlain, Tile::kK, Tile::kN>(p.weight, k, channel0, b);
             }
           },
           [](const T*) {});

  const bool turned = !kPlain && p.out_pixels_inside;
  float* sums = reinterpret_cast<float*>(shared_memory());
  if (turned) {
    tile.for_each_pair([&](int m, int n, int step_n, const float2& pair) {
      store_shared(sums + n * Kernel::kLdPixels + m, pair.x);
      store_shared(sums + (n + step_n) * Kernel::kLdPixels + m, pair.y);
    });
  } else {
    tile.for_each_pair([&](int m, int n, int step_n, const float2& pair) {
      float* target = sums + m * Kernel::kLdChannels + n;
      if constexpr (Tile::kTensorCores) {
        store_shared(reinterpret_cast<float2*>(target), pair);
      } else {
        store_shared(target, pair.x);
        store_shared(target + step_n, pair.y);
      }
    });
  }
  __syncthreads();
  if constexpr (kPlain) {
    finish_plain<Kernel>(p, share, image, pixel0, channel0, sums, gates);
  } else {
    const MatrixView<T> out = p.out.matrix(image, turned), product = p.product.matrix(image, turned);
    const MatrixView<const T> gate = p.gate.matrix(image, turned), factor = p.factor.matrix(image, turned);
    const int64_t outer0 = turned ? channel0 : pixel0, inner0 = turned ? pixel0 : channel0;
    const int row_vectors = (turned ? Tile::kM : Tile::kN) / kVec,
              ld = turned ? Kernel::kLdPixels : Kernel::kLdChannels;
    for (int i = threadIdx.x; i < Tile::kM * Tile::kN / kVec; i += kProductThreads) {
      const int row = i / row_vectors, column = i % row_vectors * kVec;
      const int64_t outer = outer0 + row, inner = inner0 + column;
      if (outer >= out.outer.size || inner >= out.inner.size) continue;
      float values[kVec], biases[kVec] = {};
      if (p.bias.data != nullptr && !turned) read_row(p.bias, 0, inner, biases);
      if (p.bias.data != nullptr && turned) {
        const float bias = to_float(load_global(p.bias.data + p.bias.inner.offset(outer)));
#pragma unroll
        for (int e = 0; e < kVec; ++e) biases[e] = bias;
      }
      load_sums(sums + row * ld, column, values);
#pragma unroll
      for (int e = 0; e < kVec; ++e) values[e] += biases[e];
      if (gate.data != nullptr) {
        float gates[kVec];
        read_row(gate, outer, inner, gates);
#pragma unroll
        for (int e = 0; e < kVec; ++e) values[e] *= gates[e];
        if (factor.data != nullptr) {
          float factors[kVec];
          read_row(factor, outer, inner, factors);
#pragma unroll
          for (int e = 0; e < kVec; ++e) factors[e] *= gates[e];
          write_row(product, outer, inner, factors);
        }
      }
      write_row(out, outer, inner, values);
    }
  }
}

template <typename T, bool kInPixelsInside, bool kWeightInnerK, bool kPlain>
int launch_gated_product_as(const GateProblem<T>& p, void* stream) {
  using Kernel = GateKernel<T, kInPixelsInside, kWeightInnerK>;
  const int64_t channel_tiles = (p.out.channels.size + Kernel::Tile::kN - 1) / Kernel::Tile::kN;
  const int64_t pixel_tiles = (p.out.pixels.size + Kernel::Tile::kM - 1) / Kernel::Tile::kM;
  const int64_t blocks = p.images * channel_tiles * pixel_tiles;
  if (blocks == 0) return 0;
  if (blocks > INT32_MAX) return static_cast<int>(cudaErrorInvalidConfiguration);
  return launch(gated_product_kernel<T, kInPixelsInside, kWeightInnerK, kPlain>, dim3(static_cast<unsigned>(blocks)),
                dim3(kProductThreads), Kernel::kSharedBytes, stream, p, static_cast<unsigned>(channel_tiles),
                static_cast<unsigned>(pixel_tiles));
}

template <typename T, bool kInPixelsInside, bool kWeightInnerK>
int launch_gated_product(const GateProblem<T>& p, void* stream) {
  if constexpr (!kInPixelsInside) {
    const auto plain = [](const auto& image) { return image.data == nullptr || is_plain(image.matrix(0, false)); };
    if (!p.out_pixels_inside && plain(p.in) && is_plain(p.weight) && (p.bias.data == nullptr || is_plain(p.bias)) &&
        plain(p.gate) && plain(p.out) && plain(p.factor) && plain(p.product)) {
      return launch_gated_product_as<T, false, kWeightInnerK, true>(p, stream);
    }
  }
  return launch_gated_product_as<T, kInPixelsInside, kWeightInnerK, false>(p, stream);
}

}  // namespace segnext
