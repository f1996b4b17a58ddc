// gated_pointwise on the CPU: out = (W m + b) * u. The product's epilogue multiplies by the gate.
//
// Pixels are rows of channels (cpu/rows.h); the product of rows and packed weights is that of cpu/gemm.h, in BFloat16
// if the instruction set multiplies it. In one parallel region the threads first pack W, each some panels of 64
// columns, then divide all images' pixels equally and process them in tiles. The backward keeps t = g * u of a tile
// twice, as rows and transposed:
//
// clang-format off
//   grad_u       = g * (W m + b)   recomputed: pixels x Co, sums over Ci, packed W
//   grad_m       = t W             pixels x Ci, sums over Co, W packed the other way
//   grad_weight += tᵀ m            Co x Ci, sums over the tile's pixels, which are packed as weights
//   grad_bias   += sum of t
// clang-format on
//
// Sums over pixels are kept per chunk of one or more tiles. Chunks depend on the shape alone and are added in order, so
// results do not depend on the number of threads.
//
// Without u it is the op pointwise, a plain 1x1 convolution. The products of conv_ffn's backward are these too, since a
// library's products add in an order that depends on the number of threads. Then t is grad itself, and grad_u is not
// computed.
//
// FLOPs per pixel: 2 Ci Co forward, 6 Ci Co backward. Bytes: m, u and out once; m, u, g, grad_m and grad_u once. At 220
// GFLOP/s, 64 channels at 128x128 take 0.61 ms forward; the caches deliver their 12 MiB in 0.2 ms. Arithmetic is the
// limit there and for all wider shapes. Predicted: 90 % of the peak. Measured, in percent of a core's 110 GFLOP/s for
// 32 to 512 channels: 83 to 96 forward; 61 (32 channels, limited by memory) to 93 backward. Over forward and backward,
// eager PyTorch computes three products, because it keeps W m + b; recomputing W m + b makes four.

#include "cpu/convert.h"
#include "cpu/gemm.h"
#include "cpu/memory.h"
#include "cpu/pack.h"
#include "cpu/rows.h"
#include "ops/gated_pointwise/gated_pointwise.h"

namespace segnext {
namespace SEGNEXT_ISA {
namespace {

// The pixels of a tile. 48 or more use a panel of weights well. 128 x 512 floats of t and of its transpose leave half
// of a second-level cache of 1 MiB to the weights.
constexpr int64_t kTile = 128;
constexpr int64_t kMaxChunks = 32;
constexpr int64_t kMaxPartial = int64_t{1} << 22;  // Reals of all chunks' weight gradients, unless two exceed it

struct GateSizes {
  int64_t pixels, total, ci, co, ci_padded, co_padded;
  int64_t chunk, chunks;  // the backward's pixels per chunk, and chunks

  explicit GateSizes(const GatedPointwiseParams& p)
      : pixels(p.m.size[2] * p.m.size[3]),
        total(p.m.size[0] * pixels),
        ci(p.m.size[1]),
        co(p.weight.size[0]),
        ci_padded(padded(ci)),
        co_padded(padded(co)) {
    const int64_t fitting = kMaxPartial / (co * ci_padded + 1);
    const int64_t most = larger(smaller(fitting, kMaxChunks), 2);
    chunk = kTile * blocks_of(total, kTile * most);
    chunks = chunk > 0 ? blocks_of(total, chunk) : 0;
  }
};

// W as the weights of t W.
template <typename T>
Matrix<T> backward_weights(const Tensor4& w) {
  return {static_cast<const T*>(w.data), w.size[1], w.size[0], w.stride[1], w.stride[0]};
}

template <typename E, typename T>
void pack_panels(const Matrix<T>& w, E* packed, const Member& me) {
  for (int64_t panel = me.index; panel < w.panels(); panel += me.team) pack_panel(w, panel, packed);
}

// A tile of m as rows that a product can read: BFloat16 in pairs.
template <typename T, typename Pixel>
Rows<const Pixel> product_rows(const Tensor4& m, const Pixels& t, Pixel* scratch) {
  return read_rows<Pixel, T>(m, t, k_step<Pixel>(), scratch);
}

// Memory that a forward's threads share.
template <typename E>
struct GateShared {
  E* weights;
  Real* bias;

