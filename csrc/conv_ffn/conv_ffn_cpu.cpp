// conv_ffn on the CPU: out = fc2 gelu(dw(fc1 x)) (+ x), the hidden tensor never in main memory.
//
// A thread walks down its rows of the image. A ring keeps the hidden rows that the 3x3 convolution still needs; each
// step computes `group` new hidden rows (a product), turns them with their neighbours into `group` rows of
// gelu(dw(.)), and reduces those to output rows (a second product). Hidden tensors lie in panels of 64 channels
// (pixel, channel): what a panel of the first product writes, the convolution reads along the row and the second
// product takes as one segment of its k.
//   group: rows enough for 48 pixels a product, so that each panel of weights that is loaded is used often.
//   tile:  columns so few that ring and gelu rows stay in the second-level cache; only wide images are cut, and
//          then two columns a tile are computed twice. So are the two rows at the border of two threads' shares.
// FLOPs: 2 C E + 18 E + 2 E Co a pixel, and about 25 E operations of GELU. Bytes: x and out once, the weights once a
// thread from the caches.

#include <omp.h>

#include <cstdlib>

#include "common/gelu.h"
#include "common/rows.h"
#include "conv_ffn/conv_ffn.h"

namespace segnext {
namespace SEGNEXT_ISA {
namespace {

constexpr int64_t kWidth = kPanel * kLanes;  // hidden channels of a panel
constexpr int64_t kTaps = 9;
constexpr int64_t kPixelsPerStep = 48;       // of a product
constexpr int64_t kCacheBytes = 640 * 1024;  // of a 1 MiB second-level cache, for ring and gelu rows

int64_t panels_of(int64_t hidden) { return (hidden + kWidth - 1) / kWidth; }

int64_t padded(int64_t channels) { return vectors_of(channels) * kLanes; }

// The packed weights, laid out twice: to measure, and to find.
template <typename Element>
struct Packed {
  Element* fc1;
  float *fc1_bias, *taps, *dw_bias;  // taps: (panel, vector of the panel, tap, lane)
  Element* fc2;
  float* fc2_bias;

  Packed(Arena& arena, int64_t in, int64_t hidden, int64_t out)
      : fc1(arena.take<Element>(packed_size<Element>(hidden, in))),
        fc1_bias(arena.take<float>(panels_of(hidden) * kWidth)),
        taps(arena.take<float>(panels_of(hidden) * kWidth * kTaps)),
        dw_bias(arena.take<float>(panels_of(hidden) * kWidth)),
        fc2(arena.take<Element>(packed_size<Element>(out, kWidth, panels_of(hidden)))),
        fc2_bias(arena.take<float>(padded(out))) {}
};

template <typename T>
void pack(const ConvFfnWeights& w, void* memory) {
  using Element = typename Product<T>::Element;
  const int64_t hidden = w.fc1_weight.size[0], in = w.fc1_weight.size[1], out = w.fc2_weight.size[0];
  Arena arena{static_cast<char*>(memory)};
  const Packed<Element> packed(arena, in, hidden, out);
  const auto at = [](const Tensor4& t, int64_t row, int64_t column) {
    return to_float(static_cast<const T*>(t.data)[row * t.stride[0] + column * t.stride[1]]);
  };
  pack_weights(packed.fc1, hidden, in, 1, [&](int64_t n, int64_t k) { return at(w.fc1_weight, n, k); });
  pack_weights(packed.fc2, out, kWidth, panels_of(hidden),
               [&](int64_t n, int64_t k) { return k < hidden ? at(w.fc2_weight, n, k) : 0.0f; });
  // the padding of the last panel must be zero all the way: gelu(0) = 0, times a weight of zero
  std::memset(packed.fc1_bias, 0, panels_of(hidden) * kWidth * sizeof(float));
  std::memset(packed.dw_bias, 0, panels_of(hidden) * kWidth * sizeof(float));
  load_parameter<T>(w.fc1_bias, hidden, packed.fc1_bias);
  load_parameter<T>(w.dw_bias, hidden, packed.dw_bias);
  load_parameter<T>(w.fc2_bias, out, packed.fc2_bias);
  for (int64_t c = 0; c < panels_of(hidden) * kWidth; ++c) {
    for (int64_t tap = 0; tap < kTaps; ++tap) {
      const int64_t offset =
          c * w.dw_weight.stride[0] + tap / 3 * w.dw_weight.stride[2] + tap % 3 * w.dw_weight.stride[3];
      packed.taps[(c / kLanes * kTaps + tap) * kLanes + c % kLanes] =
          c < hidden ? to_float(static_cast<const T*>(w.dw_weight.data)[offset]) : 0.0f;
    }
  }
}

// How an image is cut.
struct Cut {
  int64_t tile, tiles, group;

