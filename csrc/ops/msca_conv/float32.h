// The float32 form of msca_conv's forward for SegNeXt's sizes.
#pragma once

#include "ops/msca_conv/msca_conv.h"

namespace segnext {

// Whether it takes these sizes, types and addresses on the current device.
bool takes_float32(const MscaConvParams& params);
// Returns a cudaError_t, 0 for success.
int launch_msca_conv_float32(const MscaConvParams& params, void* stream);

}  // namespace segnext
