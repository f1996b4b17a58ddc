// The Python module _emulated: the bindings of the CUDA kernels, and what tests set and read.

#include <cuda_runtime.h>

#include "bind.h"
#include "probes.h"
#include "session.h"

namespace py = pybind11;

const char* cudaGetErrorString(cudaError_t status) {
  switch (status) {
    case cudaSuccess:
      return "no error";
    case cudaErrorInvalidValue:
      return "invalid argument";
    case cudaErrorInvalidConfiguration:
      return "invalid configuration argument";
    case cudaErrorCooperativeLaunchTooLarge:
      return "too many blocks in cooperative launch";
    case cudaErrorNotSupported:
      return "operation not supported";
    case cudaErrorUnknown:
      break;
  }
  return emulator::failure().c_str();
}

namespace {

py::dict traffic(const emulator::Traffic& t) {
  py::dict result;
  result["requests"] = t.requests;
  result["units"] = t.units;
  result["fewest"] = t.fewest;
  result["bytes"] = t.bytes;
  result["touched"] = t.touched;
  return result;
}

}  // namespace

PYBIND11_MODULE(_emulated, m) {
  segnext::bind_ops(m);
  m.def("schedule", [](int schedule, unsigned seed) {
    emulator::session.schedule = static_cast<emulator::Schedule>(schedule);
    emulator::session.seed = seed;
  });
  m.def("device", [](int resident_blocks, int largest_cluster, size_t shared_limit) {
    emulator::device = {resident_blocks, largest_cluster, shared_limit};
  });
  m.def("probe", [](const std::string& name, uintptr_t in, uintptr_t out, int parameter) {
    const int status = segnext::run_probe(name, segnext::pointer(in), segnext::pointer(out), parameter);
    if (status != 0) throw std::runtime_error(cudaGetErrorString(static_cast<cudaError_t>(status)));
  });
  m.def("launches", [] { return std::make_pair(emulator::session.launches, emulator::session.blocks); });
  m.def("start_counting", &emulator::start_counting);
  m.def("stop_counting", [] {
    const emulator::Counters c = emulator::stop_counting();
    py::dict result;
    result["load_global"] = traffic(c.load_global);
    result["store_global"] = traffic(c.store_global);
    result["load_shared"] = traffic(c.load_shared);
    result["store_shared"] = traffic(c.store_shared);
    return result;
  });
}
