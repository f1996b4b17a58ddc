// Runs of pixels as rows of channels: in place where channels are innermost, else copied to scratch and back.
//
// Kernels that treat a pixel's channels as a vector or as a row of a matrix work on Rows, `stride` elements apart.
// Scratch rows are as long as whole vectors, with zeros behind the last channel; rows in place are used by vector
// code only where the channels are whole vectors. Contiguous (N, C, H, W) tensors are transposed in registers.
#pragma once

#include <type_traits>

#include "common/tensor.h"
#include "cpu/convert.h"
#include "cpu/transpose.h"
#include "cpu/vector.h"

namespace segnext {
namespace SEGNEXT_ISA {

static inline Vec load_vector(const Real* p) { return load(p); }

static inline void store_vector(Real* p, Vec v) { store(p, v); }

#if !defined(SEGNEXT_FLOAT64)
typedef uint32_t BitsV __attribute__((vector_size(SEGNEXT_VECTOR_BYTES)));
typedef uint16_t HalfBitsV __attribute__((vector_size(SEGNEXT_VECTOR_BYTES / 2)));

static inline Vec load_vector(const BFloat16* p) {
  HalfBitsV half;
  std::memcpy(&half, p, sizeof half);
  return (Vec)(__builtin_convertvector(half, BitsV) << 16);
}

// As from_real<BFloat16>: to nearest, ties to even; NaN stays NaN.
static inline void store_vector(BFloat16* p, Vec v) {
  const BitsV bits = (BitsV)v;
  const BitsV rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const BitsV quiet = (bits >> 16) | 0x40u;
  const HalfBitsV half = __builtin_convertvector(v == v ? rounded : quiet, HalfBitsV);
  std::memcpy(p, &half, sizeof half);
}
#endif

// Elements between one pixel and the next of a row.
static inline int64_t pixel_stride(const Tensor4& x) { return x.size[3] == 1 ? x.stride[2] : x.stride[3]; }

// Whether all of an image's pixels are pixel_stride apart.
static inline bool evenly_spaced(const Tensor4& x) {
  return x.size[2] == 1 || x.size[3] == 1 || x.stride[2] == x.size[3] * x.stride[3];
}

static inline bool channels_innermost(const Tensor4& x) { return x.stride[1] == 1 || x.size[1] == 1; }

// Pixels are counted along an image's rows: pixel = y * W + x.
static inline int64_t pixel_offset(const Tensor4& x, int64_t image, int64_t pixel) {
  return image * x.stride[0] + pixel / x.size[3] * x.stride[2] + pixel % x.size[3] * x.stride[3];
}

// visit(offset, start, count) for the longest runs of evenly spaced pixels in [first, first + count).
template <typename Visit>
static inline void for_each_run(const Tensor4& x, int64_t image, int64_t first, int64_t count, const Visit& visit) {
  const int64_t width = evenly_spaced(x) ? x.size[2] * x.size[3] : x.size[3];
  for (int64_t done = 0; done < count;) {
    const int64_t left = width - (first + done) % width;
    const int64_t run = smaller(left, count - done);
    visit(pixel_offset(x, image, first + done), done, run);
    done += run;
  }
}

// The first `count` lanes, zeros behind them; none for a count of zero or less. Callers choose the count, never between
// a vector and zeros: where GCC 12 vectorises the bools of an unrolled loop, such a choice keeps the first lane alone.
template <typename T>
static inline Vec load_first(const T* p, int64_t count) {
  if (count >= kLanes) return load_vector(p);
  Real values[kLanes] = {};
  for (int64_t i = 0; i < count; ++i) values[i] = to_real(p[i]);
  return load(values);
}

template <typename T>
static inline void store_first(T* p, Vec v, int64_t count) {
  if (count >= kLanes) return store_vector(p, v);
  for (int64_t i = 0; i < count; ++i) p[i] = from_real<T>(v[i]);
}

// rows[i] = the channels of pixel first + i, then zeros up to whole vectors.
template <typename E, typename T>
static inline void load_pixels(const Tensor4& x, int64_t image, int64_t first, int64_t count, E* rows) {
  const int64_t channels = x.size[1], row = padded(channels), apart = x.stride[1], next = pixel_stride(x);
  for_each_run(x, image, first, count, [=](int64_t offset, int64_t start, int64_t run) {
    const T* source = static_cast<const T*>(x.data) + offset;
    E* target = rows + start * row;
    if (next == 1 && !channels_innermost(x)) {
      for (int64_t c = 0; c < row; c += kLanes) {
        for (int64_t i = 0; i < run; i += kLanes) {
          Vec square[kLanes];
#pragma GCC unroll 16
          for (int lane = 0; lane < kLanes; ++lane) {
            square[lane] = load_first(source + (c + lane) * apart + i, c + lane < channels ? run - i : 0);
          }
          transpose(square);
#pragma GCC unroll 16
          for (int lane = 0; lane < kLanes; ++lane) {
            if (i + lane < run) store_vector(target + (i + lane) * row + c, square[lane]);
          }
        }
      }
      return;
    }
    for (int64_t i = 0; i < run; ++i, source += next, target += row) {
      if (channels_innermost(x)) {
        for (int64_t c = 0; c < row; c += kLanes) store_vector(target + c, load_first(source + c, channels - c));
      } else {
        for (int64_t c = 0; c < channels; ++c) target[c] = from_real<E>(to_real(source[c * apart]));
        for (int64_t c = channels; c < row; ++c) target[c] = from_real<E>(0.0f);
      }
    }
  });
}

// The inverse of load_pixels.
template <typename T>
static inline void store_pixels(const T* rows, const Tensor4& out, int64_t image, int64_t first, int64_t count) {
  const int64_t channels = out.size[1], row = padded(channels);
  const int64_t apart = out.stride[1], next = pixel_stride(out);
  for_each_run(out, image, first, count, [=](int64_t offset, int64_t start, int64_t run) {
    T* target = static_cast<T*>(out.data) + offset;
    const T* source = rows + start * row;
    if (next == 1 && !channels_innermost(out)) {
      for (int64_t c = 0; c < row; c += kLanes) {
        for (int64_t i = 0; i < run; i += kLanes) {
          Vec square[kLanes];
#pragma GCC unroll 16
          for (int lane = 0; lane < kLanes; ++lane) {
            square[lane] = load_first(source + (i + lane) * row + c, i + lane < run ? kLanes : 0);
          }
          transpose(square);
#pragma GCC unroll 16
          for (int lane = 0; lane < kLanes; ++lane) {
            if (c + lane < channels) store_first(target + (c + lane) * apart + i, square[lane], run - i);
          }
        }
      }
      return;
    }
    for (int64_t i = 0; i < run; ++i, source += row, target += next) {
      for (int64_t c = 0; c < channels; ++c) target[c * apart] = source[c];
    }
  });
}

template <typename E>
struct Rows {
  E* data;
  int64_t stride;
};

// Rows that may be used where they lie, by code that takes `granule` channels at a time.
static inline bool in_place(const Tensor4& x, int64_t granule) {
  return channels_innermost(x) && evenly_spaced(x) && x.size[1] % granule == 0;
}

// Pixels [first, first + count) of an image as rows of E, in `scratch` (count, whole vectors) where they must be.
template <typename E, typename T>
static inline Rows<const E> read_rows(const Tensor4& x, int64_t image, int64_t first, int64_t count, int64_t granule,
                                      E* scratch) {
  if constexpr (std::is_same_v<E, T>) {
    if (in_place(x, granule)) {
      return {static_cast<const T*>(x.data) + pixel_offset(x, image, first), pixel_stride(x)};
    }
  }
  load_pixels<E, T>(x, image, first, count, scratch);
  return {scratch, padded(x.size[1])};
}

// Rows for whole vectors of results; `finish_rows` takes them to where they belong.
template <typename T>
static inline Rows<T> rows_to_write(const Tensor4& out, int64_t image, int64_t first, T* scratch) {
  if (in_place(out, kLanes)) return {static_cast<T*>(out.data) + pixel_offset(out, image, first), pixel_stride(out)};
  return {scratch, padded(out.size[1])};
}

template <typename T>
static inline void finish_rows(const Rows<T>& rows, const Tensor4& out, int64_t image, int64_t first, int64_t count,
                               const T* scratch) {
  if (rows.data == scratch) store_pixels(scratch, out, image, first, count);
}

}  // namespace SEGNEXT_ISA
}  // namespace segnext
