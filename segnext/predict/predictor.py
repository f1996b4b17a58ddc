"""Photograph in, segmentation out: `Predictor` and what it returns.

from segnext import Predictor
prediction = Predictor("camvid")("street.jpg")
prediction.save_mask("street_mask.png")
prediction.overlay().save("street_overlay.png")
print(prediction.statistics())              # {"road": 0.317, "building": 0.233, ...}
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from segnext.create import create_model
from segnext.data.images import read_image, rgb_array
from segnext.data.preprocessing import MEAN, STD, normalise
from segnext.deployment.model import deploy
from segnext.device import choose_device
from segnext.drawing.overlay import add_legend, draw_overlay
from segnext.drawing.palette import distinct_palette
from segnext.models import SegNeXt
from segnext.predict.inference import (
    Inference,
    Network,
    predict_logits,
    predict_mask,
    window_starts,
)

__all__ = ["Inference", "Prediction", "Predictor", "predict_logits", "predict_mask", "window_starts"]


@dataclass(frozen=True)
class Prediction:
    """A segmented photograph.

    Attributes:
        mask: (H, W) class ids, uint8 up to 256 classes, else int32.
        image: (H, W, 3) uint8 RGB, what was segmented.
        classes: name of each class.
        palette: (K, 3) uint8 RGB, colour of each class.
        seconds: from decoded pixels to the mask in the host's memory.
    """

    mask: np.ndarray
    image: np.ndarray
    classes: tuple[str, ...]
    palette: np.ndarray
    seconds: float

    def statistics(self) -> dict[str, float]:
        """Share of the pixels (0..1) of every class, absent ones included, in the order of the ids."""
        counts = np.bincount(self.mask.ravel(), minlength=len(self.classes))
        shares: dict[str, float] = {}
        for name, count in zip(self.classes, counts.tolist(), strict=True):
            shares[name] = shares.get(name, 0.0) + count / self.mask.size  # some data sets repeat a name
        return shares

    def save_mask(self, path: str | os.PathLike[str]) -> None:
        """Writes the class ids as a PNG: 8-bit with the class colours as palette, 16-bit above 256 classes.

        The pixels *are* the ids: ``np.array(Image.open(path))`` gives the mask back.
        """
        if self.mask.dtype == np.uint8:
            picture = Image.fromarray(self.mask)
            picture.putpalette(self.palette.tobytes())
        else:
            picture = Image.fromarray(self.mask.astype(np.uint16))
        picture.save(path, format="PNG")

    def overlay(self, alpha: float = 0.5, legend: bool = True) -> Image.Image:
        """The photograph tinted with the class colours.

        Args:
            alpha: 0 shows the photograph, 1 the colours.
            legend: add a panel below with colour, name and share of the classes present, the largest first.

        Returns:
            An RGB image; without the legend as large as the photograph.

        Raises:
            ValueError: alpha is out of range.
        """
        if not 0 <= alpha <= 1:
            raise ValueError(f"overlay: alpha must be within 0..1, got {alpha}")
        picture = draw_overlay(self.image, self.mask, self.palette, alpha)
        if not legend:
            return picture
        counts = np.bincount(self.mask.ravel(), minlength=len(self.classes))
        present = [int(index) for index in np.argsort(-counts, kind="stable") if counts[index]]
        colours: list[list[int]] = self.palette.tolist()
        return add_legend(
            picture,
            [
                (self.classes[i], (colours[i][0], colours[i][1], colours[i][2]), counts[i] / self.mask.size)
                for i in present
            ],
        )


class Predictor:
    """Segments photographs with one model.

    Args:
        model_or_weights: a SegNeXt (put into evaluation mode), or what ``create_model(weights=...)`` takes: a
            shipped name such as ``"camvid"`` or a checkpoint's path.
        device: ``"auto"`` (a GPU if there is one), or a torch device.
        dtype: ``torch.float32``, ``torch.bfloat16``, or ``torch.float16`` for autocast.
        mode: ``"whole"`` image, or ``"slide"``: overlapping windows for images too large for the memory.
        crop: side of a window in pixels.
        stride: step between windows; None: three quarters of `crop`.
        scales: sizes, relative to the image's, whose probabilities are averaged.
        flip: average with the mirrored image's prediction too.
        short_side: to which images are resized for the network; None: as the weights' preprocessing says, or
            native; 0: native whatever the weights say. Masks always have the photograph's size.
        size_divisor: the network sees sides rounded up to a multiple of it; 32 matches published numbers.
        batch: windows that run through the network together.

    Attributes:
        model: the model, in evaluation mode, on `device`; on a CPU or a CUDA GPU a deployed copy of it runs
            (`segnext.deploy`) unless dtype is float16, made when the Predictor is made: later changes of its
            weights have no effect.
        classes: name of each class: the weights', else "class 0", "class 1", ...
        palette: (K, 3) uint8 RGB: the weights', else distinguishable colours.
        inference: the protocol, see `Inference`.

    Raises:
        ValueError: an option is out of range, the model does not segment RGB images, or the device is not
            there. FileNotFoundError: no such weights.
    """

    def __init__(
        self,
        model_or_weights: SegNeXt | str | os.PathLike[str] = "camvid",
        *,
        device: torch.device | str = "auto",
        dtype: torch.dtype = torch.float32,
        mode: str = "whole",
        crop: int = 1024,
        stride: int | None = None,
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
        short_side: int | None = None,
        size_divisor: int | None = None,
        batch: int = 1,
    ) -> None:
        if dtype not in (torch.float32, torch.bfloat16, torch.float16):
            raise ValueError(f"Predictor: dtype must be float32, bfloat16 or float16, got {dtype}")
        self.device = choose_device(device)
        self.dtype = dtype
        model = model_or_weights
        if isinstance(model, str | os.PathLike):
            built = create_model(weights=model)
            if not isinstance(built, SegNeXt):
                raise ValueError(
                    f"Predictor: weights must be of a SegNeXt, got {built.config.architecture} from "
                    f"{model_or_weights}; a classifier has no masks"
                )
            model = built
        if not isinstance(model, SegNeXt):
            raise TypeError(
                f"Predictor: model must be a SegNeXt or a name or path of weights, got {type(model).__name__}"
            )
        if model.config.in_channels != 3:
            raise ValueError(
                f"Predictor: the model must take RGB images, got in_channels={model.config.in_channels}; "
                "normalise your images yourself and call model.predict"
            )
        self.model = model.to(self.device).eval()
        self._network = self._deployed()
        preprocessing = model.metadata.get("preprocessing") or {}
        self.mean, self.std = preprocessing.get("mean", MEAN), preprocessing.get("std", STD)
        if short_side is None:
            short_side = preprocessing.get("short_side")
        self.inference = Inference(
            mode=mode,
            crop=crop,
            stride=stride,
            scales=tuple(scales),
            flip=flip,
            short_side=short_side or None,
            size_divisor=size_divisor,
            batch=batch,
        )
        count = model.config.num_classes
        self.classes = _class_names(model.metadata.get("classes"), count)
        self.palette = _palette(model.metadata.get("palette"), count)

    def __call__(self, image: str | os.PathLike[str] | np.ndarray | Image.Image) -> Prediction:
        """Segments one photograph.

        Args:
            image: a file, a (H, W, 3) uint8 RGB array, or a Pillow image of any mode.

        Raises:
            segnext.data.images.ImageError: the file cannot be read (a ValueError whose line names the file).
            ValueError, TypeError: an array of another shape or dtype.
            MemoryError: the image is too large to be segmented in this way.
        """
        pixels = _pixels(image)
        start = time.perf_counter()
        try:
            tensor = normalise(pixels, mean=self.mean, std=self.std, device=self.device)
            autocast = self.dtype != torch.float32 and self._network is self.model
            with torch.autocast(self.device.type, self.dtype, enabled=autocast):
                mask = predict_mask(self._network, tensor, inference=self.inference)[0].cpu().numpy()
        except (RuntimeError, MemoryError) as error:
            if not _out_of_memory(error):
                raise
            height, width = pixels.shape[:2]
            advice = "use mode='slide'" if self.inference.mode == "whole" else "use a smaller crop"
            raise MemoryError(
                f"not enough memory for {width}x{height} pixels in mode {self.inference.mode!r}; {advice} "
                "or a short_side"
            ) from None
        return Prediction(mask, pixels, self.classes, self.palette, time.perf_counter() - start)

    def _deployed(self) -> Network:
        """What runs: on a CPU or a CUDA GPU the deployed model; where it cannot be deployed the model itself."""
        is_taken = self.device.type in ("cpu", "cuda") and self.dtype in (torch.float32, torch.bfloat16)
        return (
            deploy(self.model, self.dtype)
            if is_taken and not self.model.config.random_eval_bases
            else self.model
        )


def _pixels(image: str | os.PathLike[str] | np.ndarray | Image.Image) -> np.ndarray:
    if isinstance(image, str | os.PathLike):
        return read_image(image)
    if isinstance(image, Image.Image):
        return rgb_array(image)
    if isinstance(image, Tensor) or not isinstance(image, np.ndarray):
        raise TypeError(
            f"Predictor: image must be a path, a numpy array or a Pillow image, got {type(image).__name__}; "
            "normalised tensors go to model.predict"
        )
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(
            f"Predictor: an array must be (H, W, 3) uint8 RGB, got {image.shape} {image.dtype}; "
            "PIL.Image.fromarray(array) takes gray and alpha"
        )
    return image


def _class_names(names: Sequence[str] | None, count: int) -> tuple[str, ...]:
    if names is None:
        return tuple(f"class {index}" for index in range(count))
    if len(names) != count:
        raise ValueError(
            f"Predictor: classes in the weights' metadata must be {count} names, got {len(names)}"
        )
    return tuple(str(name) for name in names)


def _palette(colours: Sequence[Sequence[int]] | None, count: int) -> np.ndarray:
    if colours is None:
        return distinct_palette(count)
    palette = np.asarray(colours)
    if palette.shape != (count, 3) or palette.min() < 0 or palette.max() > 255:
        raise ValueError(
            f"Predictor: palette in the weights' metadata must be {count} colours [r, g, b] of 0..255, "
            f"got shape {palette.shape}"
        )
    return palette.astype(np.uint8)


def _out_of_memory(error: RuntimeError | MemoryError) -> bool:
    # torch's CPU allocator raises a plain RuntimeError.
    known = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return known or "can't allocate memory" in str(error)
