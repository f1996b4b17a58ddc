// upsample_cross_entropy on a GPU, forward: the resized logits are never stored.
//
// With z the interpolated logits of a pixel, t its label, w the class weights, s the label smoothing:
// clang-format off
//   loss = (1 - s) w_t (lse(z) - z_t) + s / K sum_k w_k (lse(z) - z_k)
// clang-format on
// A block has a strip of 16 cells of one row of cells, and a thread a column of 8 output pixels (strips.cuh):
//   peaks   the largest class of each corner, and sum_k w_k z_k, which may be interpolated because it is linear
//   sums    32 classes at a time in shared memory; a pixel and class costs an FMA, an exponential, an addition
//   losses  of the 8 pixels, with z_t from the logits themselves; then of the block; then one block adds all, in double
// An out-of-range label gives NaN in the loss and in the gradient. This error needs neither host synchronisation nor a
// trap, and a training loop sees it when it next reads the loss. The CPU raises IndexError.
//
// Bytes: each row of logits twice, the second time from L2, and the target once: 54 MB at the shape below, 0.01 ms.
// Model for an H200 (sm_90 machine code counted by hand), (16, 150, 64, 64) bf16 to 512 x 512, instructions per class
// and pixel: sums 3.75, strips to shared memory 1.0, peaks 0.8, losses and the rest 1.4: 7.0, or 0.15 ms by issue. The
// 6.3e8 exponentials, 16 per clock and multiprocessor, take 0.18 ms and are the bound.
// Versions: one thread per pixel that loads and converts four corners per class: 45 instructions per class and pixel,
// 1.0 ms.

#include "ops/upsample_cross_entropy/strips.cuh"

namespace segnext {
namespace {

constexpr int kClasses = 32;  // classes of a strip in shared memory at a time: 8.4 KB
static_assert(Quads<kClasses>::kBytes >= 8 * kThreads * sizeof(float), "a thread's sums take the classes' place");
constexpr size_t kSharedBytes = Peaks::kBytes + Quads<kClasses>::kBytes;

template <typename T, typename Column>
__device__ inline float pixel_loss(const Task& t, const Strip& strip, const Peaks& peaks, const Column& column, int row,
                                   int label, float all_weights, float sum) {
  const Sample y = sample_axis(column.y + row, t.scale_h, t.height), x = sample_axis(column.x, t.scale_w, t.width);
  const GlobalCell<T> cell = t.cell<T>(strip.n, y, x);
  PixelSoftmax softmax;
  if (sum >= kSmallestSum) {
    softmax.lse = column.interpolate(peaks.largest, y) + kLn2 * log2f(sum);
    softmax.at_label = cell.interpolate(label, y, x);
    softmax.weighted = t.spread > 0.0f ? column.interpolate(peaks.weighted, y) : 0.0f;
  } else {
    softmax = pixel_softmax(t, cell, y, x, label);
  }
  const float loss = t.hit * t.weight(label) * (softmax.lse - softmax.at_label);
  return t.spread > 0.0f ? loss + t.spread * (all_weights * softmax.lse - softmax.weighted) : loss;
}

// Writes a strip's sums of loss and weight to `parts`.
template <typename T, int kRows>
__global__ void __launch_bounds__(kThreads) upsample_cross_entropy_loss_kernel(Task t, int strips, float2* parts) {
  const Strip strip(t, strips, static_cast<int>(blockIdx.x));
  const Peaks peaks(shared_memory());
  const Quads<kClasses> quads{reinterpret_cast<float4*>(shared_memory() + Peaks::kBytes)};
  const float all_weights = weight_sum(t);
  float totals[2] = {0.0f, 0.0f};
  find_peaks<T>(t, strip, peaks);
  for (int row = 0; row < strip.rows; row += kRows) {
    for (int first = 0; first < strip.columns; first += kThreads) {
      const Column<kRows> column(t, strip, first + static_cast<int>(threadIdx.x), row);
      float sums[kRows];
      sum_classes<T>(t, strip, peaks, quads, column, sums);
      float* own = reinterpret_cast<float*>(quads.first) + threadIdx.x;  // the last classes are no longer needed
#pragma unroll
      for (int r = 0; r < kRows; ++r) store_shared(own + r * kThreads, sums[r]);
#pragma unroll 1
      for (int r = 0; r < column.count; ++r) {
        const int label = t.label(strip.n, column.y + r, column.x);
        totals[1] += t.weight_of_label(label);
        if (label == Task::kOutOfRange) totals[0] = NAN;
        if (label < 0) continue;
        totals[0] += pixel_loss<T>(t, strip, peaks, column, r, label, all_weights, load_shared(own + r * kThreads));
      }
    }
  }
  __syncthreads();  // the sums overwrite the peaks
  block_sum(totals, reinterpret_cast<float*>(shared_memory()));
  if (threadIdx.x == 0) store_global(parts + blockIdx.x, make_float2(totals[0], totals[1]));
}

int64_t blocks_of(const Task& t) { return int64_t{t.batch} * t.height * strips_of(t); }

}  // namespace

int64_t upsample_cross_entropy_forward_workspace(const UpsampleCrossEntropyParams& params) {
  return blocks_of(Task(params)) * static_cast<int64_t>(sizeof(float2));
}

int launch_upsample_cross_entropy_forward(const UpsampleCrossEntropyParams& params, float* loss, void* workspace,
                                          void* stream) {
  const Task t(params);
  const int64_t blocks = blocks_of(t);
  if (blocks > INT32_MAX) return static_cast<int>(cudaErrorInvalidConfiguration);
  float2* parts = static_cast<float2*>(workspace);
  if (blocks > 0) {
    const int status = with_element_type(params.dtype, [&](auto element) {
      using T = decltype(element);
      const auto kernel = tall(t) ? upsample_cross_entropy_loss_kernel<T, 8> : upsample_cross_entropy_loss_kernel<T, 4>;
      return launch(kernel, static_cast<unsigned>(blocks), kThreads, kSharedBytes, stream, t, strips_of(t), parts);
    });
    if (status != 0) return status;
  }
  return launch_sum(t, parts, blocks, params.mean_all, nullptr, loss, stream);
}

}  // namespace segnext
