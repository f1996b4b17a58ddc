"""The layers that several parts of the network share, how they are drawn, and the check of input images."""

from __future__ import annotations

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.common_types import _size_2_t

from segnext.models.changed import is_observed
from segnext.models.config import GROUPS
from segnext_kernels import checks, group_norm_act
from segnext_kernels.ops.pointwise.op import mix_channels

torch.fx.wrap("group_norm_act")
torch.fx.wrap("mix_channels")


def draw_normal(tensor: Tensor, std: float) -> None:
    """Fill a parameter from normal(0, std); on the meta device there is nothing to fill.

    There PyTorch would import its compiler, a second or more, whenever a checkpoint is loaded.
    """
    if not tensor.is_meta:
        nn.init.normal_(tensor, 0.0, std)


class Convolution(nn.Conv2d):
    """An `nn.Conv2d` that is drawn as in the official code: weight normal(0, sqrt(2 / fan_out)), bias 0.

    ``fan_out`` is kernel height x kernel width x output channels / groups.
    """

    def reset_parameters(self) -> None:
        """Draw new parameters; called by the constructor, and by what makes a model on the meta device real."""
        fan_out = self.kernel_size[0] * self.kernel_size[1] * self.out_channels // self.groups
        draw_normal(self.weight, (2.0 / fan_out) ** 0.5)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class Pointwise(Convolution):
    """A 1x1 convolution as one matrix product over the innermost channels; parameters and result of `nn.Conv2d`.

    PyTorch's own 1x1 convolution copies channels_last tensors to contiguous and back on a single CPU thread.

    The arguments are the first of `nn.Conv2d`'s, because PEFT makes an adapter of the class that it adapts.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: _size_2_t = 1,
        stride: _size_2_t = 1,
        padding: _size_2_t | str = 0,
        dilation: _size_2_t = 1,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) to (N, C_out, H, W), channels_last."""
        if (
            self.stride == (1, 1)
            and self.padding == (0, 0)
            and self.kernel_size == (1, 1)
            and self.groups == 1
            and "_conv_forward" not in self.__dict__
        ):
            return mix_channels(x, self.weight, self.bias)
        return super().forward(x)  # the layer was changed after it was made


class Classifier(Pointwise):
    """The last layer of a segmentation: a 1x1 convolution whose weight is drawn from normal(0, 0.01)."""

    def reset_parameters(self) -> None:
        """Draw new parameters, see :class:`Convolution`."""
        super().reset_parameters()
        draw_normal(self.weight, 0.01)


def depthwise(channels: int, height: int, width: int, dilation: int = 1) -> Convolution:
    """Make a depthwise convolution with bias that keeps the size; its kernel is ``height`` x ``width``, both odd."""
    padding = (height // 2 * dilation, width // 2 * dilation)
    return Convolution(
        channels, channels, (height, width), padding=padding, dilation=dilation, groups=channels
    )


def is_plain(conv: nn.Module, kernel_size: tuple[int, int], groups: int, dilation: int = 1) -> bool:
    """Whether a fused op may take the parameters of ``conv`` instead of calling it.

    True for a convolution with bias at stride 1 that keeps the size, has zeros as padding, and is not observed; see
    :mod:`segnext.models.changed`. Takes about a microsecond.
    """
    return (
        isinstance(conv, nn.Conv2d)
        and type(conv) in (nn.Conv2d, Convolution, Pointwise)
        and conv.kernel_size == kernel_size
        and conv.stride == (1, 1)
        and conv.padding == (kernel_size[0] // 2 * dilation, kernel_size[1] // 2 * dilation)
        and conv.dilation == (dilation, dilation)
        and conv.groups == groups
        and conv.padding_mode == "zeros"
        and conv._parameters.get("bias") is not None
        and not is_observed(conv)
    )


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over C of (N, C, H, W); in channels_last the permutations are views."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, H, W)."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNormAct(nn.Module):
    """1x1 convolution without bias, GroupNorm(32), ReLU."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.conv = Pointwise(in_channels, channels, bias=False)
        self.norm = nn.GroupNorm(GROUPS, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) to (N, C, H, W)."""
        return norm_act(self.norm, self.conv(x))


def norm_act(norm: nn.Module, x: Tensor, residual: Tensor | None = None) -> Tensor:
    """``relu(norm(x) + residual)`` of (N, C, H, W): in one op if ``norm`` is a plain GroupNorm."""
    if (
        type(norm) is nn.GroupNorm
        and norm.weight is not None
        and norm.bias is not None
        and not is_observed(norm)
    ):
        return group_norm_act(x, norm.num_groups, norm.weight, norm.bias, norm.eps, residual=residual)
    y: Tensor = norm(x)
    return F.relu(y if residual is None else y + residual)


@torch.fx.wrap
def check_images(model: str, images: Tensor, weight: Tensor) -> None:
    """Raise a one-line error unless ``images`` fit a network whose first convolution has ``weight``.

    Raises:
        TypeError: not a dense tensor, or not of the weights' floating dtype (any but float64 under autocast).
        ValueError: not (N, C, H, W) with the right C and at least one pixel, or on another device.
    """
    if not isinstance(images, Tensor):
        raise TypeError(
            f"{model}: images must be a tensor of normalised pixels, got {type(images).__name__}; "
            "segnext.Predictor takes files and arrays"
        )
    if images.layout is not torch.strided:
        layout = str(images.layout).removeprefix("torch.")
        raise TypeError(
            f"{model}: images must be a dense tensor, got layout {layout}; convert it with .to_dense()"
        )
    channels = weight.shape[1]
    if images.ndim != 4 or images.shape[1] != channels or min(images.shape[2:]) < 1:
        remedy = (
            "add a batch axis with images[None]" if images.ndim == 3 else "in_channels= is set at creation"
        )
        raise ValueError(
            f"{model}: images must be (N, {channels}, H, W), got {tuple(images.shape)}; {remedy}"
        )
    if images.device != weight.device:
        raise ValueError(
            f"{model}: images must be on the model's device {weight.device}, got {images.device}; "
            f"move them with images.to({str(weight.device)!r})"
        )
    if not images.is_floating_point():
        raise TypeError(
            f"{model}: images must be normalised floating-point pixels, got {images.dtype}; "
            "see segnext.data.preprocessing.normalise, or use segnext.Predictor"
        )
    is_wide = torch.float64 in (images.dtype, weight.dtype)
    if images.dtype != weight.dtype and (is_wide or not checks.autocasting(images)):
        raise TypeError(
            f"{model}: images must be {weight.dtype} as the weights, got {images.dtype}; "
            "convert one of them, or run under torch.autocast"
        )
