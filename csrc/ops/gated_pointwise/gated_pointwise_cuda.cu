// gated_pointwise on a GPU: out = (W m + b) * u, a 1x1 convolution whose epilogue multiplies by the gate.
//
// Tiling: a product (pixels x Ci)(Ci x Co) in tiles of 128 pixels x 64 channels, 256 threads. cp.async keeps three
// stages of 64 bytes along Ci in shared memory (product.cuh). The sums cross shared memory into the order of out, where
// bias, gate and rounding are applied once, 16 bytes per access. W m is never written to memory.
// Versions: if all operands are dense vectors in the order (pixels, channels), as in a channels_last model, the kernel
// is compiled without strided and split axes, and the gate's loads overlap with the product: 1,150 instructions, of
// which about 800 run at Ci = 32 (the general form has 3,659, with 64-bit divisions). The general kernel serves
// channels_last and contiguous tensors alike: the staged tile of m keeps its order and ldmatrix transposes. Tails of C,
// of pixels or of alignment use single elements. A dense channels_last batch is one row of pixels; otherwise images
// stay separate. float is multiplied outside the tensor cores, because TF32 would round its operands to 11 bits.
//
// Bytes: m, u and out once (m once more from L2 per further 64 output channels). FLOPs: 2 Ci Co per pixel.
// Shared memory: 46,080 bytes (3 x (128 x 40 + 64 x 40) x 2), which allows 4 blocks per multiprocessor. Registers: 84
// to 128, which allow 2. Model for an H200 (4.3 TB/s, 528 warp instructions per cycle at 1.7 GHz), bf16, batch 1: T's
// 32 channels at 128x128 are 3 MiB, 0.7 us, and 128 blocks of 1 us; B's 320 channels at 32x32 are 1.9 MiB (0.5 us) and
// 0.2 GFLOP on 40 tiles. Both take less than a launch. At batch 32, T's first stage is 96 MiB, 24 us, and 4,096 blocks
// of 8 x 800 instructions, 29 us: with 32 channels, half of each tile of 64 is empty.
// Measured on an H200 (bench/results/h200): T's first stage takes 4.3 us in bf16 and 58 us for 32 images, where Triton
// takes 2.7 and 27; so `auto` leaves it to Triton where that runs.

#include "ops/gated_pointwise/gate.cuh"
#include "ops/gated_pointwise/gated_pointwise.h"

namespace segnext {
namespace {

template <typename T>
int launch_typed(const GatedPointwiseParams& p, void* stream) {
  const bool one_row = is_one_row(p.m) && is_one_row(p.u) && is_one_row(p.out);
  const auto reshaped = [&](const Tensor4& t) { return one_row ? as_one_row(t) : t; };
  const bool in_inside = pixels_inside(p.m), out_inside = pixels_inside(p.out);
  GateProblem<T> problem{};
  problem.images = one_row ? 1 : p.m.size[0];
  problem.in = image_of<const T>(reshaped(p.m), in_inside);
  problem.weight =
      matrix<const T>(static_cast<const T*>(p.weight.data), plain_axis(p.weight.size[0], p.weight.stride[0]),
                      plain_axis(p.weight.size[1], p.weight.stride[1]));
  problem.bias = row_of<T>(p.bias);
  problem.gate = image_of<const T>(reshaped(p.u), out_inside);
  problem.out = image_of<T>(reshaped(p.out), out_inside);
  problem.out_pixels_inside = out_inside;
  return in_inside ? launch_gated_product<T, true, true>(problem, stream)
                   : launch_gated_product<T, false, true>(problem, stream);
}

}  // namespace

int launch_gated_pointwise_forward(const GatedPointwiseParams& params, void* stream) {
  return with_element_type(params.dtype, [&](auto type) { return launch_typed<decltype(type)>(params, stream); });
}

}  // namespace segnext
