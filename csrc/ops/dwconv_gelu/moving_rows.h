// dwconv_gelu where channels are innermost: a thread moves down a band of rows and keeps the last three in a ring.
//
// A unit of work is (image, band of rows, panel of channels). A panel is read a pixel at a time, a few cache lines in a
// row. Planes of one vector (cpu/depthwise.h) would read one line of each pixel: with 1,024 channels that is one line
// of each page of memory, all in the same set of the first-level cache.
// The last rows above a band and the first below it are computed again; a band has the same rows for any number of
// threads, and so have the sums.
#pragma once

#include "cpu/depthwise.h"
#include "cpu/gelu.h"
#include "cpu/rows.h"
#include "cpu/window.h"
#include "ops/dwconv_gelu/dwconv_gelu.h"

namespace segnext {
namespace SEGNEXT_ISA {
namespace {

constexpr int64_t kTaps = 9;
constexpr int64_t kRows = kTaps + 1;  // rows of a unit's partial gradients: the weights', then the bias's

namespace moving {

constexpr int64_t kVectors = 4, kWidth = kVectors * kLanes;  // of a panel
constexpr int64_t kBand = 16;                                // rows
constexpr int64_t kColumns = 32;                             // products that are added one after another
#if SEGNEXT_VECTOR_REGISTERS == 32
constexpr int kRowsAtOnce = 3;  // of the taps whose gradients are in registers
#else
constexpr int kRowsAtOnce = 1;
#endif

// Three rows of an image, (pixel, kWidth), with a pixel of zeros at both ends.
struct Ring {
  Real* data;
  int64_t width;

  Ring(Arena& arena, const Tensor4& shape) : data(arena.take<Real>(3 * row_size(shape.size[3]))), width(shape.size[3]) {
    for (int64_t row = 0; data != nullptr && row < 3; ++row) clear(row);
  }

  static int64_t row_size(int64_t width) { return (width + 2) * kWidth; }
  // Row `row`, from -2 on, at the pixel of zeros.
  Real* at(int64_t row) const { return data + (row + 3) % 3 * row_size(width); }
  void clear(int64_t row) const { std::memset(at(row), 0, row_size(width) * sizeof(Real)); }
};

struct Bands {
  int64_t images, bands, panels;

  explicit Bands(const Tensor4& x)
      : images(x.size[0]), bands(blocks_of(x.size[2], kBand)), panels(blocks_of(x.size[1], kWidth)) {}

  int64_t units() const { return images * bands * panels; }
};

// Rows [first, last) of an image, and its channels from `channel` on, in `vectors` vectors.
struct Unit {
  int64_t strip, image, first, last, channel, channels, vectors;

  Unit(const Tensor4& x, const Bands& bands, int64_t unit)
      : strip(unit / bands.panels),  // of all images' bands
        image(strip / bands.bands),
        first(strip % bands.bands * kBand),
        last(smaller(first + kBand, x.size[2])),
        channel(unit % bands.panels * kWidth),
        channels(smaller(x.size[1] - channel, kWidth)),
        vectors(vectors_of(channels)) {}

  template <typename T>
  T* row_of(const Tensor4& tensor, int64_t row) const {
    return static_cast<T*>(tensor.data) + image * tensor.stride[0] + row * tensor.stride[2] + channel;
  }
};

template <typename T>
void load_row(const Tensor4& x, const Unit& unit, int64_t row, const Ring& ring) {
  if (row < 0 || row >= x.size[2]) return ring.clear(row);
  const T* pixel = unit.row_of<const T>(x, row);
  Real* target = ring.at(row) + kWidth;
  if (unit.channels == kWidth) {
    for (int64_t i = 0; i < ring.width; ++i, pixel += x.stride[3], target += kWidth) {
#pragma GCC unroll 4
      for (int64_t lane = 0; lane < kWidth; lane += kLanes) store(target + lane, load_vector(pixel + lane));
    }
  } else {
    for (int64_t i = 0; i < ring.width; ++i, pixel += x.stride[3], target += kWidth) {
      for (int64_t lane = 0; lane < unit.channels; lane += kLanes) {
        store(target + lane, load_first(pixel + lane, unit.channels - lane));
      }
    }
  }
}

// The parameters of a panel: (vector, tap, lane), and a bias per channel.
struct Parameters {
  Real *taps, *bias;

  explicit Parameters(Arena& arena) : taps(arena.take<Real>(kTaps * kWidth)), bias(arena.take<Real>(kWidth)) {}

  template <typename T>
  void load_from(const Tensor4& weight, const Tensor4& shift, const Unit& unit, bool flipped) const {
    for (int64_t v = 0; v < unit.vectors; ++v) {
      const int64_t lane = v * kLanes, lanes = smaller(unit.channels - lane, kLanes);
      load_taps<T>(weight, unit.channel + lane, lanes, flipped, taps + lane * kTaps);
      load_bias<T>(shift, unit.channel + lane, lanes, bias + lane);
    }
  }
};

// Calls finish(lane, x, sum) for each vector of each pixel of row `row`; `lane` is the vector's first channel.
template <typename Finish>
void convolve(const Ring& ring, int64_t row, const Parameters& parameters, const Unit& unit, const Finish& finish) {
  for (int64_t v = 0; v < unit.vectors; ++v) {
    const int64_t lane = v * kLanes;
    const Real* const rows[3] = {ring.at(row - 1) + lane, ring.at(row) + lane, ring.at(row + 1) + lane};
    convolve_row<kWidth>(rows, parameters.taps + lane * kTaps, load(parameters.bias + lane), ring.width,
                         [&](int64_t x, Vec sum) { finish(lane, x, sum); });
  }
}

struct ForwardScratch {
  Ring x;
  Parameters parameters;