  Cut(const ConvFfnParams& p, int64_t element_bytes) {
    const int64_t height = p.x.size[2], width = p.x.size[3];
    const int64_t pixel_bytes = panels_of(p.hidden) * kWidth * element_bytes;
    // three ring rows and one of gelu
    int64_t widest = kCacheBytes / (4 * pixel_bytes);
    widest = widest < kPixelsPerStep ? kPixelsPerStep : widest;
    tiles = (width + widest - 1) / widest;
    tile = (width + tiles - 1) / tiles;
    tiles = (width + tile - 1) / tile;
    group = (kPixelsPerStep + tile - 1) / tile;
    group = group < height ? group : height;
  }
};

template <typename Element>
struct Scratch {
  Element *ring, *gelu, *rows;
  int64_t *from, *to;  // of each pixel of a product: where it lies in the ring or in out

  Scratch(Arena& arena, const ConvFfnParams& p, const Cut& cut)
      : ring(arena.take<Element>((cut.group + 2) * (cut.tile + 2) * panels_of(p.hidden) * kWidth)),
        gelu(arena.take<Element>(cut.group * cut.tile * panels_of(p.hidden) * kWidth)),
        rows(arena.take<Element>((cut.group + 2) * (cut.tile + 2) * row_elements<Element>(p.x.size[1]))),
        from(arena.take<int64_t>(cut.group * cut.tile)),
        to(arena.take<int64_t>((cut.group + 2) * (cut.tile + 2))) {}
};

// One thread's walk down one column tile of one image.
template <typename T>
struct Walk {
  using Element = typename Product<T>::Element;

  const ConvFfnParams& p;
  const Cut& cut;
  const Packed<Element>& packed;
  const Scratch<Element>& s;
  int64_t image, left, right;  // the tile's columns

  int64_t columns() const { return right - left; }
  int64_t ring_rows() const { return cut.group + 2; }
  int64_t slot(int64_t row) const { return (row + 1) % ring_rows(); }
  // Elements between two panels of the ring, and of the gelu rows.
  int64_t ring_panel() const { return ring_rows() * (cut.tile + 2) * kWidth; }
  int64_t gelu_panel() const { return cut.group * cut.tile * kWidth; }
  const T* x_at(int64_t row, int64_t column) const {
    return static_cast<const T*>(p.x.data) + image * p.x.stride[0] + row * p.x.stride[2] + column * p.x.stride[3];
  }

