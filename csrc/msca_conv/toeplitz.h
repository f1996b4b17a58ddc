// The tensor-core form of msca_conv's forward.
#pragma once

#include "msca_conv/msca_conv.h"

namespace segnext {

// Whether it takes these sizes, types and addresses on the current device.
bool takes_toeplitz(const MscaConvParams& params);
// Returns a cudaError_t, 0 for success.
int launch_msca_conv_toeplitz(const MscaConvParams& params, void* stream);

}  // namespace segnext
