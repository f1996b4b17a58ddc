"""The SegNeXt block: multi-scale convolutional attention (MSCA) and a convolutional feed-forward network.

Paper: SegNeXt (arXiv 2209.08575), section 3.1. Where paper and official code disagree, this file follows the code.
The modules hold parameters; the ops of ``segnext_kernels`` compute. An op takes the parameters of several layers; where
one of these is not plain (hooks, an adapter in its place), the layers are called one after the other instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

from segnext.models.batch_norm import BatchNorm
from segnext.models.config import LARGE_DILATION, LARGE_KERNEL, ROOT, STRIPS
from segnext.models.layers import Pointwise, depthwise, is_plain
from segnext_kernels import conv_ffn, depthwise_sum, dwconv_gelu, gated_pointwise, msca_conv

LAYER_SCALE_INIT = 1e-2
for _op in ("conv_ffn", "depthwise_sum", "dwconv_gelu", "gated_pointwise", "msca_conv"):
    torch.fx.wrap(_op)


class StripConv(nn.Module):
    """A depthwise root, then the sum of the root's output and its strip branches (1xK, then Kx1).

    Args:
        channels: C of the (N, C, H, W) input and output.
        kernels: the K of each strip branch, all odd.
        root: side of the root's kernel, odd.
    """

    def __init__(self, channels: int, kernels: Sequence[int] = STRIPS, root: int = ROOT) -> None:
        super().__init__()
        self.channels = channels
        self.kernel_sizes = [(root, root), *((1, k) for k in kernels), *((k, 1) for k in kernels)]
        self.root = depthwise(channels, root, root)
        self.rows = nn.ModuleList(depthwise(channels, 1, kernel) for kernel in kernels)
        self.columns = nn.ModuleList(depthwise(channels, kernel, 1) for kernel in kernels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, H, W)."""
        rows, columns = cast("list[nn.Conv2d]", list(self.rows)), cast("list[nn.Conv2d]", list(self.columns))
        if not self._is_plain([self.root, *rows, *columns]):
            m = a = self.root(x)
            for row, column in zip(rows, columns, strict=True):
                m = m + column(row(a))
            return m
        return msca_conv(
            x, self.root.weight, self.root.bias,
            [conv.weight for conv in rows], [conv.weight for conv in columns],
            [cast(Tensor, conv.bias) for conv in rows], [cast(Tensor, conv.bias) for conv in columns],
        )  # fmt: skip

    def _is_plain(self, convs: list[nn.Conv2d]) -> bool:
        sizes = self.kernel_sizes
        if len(convs) != len(sizes):
            return False
        for conv, size in zip(convs, sizes, strict=True):  # noqa: SIM110 (all() takes twice as long)
            if not is_plain(conv, size, self.channels):
                return False
        return True


class LargeKernelConv(nn.Module):
    """A depthwise root, then a depthwise 7x7 convolution of dilation 3, as in VAN (arXiv 2202.09741).

    Args:
        channels: C of the (N, C, H, W) input and output.
        root: side of the root's kernel, odd.
    """

    def __init__(self, channels: int, root: int = ROOT) -> None:
        super().__init__()
        self.channels = channels
        self.root = depthwise(channels, root, root)
        self.dilated = depthwise(channels, LARGE_KERNEL, LARGE_KERNEL, LARGE_DILATION)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, H, W)."""
        root, dilated = self.root, self.dilated
        side = root.kernel_size[0] if isinstance(root, nn.Conv2d) else 0
        if not (
            is_plain(root, (side, side), self.channels)
            and is_plain(dilated, (LARGE_KERNEL, LARGE_KERNEL), self.channels, LARGE_DILATION)
        ):
            return dilated(root(x))
        return depthwise_sum(x, [[(root.weight, root.bias), (dilated.weight, dilated.bias, LARGE_DILATION)]])


class Attention(nn.Module):
    """MSCA: the strips' output, mixed by a 1x1 convolution, multiplies the features it was computed from.

    Args:
        channels: C of input and output.
        strips, root: ``kernels`` and ``root`` of :class:`StripConv`.
        mix: False leaves out the 1x1 convolution that mixes channels.
        gate: False leaves out the product, so that the (mixed) output takes the features' place.
        kind: ``"msca"``, or ``"lka"`` for a :class:`LargeKernelConv` in place of the strips.
    """

    def __init__(
        self,
        channels: int,
        strips: Sequence[int] = STRIPS,
        root: int = ROOT,
        mix: bool = True,
        gate: bool = True,
        kind: str = "msca",
    ) -> None:
        super().__init__()
        self.proj_in = Pointwise(channels, channels)
        self.strips = LargeKernelConv(channels, root) if kind == "lka" else StripConv(channels, strips, root)
        self.mix = Pointwise(channels, channels) if mix else None
        self.proj_out = Pointwise(channels, channels)
        self.gate = gate

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, H, W), the inner shortcut included."""
        u = F.gelu(self.proj_in(x))
        m = self.strips(u)
        if self.mix is None:
            product = m * u if self.gate else m
        elif not self.gate:
            product = self.mix(m)
        elif is_plain(self.mix, (1, 1), 1):
            product = gated_pointwise(m, u, self.mix.weight, self.mix.bias)
        else:
            product = self.mix(m) * u
        return self.proj_out(product) + x