  GateShared(Arena& arena, const GateSizes& s)
      : weights(arena.take<E>(packed_size<E>(s.co, s.ci))), bias(arena.take<Real>(s.co_padded)) {}
};

// A thread's memory for a tile.
template <typename T, typename E>
struct GateOwn {
  PixelElement<E>* m;
  T *u, *out;

  GateOwn(Arena& arena, const GateSizes& s)
      : m(arena.take<PixelElement<E>>(kTile * s.ci_padded)),
        u(arena.take<T>(kTile * s.co_padded)),
        out(arena.take<T>(kTile * s.co_padded)) {}
};

template <typename T>
bool forward(const GatedPointwiseParams& p, int threads) {
  using E = ProductElement<T>;
  const GateSizes s(p);
  const TeamMemory memory(bytes_of<GateShared<E>>(s), bytes_of<GateOwn<T, E>>(s), threads);
  if (memory.is_exhausted()) return false;
  const auto shared = memory.shared<GateShared<E>>(s);
  load_parameter<T>(p.bias, s.co, shared.bias);
#pragma omp parallel num_threads(threads)
  {
    const Member me;
    const auto own = memory.own<GateOwn<T, E>>(me, s);
    pack_panels(pointwise<T>(p.weight), shared.weights, me);
#pragma omp barrier
    for_each_tile(s.pixels, me.begin(s.total), me.end(s.total), kTile, [&](const Pixels& t) {
      const Rows<const PixelElement<E>> m = product_rows<T>(p.m, t, own.m);
      const Rows<T> out = rows_to_write(p.out, t, own.out);
      const PackedWeights<E> weights{shared.weights, s.co, s.ci, 1};
      if (p.u.data == nullptr) {
        gemm(m, t.count, weights, [&](int64_t row, int64_t column, Vec sum) {
          store_vector(out.data + row * out.stride + column, sum + load(shared.bias + column));
        });
      } else {
        const Rows<const T> u = read_rows<T, T>(p.u, t, kLanes, own.u);
        gemm(m, t.count, weights, [&](int64_t row, int64_t column, Vec sum) {
          const Vec gate = sum + load(shared.bias + column);
          store_vector(out.data + row * out.stride + column, gate * load_vector(u.data + row * u.stride + column));
        });
      }
      finish_rows(out, p.out, t, own.out);
    });
  }
  return true;
}

// Memory that a backward's threads share, with the chunks' sums.
template <typename E>
struct GateBackwardShared {
  E *forward_weights, *backward_weights;
  Real* bias;
  Real* grad_weight;  // (chunks, co, ci_padded)
  Real* grad_bias;    // (chunks, co_padded)

  GateBackwardShared(Arena& arena, const GateSizes& s)
      : forward_weights(arena.take<E>(packed_size<E>(s.co, s.ci))),
        backward_weights(arena.take<E>(packed_size<E>(s.ci, s.co))),
        bias(arena.take<Real>(s.co_padded)),
        grad_weight(arena.take<Real>(s.chunks * s.co * s.ci_padded)),
        grad_bias(arena.take<Real>(s.chunks * s.co_padded)) {}
};

// A thread's memory for a tile.
template <typename T, typename E>
struct GateBackwardOwn {
  using Pixel = PixelElement<E>;

  Pixel *m, *t, *transposed;  // t: (kTile, co_padded) and (co_padded, kTile)
  E* packed;                  // m as weights: (ci, kTile)
  T *u, *grad, *grad_m, *grad_u;
  Real* bias_sum;  // (co_padded) the tile's sum of t

