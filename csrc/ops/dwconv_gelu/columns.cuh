// The work of one thread of dwconv_gelu: kVec channels of a few neighbouring columns, down a strip of rows. Rows of an
// image go straight from global memory to registers; neighbouring threads share their outer columns through L1.
#pragma once

#include <type_traits>

#include "cuda/row_tiles.cuh"

namespace segnext {

// Whether a thread may read kVec channels at once in all of these images and reach a few columns by 32-bit offsets.
template <typename T, int kVec, typename... Tensors>
inline bool has_channel_vectors(const Tensors&... images) {
  return ((images.stride[1] == 1 && images.size[1] % kVec == 0 && images.stride[0] % kVec == 0 &&
           images.stride[2] % kVec == 0 && images.stride[3] % kVec == 0 &&
           reinterpret_cast<uintptr_t>(images.data) % (kVec * sizeof(T)) == 0 && images.stride[3] >= 0 &&
           images.stride[3] <= INT32_MAX / 64) &&
          ...);
}

// kVec elements as they are in memory. They are stored as words: nvcc would unpack a register of two named elements.
template <typename T, int kVec>
struct alignas(kVec * sizeof(T)) PackedChannels {
  uint32_t words[kVec * sizeof(T) / 4];

  __device__ void to_floats(float (&floats)[kVec]) const {
#pragma unroll
    for (int i = 0; i < kVec; ++i) {
      if constexpr (sizeof(T) == 4) {
        floats[i] = __uint_as_float(words[i]);
      } else if constexpr (std::is_same<T, __nv_bfloat16>::value) {
        floats[i] = __uint_as_float(i % 2 == 0 ? words[i / 2] << 16 : words[i / 2] & 0xffff0000u);
      } else {
        floats[i] = to_float(__ushort_as_half(static_cast<unsigned short>(words[i / 2] >> (16 * (i % 2)))));
      }
    }
  }
};

template <typename T>
struct PackedChannels<T, 1> {
  T value;

  __device__ void to_floats(float (&floats)[1]) const { floats[0] = to_float(value); }
};

// A thread's nine taps and bias, as floats.
template <typename T, int kVec>
struct ThreadTaps {
  float weight[9][kVec] = {}, bias[kVec] = {};

  __device__ void load(const Tensor4& weights, const Tensor4& biases, int64_t channel) {
    const T* taps = static_cast<const T*>(weights.data) + channel * weights.stride[0];
    if (kVec > 1 && weights.stride[0] == 9 && weights.stride[2] == 3 && weights.stride[3] == 1 &&
        reinterpret_cast<uintptr_t>(weights.data) % sizeof(PackedChannels<T, kVec>) == 0) {
#pragma unroll
      for (int i = 0; i < 9; ++i) {  // kVec x 9 contiguous numbers
        float loaded[kVec];
        load_global(reinterpret_cast<const PackedChannels<T, kVec>*>(taps) + i).to_floats(loaded);
#pragma unroll
        for (int v = 0; v < kVec; ++v) weight[(i * kVec + v) % 9][(i * kVec + v) / 9] = loaded[v];
      }
    } else {
#pragma unroll
      for (int v = 0; v < kVec; ++v) {
#pragma unroll
        for (int i = 0; i < 9; ++i) {
          weight[i][v] = to_float(load_global(taps + i / 3 * weights.stride[2] + i % 3 * weights.stride[3]));
        }
        taps += weights.stride[0];
      }
    }
#pragma unroll
    for (int v = 0; v < kVec; ++v) {
      const T* own = static_cast<const T*>(biases.data) + (channel + v) * biases.stride[0];
      bias[v] = biases.data == nullptr ? 0.0f : to_float(load_global(own));
    }
  }
};

// Type of the offset of a thread's column from its first: 32 bits are enough if has_channel_vectors() holds.
template <int kVec>
using ColumnOffset = typename std::conditional<(kVec > 1), unsigned, int64_t>::type;

template <typename T, int kVec>
__device__ inline ColumnOffset<kVec> column_bytes(const Tensor4& image) {
  return static_cast<ColumnOffset<kVec>>(image.stride[3] * static_cast<int64_t>(sizeof(T)));
}

// Reads a few neighbouring columns of an image, one row after the other, with zeros outside the image.
template <typename T, int kVec>
class RowReader {
 public:
  // Reads `columns` columns from `column` on, of which only the first and the last may be outside the image, and rows
  // from `row` on. Rows from `end` on are never used. Everything is zero if not `active`.
  __device__ RowReader(const Tensor4& image, int64_t n, int64_t channel, int column, int columns, int row, int end,
                       bool active = true)
      : address_(static_cast<const char*>(image.data) +
                 (n * image.stride[0] + channel * image.stride[1] + row * image.stride[2] + column * image.stride[3]) *
                     static_cast<int64_t>(sizeof(T))),
        row_bytes_(image.stride[2] * static_cast<int64_t>(sizeof(T))),
        column_bytes_(column_bytes<T, kVec>(image)),
        row_(row),
        end_(!active               ? 0
             : end < image.size[2] ? end
                                   : static_cast<int>(image.size[2])),
        has_first_(column >= 0),
        has_last_(column + columns <= image.size[3]) {}

