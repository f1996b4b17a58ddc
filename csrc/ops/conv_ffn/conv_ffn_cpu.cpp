// conv_ffn on the CPU: out = fc2 gelu(dw(fc1 x)) (+ x). The hidden tensor is never in main memory.
//
// A thread moves down its rows of the image. A ring keeps the hidden rows that the 3x3 convolution still needs. Each
// step computes `group` new hidden rows (a product), from these and their neighbours `group` rows of gelu(dw(.)), and
// from those the output rows (a second product). Hidden tensors are in panels of 64 channels (pixel, channel): the
// first product writes a panel, the convolution reads it along the row, and the second product takes it as a segment of
// its k.
//   group  enough rows for 48 pixels per product, so that each panel of weights that is loaded is used often
//   tile   so few columns that ring and gelu rows stay in the second-level cache; only wide images are divided. Two
//          columns per tile are then computed twice, and so are two rows where the rows of two threads meet.
// FLOPs per pixel: 2 C E + 18 E + 2 E Co, and about 20 E operations of GELU.
// Bytes: x and out once, the weights once per thread from the caches.

#include "cpu/convert.h"
#include "cpu/gelu.h"
#include "cpu/memory.h"
#include "cpu/pack.h"
#include "cpu/rows.h"
#include "cpu/window.h"
#include "ops/conv_ffn/conv_ffn.h"

namespace segnext {
namespace SEGNEXT_ISA {
namespace {

constexpr int64_t kWidth = kPanel * kLanes;  // hidden channels of a panel
constexpr int64_t kTaps = 9;
constexpr int64_t kPixelsPerStep = 48;       // at least so many per product
constexpr int64_t kCacheBytes = 640 * 1024;  // of a second-level cache of 1 MiB, for ring and gelu rows

int64_t panels_of(int64_t hidden) { return blocks_of(hidden, kWidth); }

// The packed weights.
template <typename Element>
struct PackedFfn {
  Element* fc1;
  float *fc1_bias, *taps, *dw_bias;  // taps: (panel, vector of the panel, column and row of the kernel, lane)
  Element* fc2;
  float* fc2_bias;

  PackedFfn(Arena& arena, int64_t in, int64_t hidden, int64_t out)
      : fc1(arena.take<Element>(packed_size<Element>(hidden, in))),
        fc1_bias(arena.take<float>(panels_of(hidden) * kWidth)),
        taps(arena.take<float>(panels_of(hidden) * kWidth * kTaps)),
        dw_bias(arena.take<float>(panels_of(hidden) * kWidth)),
        fc2(arena.take<Element>(packed_size<Element>(out, kWidth, panels_of(hidden)))),
        fc2_bias(arena.take<float>(padded(out))) {}
};

template <typename T>
void pack(const ConvFfnWeights& w, void* memory) {
  using Element = ProductElement<T>;
  const int64_t hidden = w.fc1_weight.size[0], in = w.fc1_weight.size[1], out = w.fc2_weight.size[0];
  const auto packed = laid_out<PackedFfn<Element>>(memory, in, hidden, out);
  pack_matrix(pointwise<T>(w.fc1_weight), packed.fc1);
  Matrix<T> fc2 = pointwise<T>(w.fc2_weight);
  fc2.padded_depth = panels_of(hidden) * kWidth;
  pack_matrix(fc2, packed.fc2);
  // all of the last panel's padding must be zero: its results, gelu(0) = 0, are multiplied by weights of zero
  std::memset(packed.fc1_bias, 0, panels_of(hidden) * kWidth * sizeof(float));
  std::memset(packed.dw_bias, 0, panels_of(hidden) * kWidth * sizeof(float));
  load_parameter<T>(w.fc1_bias, hidden, packed.fc1_bias);
  load_parameter<T>(w.dw_bias, hidden, packed.dw_bias);
  load_parameter<T>(w.fc2_bias, out, packed.fc2_bias);
  for (int64_t c = 0; c < panels_of(hidden) * kWidth; ++c) {
    for (int64_t tap = 0; tap < kTaps; ++tap) {
      const int64_t offset =
          c * w.dw_weight.stride[0] + tap % 3 * w.dw_weight.stride[2] + tap / 3 * w.dw_weight.stride[3];
      packed.taps[(c / kLanes * kTaps + tap) * kLanes + c % kLanes] =
          c < hidden ? to_real(static_cast<const T*>(w.dw_weight.data)[offset]) : 0.0f;
    }
  }
}

// The column tiles of an image, and the rows of a step.
struct FfnTiles {
  int64_t tile, tiles, group;

