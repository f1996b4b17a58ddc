#include <cuda_runtime.h>

#include "common/launch.h"

namespace segnext {

std::string cuda_error_text(int status) { return cudaGetErrorString(static_cast<cudaError_t>(status)); }

int exchange_device(int device) {
  int previous = 0;
  cudaError_t status = cudaGetDevice(&previous);
  if (status == cudaSuccess && previous != device) status = cudaSetDevice(device);
  return status == cudaSuccess ? previous : -1 - static_cast<int>(status);
}

}  // namespace segnext
