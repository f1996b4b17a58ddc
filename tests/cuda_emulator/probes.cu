// Small kernels that show what the emulator does and detects; tests/kernels/cuda/test_emulator.py runs them.

#include "cuda/device.cuh"
#include "cuda/ptx.cuh"
#include "probes.h"

namespace segnext {
namespace {

__global__ void shuffles_kernel(const int* in, int* out) {
  const int lane = threadIdx.x, value = in[lane];
  out[lane] = __shfl_xor_sync(kFullWarp, value, 5);
  out[32 + lane] = __shfl_up_sync(kFullWarp, value, 3);
  out[64 + lane] = __shfl_down_sync(kFullWarp, value, 9);
  out[96 + lane] = __shfl_sync(kFullWarp, value, lane + 3, 8);
  out[128 + lane] = static_cast<int>(__ballot_sync(kFullWarp, value % 3 == 0));
  out[160 + lane] = __any_sync(kFullWarp, value < 0) + 2 * __all_sync(kFullWarp, value >= 0);
  // the two halves of a warp branch differently
  const unsigned half = lane < 16 ? 0xffffu : 0xffff0000u;
  if (lane < 16) {
    out[192 + lane] = __reduce_add_sync(half, value);
  } else {
    out[192 + lane] = __reduce_max_sync(half, value);
  }
}

// out = a b by one warp, with a (16, 16) and b (16, 8), row by row, copied to shared memory asynchronously.
template <typename T>
__global__ void product_kernel(const T* a, const T* b, float* out, bool wait) {
  T* shared_a = reinterpret_cast<T*>(shared_memory());
  T* shared_b = shared_a + 16 * 16;
  const int lane = threadIdx.x;
  cp_async16(shared_a + 8 * lane, a + 8 * lane, true);
  if (lane < 16) cp_async16(shared_b + 8 * lane, b + 8 * lane, true);
  cp_async_commit();
  if (wait) cp_async_wait<0>();
  __syncwarp();
  uint32_t fragment_a[4], fragment_b[2];
  ldmatrix_x4(fragment_a, shared_a + (lane % 16) * 16 + (lane / 16) * 8);
  ldmatrix_x2_trans(fragment_b, shared_b + (lane % 16) * 8);
  float d[4] = {};
  mma_m16n8k16<T>(d, fragment_a, fragment_b);
  const int row = lane / 4, column = 2 * (lane % 4);
  for (int i = 0; i < 4; ++i) out[(row + 8 * (i / 2)) * 8 + column + i % 2] = d[i];
}

__global__ void late_groups_kernel(const float* in, float* out) {
  float* shared = reinterpret_cast<float*>(shared_memory());
  for (int group = 0; group < 3; ++group) {
    cp_async16(shared + 4 * group, in + 4 * group, group != 1);
    cp_async_commit();
  }
  cp_async_wait<1>();  // the last group may still be in flight
  for (int i = 0; i < 12; ++i) out[i] = shared[i];
}

__global__ void cluster_kernel(float* out, int faults) {
  float* shared = reinterpret_cast<float*>(shared_memory());
  if (threadIdx.x == 0) shared[0] = static_cast<float>(1 + cluster_rank());
  if (faults != 1) cluster_sync();
  float sum = 0.0f;
  for (int rank = 0; rank < cluster_size(); ++rank) sum += *cluster_map(shared, rank);
  if (faults != 2) cluster_sync();
  out[blockIdx.x * blockDim.x + threadIdx.x] = sum;
}

__global__ void grid_kernel(float* values, float* out) {
  for (int round = 0; round < 3; ++round) {
    if (threadIdx.x == 0) values[blockIdx.x] = static_cast<float>(round * 100 + blockIdx.x);
    grid_sync();
    float sum = 0.0f;
    for (unsigned i = 0; i < gridDim.x; ++i) sum += values[i];
    if (threadIdx.x == 0) out[round * gridDim.x + blockIdx.x] = sum;
    grid_sync();
  }
}

// Each thread passes its value to its neighbour; at the seam that one is in the other warp.
__global__ void neighbours_kernel(const float* in, float* out, bool barrier) {
  float* shared = reinterpret_cast<float*>(shared_memory());
  shared[threadIdx.x] = in[threadIdx.x];
  if (barrier) __syncthreads();
  out[threadIdx.x] = shared[(threadIdx.x + 1) % blockDim.x];
}

__global__ void faulty_kernel(float* out, int fault) {
  float* shared = reinterpret_cast<float*>(shared_memory());
  const int thread = threadIdx.x;
  if (fault == 0 && thread >= 40) return;
  if (fault == 0) __syncthreads();
  if (fault == 1) {
    if (thread < 32) {
      __syncthreads();
    } else {
      __syncthreads();
    }
  }
  if (fault == 2 && thread % 2 == 0) out[thread] = __shfl_xor_sync(kFullWarp, 1.0f, 1);
  if (fault == 3 && thread < 8) out[thread] = __shfl_sync(0xffu, 1.0f, 12);
  if (fault == 4) shared[thread + 33] = 1.0f;  // of 96 floats: the last one is past the end
  if (fault == 5) out[thread] = load_shared(reinterpret_cast<const float4*>(shared + 1)).x;
  if (fault == 6 && thread == 0) grid_sync();
  if (fault == 7) {
    if (thread == 0) {
      __syncwarp();
    } else if (thread < 32) {
      out[thread] = __shfl_xor_sync(kFullWarp, 1.0f, 1);
    }
  }
}

template <typename T>
__global__ void arithmetic_kernel(const T* a, const T* b, const T* c, T* out, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  out[i] = a[i] + b[i];
  out[n + i] = a[i] * b[i];
  out[2 * n + i] = __hfma(a[i], b[i], c[i]);
}

template <typename T>
__global__ void convert_kernel(const float* in, T* out, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) out[i] = from_float<T>(in[i]);
}

__global__ void traffic_kernel(const float* in, float* out, int stride) {
  float* shared = reinterpret_cast<float*>(shared_memory());
  const int thread = threadIdx.x;
  store_shared(shared + thread * stride, load_global(in + thread * stride));
  __syncthreads();
  store_global(out + thread, load_shared(shared + thread * stride));
}

__global__ void sums_kernel(const float* in, float* out, unsigned* total) {
  float* scratch = reinterpret_cast<float*>(shared_memory());
  const float value = in[blockIdx.x * blockDim.x + threadIdx.x];
  float sums[2] = {value, value * value};
  block_sum(sums, scratch);
  const int positive = __syncthreads_count(value > 0.0f);
  if (threadIdx.x == 0) {
    out[3 * blockIdx.x] = sums[0];
    out[3 * blockIdx.x + 1] = sums[1];
    out[3 * blockIdx.x + 2] = static_cast<float>(positive);
    atomicAdd(total, static_cast<unsigned>(positive));
  }
}

template <typename T>
const T* at(const void* address, int64_t offset = 0) {
  return static_cast<const T*>(address) + offset;
}

template <typename T>
int arithmetic(const std::string& name, const void* in, void* out, int n) {
  const dim3 grid(static_cast<unsigned>(n + 95) / 96);
  if (name == "convert") return launch(convert_kernel<T>, grid, 96, 0, nullptr, at<float>(in), static_cast<T*>(out), n);
  return launch(arithmetic_kernel<T>, grid, 96, 0, nullptr, at<T>(in), at<T>(in, n), at<T>(in, 2 * n),
                static_cast<T*>(out), n);
}

template <typename T>
int product(const void* in, void* out, bool wait) {
  return launch(product_kernel<T>, 1, 32, 1024, nullptr, at<T>(in), at<T>(in, 256), static_cast<float*>(out), wait);
}

}  // namespace

