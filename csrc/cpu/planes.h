// Planes: kLanes channels of one image as Reals inside a border of zeros, and how they are read and written.
//
// Strides and element types matter only here. Channels that lie side by side are copied as vectors; contiguous
// (N, C, H, W) tensors are transposed in registers, kLanes pixels of kLanes channels at a time.
#pragma once

#include "common/tensor.h"
#include "cpu/convert.h"
#include "cpu/memory.h"
#include "cpu/transpose.h"
#include "cpu/vector.h"

namespace segnext {
namespace SEGNEXT_ISA {

// A convolution computes register tiles of kTile x kTile pixels (see cpu/plane_convolution.h). A tile that holds at
// least one pixel of the image reaches at most kTile - 1 pixels beyond it.
#if SEGNEXT_VECTOR_REGISTERS == 32
constexpr int kTile = 4;
#else
constexpr int kTile = 2;
#endif
constexpr int64_t kBorder = kTile - 1;

// Rows [first, first + rows) of an image, (rows, width, kLanes), inside a border of zeros on all sides.
struct Plane {
  Real* data;
  int64_t first, rows, width;

  // An odd number of cache lines: those of a column then lie in different sets of the cache.
  int64_t row_stride() const { return ((width + 2 * kBorder) | 1) * kLanes; }
  Real* at(int64_t y, int64_t x) const { return data + (y - first + kBorder) * row_stride() + (x + kBorder) * kLanes; }
};

// A plane of zeros. Nothing ever writes its border again, unless its first row moves: see clear_border_rows.
static inline Plane take_plane(Arena& arena, int64_t rows, int64_t width) {
  Plane plane{nullptr, 0, rows, width};
  const int64_t reals = (rows + 2 * kBorder) * plane.row_stride();
  plane.data = arena.take<Real>(reals);
  if (plane.data != nullptr) std::memset(plane.data, 0, reals * sizeof(Real));
  return plane;
}

// The same memory for rows from `first` on.
static inline Plane moved(Plane plane, int64_t first) {
  plane.first = first;
  return plane;
}

// Writes zeros to the rows of a plane that lie outside of an image of `height` rows. A plane that has moved may hold
// pixels there.
static inline void clear_border_rows(const Plane& plane, int64_t height) {
  const int64_t last = plane.first + plane.rows + kBorder;
  for (int64_t y = plane.first - kBorder; y < last; ++y) {
    if (y < 0 || y >= height) std::memset(plane.at(y, -kBorder), 0, plane.row_stride() * sizeof(Real));
  }
}

static inline void copy_pixels(const Plane& from, const Plane& to, int64_t begin, int64_t end) {
  for (int64_t y = begin; y < end; ++y) {
    std::memcpy(to.at(y, 0), from.at(y, 0), from.width * kLanes * sizeof(Real));
  }
}

// out = a + b; out may be either.
static inline void add_pixels(const Plane& a, const Plane& b, const Plane& out, int64_t begin, int64_t end) {
  for (int64_t y = begin; y < end; ++y) {
    const Real *one = a.at(y, 0), *other = b.at(y, 0);
    Real* target = out.at(y, 0);
    for (int64_t i = 0; i < out.width * kLanes; i += kLanes) store(target + i, load(one + i) + load(other + i));
  }
}

// Copies the first `count` of less than kLanes elements in pieces whose sizes the compiler knows.
template <typename T>
static inline void copy_first(T* to, const T* from, int64_t count) {
#pragma GCC unroll 4
  for (int piece = kLanes / 2; piece > 0; piece /= 2) {
    if ((count & piece) == 0) continue;
    std::memcpy(to, from, piece * sizeof(T));
    to += piece;
    from += piece;
  }
}

// Channels [channel, channel + lanes) of one image; at most kLanes.
struct Lanes {
  int64_t image, channel, lanes;
};

// Loads rows [begin, end) of one image. Lanes past the last one hold zeros or channels that follow.
template <typename T>
static inline void load_plane(const Tensor4& tensor, const Lanes& which, const Plane& plane, int64_t begin,
                              int64_t end) {
  const int64_t lanes = which.lanes, apart = tensor.stride[1], next = tensor.stride[3];
  const T* source = static_cast<const T*>(tensor.data) + which.image * tensor.stride[0] + which.channel * apart;
  if (apart == 1 && (lanes == kLanes || which.channel + kLanes <= tensor.size[1])) {
    for (int64_t y = begin; y < end; ++y) {
      const T* pixel = source + y * tensor.stride[2];
      Real* target = plane.at(y, 0);
      for (int64_t x = 0; x < plane.width; ++x) store(target + x * kLanes, load_vector(pixel + x * next));
    }
  } else if (apart == 1) {
    for (int64_t y = begin; y < end; ++y) {
      const T* pixel = source + y * tensor.stride[2];
      Real* target = plane.at(y, 0);
      for (int64_t x = 0; x < plane.width; ++x) {
        T values[kLanes] = {};
        copy_first(values, pixel + x * next, lanes);
        store(target + x * kLanes, load_vector(values));
      }
    }
  } else if (next == 1) {
    // Rows that follow each other without a gap are one run of pixels.
    const bool is_dense = tensor.stride[2] == plane.width;
    const int64_t run = is_dense ? (end - begin) * plane.width : plane.width;
    for (int64_t row = begin; row < end; row += is_dense ? end - begin : 1) {
      const T* pixels = source + row * tensor.stride[2];
      int64_t y = row, x = 0;
      for (int64_t i = 0; i < run; i += kLanes) {
        Vec square[kLanes];
#pragma GCC unroll 16
        for (int lane = 0; lane < kLanes; ++lane) {
          square[lane] = load_first(pixels + lane * apart + i, lane < lanes ? run - i : 0);
        }
        transpose(square);
#pragma GCC unroll 16
        for (int pixel = 0; pixel < kLanes; ++pixel) {
          if (i + pixel >= run) break;
          store(plane.at(y, x), square[pixel]);
          if (++x == plane.width) ++y, x = 0;
        }
      }
    }
  } else {
    for (int64_t y = begin; y < end; ++y) {
      for (int64_t lane = 0; lane < kLanes; ++lane) {
        Real* target = plane.at(y, 0) + lane;
        const T* pixel = source + y * tensor.stride[2] + lane * apart;
        for (int64_t x = 0; x < plane.width; ++x) target[x * kLanes] = lane < lanes ? to_real(pixel[x * next]) : 0.0f;
      }
    }
  }
}

template <typename T>
static inline void load_plane(const Tensor4& tensor, const Lanes& which, const Plane& plane) {
  load_plane<T>(tensor, which, plane, 0, tensor.size[2]);
}

// Stores rows [begin, end) of a plane; the inverse of load_plane.
template <typename T>
static inline void store_plane(const Plane& plane, const Tensor4& tensor, const Lanes& which, int64_t begin,
                               int64_t end) {
  const int64_t lanes = which.lanes, apart = tensor.stride[1], next = tensor.stride[3];
  T* out = static_cast<T*>(tensor.data) + which.image * tensor.stride[0] + which.channel * apart;
  if (apart == 1 && lanes == kLanes) {
    for (int64_t y = begin; y < end; ++y) {
      T* pixel = out + y * tensor.stride[2];
      const Real* source = plane.at(y, 0);
      for (int64_t x = 0; x < plane.width; ++x) store_vector(pixel + x * next, load(source + x * kLanes));
    }
  } else if (apart == 1) {
    for (int64_t y = begin; y < end; ++y) {
      T* pixel = out + y * tensor.stride[2];
      const Real* source = plane.at(y, 0);
      for (int64_t x = 0; x < plane.width; ++x) {
        T values[kLanes];
        store_vector(values, load(source + x * kLanes));
        copy_first(pixel + x * next, values, lanes);
      }
    }
  } else if (next == 1) {
    const bool is_dense = tensor.stride[2] == plane.width;
    const int64_t run = is_dense ? (end - begin) * plane.width : plane.width;
    for (int64_t row = begin; row < end; row += is_dense ? end - begin : 1) {
      T* pixels = out + row * tensor.stride[2];
      int64_t y = row, x = 0;
      for (int64_t i = 0; i < run; i += kLanes) {
        Vec square[kLanes] = {};
#pragma GCC unroll 16
        for (int pixel = 0; pixel < kLanes; ++pixel) {
          if (i + pixel >= run) break;
          square[pixel] = load(plane.at(y, x));
          if (++x == plane.width) ++y, x = 0;
        }
        transpose(square);
#pragma GCC unroll 16
        for (int lane = 0; lane < kLanes; ++lane) {
          if (lane < lanes) store_first(pixels + lane * apart + i, square[lane], run - i);
        }
      }
    }
  } else {
    for (int64_t y = begin; y < end; ++y) {
      for (int64_t lane = 0; lane < lanes; ++lane) {
        const Real* source = plane.at(y, 0) + lane;
        T* pixel = out + y * tensor.stride[2] + lane * apart;
        for (int64_t x = 0; x < plane.width; ++x) pixel[x * next] = from_real<T>(source[x * kLanes]);
      }
    }
  }
}

template <typename T>
static inline void store_plane(const Plane& plane, const Tensor4& tensor, const Lanes& which) {
  store_plane<T>(plane, tensor, which, 0, tensor.size[2]);
}

}  // namespace SEGNEXT_ISA
}  // namespace segnext
