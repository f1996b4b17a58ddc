// The element types of tensors.
#pragma once

namespace segnext {

// Python uses the same codes.
enum class DType : int { kFloat32 = 0, kBFloat16 = 1, kFloat16 = 2, kFloat64 = 3 };

}  // namespace segnext
