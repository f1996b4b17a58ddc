// How rows of an image are staged in shared memory. A block works on a tile, some columns by a slice of channels, and
// moves down a strip of rows. In shared memory channels are innermost: (row, column, channel). For contiguous images a
// slice is one channel, so neighbouring threads have neighbouring columns there too.
#pragma once

#include "common/tensor.h"
#include "cuda/device.cuh"
#include "cuda/ptx.cuh"

namespace segnext {

// How images (N, C, H, W) are divided among blocks.
struct RowTiling {
  int64_t channels, height, width;
  bool vectors;  // rows arrive by 16-byte copies; else element by element, with any strides and any number of channels
  int slice;     // channels per block, a power of two
  int columns;   // columns per block
  int rows;      // rows per block
  int64_t slices, tiles, strips, images;

  int64_t blocks() const { return slices * tiles * strips * images; }
  // Number of parts of the image planes. A sum over all pixels is the sum of this many partial sums.
  int64_t parts() const { return tiles * strips * images; }
};

// The tile of this block.
struct TilePlace {
  int64_t image, channel, left, top, bottom;  // rows [top, bottom)
  int64_t part;
};

__device__ inline TilePlace tile_place(const RowTiling& t) {
  const int64_t part = blockIdx.x / t.slices;
  const int64_t top = part / t.tiles % t.strips * t.rows;
  return {part / (t.tiles * t.strips),
          blockIdx.x % t.slices * t.slice,
          part % t.tiles * t.columns,
          top,
          top + t.rows < t.height ? top + t.rows : t.height,
          part};
}

// Whether 16-byte vectors of channels are aligned in all of these images.
template <typename T, typename... Tensors>
inline bool has_vectors(const Tensors&... images) {
  return ((images.stride[1] == 1 && images.size[1] % Vec16<T>::kSize == 0 &&
           is_aligned16<T>(images.data, images.stride[0], images.stride[2], images.stride[3])) &&
          ...);
}

// Whether neighbouring channels, rather than neighbouring columns, are adjacent in memory.
inline bool has_inner_channels(const Tensor4& image) { return image.stride[1] == 1 && image.size[1] > 1; }

inline int power_of_two_from(int64_t count, int most) {
  int power = 1;
  while (power < count && power < most) power *= 2;
  return power;
}

// Sets everything but the rows. The caller has chosen slice and columns.
inline void set_image(RowTiling& t, const Tensor4& image) {
  t.images = image.size[0];
  t.channels = image.size[1];
  t.height = image.size[2];
  t.width = image.size[3];
  t.slices = (t.channels + t.slice - 1) / t.slice;
  t.tiles = (t.width + t.columns - 1) / t.columns;
}

inline void set_rows(RowTiling& t, int rows) {
  t.rows = rows;
  t.strips = (t.height + rows - 1) / rows;
}

// Chooses the number of rows per block so that the device finishes soonest. steps_of(rows) is the number of steps of a
// block with that many rows, warm-up included. `resident` blocks run at once, see resident_blocks(). Minimises waves x
// steps, trying from `most` rows down by `unit`; among equals the taller wins, because taller blocks repeat less work.
template <typename StepsOf>
void fill_device(RowTiling& t, const Tensor4& image, int most, int unit, int64_t resident, StepsOf steps_of) {
  set_image(t, image);
  if (resident < 1) resident = 1;  // the kernel does not fit: its launch reports why
  int best = most;
  int64_t least = INT64_MAX;
  for (int rows = most; rows >= unit; rows -= unit) {
    set_rows(t, rows);
    const int64_t steps = (t.blocks() + resident - 1) / resident * steps_of(rows);
    if (steps < least) {
      least = steps;
      best = rows;
    }
  }
  set_rows(t, best);
}

// One image, from the block's first channel on.
template <typename T>
struct ImageSlice {
  T* data;
  int64_t stride_c, stride_h, stride_w, height, width;
  int channels;  // channels that exist: the last slice may have fewer than the others

  __device__ ImageSlice(const Tensor4& t, const TilePlace& at, int slice)
      : data(static_cast<T*>(t.data) + at.image * t.stride[0] + at.channel * t.stride[1]),
        stride_c(t.stride[1]),
        stride_h(t.stride[2]),
        stride_w(t.stride[3]),
        height(t.size[2]),
        width(t.size[3]),
        channels(static_cast<int>(t.size[1] - at.channel < slice ? t.size[1] - at.channel : slice)) {}

  __device__ bool has(int64_t row, int64_t column) const {
    return row >= 0 && row < height && column >= 0 && column < width;
  }
};

// Loads columns [left, left + columns) of a row into shared memory, with zeros outside the image and past its channels.
// The whole block takes part. With vectors the copies are asynchronous: the caller commits, waits and synchronises.
template <typename T>
__device__ inline void load_row(T* shared, const ImageSlice<T>& image, int64_t row, int64_t left, int columns,
                                const RowTiling& t) {
  if (t.vectors) {
    constexpr int kVec = Vec16<T>::kSize;
    const int packs = t.slice / kVec;
    for (int i = threadIdx.x; i < columns * packs; i += blockDim.x) {
      const int column = i / packs, channel = i % packs * kVec;
      const bool valid = image.has(row, left + column) && channel < image.channels;
      const T* source = image.data;
      if (valid) source += row * image.stride_h + (left + column) * image.stride_w + channel;
      cp_async16(shared + column * t.slice + channel, source, valid);
    }
    return;
  }
  for (int i = threadIdx.x; i < columns * t.slice; i += blockDim.x) {
    const int column = i / t.slice, channel = i % t.slice;
    const bool valid = image.has(row, left + column) && channel < image.channels;
    const T* source = image.data + row * image.stride_h + (left + column) * image.stride_w + channel * image.stride_c;
    store_shared(shared + i, valid ? load_global(source) : from_float<T>(0.0f));
  }
}

// kCount neighbouring channels.
template <typename T, int kCount>
struct alignas(sizeof(T) * kCount) Channels {
  T values[kCount];

  __device__ static void load(const T* shared, float (&floats)[kCount]) {
    const Channels loaded = load_shared(reinterpret_cast<const Channels*>(shared));
#pragma unroll
    for (int i = 0; i < kCount; ++i) floats[i] = to_float(loaded.values[i]);
  }
  __device__ static Channels from_floats(const float (&floats)[kCount]) {
    Channels result;
#pragma unroll
    for (int i = 0; i < kCount; ++i) result.values[i] = from_float<T>(floats[i]);
    return result;
  }
  __device__ void store_to_global(T* address) const { store_global(reinterpret_cast<Channels*>(address), *this); }
  __device__ void store_to_shared(T* address) const { store_shared(reinterpret_cast<Channels*>(address), *this); }
};

}  // namespace segnext
