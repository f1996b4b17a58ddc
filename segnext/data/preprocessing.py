"""Turns a photograph into the network's input: one definition for training, evaluation and prediction."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch

from segnext.data.depth import ValueRange, check_range
from segnext.one_line import one_line, shown

MEAN = (123.675, 116.28, 103.53)
"""Per-channel mean of ImageNet, RGB, on the 0..255 scale (docs/model.md, section 5.1)."""

STD = (58.395, 57.12, 57.375)
"""Per-channel standard deviation of ImageNet, RGB, on the 0..255 scale."""

# The official code evaluates ADE20K with images that fit into (2048, 512): the long side is at most 4 x 512.
LONGEST_RATIO = 4
# The network takes 3 GB for an image of 8192 x 8192; a file that asks for more is damaged, or wants our memory.
LARGEST_SHORT_SIDE = 8192
MOST_BANDS = 1024  # hyperspectral sensors have a few hundred


@dataclass(frozen=True)
class Preprocessing:
    """The input that weights expect; it is stored with them as ``metadata["preprocessing"]``.

    Attributes:
        mean: one number per channel, 0..255 scale.
        std: one number per channel, 0..255 scale.
        short_side: pixels to which the short side of an image is resized for the network, the long side to at
            most four times as many; None: images keep their size.
        value_range: the values that become 0 and 255 when a file of more than 8 bits per channel is read, see
            `segnext.data.images.read_image`; None: as the file says.
        bands: the bands of a file that are the channels, from 0, see `segnext.data.bands.read_bands`; None: RGB.

    Raises:
        ValueError: a value is out of range.
    """

    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD
    short_side: int | None = None
    value_range: ValueRange | None = None
    bands: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        for name, least in (("mean", -math.inf), ("std", 0)):
            values = getattr(self, name)
            if len(values) != len(self.mean) or not all(least < value < math.inf for value in values):
                expected = "finite numbers" if name == "mean" else f"{len(self.mean)} numbers above 0"
                raise ValueError(f"preprocessing: {name} must be {expected}, one per channel, got {values}")
        if self.short_side is not None and not 1 <= self.short_side <= LARGEST_SHORT_SIDE:
            raise ValueError(
                f"preprocessing: short_side must be from 1 to {LARGEST_SHORT_SIDE} pixels, got {self.short_side}"
            )
        check_range("preprocessing", self.value_range)
        if self.bands is not None and (
            len(self.bands) != len(self.mean) or not all(0 <= band < MOST_BANDS for band in self.bands)
        ):
            raise ValueError(
                f"preprocessing: bands must be {len(self.mean)} numbers 0..{MOST_BANDS - 1}, one per mean, "
                f"got {self.bands}"
            )

    @classmethod
    def of(cls, metadata: Mapping[str, Any]) -> Preprocessing:
        """Read the preprocessing from a model's metadata; the defaults are ImageNet's numbers and images of any size.

        Raises:
            ValueError: the metadata holds something other than numbers that are in range.
        """
        stored = metadata.get("preprocessing") or {}
        names = [field.name for field in fields(cls)]
        if not isinstance(stored, Mapping) or stored.keys() - set(names):
            raise ValueError(
                f"preprocessing: the weights' metadata must hold {', '.join(names)}, got "
                + (one_line(", ".join(map(str, stored))) if isinstance(stored, Mapping) else shown(stored))
            )
        values: dict[str, Any] = {
            name: value.tolist() if isinstance(value, np.ndarray | torch.Tensor) else value
            for name, value in stored.items()
            if value is not None or name in ("mean", "std")
        }
        for name, value in values.items():
            is_valid, expected = _KINDS.get(name, (_are_numbers, "a list of numbers"))
            if not is_valid(value):
                raise ValueError(f"preprocessing: {name} must be {expected}, got {shown(value)}")
            if name != "short_side":
                values[name] = tuple(value) if name == "bands" else tuple(map(float, value))
        return cls(**values)

    def as_json(self) -> dict[str, Any]:
        """Return the dictionary that `of` reads back; beside mean and std it holds only what is not the default."""
        plain: dict[str, Any] = {"mean": list(self.mean), "std": list(self.std)}
        if self.short_side is not None:
            plain["short_side"] = self.short_side
        if self.value_range is not None:
            plain["value_range"] = list(self.value_range)
        if self.bands is not None:
            plain["bands"] = list(self.bands)
        return plain

    def __call__(
        self, image: np.ndarray | torch.Tensor, *, device: torch.device | str | None = None
    ) -> torch.Tensor:
        """Normalise an image by `mean` and `std`, see `normalise`; its size stays as it is."""
        return normalise(image, mean=self.mean, std=self.std, device=device)


def _is_number(value: object, kind: Any = (int, float)) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _are_numbers(value: Any) -> bool:
    # A float cannot hold every integer.
    return isinstance(value, list | tuple) and all(
        isinstance(number, float) or (_is_number(number) and abs(number) <= sys.float_info.max)
        for number in value
    )


def _is_whole(value: object) -> bool:
    return _is_number(value, int)


def _are_whole(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(map(_is_whole, value))


_KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "short_side": (_is_whole, "a whole number"),
    "bands": (_are_whole, "a list of whole numbers"),
}


def short_side_scale(height: int, width: int, short_side: int) -> float:
    """Return the factor that resizes the short side to `short_side` pixels, the long one to at most 4 times as many."""
    short, long = min(height, width), max(height, width)
    return min(short_side / short, LONGEST_RATIO * short_side / long)


def as_batch(image: np.ndarray) -> torch.Tensor:
    """Return an (H, W, C) array as a tensor (1, C, H, W), channels_last, without a copy where torch can share it."""
    # torch warns of arrays that nobody may write to, such as np.asarray(pillow_image), and refuses negative strides.
    shared = image if image.flags.writeable and image.flags.c_contiguous else image.copy()
    return torch.from_numpy(shared).permute(2, 0, 1)[None]


def normalise(
    image: np.ndarray | torch.Tensor,
    *,
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
    device: torch.device | str | None = None,
) -> torch.Tensor:
    """Return (image - mean) / std, the input that the network expects.

    Args:
        image: one (H, W, 3) uint8 array, or a batch (N, 3, H, W) tensor of values 0..255 (uint8 or floating).
        mean: one number per channel, 0..255 scale.
        std: one number per channel, 0..255 scale.
        device: where the result is to be; uint8 pixels are moved before they grow to float32. None: it stays.

    Returns:
        (N, 3, H, W) float32, channels_last; N = 1 for an array.

    Raises:
        TypeError: neither a uint8 array nor a tensor. ValueError: another number of axes or channels.
    """
    channels = len(mean)
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8:
            raise TypeError(
                f"normalise: image must be uint8 (0..255), got {image.dtype}; read it with read_image"
            )
        if image.ndim != 3 or image.shape[2] != channels:
            raise ValueError(f"normalise: image must be (H, W, {channels}), got {tuple(image.shape)}")
        pixels = as_batch(image)
    elif isinstance(image, torch.Tensor):
        if image.ndim != 4 or image.shape[1] != channels:
            raise ValueError(f"normalise: a batch must be (N, {channels}, H, W), got {tuple(image.shape)}")
        pixels = image
    else:
        raise TypeError(f"normalise: image must be a numpy array or a tensor, got {type(image).__name__}")
    if device is not None:
        pixels = pixels.to(device)
    scaled = pixels.to(torch.float32, memory_format=torch.channels_last, copy=True)
    offset = scaled.new_tensor(mean).view(1, channels, 1, 1)
    scale = scaled.new_tensor(std).view(1, channels, 1, 1)
    return scaled.sub_(offset).div_(scale)
