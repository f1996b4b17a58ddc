// resize_sum on the CPU: one row of the output at a time. The weights are PyTorch's to the bit (cpu/resize.h).
// Bytes: base and out once; the sources come from the caches.

#include "cpu/convert.h"
#include "cpu/memory.h"
#include "cpu/resize.h"
#include "ops/resize_sum/resize_sum.h"

namespace segnext {
namespace SEGNEXT_ISA {
namespace {

struct SumAxes {
  Axis rows[kMaxResized], columns[kMaxResized];

  SumAxes(Arena& arena, const ResizeSumParams& p) {
    for (int i = 0; i < p.count; ++i) {
      rows[i] = Axis(arena, p.out.size[2]);
      columns[i] = Axis(arena, p.out.size[3]);
      if (arena.base == nullptr) continue;
      const auto ratio = [](int64_t in, int64_t out) { return static_cast<float>(in) / static_cast<float>(out); };
      fill_axis(rows[i], p.other[i].size[2], p.out.size[2], ratio(p.other[i].size[2], p.out.size[2]));
      fill_axis(columns[i], p.other[i].size[3], p.out.size[3], ratio(p.other[i].size[3], p.out.size[3]));
    }
  }
};

// A pixel's four sources in one of the resized tensors, and their weights.
template <typename T>
struct Corners {
  const T *top_left, *top_right, *bottom_left, *bottom_right;
  float top, bottom, left, right;
};

template <typename T>
void add_row(const ResizeSumParams& p, const SumAxes& s, int64_t image, int64_t y) {
  const T* source_rows[kMaxResized][2];
  for (int i = 0; i < p.count; ++i) {
    const Tensor4& t = p.other[i];
    const int64_t source = s.rows[i].source[y];
    source_rows[i][0] = static_cast<const T*>(t.data) + image * t.stride[0] + source * t.stride[2];
    source_rows[i][1] = source_rows[i][0] + s.rows[i].reach(source) * t.stride[2];
  }
  const T* base = static_cast<const T*>(p.base.data) + image * p.base.stride[0] + y * p.base.stride[2];
  T* out = static_cast<T*>(p.out.data) + image * p.out.stride[0] + y * p.out.stride[2];
  const int64_t channels = p.out.size[1];
  const int count = p.count;
  for (int64_t x = 0; x < p.out.size[3]; ++x, base += p.base.stride[3], out += p.out.stride[3]) {
    Corners<T> corners[kMaxResized];
    for (int i = 0; i < count; ++i) {
      const Axis& columns = s.columns[i];
      const int64_t left = columns.source[x] * p.other[i].stride[3];
      const int64_t right = left + columns.reach(columns.source[x]) * p.other[i].stride[3];
      corners[i] = {source_rows[i][0] + left,
                    source_rows[i][0] + right,
                    source_rows[i][1] + left,
                    source_rows[i][1] + right,
                    s.rows[i].w0[y],
                    s.rows[i].w1[y],
                    columns.w0[x],
                    columns.w1[x]};
    }
    for (int64_t c = 0; c < channels; c += kLanes) {
      const int64_t lanes = channels - c;
      Vec sum = load_first(base + c, lanes);
      for (int i = 0; i < count; ++i) {
        const Corners<T>& k = corners[i];
        const auto blend = [&](const T* left, const T* right) {
          return k.left * load_first(left + c, lanes) + k.right * load_first(right + c, lanes);
        };
        sum += k.top * blend(k.top_left, k.top_right) + k.bottom * blend(k.bottom_left, k.bottom_right);
      }
      store_first(out + c, sum, lanes);
    }
  }
}

template <typename T>
bool run(const ResizeSumParams& p, [[maybe_unused]] int threads) {
  const TeamMemory memory(bytes_of<SumAxes>(p), 0, 0);
  if (memory.is_exhausted()) return false;
  const auto axes = memory.shared<SumAxes>(p);
  const int64_t total = p.out.size[0] * p.out.size[2];
#pragma omp parallel num_threads(threads)
  {
    const Member me;
    for (int64_t row = me.begin(total); row < me.end(total); ++row) {
      add_row<T>(p, axes, row / p.out.size[2], row % p.out.size[2]);
    }
  }
  return true;
}

}  // namespace

bool resize_sum_cpu(const ResizeSumParams& p, int threads) {
  return p.dtype == DType::kBFloat16 ? run<BFloat16>(p, threads) : run<float>(p, threads);
}

}  // namespace SEGNEXT_ISA
}  // namespace segnext