  ForwardScratch(Arena& arena, const Tensor4& shape) : x(arena, shape), parameters(arena) {}
};

template <typename T>
bool forward(const DwconvGeluParams& p, int threads) {
  const Bands bands(p.x);
  return for_each_unit<ForwardScratch>(
      bands.units(), threads,
      [&](int64_t index, const ForwardScratch& s) {
        const Unit unit(p.x, bands, index);
        s.parameters.load_from<T>(p.weight, p.bias, unit, false);
        load_row<T>(p.x, unit, unit.first - 1, s.x);
        load_row<T>(p.x, unit, unit.first, s.x);
        for (int64_t row = unit.first; row < unit.last; ++row) {
          load_row<T>(p.x, unit, row + 1, s.x);
          T* const out = unit.row_of<T>(p.out, row);
          convolve(s.x, row, s.parameters, unit, [&](int64_t lane, int64_t x, Vec sum) {
            store_first(out + x * p.out.stride[3] + lane, gelu_for<T>(sum), unit.channels - lane);
          });
        }
      },
      p.x);
}

// Adds to `taps` the products of a row of grad with kRowsAtOnce rows of x, and to `sum`, unless null, the row itself.
// `grad` is at the first pixel, `rows` are as for convolve_row.
SEGNEXT_INLINE void add_products(const Real* const* rows, const Real* grad, int64_t columns, Real* taps, Real* sum) {
  for (int64_t begin = 0; begin < columns; begin += kColumns) {
    Vec product[3 * kRowsAtOnce] = {}, total = {};
    Vec before[kRowsAtOnce], here[kRowsAtOnce];
#pragma GCC unroll 3
    for (int i = 0; i < kRowsAtOnce; ++i) {
      before[i] = load(rows[i] + begin * kWidth);
      here[i] = load(rows[i] + (begin + 1) * kWidth);
    }
    const int64_t end = smaller(begin + kColumns, columns);
    for (int64_t x = begin; x < end; ++x) {
      const Vec g = load(grad + x * kWidth);
      total += g;
#pragma GCC unroll 3
      for (int i = 0; i < kRowsAtOnce; ++i) {
        const Vec after = load(rows[i] + (x + 2) * kWidth);
        product[3 * i] += g * before[i];
        product[3 * i + 1] += g * here[i];
        product[3 * i + 2] += g * after;
        before[i] = here[i];
        here[i] = after;
      }
    }
#pragma GCC unroll 9
    for (int i = 0; i < 3 * kRowsAtOnce; ++i) store(taps + i * kLanes, load(taps + i * kLanes) + product[i]);
    if (sum != nullptr) store(sum, load(sum) + total);
  }
}

struct BackwardScratch {
  Ring x, grad_y;
  Parameters parameters, flipped;

  BackwardScratch(Arena& arena, const Tensor4& shape)
      : x(arena, shape), grad_y(arena, shape), parameters(arena), flipped(arena) {}
};

// The gradient of x, and a unit's gradients of the parameters, (vector, kRows, kLanes), in `partial`.
template <typename T>
void backward_unit(const DwconvGeluBackwardParams& p, const Unit& unit, const BackwardScratch& s, Real* partial) {
  const DwconvGeluParams& f = p.forward;
  const int64_t height = f.x.size[2], width = f.x.size[3];
  s.parameters.load_from<T>(f.weight, f.bias, unit, false);
  s.flipped.load_from<T>(f.weight, Tensor4{}, unit, true);
  std::memset(partial, 0, unit.vectors * kRows * kLanes * sizeof(Real));
  load_row<T>(f.x, unit, unit.first - 2, s.x);
  load_row<T>(f.x, unit, unit.first - 1, s.x);
  for (int64_t row = unit.first - 1; row <= unit.last; ++row) {
    load_row<T>(f.x, unit, row + 1, s.x);
    if (row < 0 || row >= height) {
      s.grad_y.clear(row);
    } else {
      const T* const grad = unit.row_of<const T>(p.grad, row);
      Real* const target = s.grad_y.at(row) + kWidth;
      convolve(s.x, row, s.parameters, unit, [&](int64_t lane, int64_t x, Vec y) {
        const Vec g = load_first(grad + x * p.grad.stride[3] + lane, unit.channels - lane);
        store(target + x * kWidth + lane, g * gelu_derivative(y));
      });
    }
    if (row >= unit.first && row < unit.last) {
      for (int64_t v = 0; v < unit.vectors; ++v) {
        const int64_t lane = v * kLanes;
        const Real* const rows[3] = {s.x.at(row - 1) + lane, s.x.at(row) + lane, s.x.at(row + 1) + lane};
        Real* const own = partial + v * kRows * kLanes;
        for (int i = 0; i < 3; i += kRowsAtOnce) {
          add_products(rows + i, s.grad_y.at(row) + kWidth + lane, width, own + 3 * i * kLanes,
                       i == 0 ? own + kTaps * kLanes : nullptr);
        }
      }
    }
    if (row > unit.first) {
      T* const out = unit.row_of<T>(p.grad_x, row - 1);
      convolve(s.grad_y, row - 1, s.flipped, unit, [&](int64_t lane, int64_t x, Vec sum) {
        store_first(out + x * p.grad_x.stride[3] + lane, sum, unit.channels - lane);
      });
    }
  }
}

}  // namespace moving
}  // namespace
}  // namespace SEGNEXT_ISA
}  // namespace segnext