  // Hidden rows [first, last) into the ring; those outside the image, and columns outside, are zero.
  void produce(int64_t first, int64_t last) const {
    const int64_t height = p.x.size[2], width = p.x.size[3], channels = p.x.size[1];
    const int64_t begin = left > 0 ? left - 1 : 0, end = right < width ? right + 1 : width, run = end - begin;
    for (int64_t row = first; row < last; ++row) {
      const bool inside = row >= 0 && row < height;
      for (int64_t panel = 0; panel < panels_of(p.hidden); ++panel) {
        Element* target = s.ring + panel * ring_panel() + slot(row) * (cut.tile + 2) * kWidth;
        if (!inside) std::memset(target, 0, (columns() + 2) * kWidth * sizeof(Element));
        if (left == 0) std::memset(target, 0, kWidth * sizeof(Element));
        if (right == width) std::memset(target + (columns() + 1) * kWidth, 0, kWidth * sizeof(Element));
      }
    }
    first = first > 0 ? first : 0;
    last = last < height ? last : height;
    const bool direct = is_direct<T, Element>(p.x);
    // whole rows lie one after another: one product; else one a row, or of rows gathered first
    const bool at_once = !direct || (run == width && p.x.stride[2] == width * p.x.stride[3]);
    const int64_t step = at_once ? last - first : 1;
    for (int64_t row = first; row < last; row += step) {
      Pixels<Element> a{reinterpret_cast<const Element*>(x_at(row, begin)), p.x.stride[3], 0};
      if (!direct) {
        const int64_t elements = row_elements<Element>(channels);
        for (int64_t i = 0; i < step; ++i) {
          gather_rows(x_at(row + i, begin), channels, p.x.stride[1], p.x.stride[3], run, s.rows + i * run * elements);
        }
        a = {s.rows, elements, 0};
      }
      for (int64_t i = 0; i < step; ++i) {
        for (int64_t column = 0; column < run; ++column) {
          s.to[i * run + column] = (slot(row + i) * (cut.tile + 2) + begin - left + 1 + column) * kWidth;
        }
      }
      const PackedWeights<Element> w{packed.fc1, p.hidden, channels, 1};
      gemm<Sums::kRegisters>(a, step * run, w, [&](int64_t m, int64_t n, FloatV sum) {
        store_vector(s.ring + n / kWidth * ring_panel() + s.to[m] + n % kWidth, sum + load(packed.fc1_bias + n));
      });
    }
  }

  // gelu(dw(.)) of rows [first, last): along each row, a window of nine vectors moves over the ring.
  void convolve_and_activate(int64_t first, int64_t last) const {
    for (int64_t panel = 0; panel < panels_of(p.hidden); ++panel) {
      const int64_t left_over = p.hidden - panel * kWidth;
      const int64_t vectors = left_over >= kWidth ? kPanel : vectors_of(left_over);
      for (int64_t row = first; row < last; ++row) {
        const Element* above[3];
        for (int64_t i = 0; i < 3; ++i) {
          above[i] = s.ring + panel * ring_panel() + slot(row - 1 + i) * (cut.tile + 2) * kWidth;
        }
        Element* target = s.gelu + panel * gelu_panel() + (row - first) * columns() * kWidth;
        for (int64_t v = 0; v < kPanel; ++v) {
          if (v < vectors) {
            activate_row(above, target, panel * kPanel + v, v * kLanes);
          } else {  // a vector beyond the last channel: the second product reads it
            for (int64_t x = 0; x < columns(); ++x) store_vector(target + x * kWidth + v * kLanes, FloatV{});
          }
        }
      }
    }
  }

  void activate_row(const Element* const (&above)[3], Element* target, int64_t vector, int64_t lane) const {
    FloatV weight[kTaps];
#pragma GCC unroll 9
    for (int i = 0; i < kTaps; ++i) weight[i] = load(packed.taps + (vector * kTaps + i) * kLanes);
    const FloatV bias = load(packed.dw_bias + vector * kLanes);
    FloatV before[3], here[3];
#pragma GCC unroll 3
    for (int i = 0; i < 3; ++i) {
      before[i] = load_vector(above[i] + lane);
      here[i] = load_vector(above[i] + kWidth + lane);
    }
    for (int64_t x = 0; x < columns(); ++x) {
      FloatV sum = bias;
#pragma GCC unroll 3
      for (int i = 0; i < 3; ++i) {
        const FloatV after = load_vector(above[i] + (x + 2) * kWidth + lane);
        sum += weight[3 * i] * before[i];
        sum += weight[3 * i + 1] * here[i];
        sum += weight[3 * i + 2] * after;
        before[i] = here[i];
        here[i] = after;
      }
      store_vector(target + x * kWidth + lane, gelu(sum));
    }
  }

