// Small kernels whose results the executor of machine code must get right; run by tests/bench/test_issue_executor.py.

#include "cuda/device.cuh"
#include "cuda/ptx.cuh"

using namespace segnext;

extern "C" {

// 32-bit and 64-bit division and remainder by numbers that the compiler does not know.
__global__ void division_kernel(const int64_t* a, const int64_t* b, int64_t* out) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  const int64_t x = a[i], y = b[i];
  const int narrow = static_cast<int>(x), by = static_cast<int>(y);
  int64_t* o = out + 8 * i;
  o[0] = x / y;
  o[1] = x % y;
  o[2] = static_cast<int64_t>(static_cast<uint64_t>(x) / static_cast<uint64_t>(y));
  o[3] = static_cast<int64_t>(static_cast<uint64_t>(x) % static_cast<uint64_t>(y));
  o[4] = by == 0 ? 0 : narrow / by;
  o[5] = by == 0 ? 0 : narrow % by;
  o[6] = by == 0 ? 0 : static_cast<unsigned>(narrow) / static_cast<unsigned>(by);
  o[7] = x * y + (x >> 7) - (y << 3);
}

__global__ void bits_kernel(const unsigned* in, unsigned* out, int shift) {
  const unsigned a = in[2 * threadIdx.x], b = in[2 * threadIdx.x + 1];
  unsigned* o = out + 16 * threadIdx.x;
  o[0] = __popc(a);
  o[1] = __clz(static_cast<int>(a));
  o[2] = __brev(a);
  o[3] = __byte_perm(a, b, 0x2705);
  o[4] = __funnelshift_l(a, b, shift);
  o[5] = __funnelshift_r(a, b, shift);
  o[6] = __umulhi(a, b);
  o[7] = static_cast<unsigned>(min(static_cast<int>(a), static_cast<int>(b)));
  o[8] = max(a, b);
  o[9] = static_cast<unsigned>(abs(static_cast<int>(a)));
  o[10] = (a & b) ^ ~(a | (b >> shift));
  o[11] = static_cast<unsigned>(static_cast<int>(a) >> shift);
  o[12] = a << (b & 31);
  o[13] = static_cast<unsigned>(static_cast<int>(a) < static_cast<int>(b)) + 2 * (a < b);
  o[14] = static_cast<unsigned>(__mulhi(static_cast<int>(a), static_cast<int>(b)));
  o[15] = a * 3 + b;
}

// Each lane runs the loop its own number of times.
__global__ void collatz_kernel(const int* in, int* out) {
  int n = in[threadIdx.x], steps = 0;
  while (n != 1) {
    if (n % 2 == 0) {
      n /= 2;
    } else {
      n = 3 * n + 1;
    }
    ++steps;
    if (steps > 60) break;
  }
  out[threadIdx.x] = steps;
}

// Lanes end inside a branch whose other lanes meet after it.
__global__ void exits_kernel(const int* in, int* out) {
  const int value = in[threadIdx.x];
  if (value > 10) {
    if (value > 20) return;
    out[threadIdx.x] = 1;
    __syncwarp(__activemask());
  }
  out[32 + threadIdx.x] = static_cast<int>(__ballot_sync(__activemask(), value > 5));
}

// Sum over the block by shuffles and shared memory; some threads have nothing and stay away from the loads
__global__ void block_sum_kernel(const float* in, int64_t stride, int count, float* out) {
  float sum = 0.0f;
  for (int i = threadIdx.x; i < count; i += blockDim.x) sum += in[i * stride];
  sum = block_sum(sum, reinterpret_cast<float*>(shared_memory()));
  if (threadIdx.x == 0) out[blockIdx.x] = sum;
}

__global__ void warp_kernel(const int* in, int* out) {
  const int lane = threadIdx.x % 32, value = in[threadIdx.x];
  int* o = out + 8 * threadIdx.x;
  o[0] = __shfl_xor_sync(kFullWarp, value, 5);
  o[1] = __shfl_up_sync(kFullWarp, value, 3);
  o[2] = __shfl_down_sync(kFullWarp, value, 9);
  o[3] = __shfl_sync(kFullWarp, value, lane + 3, 8);
  o[4] = static_cast<int>(__ballot_sync(kFullWarp, value % 3 == 0));
  o[5] = __any_sync(kFullWarp, value < 0) + 2 * __all_sync(kFullWarp, value >= -50);
  o[6] = __syncthreads_count(value > 0);
  if (value < 0) return;
  o[7] = static_cast<int>(__match_any_sync(__activemask(), value));
}

