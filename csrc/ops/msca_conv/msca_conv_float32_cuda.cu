// msca_conv's forward in float32, for SegNeXt's sizes (a 5x5 root; strips of 7, 11 and 21) with channels innermost: the
// ring kernel of msca_conv_cuda.cu with all sizes known to the compiler, and with larger register tiles.
//
// A block has 16 columns by 8 channels. It moves down by eight rows in three phases, with everything in shared memory:
//   a     eight rows by 36 columns: a thread makes eight rows by three columns, with the root's taps in registers: 109
//         loads for 600 FMA;
//   h     for each pair, eight rows by 16 columns: a thread makes one row by eight columns; their 28 columns of a serve
//         all three strips: 67 loads for 312 FMA;
//   out   a thread makes eight rows of a column: 99 loads for 312 FMA.
// x arrives by cp.async in a ring of 20 rows, eight rows ahead of the computation. h, and the block's own columns of a,
// which the outputs add, stay in rings of 32 rows. Rows are 8 floats longer than their pixels, so the eight channels of
// four rows, or of four columns, lie in different banks. Outside the image a and h are zero.
//
// Two blocks of 108 KB fit an H200's multiprocessor.
// Bytes: x once, plus halo columns and rows that L2 serves, plus out once: 8 per element.
// Model for an H200 (132 x 1.7 GHz) of one step of a block, 1024 outputs, counted in the machine code: 7,200 warp
// instructions, of which 4,300 are FMA, take 1,800 cycles of issue; shared memory takes 1,350. That is 7.8 ps per
// element, and 9.6 at 32 x 32 x 128 x 128, where three steps of 19 make no output yet. The definition's FMA alone take
// 3.07 ps and memory 1.9. Most of the difference is the root's work on halo columns, which is 2.25 times its work on
// the block's own columns.
// Versions tried: the ring kernel, whose loops over taps and whose divisions stay in the code, takes about 24 ps.

#include "ops/msca_conv/toeplitz.cuh"

namespace segnext {
namespace {

using toeplitz::half_of, toeplitz::has_segnext_sizes, toeplitz::kPairCount, toeplitz::kRoot, toeplitz::taps_before,
    toeplitz::taps_of;

constexpr int kThreads = 128, kSlice = 8, kColumns = 16, kRows = 8;
constexpr int kReach = half_of(kPairCount - 1);
constexpr int kAColumns = kColumns + 2 * kReach, kXColumns = kAColumns + kRoot - 1;
constexpr int kRootColumns = 3, kRowColumns = 8;  // columns per thread
constexpr int kRing = 32;
constexpr int kXQuads = (kRows + kRoot - 1 + kRows) / kQuad;
constexpr int kXPitch = kXColumns * kSlice, kAPitch = kAColumns * kSlice + 8, kPitch = kColumns * kSlice + 8;
constexpr int kRingFloats = kRing * kPitch;
// A step makes rows of a and h that begin `kReach` below its first output row. The first outputs need rows from
// `kReach` above them on.
constexpr int kWarmUp = (2 * kReach + kRows - 1) / kRows;
static_assert(kAColumns % kRootColumns == 0 && kRing >= 2 * kReach + kRows, "tiles are whole, rings hold what is read");

__host__ __device__ constexpr int row_at(int pair) { return kRoot * kRoot + 1 + 2 * taps_before(pair) + 2 * pair; }
__host__ __device__ constexpr int column_at(int pair) { return row_at(pair) + taps_of(pair) + 1; }
constexpr int kVectors = row_at(kPairCount - 1) + 2 * taps_of(kPairCount - 1) + 2;
constexpr size_t kSharedBytes =
    sizeof(float) * (kXQuads * kQuad * kXPitch + kRows * kAPitch + (1 + kPairCount) * kRingFloats + kVectors * kSlice);

// Shared memory.
struct Rings {
  float *x, *a, *own, *h, *weights;  // own: the block's own columns of a; h: the rings of all pairs

