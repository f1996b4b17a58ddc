"""Fused kernels for strip-convolution attention networks and the Hamburger decoder, as PyTorch ops.

Useful alone: nothing here knows of SegNeXt. Each function states its plain PyTorch equivalent.
"""

from segnext_kernels.backend import choose, current_backend, definitions, explain, use_backend
from segnext_kernels.forking import compute_with_one_thread_in_children
from segnext_kernels.native import VERSION
from segnext_kernels.ops.channel_norm.op import channel_norm
from segnext_kernels.ops.conv2d_act.op import conv2d_act
from segnext_kernels.ops.conv_ffn.op import conv_ffn
from segnext_kernels.ops.depthwise_sum.op import depthwise_sum
from segnext_kernels.ops.dwconv_gelu.op import dwconv_gelu
from segnext_kernels.ops.gated_pointwise.op import gated_pointwise
from segnext_kernels.ops.group_norm_act.op import group_norm_act
from segnext_kernels.ops.msca_block.op import msca_block
from segnext_kernels.ops.msca_conv.op import msca_conv
from segnext_kernels.ops.nmf2d.op import nmf2d
from segnext_kernels.ops.nmf2d_projected.op import nmf2d_projected
from segnext_kernels.ops.pointwise.op import pointwise
from segnext_kernels.ops.resize_sum.op import resize_sum
from segnext_kernels.ops.upsample_argmax.op import upsample_argmax
from segnext_kernels.ops.upsample_cross_entropy.op import upsample_cross_entropy
from segnext_kernels.status import Status, status

__all__ = [
    "Status",
    "channel_norm",
    "choose",
    "conv2d_act",
    "conv_ffn",
    "current_backend",
    "definitions",
    "depthwise_sum",
    "dwconv_gelu",
    "explain",
    "gated_pointwise",
    "group_norm_act",
    "msca_block",
    "msca_conv",
    "nmf2d",
    "nmf2d_projected",
    "pointwise",
    "resize_sum",
    "status",
    "upsample_argmax",
    "upsample_cross_entropy",
    "use_backend",
]

__version__ = VERSION

compute_with_one_thread_in_children()