__global__ void floats_kernel(const float* a, const float* b, float* out) {
  const int i = threadIdx.x;
  const float x = a[i], y = b[i];
  float* o = out + 10 * i;
  o[0] = x / y;
  o[1] = sqrtf(fabsf(x));
  o[2] = expf(0.1f * x);
  o[3] = erff(x);
  o[4] = fmaf(x, y, -x);
  o[5] = fminf(x, y) - fmaxf(x, -y);
  o[6] = static_cast<float>(static_cast<int>(x)) + floorf(y);
  o[7] = to_float(from_float<__nv_bfloat16>(x)) + to_float(from_float<__half>(y));
  o[8] = static_cast<float>(static_cast<double>(x) * y + 0.25);
  o[9] = x > y ? 1.0f : (x != x ? 2.0f : 3.0f);
}

// A register array with a runtime index lies in local memory.
__global__ void local_kernel(const int* in, int* out, int count) {
  int values[16];
  for (int i = 0; i < 16; ++i) values[i] = in[i] + static_cast<int>(threadIdx.x);
  int sum = 0;
  for (int i = 0; i < count; ++i) sum += values[in[i] & 15] * (i + 1);
  out[threadIdx.x] = sum;
}

// out = a b by one warp: a (16, 16) and b (16, 8), copied to shared memory asynchronously.
__global__ void product_kernel(const __nv_bfloat16* a, const __nv_bfloat16* b, float* out) {
  auto* shared_a = reinterpret_cast<__nv_bfloat16*>(shared_memory());
  auto* shared_b = shared_a + 16 * 16;
  const int lane = threadIdx.x;
  cp_async16(shared_a + 8 * lane, a + 8 * lane, true);
  if (lane < 16) cp_async16(shared_b + 8 * lane, b + 8 * lane, true);
  cp_async_commit();
  cp_async_wait<0>();
  __syncwarp();
  uint32_t fragment_a[4], fragment_b[2];
  ldmatrix_x4(fragment_a, shared_a + (lane % 16) * 16 + (lane / 16) * 8);
  ldmatrix_x2_trans(fragment_b, shared_b + (lane % 16) * 8);
  float d[4] = {};
  mma_m16n8k16<__nv_bfloat16>(d, fragment_a, fragment_b);
  const int row = lane / 4, column = 2 * (lane % 4);
  for (int i = 0; i < 4; ++i) out[(row + 8 * (i / 2)) * 8 + column + i % 2] = d[i];
}

// Its counts are known: a store of one word per lane with a stride over the banks, and one sector in `spread`.
__global__ void traffic_kernel(const float* in, float* out, int stride, int spread) {
  float* shared = reinterpret_cast<float*>(shared_memory());
  shared[threadIdx.x * stride] = in[threadIdx.x * spread];
  __syncthreads();
  out[threadIdx.x] = shared[threadIdx.x * stride];
}

__global__ void unwritten_kernel(float* out) {
  const float* shared = reinterpret_cast<const float*>(shared_memory());
  if (shared[threadIdx.x] > 0.0f) {
    for (int i = 0; i < 100; ++i) out[i * 32 + threadIdx.x] = static_cast<float>(i);
    __syncthreads();
  }
}

__global__ void barriers_kernel(int rounds) {
  for (int i = 0; i < rounds; ++i) grid_sync();
}

__global__ void cluster_kernel(float* out, int rounds) {
  float* shared = reinterpret_cast<float*>(shared_memory());
  shared[threadIdx.x] = 2.0f;
  float sum = 0.0f;
  for (int i = 0; i < rounds; ++i) {
    cluster_sync();
    sum += *cluster_map(shared + threadIdx.x, i % cluster_size());
  }
  out[threadIdx.x] = sum;
}

}  // extern "C"
