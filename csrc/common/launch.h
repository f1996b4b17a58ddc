// Calls CUDA launchers from the bindings, which include no CUDA header.
#pragma once

#include <string>

namespace segnext {

// The text of a launcher's non-zero status.
std::string cuda_error_text(int status);

// Makes `device` current. Returns the device that was current before, or -1 - error.
int exchange_device(int device);

// Runs launch() with `device` current, then restores the previous device.
template <typename Launch>
int on_device(int device, Launch launch) {
  const int previous = exchange_device(device);
  if (previous < 0) return -1 - previous;
  struct Restore {  // restores also if launch() throws because there is no memory for a workspace
    int device, previous;
    ~Restore() {
      if (previous != device) exchange_device(previous);
    }
  } restore{device, previous};
  return launch();
}

}  // namespace segnext
