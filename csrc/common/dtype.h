// Element types as they lie in memory.
#pragma once

namespace segnext {

// Codes shared with the Python side.
enum class DType : int { kFloat32 = 0, kBFloat16 = 1, kFloat16 = 2, kFloat64 = 3 };

}  // namespace segnext