  GateBackwardOwn(Arena& arena, const GateSizes& s)
      : m(arena.take<Pixel>(kTile * s.ci_padded)),
        t(arena.take<Pixel>(kTile * s.co_padded)),
        transposed(arena.take<Pixel>(kTile * s.co_padded)),
        packed(arena.take<E>(packed_size<E>(s.ci, kTile))),
        u(arena.take<T>(kTile * s.co_padded)),
        grad(arena.take<T>(kTile * s.co_padded)),
        grad_m(arena.take<T>(kTile * s.ci_padded)),
        grad_u(arena.take<T>(kTile * s.co_padded)),
        bias_sum(arena.take<Real>(s.co_padded)) {}
};

// Computes t = grad * u of a tile, or t = grad without u, as rows and transposed (zeros behind the last pixel), and
// adds its sum over the pixels to `sum`: kLanes pixels at a time, then the tile's, since one long chain of additions
// has several times their rounding errors.
template <typename T, typename E>
void gate_gradient(const GateSizes& s, const Rows<const T>& grad, const Rows<const T>& u, int64_t count,
                   const GateBackwardOwn<T, E>& own, Real* sum) {
  std::memset(own.bias_sum, 0, s.co_padded * sizeof(Real));
  for (int64_t i = 0; i < count; i += kLanes) {  // kLanes whole rows at a time, for the prefetcher
    for (int64_t c = 0; c < s.co_padded; c += kLanes) {
      Vec square[kLanes], total = {};
#pragma GCC unroll 16
      for (int lane = 0; lane < kLanes; ++lane) {
        const bool inside = i + lane < count;
        const int64_t pixel = inside ? i + lane : i;
        Vec product = load_vector(grad.data + pixel * grad.stride + c);
        if (u.data != nullptr) product *= load_vector(u.data + pixel * u.stride + c);
        // a mask, because of the GCC error that load_first describes
        square[lane] = (Vec)((IntV)product & broadcast(Int{inside ? -1 : 0}));
        store_vector(own.t + (i + lane) * s.co_padded + c, square[lane]);
        total += square[lane];
      }
      store(own.bias_sum + c, load(own.bias_sum + c) + total);
      transpose(square);
#pragma GCC unroll 16
      for (int lane = 0; lane < kLanes; ++lane) store_vector(own.transposed + (c + lane) * kTile + i, square[lane]);
    }
  }
  for (int64_t c = 0; c < s.co_padded; c += kLanes) store(sum + c, load(sum + c) + load(own.bias_sum + c));
}

template <typename T, typename E>
void backward_tile(const GatedPointwiseBackwardParams& p, const GateSizes& s, const Pixels& t,
                   const GateBackwardShared<E>& shared, const GateBackwardOwn<T, E>& own, Real* weight_sum,
                   Real* bias_sum) {
  using Pixel = PixelElement<E>;
  const GatedPointwiseParams& f = p.forward;
  const Rows<const PixelElement<E>> m = product_rows<T>(f.m, t, own.m);
  const bool gated = f.u.data != nullptr;
  const Rows<const T> u = gated ? read_rows<T, T>(f.u, t, kLanes, own.u) : Rows<const T>{nullptr, 0};
  const Rows<const T> grad = read_rows<T, T>(p.grad, t, kLanes, own.grad);
  gate_gradient(s, grad, u, t.count, own, bias_sum);

  if (gated) {
    const PackedWeights<E> weights{shared.forward_weights, s.co, s.ci, 1};
    const Rows<T> grad_u = rows_to_write(p.grad_u, t, own.grad_u);
    gemm(m, t.count, weights, [&](int64_t row, int64_t column, Vec sum) {
      const Vec gate = sum + load(shared.bias + column);
      store_vector(grad_u.data + row * grad_u.stride + column,
                   gate * load_vector(grad.data + row * grad.stride + column));
    });
    finish_rows(grad_u, p.grad_u, t, own.grad_u);
  }

  const Rows<T> grad_m = rows_to_write(p.grad_m, t, own.grad_m);
  gemm(Rows<const Pixel>{own.t, s.co_padded}, t.count, PackedWeights<E>{shared.backward_weights, s.ci, s.co, 1},
       [&](int64_t row, int64_t column, Vec sum) { store_vector(grad_m.data + row * grad_m.stride + column, sum); });
  finish_rows(grad_m, p.grad_m, t, own.grad_m);

  const Matrix<Pixel> columns{m.data, s.ci, t.count, 1, m.stride};
  for (int64_t panel = 0; panel < columns.panels(); ++panel) pack_panel(columns, panel, own.packed);
  gemm(Rows<const Pixel>{own.transposed, kTile}, s.co, PackedWeights<E>{own.packed, s.ci, t.count, 1},
       [&](int64_t row, int64_t column, Vec sum) {
         Real* target = weight_sum + row * s.ci_padded + column;
         store(target, load(target) + sum);
       });
}

// Adds the chunks' sums of output channels [begin, end), in the order of the chunks.
template <typename T, typename E>
void reduce_chunks(const GatedPointwiseBackwardParams& p, const GateSizes& s, const GateBackwardShared<E>& shared,
                   int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    T* out = static_cast<T*>(p.grad_weight.data) + row * s.ci;
    for (int64_t c = 0; c < s.ci; c += kLanes) {
      Vec sum = {};
      for (int64_t i = 0; i < s.chunks; ++i) sum += load(shared.grad_weight + (i * s.co + row) * s.ci_padded + c);
      store_first(out + c, sum, s.ci - c);
    }
    if (p.grad_bias.data == nullptr) continue;
    double sum = 0.0;
    for (int64_t i = 0; i < s.chunks; ++i) sum += shared.grad_bias[i * s.co_padded + row];
    static_cast<T*>(p.grad_bias.data)[row] = from_real<T>(static_cast<Real>(sum));
  }
}

template <typename T>
bool backward(const GatedPointwiseBackwardParams& p, int threads) {
  using E = ProductElement<T>;
  const GatedPointwiseParams& f = p.forward;
  const GateSizes s(f);
  const TeamMemory memory(bytes_of<GateBackwardShared<E>>(s), bytes_of<GateBackwardOwn<T, E>>(s), threads);
  if (memory.is_exhausted()) return false;
  const auto shared = memory.shared<GateBackwardShared<E>>(s);
  load_parameter<T>(f.bias, s.co, shared.bias);
#pragma omp parallel num_threads(threads)
  {
    const Member me;
    const auto own = memory.own<GateBackwardOwn<T, E>>(me, s);
    if (f.u.data != nullptr) pack_panels(pointwise<T>(f.weight), shared.forward_weights, me);
    pack_panels(backward_weights<T>(f.weight), shared.backward_weights, me);
#pragma omp barrier
    for (int64_t i = me.begin(s.chunks); i < me.end(s.chunks); ++i) {
      Real* weight_sum = shared.grad_weight + i * s.co * s.ci_padded;
      Real* bias_sum = shared.grad_bias + i * s.co_padded;
      std::memset(weight_sum, 0, s.co * s.ci_padded * sizeof(Real));
      std::memset(bias_sum, 0, s.co_padded * sizeof(Real));
      const int64_t begin = i * s.chunk, end = smaller(begin + s.chunk, s.total);
      for_each_tile(s.pixels, begin, end, kTile,
                    [&](const Pixels& t) { backward_tile(p, s, t, shared, own, weight_sum, bias_sum); });
    }
#pragma omp barrier
    reduce_chunks<T>(p, s, shared, me.begin(s.co), me.end(s.co));
  }
  return true;
}

}  // namespace

bool gated_pointwise_forward_cpu(const GatedPointwiseParams& params, int threads) {
  return SEGNEXT_WITH_ELEMENT(params.dtype, forward, params, threads);
}

bool gated_pointwise_backward_cpu(const GatedPointwiseBackwardParams& params, int threads) {
  return SEGNEXT_WITH_ELEMENT(params.forward.dtype, backward, params, threads);
}

}  // namespace SEGNEXT_ISA
}  // namespace segnext