class FFN(nn.Module):
    """1x1 convolution, depthwise 3x3, GELU, 1x1 convolution.

    Args:
        channels: C of input and output.
        hidden: channels between the two 1x1 convolutions.
        dropout: rate after GELU and after ``fc2``; 0 in all published configurations.
        recompute: save only the input for backward and compute the hidden tensor again; always so in evaluation.
    """

    def __init__(self, channels: int, hidden: int, dropout: float = 0.0, recompute: bool = False) -> None:
        super().__init__()
        self.fc1 = Pointwise(channels, hidden)
        self.dwconv = depthwise(hidden, 3, 3)
        self.fc2 = Pointwise(hidden, channels)
        self.hidden = hidden
        self.dropout = dropout
        self.recompute = recompute

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, H, W)."""
        fc1, dwconv, fc2 = self.fc1, self.dwconv, self.fc2
        drops = self.training and self.dropout > 0
        dwconv_is_plain = is_plain(dwconv, (3, 3), self.hidden)
        if not drops and dwconv_is_plain and is_plain(fc1, (1, 1), 1) and is_plain(fc2, (1, 1), 1):
            bias1, dw_bias, bias2 = (cast(Tensor, conv.bias) for conv in (fc1, dwconv, fc2))
            # In evaluation the fused op also serves calls with a gradient, so that both have the same bits.
            recompute = self.recompute or not self.training
            return conv_ffn(
                x, fc1.weight, bias1, dwconv.weight, dw_bias, fc2.weight, bias2, recompute=recompute
            )
        # The fused op can neither call its layers nor drop values between them.
        hidden = fc1(x)
        hidden = (
            dwconv_gelu(hidden, dwconv.weight, dwconv.bias) if dwconv_is_plain else F.gelu(dwconv(hidden))
        )
        return F.dropout(fc2(F.dropout(hidden, self.dropout, drops)), self.dropout, drops)


class Block(nn.Module):
    """Attention, then FFN: the input of each is normalised, its result scaled per channel and added to the input.

    Args:
        channels: C of input and output.
        expansion: hidden channels of the FFN, as a multiple of ``channels``.
        drop_path: probability that a sample skips a branch in training (stochastic depth).
        dropout, recompute: see :class:`FFN`.
        attention: by default an :class:`Attention` as published.
    """

    def __init__(
        self,
        channels: int,
        expansion: int,
        drop_path: float = 0.0,
        dropout: float = 0.0,
        recompute: bool = False,
        attention: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.norm1 = BatchNorm(channels)
        self.attention = Attention(channels) if attention is None else attention
        self.layer_scale1 = nn.Parameter(torch.empty(channels))
        self.norm2 = BatchNorm(channels)
        self.ffn = FFN(channels, channels * expansion, dropout, recompute)
        self.layer_scale2 = nn.Parameter(torch.empty(channels))
        self.drop_path = drop_path
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Fill the layer scales with their first value; the parts of the block have their own."""
        nn.init.constant_(self.layer_scale1, LAYER_SCALE_INIT)
        nn.init.constant_(self.layer_scale2, LAYER_SCALE_INIT)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, H, W)."""
        x = self._add(x, self.attention(self.norm1(x)), self.layer_scale1)
        return self._add(x, self.ffn(self.norm2(x)), self.layer_scale2)

    def _add(self, x: Tensor, branch: Tensor, layer_scale: Tensor) -> Tensor:
        """Return ``x + drop_path(layer_scale * branch)``, in one pass, since both factors are at most (N, C, 1, 1)."""
        scale = layer_scale.view(1, -1, 1, 1)
        if self.training and self.drop_path > 0:
            keep = 1.0 - self.drop_path
            scale = scale * scale.new_empty(x.shape[0], 1, 1, 1).bernoulli_(keep).div_(keep)
        return torch.addcmul(x, branch, scale)