  __device__ Rings() {
    x = reinterpret_cast<float*>(shared_memory());
    a = x + kXQuads * kQuad * kXPitch;
    own = a + kRows * kAPitch;
    h = own + kRingFloats;
    weights = h + kPairCount * kRingFloats;
  }
};

__device__ inline int wrapped(int slot) { return (slot & (kRing - 1)) * kPitch; }

// Offsets of rows -16 to 23, counted from a slot that is a multiple of 8. Five addresses are enough, because only every
// eighth row may wrap.
struct Eights {
  int at[5];

  __device__ explicit Eights(int slot) {
#pragma unroll
    for (int i = 0; i < 5; ++i) at[i] = wrapped(slot + 8 * (i - 2));
  }
  __device__ int row(int r) const { return at[(r + 16) / 8] + (r + 16) % 8 * kPitch; }
};

// Makes rows of a in `a` and `own`. `quad` is the first quad of x.
__device__ inline void make_a(const Rings& m, const Eights& ring, int quad, int first_column, int width) {
  const int channel = threadIdx.x % kSlice, run = threadIdx.x / kSlice;
  if (run >= kAColumns / kRootColumns) return;
  const float* w = m.weights + channel;
  float taps[kRoot][kRoot], sum[kRootColumns][kRows];
#pragma unroll
  for (int i = 0; i < kRoot * kRoot; ++i) taps[i / kRoot][i % kRoot] = load_shared(w + i * kSlice);
  const float bias = load_shared(w + kRoot * kRoot * kSlice);
#pragma unroll
  for (int i = 0; i < kRootColumns * kRows; ++i) sum[i / kRows][i % kRows] = bias;
  constexpr int kQuads = (kRows + kRoot - 1) / kQuad;
  const float* quads[kQuads];
#pragma unroll
  for (int i = 0; i < kQuads; ++i) {
    const int at = quad + i < kXQuads ? quad + i : quad + i - kXQuads;
    quads[i] = m.x + at * kQuad * kXPitch + run * kRootColumns * kSlice + channel;
  }
#pragma unroll
  for (int j = 0; j < kRootColumns + kRoot - 1; ++j) {
    float pixel[kRows + kRoot - 1];
#pragma unroll
    for (int r = 0; r < kRows + kRoot - 1; ++r) {
      pixel[r] = load_shared(quads[r / kQuad] + r % kQuad * kXPitch + j * kSlice);
    }
#pragma unroll
    for (int o = 0; o < kRootColumns; ++o) {
      if (j < o || j - o >= kRoot) continue;
#pragma unroll
      for (int i = 0; i < kRoot; ++i) {
#pragma unroll
        for (int r = 0; r < kRows; ++r) sum[o][r] = fmaf(taps[i][j - o], pixel[r + i], sum[o][r]);
      }
    }
  }
#pragma unroll
  for (int o = 0; o < kRootColumns; ++o) {
    const int column = run * kRootColumns + o;
    const bool inside = static_cast<unsigned>(first_column + column) < static_cast<unsigned>(width);
    const bool is_own = column >= kReach && column < kReach + kColumns;
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const float value = inside ? sum[o][r] : 0.0f;
      store_shared(m.a + r * kAPitch + column * kSlice + channel, value);
      if (is_own) store_shared(m.own + ring.row(kReach + r) + (column - kReach) * kSlice + channel, value);
    }
  }
}

template <int kPair>
__device__ inline void make_h(const Rings& m, const float (&a)[kRowColumns + 2 * kReach], int at, bool inside) {
  const float* w = m.weights + row_at(kPair) * kSlice + threadIdx.x % kSlice;
  const float bias = load_shared(w + taps_of(kPair) * kSlice);
  float sum[kRowColumns];
#pragma unroll
  for (int c = 0; c < kRowColumns; ++c) sum[c] = bias;
#pragma unroll
  for (int tap = 0; tap < taps_of(kPair); ++tap) {
    const float weight = load_shared(w + tap * kSlice);
#pragma unroll
    for (int c = 0; c < kRowColumns; ++c) {
      sum[c] = fmaf(weight, a[c + tap + kReach - half_of(kPair)], sum[c]);
    }
  }
#pragma unroll
  for (int c = 0; c < kRowColumns; ++c) {
    store_shared(m.h + kPair * kRingFloats + at + c * kSlice, inside ? sum[c] : 0.0f);
  }
}

// Makes rows of h, from slot `slot` and image row `row` on.
__device__ inline void make_rows(const Rings& m, int slot, int row, int height) {
  const int channel = threadIdx.x % kSlice, r = threadIdx.x / kSlice % kRows;
  const int column = threadIdx.x / (kSlice * kRows) * kRowColumns;
  float a[kRowColumns + 2 * kReach];
#pragma unroll
  for (int i = 0; i < kRowColumns + 2 * kReach; ++i) {
    a[i] = load_shared(m.a + r * kAPitch + (column + i) * kSlice + channel);
  }
  const bool inside = static_cast<unsigned>(row + r) < static_cast<unsigned>(height);
  const int at = wrapped(slot + r) + column * kSlice + channel;
  make_h<0>(m, a, at, inside);
  make_h<1>(m, a, at, inside);
  make_h<2>(m, a, at, inside);
}

template <int kPair>
__device__ inline void add_column_strip(float (&sum)[kRows], const Rings& m, const Eights& ring) {
  const int lane = threadIdx.x;
  const float* w = m.weights + column_at(kPair) * kSlice + lane % kSlice;
  float weights[taps_of(kPair)];
#pragma unroll
  for (int tap = 0; tap < taps_of(kPair); ++tap) weights[tap] = load_shared(w + tap * kSlice);
  const float bias = load_shared(w + taps_of(kPair) * kSlice);
#pragma unroll
  for (int r = 0; r < kRows; ++r) sum[r] += bias;
#pragma unroll
  for (int j = 0; j < taps_of(kPair) + kRows - 1; ++j) {
    const float value = load_shared(m.h + kPair * kRingFloats + ring.row(j - half_of(kPair)) + lane);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (j >= r && j - r < taps_of(kPair)) sum[r] = fmaf(weights[j - r], value, sum[r]);
    }
  }
}

