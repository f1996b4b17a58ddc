// Runs one of the emulator's own test kernels by name.
#pragma once

#include <string>

namespace segnext {

int run_probe(const std::string& name, const void* in, void* out, int parameter);

}  // namespace segnext