  FfnTiles(const ConvFfnParams& p, int64_t element_bytes) {
    const int64_t height = p.x.size[2], width = p.x.size[3];
    const int64_t pixel_bytes = panels_of(p.hidden) * kWidth * element_bytes;
    // three rows of the ring and one of gelu
    const int64_t widest = larger(kCacheBytes / (4 * pixel_bytes), kPixelsPerStep);
    tile = blocks_of(width, blocks_of(width, widest));
    tiles = blocks_of(width, tile);
    group = smaller(blocks_of(kPixelsPerStep, tile), height);
  }
};

template <typename Pixel>
struct FfnScratch {
  Pixel *ring, *gelu, *rows;
  int64_t *from, *to;  // per pixel of a product: the offset of its x, and of its place in the ring or in out

  FfnScratch(Arena& arena, const ConvFfnParams& p, const FfnTiles& tiling)
      : ring(arena.take<Pixel>((tiling.group + 2) * (tiling.tile + 2) * panels_of(p.hidden) * kWidth)),
        gelu(arena.take<Pixel>(tiling.group * tiling.tile * panels_of(p.hidden) * kWidth)),
        rows(arena.take<Pixel>((tiling.group + 2) * (tiling.tile + 2) * padded(p.x.size[1]))),
        from(arena.take<int64_t>(tiling.group * tiling.tile)),
        to(arena.take<int64_t>((tiling.group + 2) * (tiling.tile + 2))) {}
};

// One column tile of one image, of which a thread takes some rows.
template <typename T>
struct FfnUnit {
  using Element = ProductElement<T>;
  using Pixel = PixelElement<Element>;

  const ConvFfnParams& p;
  const FfnTiles& tiling;
  const PackedFfn<Element>& packed;
  const FfnScratch<Pixel>& s;
  int64_t image, left, right;  // the tile's columns

  int64_t columns() const { return right - left; }
  int64_t ring_rows() const { return tiling.group + 2; }
  int64_t slot(int64_t row) const { return (row + 1) % ring_rows(); }
  // Elements between two panels of the ring, and of the gelu rows.
  int64_t ring_panel() const { return ring_rows() * (tiling.tile + 2) * kWidth; }
  int64_t gelu_panel() const { return tiling.group * tiling.tile * kWidth; }
  const T* x_at(int64_t row, int64_t column) const {
    return static_cast<const T*>(p.x.data) + image * p.x.stride[0] + row * p.x.stride[2] + column * p.x.stride[3];
  }

  // The pixels of x that hidden rows [first, last) are computed from, as rows of a product.
  struct Source {
    int64_t first, last, begin, run;  // rows inside the image; the first column and the columns of each
    bool at_once;                     // whether all rows are one matrix: `all`
    Rows<const Pixel> all;
  };

  Source source(int64_t first, int64_t last) const {
    const int64_t height = p.x.size[2], width = p.x.size[3], row_size = padded(p.x.size[1]);
    Source from{larger(first, 0), smaller(last, height), larger(left - 1, 0), 0, true, {}};
    from.run = smaller(right + 1, width) - from.begin;
    if (pixels_are_rows<Pixel, T>(p.x, k_step<Pixel>())) {
      from.at_once = from.run == width && p.x.stride[2] == width * p.x.stride[3];
      from.all = direct(from.first, from.begin);
    } else {
      for (int64_t row = from.first; row < from.last; ++row) {
        load_pixels<Pixel, T>(p.x, {image, row * width + from.begin, from.run},
                              s.rows + (row - from.first) * from.run * row_size);
      }
      from.all = {s.rows, row_size};
    }
    for (int64_t row = from.first; row < from.last; ++row) {
      for (int64_t column = 0; column < from.run; ++column) {
        s.to[(row - from.first) * from.run + column] =
            (slot(row) * (tiling.tile + 2) + from.begin - left + 1 + column) * kWidth;
      }
    }
    return from;
  }

