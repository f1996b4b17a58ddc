"""From pixels to what the network was trained on: one definition for training, evaluation and prediction."""

from collections.abc import Sequence

import numpy as np
import torch

MEAN = (123.675, 116.28, 103.53)
"""Per-channel mean of ImageNet, RGB, on the 0..255 scale (docs/model.md, section 5.1)."""

STD = (58.395, 57.12, 57.375)
"""Per-channel standard deviation of ImageNet, RGB, on the 0..255 scale."""


def normalise(
    image: np.ndarray | torch.Tensor,
    *,
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
    device: torch.device | str | None = None,
) -> torch.Tensor:
    """(image - mean) / std, as the network expects its input.

    Args:
        image: one (H, W, 3) uint8 array, or a batch (N, 3, H, W) tensor of values 0..255 (uint8 or floating).
        mean: one number per channel, 0..255 scale.
        std: one number per channel, 0..255 scale.
        device: where the result shall live; uint8 pixels are moved before they grow to float32. None: stay.

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
        pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None]
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