// Copies kCount rows of x, from image row `row` on, to quads of the ring from `quad` on. `column` is the image column
// of the ring's first column.
template <int kCount>
__device__ inline void load_x(const Rings& m, const ImageSlice<float>& x, int row, int column, int quad) {
  constexpr int kVec = Vec16<float>::kSize, kPacks = kSlice / kVec, kRowVectors = kXColumns * kPacks;
  const int height = static_cast<int>(x.height), width = static_cast<int>(x.width);
#pragma unroll
  for (int first = 0; first < kCount * kRowVectors; first += kThreads) {
    const int i = first + static_cast<int>(threadIdx.x);
    if (i >= kCount * kRowVectors) break;
    const int r = i / kRowVectors, pixel = i % kRowVectors / kPacks, channel = i % kPacks * kVec;
    const bool valid = static_cast<unsigned>(row + r) < static_cast<unsigned>(height) &&
                       static_cast<unsigned>(column + pixel) < static_cast<unsigned>(width) && channel < x.channels;
    const float* source = x.data + (row + r) * x.stride_h + (column + pixel) * x.stride_w + channel;
    const int to = quad * kQuad + r;
    cp_async16(m.x + (to < kXQuads * kQuad ? to : to - kXQuads * kQuad) * kXPitch + pixel * kSlice + channel, source,
               valid);
  }
  cp_async_commit();
}