  // Output rows [first, last).
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
    gemm(Pixels<Element>{s.gelu, kWidth, gelu_panel()}, (last - first) * columns(), w,
         [&](int64_t m, int64_t n, FloatV sum) {
           sum += load(packed.fc2_bias + n);
           const int64_t lanes = out_channels - n;
           if (p.residual) sum += load_channels(x + s.from[m] + n * p.x.stride[1], p.x.stride[1], lanes);
           store_channels(out + s.to[m] + n * p.out.stride[1], p.out.stride[1], lanes, sum);
         });
  }

  void rows(int64_t first, int64_t last) const {
    int64_t ready = first - 1;  // hidden rows below this one are in the ring
    for (int64_t row = first; row < last; row += cut.group) {
      const int64_t end = row + cut.group < last ? row + cut.group : last;
      produce(ready, end + 1);
      ready = end + 1;
      convolve_and_activate(row, end);
      reduce(row, end);
    }
  }
};

template <typename T>
bool run(const ConvFfnParams& p, int threads) {
  using Element = typename Product<T>::Element;
  Arena found{static_cast<char*>(const_cast<void*>(p.packed))};
  const Packed<Element> packed(found, p.x.size[1], p.hidden, p.out.size[1]);
  const int64_t images = p.x.size[0], height = p.x.size[2], width = p.x.size[3];
  if (images * height * width * p.out.size[1] == 0) return true;
  const Cut cut(p, sizeof(Element));
  Arena measure{nullptr};
  Scratch<Element>{measure, p, cut};
  char* memory = static_cast<char*>(std::malloc(threads * measure.used + 64));
  if (memory == nullptr) return false;
  char* aligned = memory + (64 - reinterpret_cast<uintptr_t>(memory) % 64) % 64;
  const int64_t total = images * cut.tiles * height;
#pragma omp parallel num_threads(threads)
  {
    const int64_t team = omp_get_num_threads(), member = omp_get_thread_num();
    Arena arena{aligned + member * measure.used};
    const Scratch<Element> scratch(arena, p, cut);
    int64_t row = total * member / team;
    const int64_t last = total * (member + 1) / team;
    while (row < last) {
      const int64_t strip = row / height, first = row % height;
      const int64_t count = last - row < height - first ? last - row : height - first;
      const int64_t left = strip % cut.tiles * cut.tile;
      const int64_t right = left + cut.tile < width ? left + cut.tile : width;
      Walk<T>{p, cut, packed, scratch, strip / cut.tiles, left, right}.rows(first, first + count);
      row += count;
    }
  }
  std::free(memory);
  return true;
}

}  // namespace

int64_t conv_ffn_packed_bytes(const ConvFfnWeights& weights) {
  const int64_t hidden = weights.fc1_weight.size[0], in = weights.fc1_weight.size[1];
  Arena measure{nullptr};
  if (weights.dtype == DType::kBFloat16) {
    Packed<Product<BFloat16>::Element>(measure, in, hidden, weights.fc2_weight.size[0]);
  } else {
    Packed<float>(measure, in, hidden, weights.fc2_weight.size[0]);
  }
  return measure.used;
}

void conv_ffn_pack_cpu(const ConvFfnWeights& weights, void* packed) {
  weights.dtype == DType::kBFloat16 ? pack<BFloat16>(weights, packed) : pack<float>(weights, packed);
}

bool conv_ffn_cpu(const ConvFfnParams& params, int threads) {
  return params.dtype == DType::kBFloat16 ? run<BFloat16>(params, threads) : run<float>(params, threads);
}

}  // namespace SEGNEXT_ISA
}  // namespace segnext
