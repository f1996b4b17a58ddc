// The tensor-core forms of msca_conv's forward and backward.
#pragma once

#include "ops/msca_conv/msca_conv.h"

namespace segnext {

// Whether it takes these sizes, types and addresses on the current device.
bool takes_toeplitz(const MscaConvParams& params);
// Returns a cudaError_t, 0 for success.
int launch_msca_conv_toeplitz(const MscaConvParams& params, void* stream);

// The same for the backward, which takes a workspace as launch_msca_conv_backward() does.
bool takes_toeplitz_backward(const MscaConvBackwardParams& params);
int64_t msca_conv_backward_toeplitz_workspace(const MscaConvBackwardParams& params);
int launch_msca_conv_backward_toeplitz(const MscaConvBackwardParams& params, void* workspace, void* stream);

}  // namespace segnext
