// How a block of conv_ffn's CUDA kernel works on a slice of hidden channels. Shared by its three phases (expand.cuh,
// mix.cuh, reduce.cuh): the layout of shared memory, 16-byte vectors, the search for NaN and infinities.
#pragma once

#include <cstring>

#include "cuda/device.cuh"
#include "ops/conv_ffn/conv_ffn.h"

namespace segnext {

constexpr int kTileColumns = 14;  // columns of output; hidden has 16

// How a block works: input channels (padded) and output channels of a panel; hidden channels of a slice; warps; sets of
// eight lines. In fc1, the tiles of 16 hidden channels that a warp has, and how many tiles of 8 pixels it makes at
// once. In fc2, the tiles of 8 output channels that a warp has. Last, the blocks that must fit a multiprocessor's
// registers.
template <int kIn_, int kOut_, int kSlice_, int kWarps_, int kSets_, int kRowTiles_, int kAtOnce_, int kOutTiles_,
          int kBlocks_>
struct FfnShape {
  static constexpr int kIn = kIn_, kOut = kOut_, kSlice = kSlice_, kWarps = kWarps_, kSets = kSets_;
  static constexpr int kRowTiles = kRowTiles_, kAtOnce = kAtOnce_, kOutTiles = kOutTiles_, kBlocks = kBlocks_;
  static constexpr int kThreads = kWarps * kWarp;
  static constexpr int kTileRows = 8 * kSets, kLines = kTileRows + 2, kPixels = 16 * kLines;
  static constexpr int kOutputs = kTileRows * kTileColumns;  // pixels
  // fc1: warps along the channels, and along the pixels in tiles of 8; a warp's tiles all have the same half of a line
  static constexpr int kWarpsM = kSlice / 16 / kRowTiles, kWarpsN = kWarps / kWarpsM;
  static constexpr int kPixelTiles = 2 * kLines / kWarpsN;
  // fc2: warps along the output channels, and along the tiles of two columns by eight lines
  static constexpr int kWarpsOut = kOut / 8 / kOutTiles, kWarpsP = kWarps / kWarpsOut;
  static constexpr int kSumTiles = (kSets * kTileColumns / 2 + kWarpsP - 1) / kWarpsP;
  // x (pixel, kIn), fc1's weights (channel, kIn), hidden (channel, half, kLines, 8), mixed (channel, kSets, 16 columns,
  // 8 lines): an odd number of 16-byte vectors per pixel or channel, so that neighbours lie in different banks
  static constexpr int kPitch = kIn + 8;
  static constexpr int kHiddenPitch = (2 * kLines + 1) * 8, kMixedPitch = (16 * kSets + 1) * 8;
  static constexpr int kRegisters = 65536 / (kThreads * kBlocks), kSums = 4 * kSumTiles * kOutTiles;  // per thread
  // whether fc2's weights fit the registers beside GELU; whether values can stay in registers between phases
  static constexpr bool kEarly = kSlice / 32 * kOutTiles <= 2 && (kSets == 1 || kRegisters > 128);
  static constexpr bool kStays = (kSums < 64 && kSets == 1) || kRegisters > 128;
  static constexpr int kOutPitch = kOut + 8;
  static constexpr size_t kXBytes = size_t{2} * kPixels * kPitch, kWeightBytes = size_t{2} * kSlice * kPitch;
  static constexpr size_t kHiddenBytes = size_t{2} * kSlice * kHiddenPitch;
  static constexpr size_t kMixedBytes = size_t{2} * kSlice * kMixedPitch, kTapBytes = size_t{16} * kSlice * 21;
  static constexpr size_t kWorkBytes =
      kXBytes + kWeightBytes + kHiddenBytes + kMixedBytes + kTapBytes + size_t{8} * kSlice;
  static constexpr size_t kOutBytes = size_t{4} * kOutputs * kOutPitch;
  static constexpr size_t kSharedBytes = kWorkBytes > kOutBytes ? kWorkBytes : kOutBytes;

  static_assert(kIn % 32 == 0 && kSlice % 32 == 0 && kSlice % kWarps == 0);
  static_assert(kWarpsM * kWarpsN == kWarps && (kWarpsN == 2 || kWarpsN == 4) && kPixelTiles * kWarpsN == 2 * kLines);
  static_assert(kPixelTiles % kAtOnce == 0 && kWarpsOut * kWarpsP == kWarps && kSets <= 2);
};

struct alignas(16) Words {
  uint32_t w[4];
};

template <typename T>
__device__ inline uint32_t bits_of(T value) {
  uint16_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

template <typename T>
__device__ inline T low_of(uint32_t pair) {
  const uint16_t bits = static_cast<uint16_t>(pair);
  T value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

// Detects non-finite pairs of elements: the sum becomes NaN once a NaN or an infinity was added.
template <typename T>
struct NotFinite;
template <>
struct NotFinite<__half> {
  __half2 sum = __floats2half2_rn(0.0f, 0.0f);

  __device__ void add(uint32_t pair) {
    __half2 values;
    memcpy(&values, &pair, sizeof values);
    sum = __hfma2(values, __floats2half2_rn(0.0f, 0.0f), sum);
  }
  __device__ bool found() const {
    const float2 both = __half22float2(sum);
    return both.x != both.x || both.y != both.y;
  }
};
template <>
struct NotFinite<__nv_bfloat16> {
  __nv_bfloat162 sum = __floats2bfloat162_rn(0.0f, 0.0f);

  __device__ void add(uint32_t pair) {
    __nv_bfloat162 values;
    memcpy(&values, &pair, sizeof values);
    sum = __hfma2(values, __floats2bfloat162_rn(0.0f, 0.0f), sum);
  }
  __device__ bool found() const {
    const float2 both = __bfloat1622float2(sum);
    return both.x != both.x || both.y != both.y;
  }
};

// Maps a line of a tile's hidden pixels to its vector of 8 columns within a channel. Lines that are kSets apart follow
// each other, so the eight lines of an operand of the depthwise product are 128 contiguous bytes.
template <typename S>
__device__ constexpr unsigned hidden_vector(unsigned half, unsigned line) {
  return half * S::kLines + line % S::kSets * (S::kLines / S::kSets) + line / S::kSets;
}

// The place of the block's tile in the image.
struct FfnTile {
  int64_t image;
  int top, left, height, width;
};

}  // namespace segnext
