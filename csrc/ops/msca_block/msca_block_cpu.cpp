// msca_block on the CPU: u = gelu(proj_in x); m = msca_conv(u); out = x * scale + shift + proj_out((mix m) * u).
//
// One parallel region has three phases with barriers between them:
//   1. u = gelu(proj_in x)       a product over all pixels with GELU in its epilogue
//   2. m = msca_conv(u)          the strips, streamed (msca_conv/strips.h); m goes to out
//   3. out = ... (mix m) * u     tiles of pixels: mix with the multiplication by u in its epilogue, then proj_out with
//                                the skip in its epilogue
// A tile's m is read before its out is written, so u is the only tensor besides x and out.
// Bytes: x twice, u twice, m once and out twice, all in the third-level cache for images up to 1024x1024.
// FLOPs: 6 C^2 + 206 C per pixel.

#include "cpu/convert.h"
#include "cpu/gelu.h"
#include "cpu/memory.h"
#include "cpu/pack.h"
#include "cpu/rows.h"
#include "ops/msca_block/msca_block.h"
#include "ops/msca_conv/strips.h"

namespace segnext {
namespace SEGNEXT_ISA {
namespace {

constexpr int64_t kTile = 96;  // pixels of a product: for 64 channels mix m stays in the first-level cache

// The packed weights; they begin with the sizes of the strips.
template <typename Element>
struct PackedBlock {
  StripKernels* kernels;
  Element* proj_in;
  float* proj_in_bias;
  float* strips;
  Element* mix;
  float* mix_bias;
  Element* proj_out;
  float *proj_out_bias, *scale, *shift;

  PackedBlock(Arena& arena, const StripKernels& k)
      : kernels(arena.take<StripKernels>(1)),
        proj_in(arena.take<Element>(packed_size<Element>(k.channels, k.channels))),
        proj_in_bias(arena.take<float>(padded(k.channels))),
        strips(arena.take<float>(k.packed_reals())),
        mix(arena.take<Element>(packed_size<Element>(k.channels, k.channels))),
        mix_bias(arena.take<float>(padded(k.channels))),
        proj_out(arena.take<Element>(packed_size<Element>(k.channels, k.channels))),
        proj_out_bias(arena.take<float>(padded(k.channels))),
        scale(arena.take<float>(padded(k.channels))),
        shift(arena.take<float>(padded(k.channels))) {}
};

template <typename T>
void pack(const MscaBlockWeights& w, void* memory) {
  using Element = ProductElement<T>;
  const StripKernels kernels = strip_kernels(w.strips);
  const int64_t channels = kernels.channels;
  const auto packed = laid_out<PackedBlock<Element>>(memory, kernels);
  *packed.kernels = kernels;
  pack_matrix(pointwise<T>(w.proj_in_weight), packed.proj_in);
  pack_matrix(pointwise<T>(w.mix_weight), packed.mix);
  pack_matrix(pointwise<T>(w.proj_out_weight), packed.proj_out);
  pack_strips<T>(w.strips, packed.strips);
  load_parameter<T>(w.proj_in_bias, channels, packed.proj_in_bias);
  load_parameter<T>(w.mix_bias, channels, packed.mix_bias);
  load_parameter<T>(w.proj_out_bias, channels, packed.proj_out_bias);
  load_parameter<T>(w.skip_scale, channels, packed.scale);
  load_parameter<T>(w.skip_shift, channels, packed.shift);
}

template <typename Pixel>
struct BlockScratch {
  Pixel *rows, *gated;
  StripScratch strips;

