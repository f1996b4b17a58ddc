// Calling CUDA launchers from the bindings, which see no CUDA header.
#pragma once

#include <string>

namespace segnext {

// What a non-zero status of a launcher means.
std::string cuda_error_text(int status);

// The current device before the switch, or -1 - error.
int exchange_device(int device);

// Runs launch() with `device` current and restores the device that was.
template <typename Launch>
int on_device(int device, Launch launch) {
  const int previous = exchange_device(device);
  if (previous < 0) return -1 - previous;
  struct Restore {  // also where launch() throws: memory for a workspace may be short
    int device, previous;
    ~Restore() {
      if (previous != device) exchange_device(previous);
    }
  } restore{device, previous};
  return launch();
}

}  // namespace segnext