  Rows<const Pixel> direct(int64_t row, int64_t column) const {
    return {reinterpret_cast<const Pixel*>(x_at(row, column)), p.x.stride[3]};
  }

  // Computes one panel of hidden rows [first, last) into the ring. Rows and columns outside the image are zero.
  void produce(const Source& from, int64_t first, int64_t last, int64_t panel) const {
    Pixel* ring = s.ring + panel * ring_panel();
    for (int64_t row = first; row < last; ++row) {
      Pixel* target = ring + slot(row) * (tiling.tile + 2) * kWidth;
      if (row < from.first || row >= from.last) std::memset(target, 0, (columns() + 2) * kWidth * sizeof(Pixel));
      if (left == 0) std::memset(target, 0, kWidth * sizeof(Pixel));
      if (right == p.x.size[3]) std::memset(target + (columns() + 1) * kWidth, 0, kWidth * sizeof(Pixel));
    }
    const int64_t left_over = p.hidden - panel * kWidth;
    const PackedWeights<Element> w{packed.fc1 + panel * packed_size<Element>(kWidth, p.x.size[1]),
                                   smaller(left_over, kWidth), p.x.size[1], 1};
    const float* bias = packed.fc1_bias + panel * kWidth;
    const int64_t step = from.at_once ? from.last - from.first : 1;
    for (int64_t row = from.first; row < from.last; row += step) {
      const int64_t* to = s.to + (row - from.first) * from.run;
      gemm<SumsIn::kRegisters>(
          from.at_once ? from.all : direct(row, from.begin), step * from.run, w,
          [&](int64_t m, int64_t n, Vec sum) { store_vector(ring + to[m] + n, sum + load(bias + n)); });
    }
  }

  // Computes gelu(dw(.)) for rows [first, last) of a panel: along each row a window of nine vectors moves over the
  // ring.
  void convolve_and_activate(int64_t first, int64_t last, int64_t panel) const {
    const int64_t vectors = smaller(vectors_of(p.hidden - panel * kWidth), kPanel);
    for (int64_t row = first; row < last; ++row) {
      const Pixel* above[3];
      for (int64_t i = 0; i < 3; ++i) {
        above[i] = s.ring + panel * ring_panel() + slot(row - 1 + i) * (tiling.tile + 2) * kWidth;
      }
      Pixel* target = s.gelu + panel * gelu_panel() + (row - first) * columns() * kWidth;
      for (int64_t v = 0; v < kPanel; ++v) {
        if (v < vectors) {
          const int64_t lane = v * kLanes, vector = panel * kPanel + v;
          const Pixel* const rows[3] = {above[0] + lane, above[1] + lane, above[2] + lane};
          convolve_row<kWidth>(rows, packed.taps + vector * kTaps * kLanes, load(packed.dw_bias + vector * kLanes),
                               columns(),
                               [=](int64_t x, Vec sum) { store_vector(target + x * kWidth + lane, gelu_for<T>(sum)); });
        } else {  // a vector beyond the last channel, which the second product reads
          for (int64_t x = 0; x < columns(); ++x) store_vector(target + x * kWidth + v * kLanes, Vec{});
        }
      }
    }
  }