  BlockScratch(Arena& arena, const StripKernels& k, const StripTiles& tiling)
      : rows(arena.take<Pixel>(kTile * padded(k.channels))),
        gated(arena.take<Pixel>(kTile * padded(k.channels))),
        strips(arena, k, tiling) {}
};

template <typename T>
bool run(const MscaBlockParams& p, int threads) {
  using Element = ProductElement<T>;
  using Pixel = PixelElement<Element>;
  const StripKernels& k = *static_cast<const StripKernels*>(p.packed);
  const auto packed = laid_out<PackedBlock<Element>>(p.packed, k);
  const int64_t images = p.x.size[0], height = p.x.size[2], width = p.x.size[3], channels = k.channels;
  const int64_t pixels = height * width;
  if (images * channels * pixels == 0) return true;
  const StripTiles tiling(k, width);
  const TeamMemory memory(0, bytes_of<BlockScratch<Pixel>>(k, tiling), threads);
  if (memory.is_exhausted()) return false;
  const int64_t row = padded(channels);
  T* u = static_cast<T*>(p.workspace);
  const Tensor4 u_tensor{u, {images, channels, height, width}, {pixels * row, 1, width * row, row}};
  const T* x = static_cast<const T*>(p.x.data);
  T* out = static_cast<T*>(p.out.data);

#pragma omp parallel num_threads(threads)
  {
    const Member me;
    const auto s = memory.own<BlockScratch<Pixel>>(me, k, tiling);

    for_each_tile(pixels, me.begin(images * pixels), me.end(images * pixels), kTile, [&](const Pixels& tile) {
      T* target = u + (tile.image * pixels + tile.first) * row;
      gemm(read_rows<Pixel, T>(p.x, tile, k_step<Pixel>(), s.rows), tile.count,
           PackedWeights<Element>{packed.proj_in, channels, channels, 1}, [&](int64_t m, int64_t n, Vec sum) {
             store_vector(target + m * row + n, gelu_for<T>(sum + load(packed.proj_in_bias + n)));
           });
    });
#pragma omp barrier
    run_strips<T>(u_tensor, p.out, k, tiling, packed.strips, s.strips, me);
#pragma omp barrier
    for_each_tile(pixels, me.begin(images * pixels), me.end(images * pixels), kTile, [&](const Pixels& tile) {
      const T* gate = u + (tile.image * pixels + tile.first) * row;
      gemm(read_rows<Pixel, T>(p.out, tile, k_step<Pixel>(), s.rows), tile.count,
           PackedWeights<Element>{packed.mix, channels, channels, 1}, [&](int64_t m, int64_t n, Vec sum) {
             store_vector(s.gated + m * row + n, (sum + load(packed.mix_bias + n)) * load_vector(gate + m * row + n));
           });
      gemm(Rows<const Pixel>{s.gated, row}, tile.count, PackedWeights<Element>{packed.proj_out, channels, channels, 1},
           [&](int64_t m, int64_t n, Vec sum) {
             const int64_t lanes = channels - n;
             const T* skip = x + tile.image * p.x.stride[0] + offset_in_image(p.x, tile.first + m) + n * p.x.stride[1];
             sum += load(packed.proj_out_bias + n) + load(packed.shift + n);
             sum += load(packed.scale + n) * load_channels(skip, p.x.stride[1], lanes);
             store_channels(
                 out + tile.image * p.out.stride[0] + offset_in_image(p.out, tile.first + m) + n * p.out.stride[1],
                 p.out.stride[1], lanes, sum);
           });
    });
  }
  return true;
}

}  // namespace

int64_t msca_block_packed_bytes(const MscaBlockWeights& weights) {
  const StripKernels kernels = strip_kernels(weights.strips);
  return weights.dtype == DType::kBFloat16 ? bytes_of<PackedBlock<ProductElement<BFloat16>>>(kernels)
                                           : bytes_of<PackedBlock<ProductElement<float>>>(kernels);
}

void msca_block_pack_cpu(const MscaBlockWeights& weights, void* packed) {
  weights.dtype == DType::kBFloat16 ? pack<BFloat16>(weights, packed) : pack<float>(weights, packed);
}

int64_t msca_block_workspace(int64_t channels, int64_t height, int64_t width) {
  return height * width * padded(channels);
}

bool msca_block_cpu(const MscaBlockParams& params, int threads) {
  return params.dtype == DType::kBFloat16 ? run<BFloat16>(params, threads) : run<float>(params, threads);
}

}  // namespace SEGNEXT_ISA
}  // namespace segnext
