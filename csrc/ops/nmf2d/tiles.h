// Shared by the forward and the backward of nmf2d: chunks and tiles of an image's pixels, and tiles of Real.
#pragma once

#include "common/tensor.h"
#include "cpu/convert.h"
#include "cpu/memory.h"
#include "cpu/small_product.h"

namespace segnext {
namespace SEGNEXT_ISA {

// The pixels of a tile. All products of a tile read its X (64 to 256 KiB) from the second-level cache.
constexpr int64_t kTilePixels = 64;
// Sums over pixels are computed per chunk and added in the order of the chunks, which depend on N and R alone, never on
// the threads. With 4 R pixels a chunk's sums, D R floats, are a quarter of its X. With 128 pixels small maps still
// keep a few cores busy.
constexpr int64_t kMinChunkPixels = 2 * kTilePixels, kMostChunks = 32, kChunkPixelsPerRank = 4;
// Images that are computed together: enough for all threads, few enough to stay in the caches from pass to pass.
constexpr int64_t kGroupBytes = 16 << 20;
// The rows of a (D, ...) or (R, ...) matrix that one thread takes.
constexpr int64_t kRowBlock = 16;

struct Chunking {
  int64_t chunk, chunks;  // pixels per chunk, chunks per image
  int64_t group;          // images that are computed together

  Chunking(int64_t images, int64_t pixels, int64_t rank, int64_t reals_per_pixel) {
    const int64_t least = larger(larger(kMinChunkPixels, kChunkPixelsPerRank * rank), blocks_of(pixels, kMostChunks));
    chunk = blocks_of(least, kTilePixels) * kTilePixels;
    chunks = blocks_of(pixels, chunk);
    group = larger(1, smaller(images, kGroupBytes / 4 / larger(1, pixels * reals_per_pixel)));
  }
};

// One image of a (B, D, N) tensor.
template <typename T>
struct Image {
  T* data;
  int64_t channels, pixels, channel_stride, pixel_stride;

  Image(const Tensor4& tensor, int64_t image)
      : data(static_cast<T*>(tensor.data) + image * tensor.stride[0]),
        channels(tensor.size[1]),
        pixels(tensor.size[2]),
        channel_stride(tensor.stride[1]),
        pixel_stride(tensor.stride[2]) {}