int run_probe(const std::string& name, const void* in, void* out, int parameter) {
  float* floats = static_cast<float*>(out);
  if (name == "shuffles") return launch(shuffles_kernel, 1, 32, 0, nullptr, at<int>(in), static_cast<int*>(out));
  if (name == "product fp16") return product<__half>(in, out, parameter != 0);
  if (name == "product bf16") return product<__nv_bfloat16>(in, out, parameter != 0);
  if (name == "late groups") return launch(late_groups_kernel, 1, 1, 48, nullptr, at<float>(in), floats);
  if (name == "cluster") return launch_cluster(cluster_kernel, 8, 64, 4, 4, nullptr, floats, parameter);
  if (name == "grid") {  // out: 6 values, 3 x 6 results
    return launch_cooperative(grid_kernel, 6, 64, 0, nullptr, floats, floats + 6);
  }
  if (name == "neighbours")
    return launch(neighbours_kernel, 1, 96, 384, nullptr, at<float>(in), floats, parameter != 0);
  if (name == "faulty") return launch(faulty_kernel, 1, 64, 384, nullptr, floats, parameter);
  if (name == "traffic") {
    const size_t bytes = static_cast<size_t>(parameter) * 64 * sizeof(float);
    return launch(traffic_kernel, 1, 64, bytes, nullptr, at<float>(in), floats, parameter);
  }
  if (name == "sums") {
    return launch(sums_kernel, 5, 96, 256, nullptr, at<float>(in), floats, static_cast<unsigned*>(out) + 15);
  }
  const std::string operation = name.substr(0, name.find(' '));
  if (name.find("bf16") != std::string::npos) return arithmetic<__nv_bfloat16>(operation, in, out, parameter);
  return arithmetic<__half>(operation, in, out, parameter);
}

}  // namespace segnext
