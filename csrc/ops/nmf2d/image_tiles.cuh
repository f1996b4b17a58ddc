// How nmf2d's kernels see (B, D, N) images: tiles of pixels in shared memory, (pixel, channel), zero past the image's
// end.
#pragma once

#include "common/tensor.h"
#include "cuda/device.cuh"
#include "cuda/ptx.cuh"
#include "ops/nmf2d/block_products.cuh"

namespace segnext {

// Whether X is multiplied on tensor cores, as it is if its elements have 16 bits.
template <typename T>
constexpr bool kOnTensorCores = sizeof(T) == 2;

// The numbers of pixels, channels and columns are rounded up to multiples of this: a fragment, or 16 bytes.
template <typename T>
constexpr int kUnit = kOnTensorCores<T> ? 16 : Vec16<T>::kSize;

inline int64_t rounded_up(int64_t size, int64_t unit) { return (size + unit - 1) / unit * unit; }

template <typename T>
struct Images {
  T* data;
  int64_t stride_image, stride_channel, stride_pixel;
  bool channels_inside;  // whether neighbouring threads process neighbouring channels, else pixels
  bool vectors;          // whether channels are read 16 bytes at a time
};

template <typename T>
Images<T> images_of(const Tensor4& t) {
  T* data = static_cast<T*>(t.data);
  const bool inside = t.stride[1] == 1 && (t.stride[2] != 1 || t.size[1] > 1);
  return {data,        t.stride[0],
          t.stride[1], t.stride[2],
          inside,      inside && is_aligned16<T>(static_cast<const void*>(data), t.stride[0], t.stride[2])};
}

// In the streaming variant slabs consist of whole tiles and depend on the shape alone. With kStreamingShared bytes of
// shared memory, two blocks fit a multiprocessor of Hopper, and one fits that of the smallest sm_8x. There are two
// slabs per multiprocessor, but at most 64 per image, so that their sums stay in L2.
constexpr int64_t kStreamingTile = 64;  // pixels
constexpr int64_t kStreamingShared = 96 << 10;
constexpr int64_t kStreamingBlocks = 2 * kMultiprocessors, kMaxSlabs = 64;

struct Slabs {
  int count, slab, tile;  // slabs per image, pixels per slab, pixels per tile; 0: no tile fits
};

inline Slabs streaming_slabs(int64_t images, int64_t pixels, int64_t unit, int64_t bytes_per_pixel) {
  const int64_t fitting = kStreamingShared / bytes_per_pixel / unit * unit;
  int64_t tile = rounded_up(pixels < 1 ? 1 : pixels < kStreamingTile ? pixels : kStreamingTile, unit);
  if (tile > fitting) tile = fitting;
  if (tile == 0) return {1, 0, 0};
  const int64_t tiles = pixels < 1 ? 1 : (pixels + tile - 1) / tile;
  int64_t slabs = images < 1 ? 1 : (kStreamingBlocks + images - 1) / images;
  if (slabs > kMaxSlabs) slabs = kMaxSlabs;
  const int64_t slab_tiles = (tiles + slabs - 1) / slabs;
  return {static_cast<int>((tiles + slab_tiles - 1) / slab_tiles), static_cast<int>(slab_tiles * tile),
          static_cast<int>(tile)};
}

// Calls visit(pixel, channel) for all of (pixels, channels); neighbouring threads are neighbours along memory's inner
// axis.
template <typename Visit>
__device__ inline void for_each_element(int pixels, int channels, bool channels_inside, const Visit& visit) {
  for (int i = threadIdx.x; i < pixels * channels; i += kNmfThreads) {
    const int pixel = channels_inside ? i / channels : i % pixels;
    visit(pixel, channels_inside ? i % channels : i / pixels);
  }
}

// Calls visit(pixel, channel) for this thread's vectors of kVec channels of (pixels, channels). It needs one division;
// a division per vector was most of a copy's instructions.
template <int kVec, typename Visit>
__device__ inline void for_each_vector(int pixels, int channels, const Visit& visit) {
  const int vectors = (channels + kVec - 1) / kVec;
  const int pixel_step = kNmfThreads / vectors, vector_step = kNmfThreads % vectors;
  int pixel = threadIdx.x / vectors, vector = threadIdx.x % vectors;
  while (pixel < pixels) {
    visit(pixel, vector * kVec);
    pixel += pixel_step;
    vector += vector_step;
    if (vector >= vectors) {
      vector -= vectors;
      ++pixel;
    }
  }
}

// Loads pixels [first, first + count) to the tile's first rows, and zeros to the rest of its `pixels` rows and
// `padded_channels` columns. Other threads see the tile after cp_async_wait<0>() and a barrier.
template <typename T>
__device__ inline void load_tile(const Images<const T>& images, int64_t image, int64_t first, int count, int channels,
                                 T* tile, int ld, int pixels, int padded_channels) {
  const T* source = images.data + image * images.stride_image + first * images.stride_pixel;
  const auto element = [&](int pixel, int channel) {
    const bool exists = pixel < count && channel < channels;
    const int64_t at = pixel * images.stride_pixel + channel * images.stride_channel;
    store_shared(tile + pixel * ld + channel, exists ? load_global(source + at) : from_float<T>(0.0f));
  };
  if (!images.vectors) {
    for_each_element(pixels, padded_channels, images.channels_inside, element);
  } else {
    constexpr int kVec = Vec16<T>::kSize;
    for_each_vector<kVec>(pixels, padded_channels, [&](int pixel, int channel) {
      const bool exists = pixel < count && channel < channels;
      if (!exists || channel + kVec <= channels) {
        const T* from = exists ? source + pixel * images.stride_pixel + channel : images.data;
        cp_async16(tile + pixel * ld + channel, from, exists);
      } else {
        for (int e = 0; e < kVec; ++e) element(pixel, channel + e);
      }
    });
  }
  cp_async_commit();
}

// Stores the first `count` rows of the tile as pixels [first, first + count).
template <typename T>
__device__ inline void store_tile(const Images<T>& images, int64_t image, int64_t first, int count, int channels,
                                  const T* tile, int ld) {
  T* target = images.data + image * images.stride_image + first * images.stride_pixel;
  const auto element = [&](int pixel, int channel) {
    const int64_t at = pixel * images.stride_pixel + channel * images.stride_channel;
    store_global(target + at, load_shared(tile + pixel * ld + channel));
  };
  if (!images.vectors) {
    for_each_element(count, channels, images.channels_inside, element);
    return;
  }
  constexpr int kVec = Vec16<T>::kSize;
  for_each_vector<kVec>(count, channels, [&](int pixel, int channel) {
    if (channel + kVec <= channels) {
      Vec16<T>::load_shared(tile + pixel * ld + channel).store_global(target + pixel * images.stride_pixel + channel);
    } else {
      for (int e = 0; e < kVec && channel + e < channels; ++e) element(pixel, channel + e);
    }
  });
}

// Views (1 or B, rows, columns) as (1, B, rows, columns).
inline Tensor4 over_images(const Tensor4& t, int64_t images) {
  return {t.data, {1, images, t.size[1], t.size[2]}, {0, t.size[0] == 1 ? 0 : t.stride[0], t.stride[1], t.stride[2]}};
}

// Offset of an element of the states before each update, a (S, B, rows, R) tensor.
__device__ inline int64_t saved_offset(const Tensor4& t, int64_t slot, int64_t image, int64_t row, int64_t r) {
  return slot * t.stride[0] + image * t.stride[1] + row * t.stride[2] + r * t.stride[3];
}

}  // namespace segnext
