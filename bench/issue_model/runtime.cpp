// A CUDA runtime that starts nothing: it answers as an H200 would and tells Python of every launch. The kernels' own
// launchers, compiled by nvcc, run against it. This file also has the Python module `_recording` with csrc's bindings.

#include <cuda_runtime_api.h>

#include <cstdlib>
#include <cstring>
#include <map>
#include <string>

#include "bind.h"

namespace {

std::map<const void*, std::string>& names() {
  static std::map<const void*, std::string> all;
  return all;
}
PyObject* on_launch = nullptr;  // (name, grid, block, shared, cluster, cooperative, address of the arguments)
PyObject* occupancy = nullptr;  // (name, threads, shared) -> blocks per multiprocessor
PyObject* on_memset = nullptr;

constexpr int kMultiprocessors = 132;
constexpr int kClusterProcessors = 16;  // multiprocessors of one GPU processing cluster that a cluster may span
constexpr int kProcessingClusters = 8;
constexpr int kSharedOptIn = 227 * 1024;

using segnext::owned;
using segnext::Owned;

cudaError_t launched(const void* kernel, dim3 grid, dim3 block, size_t shared, int cluster, bool cooperative,
                     void** arguments) {
  owned(PyObject_CallFunction(on_launch, "s(III)(III)KiNK", names()[kernel].c_str(), grid.x, grid.y, grid.z, block.x,
                              block.y, block.z, static_cast<unsigned long long>(shared), cluster,
                              segnext::to_python(cooperative),
                              static_cast<unsigned long long>(reinterpret_cast<uintptr_t>(arguments))));
  return cudaSuccess;
}

// Keeps a function of Python for the life of the process.
void keep(PyObject*& kept, PyObject* function) { kept = Py_NewRef(function); }

}  // namespace

extern "C" {

void** __cudaRegisterFatBinary(void*) {
  static void* handle = nullptr;
  return &handle;
}
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
void __cudaRegisterFunction(void**, const char* host, char*, const char* device_name, int, uint3*, uint3*, dim3*, dim3*,
                            int*) {
  names()[host] = device_name;
}
void __cudaRegisterVar(void**, char*, char*, const char*, int, size_t, int, int) {}
unsigned __cudaPushCallConfiguration(dim3, dim3, size_t, struct CUstream_st*) { return 1; }
cudaError_t __cudaPopCallConfiguration(dim3*, dim3*, size_t*, void*) { return cudaErrorUnknown; }
cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* entry) {
  *kernel = reinterpret_cast<cudaKernel_t>(const_cast<void*>(entry));
  return cudaSuccess;
}
cudaError_t __cudaLaunchKernel(cudaKernel_t, dim3, dim3, void**, size_t, cudaStream_t) { return cudaErrorUnknown; }

cudaError_t CUDARTAPI cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
cudaError_t CUDARTAPI cudaSetDevice(int) { return cudaSuccess; }
cudaError_t CUDARTAPI cudaGetLastError() { return cudaSuccess; }
cudaError_t CUDARTAPI cudaPeekAtLastError() { return cudaSuccess; }
const char* CUDARTAPI cudaGetErrorString(cudaError_t status) {
  return status == cudaSuccess ? "no error" : "refused by the model's CUDA runtime";
}
cudaError_t CUDARTAPI cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount:
      *value = kMultiprocessors;
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = kSharedOptIn;
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
      *value = 228 * 1024;
      return cudaSuccess;
    case cudaDevAttrClusterLaunch:
    case cudaDevAttrCooperativeLaunch:
      *value = 1;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMajor:
      *value = 9;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor:
      *value = 0;
      return cudaSuccess;
    case cudaDevAttrL2CacheSize:
      *value = 50 * 1024 * 1024;
      return cudaSuccess;
    default:
      return cudaErrorInvalidValue;
  }
}
cudaError_t CUDARTAPI cudaFuncSetAttribute(const void*, cudaFuncAttribute, int value) {
  return value <= kSharedOptIn ? cudaSuccess : cudaErrorInvalidValue;
}
cudaError_t CUDARTAPI cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, const void* kernel,
                                                                             int threads, size_t shared, unsigned) {
  *blocks = 0;
  if (shared > kSharedOptIn) return cudaSuccess;
  const Owned found = owned(PyObject_CallFunction(occupancy, "siK", names()[kernel].c_str(), threads,
                                                  static_cast<unsigned long long>(shared)));
  if (!segnext::read(found.get(), *blocks)) throw segnext::PythonError();
  return cudaSuccess;
}
cudaError_t CUDARTAPI cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void* kernel, int threads,
                                                                    size_t shared) {
  return cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(blocks, kernel, threads, shared, 0);
}
cudaError_t CUDARTAPI cudaOccupancyMaxActiveClusters(int* clusters, const void* kernel,
                                                     const cudaLaunchConfig_t* config) {
  int blocks = 0, size = 1;
  for (unsigned i = 0; i < config->numAttrs; ++i) {
    if (config->attrs[i].id == cudaLaunchAttributeClusterDimension) {
      size = static_cast<int>(config->attrs[i].val.clusterDim.x);
    }
  }
  cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, static_cast<int>(config->blockDim.x),
                                                config->dynamicSmemBytes);
  *clusters = size > 16 ? 0 : kProcessingClusters * (kClusterProcessors * blocks / size);
  return cudaSuccess;
}
cudaError_t CUDARTAPI cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* kernel, void** arguments) {
  int cluster = 1;
  bool cooperative = false;
  for (unsigned i = 0; i < config->numAttrs; ++i) {
    const auto& attribute = config->attrs[i];
    if (attribute.id == cudaLaunchAttributeClusterDimension) cluster = static_cast<int>(attribute.val.clusterDim.x);
    if (attribute.id == cudaLaunchAttributeCooperative) cooperative = attribute.val.cooperative != 0;
  }
  const dim3 g = config->gridDim, b = config->blockDim;
  if (g.x == 0 || g.y == 0 || g.z == 0 || b.x * b.y * b.z == 0 || b.x * b.y * b.z > 1024) {
    return cudaErrorInvalidConfiguration;
  }
  return launched(kernel, g, b, config->dynamicSmemBytes, cluster, cooperative, arguments);
}
cudaError_t CUDARTAPI cudaLaunchKernel(const void* kernel, dim3 grid, dim3 block, void** arguments, size_t shared,
                                       cudaStream_t) {
  return launched(kernel, grid, block, shared, 1, false, arguments);
}
cudaError_t CUDARTAPI cudaMemsetAsync(void* address, int value, size_t bytes, cudaStream_t) {
  std::memset(address, value, bytes);
  owned(PyObject_CallFunction(on_memset, "K", static_cast<unsigned long long>(bytes)));
  return cudaSuccess;
}

}  // extern "C"

SEGNEXT_MODULE(_recording, m) {
  segnext::bind_ops(m);
  m.def("listen", [](PyObject* launch, PyObject* blocks, PyObject* memset) {
    keep(on_launch, launch);
    keep(occupancy, blocks);
    keep(on_memset, memset);
  });
}