__device__ inline void load_weights(float* weights, const MscaConvWeights& w, const TilePlace& at, const RowTiling& t) {
  load_taps<float>(weights, w.root_weight, w.root_bias, kRoot * kRoot, kRoot, w.root_weight.stride[2],
                   w.root_weight.stride[3], at, t);
#pragma unroll
  for (int pair = 0; pair < kPairCount; ++pair) {
    const Tensor4 &row = w.row_weight[pair], &column = w.column_weight[pair];
    load_taps<float>(weights + row_at(pair) * kSlice, row, w.row_bias[pair], taps_of(pair), taps_of(pair), 0,
                     row.stride[3], at, t);
    load_taps<float>(weights + column_at(pair) * kSlice, column, w.column_bias[pair], taps_of(pair), 1,
                     column.stride[2], 0, at, t);
  }
}

__global__ void __launch_bounds__(kThreads, 2) msca_conv_float32_kernel(MscaConvParams p, RowTiling t) {
  const TilePlace at = tile_place(t);
  const ImageSlice<float> x(p.x, at, kSlice), out(p.out, at, kSlice);
  const Rings m;
  const int rows = static_cast<int>(at.bottom - at.top), top = static_cast<int>(at.top);
  const int left = static_cast<int>(at.left), height = static_cast<int>(t.height), width = static_cast<int>(t.width);

  constexpr int kFirst = -kWarmUp * kRows;
  const int x_row = top + kReach - kRoot / 2, x_column = left - kReach - kRoot / 2;
  load_x<kRows + kRoot - 1>(m, x, x_row + kFirst, x_column, 0);
  load_weights(m.weights, p.weights, at, t);
  int quad = 0;  // of x's ring: the first quad that a step needs
  for (int row = kFirst; row < rows; row += kRows) {
    const int slot = row - kFirst;  // slot of the first output row; slots of the rings are counted from kFirst
    const Eights ring(slot);
    cp_async_wait<0>();
    __syncthreads();
    load_x<kRows>(m, x, x_row + row + kRows + kRoot - 1, x_column, quad + (kRows + kRoot - 1) / kQuad);
    make_a(m, ring, quad, left - kReach, width);
    __syncthreads();
    make_rows(m, slot + kReach, top + row + kReach, height);
    __syncthreads();
    quad = quad + kRows / kQuad < kXQuads ? quad + kRows / kQuad : quad + kRows / kQuad - kXQuads;
    if (row < 0) continue;
    float sum[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) sum[r] = load_shared(m.own + ring.row(r) + threadIdx.x);
    add_column_strip<0>(sum, m, ring);
    add_column_strip<1>(sum, m, ring);
    add_column_strip<2>(sum, m, ring);
    const int channel = threadIdx.x % kSlice, column = threadIdx.x / kSlice;
    if (channel >= out.channels || left + column >= width) continue;
    float* target = out.data + (at.top + row) * out.stride_h + (left + column) * out.stride_w + channel;
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (row + r < rows) store_global(target + r * out.stride_h, sum[r]);
    }
  }
}

}  // namespace

bool takes_float32(const MscaConvParams& p) {
  const StripSizes s = strip_sizes(p.weights);
  return p.dtype == DType::kFloat32 && has_segnext_sizes(s) && has_vectors<float>(p.x) && p.out.stride[1] == 1 &&
         kSharedBytes <= shared_limit();
}

int launch_msca_conv_float32(const MscaConvParams& p, void* stream) {
  RowTiling t{};
  t.vectors = true;
  t.slice = kSlice;
  t.columns = kColumns;
  const int resident = resident_blocks(msca_conv_float32_kernel, kThreads, kSharedBytes);
  fill_device(t, p.x, 256, kRows, resident, [](int rows) { return rows / kRows + kWarmUp; });
  if (t.blocks() == 0) return 0;
  if (t.blocks() > INT32_MAX) return static_cast<int>(cudaErrorInvalidConfiguration);
  return launch(msca_conv_float32_kernel, dim3(static_cast<unsigned>(t.blocks())), dim3(kThreads), kSharedBytes, stream,
                p, t);
}

}  // namespace segnext