  bool channels_inner() const { return channel_stride <= pixel_stride; }
  T* pixel(int64_t index) const { return data + index * pixel_stride; }
};

template <typename T>
constexpr bool is_real() {
  return false;
}
template <>
constexpr bool is_real<Real>() {
  return true;
}

// The Reals of a tile of pixels in either order.
static inline int64_t tile_reals(int64_t channels) { return kTilePixels * padded(channels); }

template <typename T>
static inline void widen(const T* from, int64_t stride, int64_t count, Real* to) {
  if (stride == 1) {
    for (int64_t i = 0; i < count; ++i) to[i] = to_real(from[i]);
  } else {
    for (int64_t i = 0; i < count; ++i) to[i] = to_real(from[i * stride]);
  }
}

template <typename T>
static inline void narrow(const Real* from, int64_t count, T* to, int64_t stride) {
  if (stride == 1) {
    for (int64_t i = 0; i < count; ++i) to[i] = from_real<T>(from[i]);
  } else {
    for (int64_t i = 0; i < count; ++i) to[i * stride] = from_real<T>(from[i]);
  }
}

// Reads a tile (pixel, channel). Pixels of Real with their channels side by side are used in place. All others go
// through `scratch` in the image's own order, so that nothing is ever transposed.
template <typename T>
static inline Factor read_tile(const Image<const T>& image, int64_t first, int64_t count, Real* scratch) {
  const T* source = image.pixel(first);
  if constexpr (is_real<T>()) {
    if (image.channel_stride == 1) return {source, image.pixel_stride, 1};
  }
  if (image.channels_inner()) {
    const int64_t stride = padded(image.channels);
    for (int64_t p = 0; p < count; ++p) {
      widen(source + p * image.pixel_stride, image.channel_stride, image.channels, scratch + p * stride);
    }
    return {scratch, stride, 1};
  }
  for (int64_t d = 0; d < image.channels; ++d) {
    widen(source + d * image.channel_stride, image.pixel_stride, count, scratch + d * kTilePixels);
  }
  return {scratch, 1, kTilePixels};
}

// Writes a product to a matrix of T: element (m, n) at out + m * row_stride + n * column_stride.
template <typename T>
static inline void product_to(const Factor& a, int64_t m, int64_t k, const Block& w, int64_t n, T* out,
                              int64_t row_stride, int64_t column_stride, const Block& scratch) {
  if constexpr (is_real<T>()) {
    if (column_stride == 1 && n % kLanes == 0) return product(a, m, k, w, n, {out, row_stride});
  }
  product(a, m, k, w, n, scratch);
  for (int64_t row = 0; row < m; ++row) narrow(scratch.row(row), n, out + row * row_stride, column_stride);
}

// For a tile, image(pixel, channel) = sum over k of weights[pixel][k] factors[k][channel], in the image's own order.
// `tile` is scratch of tile_reals(channels), `transposed_tile` scratch of k rows of kTilePixels.
template <typename T>
static inline void reconstruct(const Block& weights, int64_t k, const Block& factors, const Image<T>& image,
                               int64_t first, int64_t count, Real* tile, Real* transposed_tile) {
  if (image.channels_inner()) {
    product_to(weights.factor(), count, k, factors, image.channels, image.pixel(first), image.pixel_stride,
               image.channel_stride, {tile, padded(image.channels)});
    return;
  }
  for (int64_t i = 0; i < k; ++i) {
    for (int64_t p = 0; p < count; ++p) transposed_tile[i * kTilePixels + p] = weights.row(p)[i];
  }
  product_to(factors.transposed(), image.channels, k, {transposed_tile, kTilePixels}, count, image.pixel(first),
             image.channel_stride, image.pixel_stride, {tile, kTilePixels});
}

// Reads rows [first, first + count) of matrix (s, b) of a (S, B, rows, R) tensor, widened and padded with zeros.
template <typename T>
static inline void read_matrix(const Tensor4& tensor, int64_t s, int64_t b, int64_t first, int64_t count,
                               const Block& out) {
  const T* source = static_cast<const T*>(tensor.data) + s * tensor.stride[0] + b * tensor.stride[1];
  for (int64_t row = 0; row < count; ++row) {
    Real* target = out.row(row);
    widen(source + (first + row) * tensor.stride[2], tensor.stride[3], tensor.size[3], target);
    for (int64_t r = tensor.size[3]; r < padded(tensor.size[3]); ++r) target[r] = 0.0f;
  }
}

// Writes padded rows into a tensor of Real.
static inline void write_matrix(const Block& rows, const Tensor4& tensor, int64_t s, int64_t b, int64_t first,
                                int64_t count) {
  Real* target = static_cast<Real*>(tensor.data) + s * tensor.stride[0] + b * tensor.stride[1];
  for (int64_t row = 0; row < count; ++row) {
    narrow(rows.row(row), tensor.size[3], target + (first + row) * tensor.stride[2], tensor.stride[3]);
  }
}

// Writes the columns of `rows` as rows of `out`, from its column `first` on.
static inline void transpose_rows(const Block& rows, int64_t count, int64_t columns, const Block& out, int64_t first) {
  for (int64_t column = 0; column < columns; ++column) {
    for (int64_t row = 0; row < count; ++row) out.row(column)[first + row] = rows.row(row)[column];
  }
}

// Adds up the chunks' partial matrices, rows [first, first + count), in the order of the chunks.
static inline void sum_chunks(const Block& partial, int64_t rows, int64_t chunks, int64_t first, int64_t count,
                              const Block& out) {
  const int64_t reals = count * out.stride;
  Real* sum = out.row(first);
  std::memset(sum, 0, reals * sizeof(Real));
  for (int64_t c = 0; c < chunks; ++c) {
    const Real* own = partial.row(c * rows + first);
    for (int64_t i = 0; i < reals; i += kLanes) store(sum + i, load(sum + i) + load(own + i));
  }
}

// Views (1 or B, rows, columns) as (1, B, rows, columns), where B is `images`.
static inline Tensor4 over_images(const Tensor4& tensor, int64_t images) {
  const int64_t stride = tensor.size[0] == 1 ? 0 : tensor.stride[0];
  return {tensor.data, {1, images, tensor.size[1], tensor.size[2]}, {0, stride, tensor.stride[1], tensor.stride[2]}};
}

// Computes rows [first, first + count) of the Gram matrix of a (rows, columns) matrix.
static inline void gram_rows(const Block& matrix, int64_t rows, int64_t columns, int64_t first, int64_t count,
                             const Block& out) {
  product(matrix.transposed().from_row(first), count, rows, matrix, columns, out.from_row(first));
}

// Computes, or adds to, the blocks on and above the diagonal of the Gram matrix of (rows, columns); `mirror` fills in
// the others.
static inline void upper_gram(const Block& matrix, int64_t rows, int64_t columns, const Block& out, bool accumulate) {
  for (int64_t first = 0; first < columns; first += kLanes) {
    const int64_t count = smaller(kLanes, columns - first);
    product(matrix.transposed().from_row(first), count, rows, matrix.from_column(first), columns - first,
            out.from_row(first).from_column(first), accumulate);
  }
}

static inline void mirror(const Block& gram, int64_t size) {
  for (int64_t row = kLanes; row < size; ++row) {
    for (int64_t column = 0; column < row / kLanes * kLanes; ++column) gram.row(row)[column] = gram.row(column)[row];
  }
}

// Runs work(unit) inside a parallel region and waits for all units. Dynamic scheduling: the result does not depend on
// which thread takes a unit, and a busy core does not delay the others.
template <typename Work>
static inline void for_each_in_team(int64_t units, const Work& work) {
#pragma omp for schedule(dynamic, 1)
  for (int64_t unit = 0; unit < units; ++unit) work(unit);
}

// The same for blocks of kRowBlock rows of each image: work(image, first row, rows).
template <typename Work>
static inline void for_each_row_block(int64_t images, int64_t rows, const Work& work) {
  const int64_t blocks = blocks_of(rows, kRowBlock);
  for_each_in_team(images * blocks, [&](int64_t unit) {
    const int64_t first = unit % blocks * kRowBlock;
    work(unit / blocks, first, smaller(kRowBlock, rows - first));
  });
}

// The same for the tiles of each image's chunks: work(image, chunk, first pixel, pixels, whether a chunk begins).
template <typename Work>
static inline void for_each_chunk_tile(int64_t images, int64_t pixels, const Chunking& chunking, const Work& work) {
  for_each_in_team(images * chunking.chunks, [&](int64_t unit) {
    const int64_t chunk = unit % chunking.chunks, start = chunk * chunking.chunk;
    const int64_t end = smaller(start + chunking.chunk, pixels);
    for (int64_t first = start; first < end; first += kTilePixels) {
      work(unit / chunking.chunks, chunk, first, smaller(kTilePixels, end - first), first == start);
    }
  });
}

}  // namespace SEGNEXT_ISA
}  // namespace segnext
