// The Python module _emulated: the bindings of the CUDA kernels, and what tests set and read.

#include <cuda_runtime.h>

#include "bind.h"
#include "probes.h"
#include "session.h"

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

template <>
struct segnext::Argument<std::string> {
  static constexpr const char* kWhat = "a string";
  static bool read(PyObject* object, std::string& value) {
    Py_ssize_t size = 0;
    const char* text = PyUnicode_AsUTF8AndSize(object, &size);
    if (text != nullptr) value.assign(text, size);
    return text != nullptr;
  }
};

namespace {

PyObject* traffic(const emulator::Traffic& t) {
  return Py_BuildValue("{sLsLsLsLsL}", "requests", static_cast<long long>(t.requests), "units",
                       static_cast<long long>(t.units), "fewest", static_cast<long long>(t.fewest), "bytes",
                       static_cast<long long>(t.bytes), "touched", static_cast<long long>(t.touched));
}

}  // namespace

SEGNEXT_MODULE(_emulated, m) {
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
  m.def("launches", [] {
    return Py_BuildValue("(LL)", static_cast<long long>(emulator::session.launches),
                         static_cast<long long>(emulator::session.blocks));
  });
  m.def("start_counting", [] { emulator::start_counting(); });
  m.def("stop_counting", [] {
    const emulator::Counters c = emulator::stop_counting();
    return Py_BuildValue("{sNsNsNsN}", "load_global", traffic(c.load_global), "store_global", traffic(c.store_global),
                         "load_shared", traffic(c.load_shared), "store_shared", traffic(c.store_shared));
  });
}
