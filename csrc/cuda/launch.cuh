// How kernels are started. No other file in csrc/ contains a launch, so tests/cuda_emulator can replace this file.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <tuple>

namespace segnext {

// Dynamic shared memory that a block may have without cudaFuncSetAttribute.
constexpr size_t kSharedUnasked = 48 * 1024;
// The largest cluster that every device with clusters supports.
constexpr int kPortableCluster = 8;

namespace detail {

// A failed call also stores its error in the thread, where an unrelated later call would report it; this clears it.
inline int settled(cudaError_t status) {
  if (status != cudaSuccess) cudaGetLastError();
  return static_cast<int>(status);
}

inline int device_attribute(cudaDeviceAttr attribute) {
  int device = 0, value = 0;
  if (settled(cudaGetDevice(&device)) || settled(cudaDeviceGetAttribute(&value, attribute, device))) return 0;
  return value;
}

template <typename... Params>
int allow_shared(void (*kernel)(Params...), size_t bytes) {
  if (bytes <= kSharedUnasked) return 0;
  return settled(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)));
}

template <typename... Params>
int allow_cluster(void (*kernel)(Params...), int cluster) {
  if (cluster <= kPortableCluster) return 0;
  return settled(cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1));
}

inline cudaLaunchAttribute cluster_attribute(int cluster) {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim.x = static_cast<unsigned>(cluster);
  attribute.val.clusterDim.y = 1;
  attribute.val.clusterDim.z = 1;
  return attribute;
}

inline cudaLaunchConfig_t configuration(dim3 grid, dim3 block, size_t shared_bytes, void* stream) {
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = static_cast<cudaStream_t>(stream);
  return config;
}

template <typename... Params, typename... Args>
int launch_with(cudaLaunchAttribute attribute, void (*kernel)(Params...), dim3 grid, dim3 block, size_t shared_bytes,
                void* stream, Args... args) {
  if (const int status = allow_shared(kernel, shared_bytes)) return status;
  cudaLaunchConfig_t config = configuration(grid, block, shared_bytes, stream);
  config.attrs = &attribute;
  config.numAttrs = 1;
  return settled(cudaLaunchKernelEx(&config, kernel, Params(args)...));
}

}  // namespace detail

// Starts a kernel. Returns the cudaError_t of this launch, 0 for success.
template <typename... Params, typename... Args>
int launch(void (*kernel)(Params...), dim3 grid, dim3 block, size_t shared_bytes, void* stream, Args... args) {
  if (const int status = detail::allow_shared(kernel, shared_bytes)) return status;
  const cudaLaunchConfig_t config = detail::configuration(grid, block, shared_bytes, stream);
  return detail::settled(cudaLaunchKernelEx(&config, kernel, Params(args)...));
}

// The same with clusters of `cluster` blocks along x, a divisor of grid.x. Fails where resident_clusters() is 0.
template <typename... Params, typename... Args>
int launch_cluster(void (*kernel)(Params...), dim3 grid, dim3 block, int cluster, size_t shared_bytes, void* stream,
                   Args... args) {
  if (const int status = detail::allow_cluster(kernel, cluster)) return status;
  return detail::launch_with(detail::cluster_attribute(cluster), kernel, grid, block, shared_bytes, stream, args...);
}

// The same with all blocks on the device at once, as grid_sync() needs. Fails where they do not fit: see
// resident_blocks().
template <typename... Params, typename... Args>
int launch_cooperative(void (*kernel)(Params...), dim3 grid, dim3 block, size_t shared_bytes, void* stream,
                       Args... args) {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeCooperative;
  attribute.val.cooperative = 1;
  return detail::launch_with(attribute, kernel, grid, block, shared_bytes, stream, args...);
}

namespace detail {

// The answer to a question about a kernel on the current device. The driver is asked once, because asking takes
// microseconds.
template <typename Ask>
int asked_once(const void* kernel, int threads, int cluster, size_t shared_bytes, const Ask& ask) {
  static std::mutex mutex;
  static std::map<std::tuple<int, const void*, int, int, size_t>, int> answers;
  int device = 0;
  if (settled(cudaGetDevice(&device))) return 0;
  const std::lock_guard<std::mutex> lock(mutex);
  const auto [answer, is_new] = answers.try_emplace({device, kernel, threads, cluster, shared_bytes}, 0);
  if (is_new) answer->second = ask();
  return answer->second;
}

}  // namespace detail

// Number of blocks that the current device holds at once; 0 if not even one fits.
template <typename... Params>
int resident_blocks(void (*kernel)(Params...), int threads, size_t shared_bytes) {
  return detail::asked_once(reinterpret_cast<const void*>(kernel), threads, 1, shared_bytes, [&] {
    int each = 0;
    if (detail::allow_shared(kernel, shared_bytes)) return 0;
    if (detail::settled(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&each, kernel, threads, shared_bytes))) return 0;
    return each * detail::device_attribute(cudaDevAttrMultiProcessorCount);
  });
}

// Number of clusters of `cluster` blocks that the current device holds at once; 0 if it has no clusters (before sm_90).
template <typename... Params>
int resident_clusters(void (*kernel)(Params...), int threads, int cluster, size_t shared_bytes) {
  return detail::asked_once(reinterpret_cast<const void*>(kernel), threads, cluster, shared_bytes, [&] {
    if (detail::device_attribute(cudaDevAttrClusterLaunch) == 0) return 0;
    if (detail::allow_shared(kernel, shared_bytes) || detail::allow_cluster(kernel, cluster)) return 0;
    cudaLaunchAttribute attribute = detail::cluster_attribute(cluster);
    cudaLaunchConfig_t config = detail::configuration(dim3(static_cast<unsigned>(cluster)),
                                                      dim3(static_cast<unsigned>(threads)), shared_bytes, nullptr);
    config.attrs = &attribute;
    config.numAttrs = 1;
    int clusters = 0;
    return detail::settled(cudaOccupancyMaxActiveClusters(&clusters, kernel, &config)) ? 0 : clusters;
  });
}

// The most dynamic shared memory that a block may have on the current device.
inline size_t shared_limit() {
  return static_cast<size_t>(detail::device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin));
}

}  // namespace segnext