  // Computes output rows [first, last).
  void reduce(int64_t first, int64_t last) const {
    const int64_t out_channels = p.out.size[1];
    for (int64_t row = first; row < last; ++row) {
      for (int64_t x = 0; x < columns(); ++x) {
        s.from[(row - first) * columns() + x] = row * p.x.stride[2] + (left + x) * p.x.stride[3];
        s.to[(row - first) * columns() + x] = row * p.out.stride[2] + (left + x) * p.out.stride[3];
      }
    }
    const T* x = static_cast<const T*>(p.x.data) + image * p.x.stride[0];
    T* out = static_cast<T*>(p.out.data) + image * p.out.stride[0];
    const PackedWeights<Element> w{packed.fc2, out_channels, kWidth, panels_of(p.hidden)};
    gemm(Rows<const Pixel>{s.gelu, kWidth, gelu_panel()}, (last - first) * columns(), w,
         [&](int64_t m, int64_t n, Vec sum) {
           sum += load(packed.fc2_bias + n);
           const int64_t lanes = out_channels - n;
           if (p.residual) sum += load_channels(x + s.from[m] + n * p.x.stride[1], p.x.stride[1], lanes);
           store_channels(out + s.to[m] + n * p.out.stride[1], p.out.stride[1], lanes, sum);
         });
  }

  void rows(int64_t first, int64_t last) const {
    int64_t ready = first - 1;  // hidden rows below this one are in the ring
    for (int64_t row = first; row < last; row += tiling.group) {
      const int64_t end = smaller(row + tiling.group, last);
      const Source from = source(ready, end + 1);
      for (int64_t panel = 0; panel < panels_of(p.hidden); ++panel) {  // one at a time, in the first-level cache
        produce(from, ready, end + 1, panel);
        convolve_and_activate(row, end, panel);
      }
      ready = end + 1;
      reduce(row, end);
    }
  }
};

template <typename T>
bool run(const ConvFfnParams& p, int threads) {
  using Element = ProductElement<T>;
  using Pixel = PixelElement<Element>;
  const auto packed = laid_out<PackedFfn<Element>>(p.packed, p.x.size[1], p.hidden, p.out.size[1]);
  const int64_t images = p.x.size[0], height = p.x.size[2], width = p.x.size[3];
  if (images * height * width * p.out.size[1] == 0) return true;
  const FfnTiles tiling(p, sizeof(Pixel));
  const TeamMemory memory(0, bytes_of<FfnScratch<Pixel>>(p, tiling), threads);
  if (memory.is_exhausted()) return false;
  const int64_t total = images * tiling.tiles * height;
#pragma omp parallel num_threads(threads)
  {
    const Member me;
    const auto scratch = memory.own<FfnScratch<Pixel>>(me, p, tiling);
    const int64_t last = me.end(total);
    for (int64_t row = me.begin(total); row < last;) {
      const int64_t strip = row / height, first = row % height;
      const int64_t count = smaller(last - row, height - first);
      const int64_t left = strip % tiling.tiles * tiling.tile;
      const int64_t right = smaller(left + tiling.tile, width);
      FfnUnit<T>{p, tiling, packed, scratch, strip / tiling.tiles, left, right}.rows(first, first + count);
      row += count;
    }
  }
  return true;
}

}  // namespace

int64_t conv_ffn_packed_bytes(const ConvFfnWeights& weights) {
  const int64_t hidden = weights.fc1_weight.size[0], in = weights.fc1_weight.size[1], out = weights.fc2_weight.size[0];
  return weights.dtype == DType::kBFloat16 ? bytes_of<PackedFfn<ProductElement<BFloat16>>>(in, hidden, out)
                                           : bytes_of<PackedFfn<ProductElement<float>>>(in, hidden, out);
}

void conv_ffn_pack_cpu(const ConvFfnWeights& weights, void* packed) {
  weights.dtype == DType::kBFloat16 ? pack<BFloat16>(weights, packed) : pack<float>(weights, packed);
}

bool conv_ffn_cpu(const ConvFfnParams& params, int threads) {
  return params.dtype == DType::kBFloat16 ? run<BFloat16>(params, threads) : run<float>(params, threads);
}

}  // namespace SEGNEXT_ISA
}  // namespace segnext