  // Loads the next row. kColumns is the constructor's `columns`. kAllExist: all of them are in the image.
  template <int kColumns, bool kAllExist = false>
  __device__ void load(PackedChannels<T, kVec>* columns) {
    const bool exists = row_ >= 0 && row_ < end_;
#pragma unroll
    for (int j = 0; j < kColumns; ++j) {
      columns[j] = {};
      if (exists && (kAllExist || ((j > 0 || has_first_) && (j < kColumns - 1 || has_last_)))) {
        columns[j] = load_global(reinterpret_cast<const PackedChannels<T, kVec>*>(address_ + j * column_bytes_));
      }
    }
    address_ += row_bytes_;
    ++row_;
  }

 private:
  const char* address_;
  const int64_t row_bytes_;
  const ColumnOffset<kVec> column_bytes_;
  int row_;
  const int end_;
  const bool has_first_, has_last_;
};

// Writes results of a thread's columns, one row after the other.
template <typename T, int kVec>
class RowWriter {
 public:
  __device__ RowWriter(const Tensor4& image, int64_t n, int64_t channel, int column, int row)
      : address_(static_cast<char*>(image.data) +
                 (n * image.stride[0] + channel * image.stride[1] + row * image.stride[2] + column * image.stride[3]) *
                     static_cast<int64_t>(sizeof(T))),
        row_bytes_(image.stride[2] * static_cast<int64_t>(sizeof(T))),
        column_bytes_(column_bytes<T, kVec>(image)) {}

  __device__ void store(int column, const float (&values)[kVec]) const {
    Channels<T, kVec>::from_floats(values).store_to_global(reinterpret_cast<T*>(address_ + column * column_bytes_));
  }
  __device__ void next_row() { address_ += row_bytes_; }

 private:
  char* address_;
  const int64_t row_bytes_;
  const ColumnOffset<kVec> column_bytes_;
};

// An integer that a generic lambda can use as a constant.
template <int kValue>
using Int = std::integral_constant<int, kValue>;

// The strip of this block. There are fewer than 2^31 blocks.
struct StripPlace {
  unsigned image, channel, left, top, bottom, part;

  __device__ explicit StripPlace(const RowTiling& t) {
    const unsigned slices = static_cast<unsigned>(t.slices), tiles = static_cast<unsigned>(t.tiles),
                   strips = static_cast<unsigned>(t.strips);
    part = blockIdx.x / slices;
    channel = blockIdx.x % slices * t.slice;
    left = part % tiles * t.columns;
    top = part / tiles % strips * t.rows;
    image = part / tiles / strips;
    const unsigned height = static_cast<unsigned>(t.height);
    bottom = top + t.rows < height ? top + t.rows : height;
  }
};

}  // namespace segnext
