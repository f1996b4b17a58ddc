// csrc/cuda/launch.cuh for the emulator.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

namespace segnext {

namespace detail {

template <typename... Params, typename... Args>
int launch_as(int cluster, bool cooperative, void (*kernel)(Params...), dim3 grid, dim3 block, size_t shared_bytes,
              Args... args) {
  auto thread = [&] { kernel(Params(args)...); };
  using Thread = decltype(thread);
  return emulator::run(
      {grid, block, shared_bytes, cluster, cooperative, [](void* body) { (*static_cast<Thread*>(body))(); }, &thread});
}

}  // namespace detail

template <typename... Params, typename... Args>
int launch(void (*kernel)(Params...), dim3 grid, dim3 block, size_t shared_bytes, void*, Args... args) {
  return detail::launch_as(1, false, kernel, grid, block, shared_bytes, args...);
}

template <typename... Params, typename... Args>
int launch_cluster(void (*kernel)(Params...), dim3 grid, dim3 block, int cluster, size_t shared_bytes, void*,
                   Args... args) {
  return detail::launch_as(cluster, false, kernel, grid, block, shared_bytes, args...);
}

template <typename... Params, typename... Args>
int launch_cooperative(void (*kernel)(Params...), dim3 grid, dim3 block, size_t shared_bytes, void*, Args... args) {
  return detail::launch_as(1, true, kernel, grid, block, shared_bytes, args...);
}

template <typename... Params>
int resident_blocks(void (*)(Params...), int, size_t shared_bytes) {
  return shared_bytes <= emulator::device.shared_limit ? emulator::device.resident_blocks : 0;
}

template <typename... Params>
int resident_clusters(void (*)(Params...), int, int cluster, size_t shared_bytes) {
  if (cluster > emulator::device.largest_cluster || shared_bytes > emulator::device.shared_limit) return 0;
  return emulator::device.resident_blocks / cluster;
}

inline size_t shared_limit() { return emulator::device.shared_limit; }

}  // namespace segnext
