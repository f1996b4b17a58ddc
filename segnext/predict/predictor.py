"""Turns photographs into predictions.

from segnext import Predictor
prediction = Predictor("camvid")("street.jpg")
prediction.save_mask("street_mask.png")
prediction.overlay().save("street_overlay.png")
print(prediction.statistics())              # {"road": 0.317, "building": 0.233, ...}
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from segnext.create import create_model
from segnext.data.bands import read_bands, rgb_view
from segnext.data.images import rgb_array
from segnext.data.preprocessing import Preprocessing, as_batch
from segnext.deployment.model import deploy, reason_against
from segnext.device import choose_device
from segnext.drawing.palette import distinct_palette
from segnext.export.network import ExportedNetwork, open_exported
from segnext.export.targets import device_for, is_exported
from segnext.models import MSCAN, SegNeXt
from segnext.models.config import STAGES
from segnext.models.finite import expect_values
from segnext.predict.inference import Inference, Network, encoder_features, predict_mask
from segnext.predict.inspection import MAPS, inspect
from segnext.predict.prediction import Prediction
from segnext.weights.foreign import from_module


class Predictor:
    """Segments photographs with one model.

    Args:
        model: a SegNeXt (put into evaluation mode); a model of other code that `segnext.deploy` takes, which is copied;
            what ``create_model(weights=...)`` takes: a name such as ``"camvid"`` or ``"ade20k-b"``, or the path of a
            checkpoint; or a file that `segnext export` wrote, which runs in its own runtime on the CPU
            (`segnext.open_exported`).
        device: ``"auto"`` (a GPU if there is one), or a torch device.
        dtype: ``torch.float32``, ``torch.bfloat16``, or ``torch.float16`` for autocast.
        inference: how an image goes through the network; the whole image once by default. Where it has no
            `short_side`, the preprocessing gives one. Masks always have the photograph's size.
        preprocessing: how a photograph becomes the network's input; by default as the weights say.

    Attributes:
        model: the model, in evaluation mode, on `device`; or the exported file as a network. On a CPU or a CUDA GPU a
            deployed copy of the model runs (`segnext.deploy`), unless dtype is float16 or `deploy` refuses the model.
            The copy is made when the Predictor is made: later changes of the model's weights have no effect.
        classes: name of each class: the weights', else "class 0", "class 1", ...
        palette: (K, 3) uint8 RGB: the weights', else distinguishable colours.
        inference: the protocol, see `Inference`.
        preprocessing: see above.

    Raises:
        ValueError: an option is out of range, the model does not segment RGB images or is on the meta device, or there
            is no such device. FileNotFoundError: no such weights. OSError: they cannot be downloaded.
    """

    def __init__(
        self,
        model: nn.Module | ExportedNetwork | str | os.PathLike[str] = "camvid",
        *,
        device: torch.device | str = "auto",
        dtype: torch.dtype = torch.float32,
        inference: Inference | None = None,
        preprocessing: Preprocessing | None = None,
    ) -> None:
        if dtype not in (torch.float32, torch.bfloat16, torch.float16):
            raise ValueError(f"Predictor: dtype must be float32, bfloat16 or float16, got {dtype}")
        for name, value, kind in (
            ("inference", inference, Inference),
            ("preprocessing", preprocessing, Preprocessing),
        ):
            if not isinstance(value, kind | None):
                expected = f"{kind.__module__}.{kind.__name__}"
                raise TypeError(f"Predictor: {name} must be a {expected}, got a {type(value).__name__}")
        self.dtype = dtype
        self.model: SegNeXt | ExportedNetwork
        self._network: Network
        if is_exported(model):
            model = open_exported(model, dtype)
        if isinstance(model, ExportedNetwork):
            self.device = choose_device(device_for(model.file, str(device)))
            self.model = self._network = model
        else:
            self.device = choose_device(device)
            self.model = _segnext_of(model).to(self.device).eval()
            self._network = network_of(self.model, self.device, dtype)
        self.preprocessing = preprocessing or Preprocessing.of(self.model.metadata)
        channels = self.model.config.in_channels
        if channels != len(self.preprocessing.mean) or (channels != 3 and self.preprocessing.bands is None):
            raise ValueError(
                f"Predictor: the preprocessing must say mean, std and bands of the model's channels "
                f"(in_channels={channels}), got mean {self.preprocessing.mean} and bands "
                f"{self.preprocessing.bands}; pass "
                "preprocessing=Preprocessing(mean, std, bands=...), or normalise your images yourself and call "
                "model.predict"
            )
        self.inference = (inference or Inference()).for_weights(self.preprocessing.short_side)
        count = self.model.config.num_classes
        self.classes = _class_names(self.model.metadata.get("classes"), count)
        self.palette = _palette(self.model.metadata.get("palette"), count)

    def __call__(self, image: str | os.PathLike[str] | np.ndarray | Image.Image) -> Prediction:
        """Segment one photograph.

        Args:
            image: a file, a (H, W, 3) uint8 RGB array, or a Pillow image of any mode. For a model of other bands a
                file, or a (H, W, C) uint8 array of its bands.

        Raises:
            segnext.data.images.ImageError: the file cannot be read (a ValueError whose line names the file).
            ValueError, TypeError: an array of another shape or dtype.
            MemoryError: the image is too large to be segmented in this way.
        """
        return self._segment([_pixels(image, self.preprocessing)])[0]

    def predict_batch(
        self, images: Sequence[str | os.PathLike[str] | np.ndarray | Image.Image]
    ) -> list[Prediction]:
        """Segment photographs of one size together, which a GPU does faster than one after another.

        Args:
            images: at least one, as for a call; all have the same height and width.

        Returns:
            A prediction for each, whose `seconds` are those of the whole batch.

        Raises:
            ValueError: there are no images, or they differ in size. Others as for a call.
        """
        pixels = [_pixels(image, self.preprocessing) for image in images]
        sizes = sorted({(one.shape[1], one.shape[0]) for one in pixels})
        if len(sizes) != 1:
            got = ", ".join(f"{width}x{height}" for width, height in sizes[:3]) or "no images"
            raise ValueError(
                f"Predictor: images of a batch must have one size, got {got}; call it for each size"
            )
        return self._segment(pixels)

    def inspect(
        self, image: str | os.PathLike[str] | np.ndarray | Image.Image, maps: Sequence[str] = MAPS
    ) -> dict[str, np.ndarray]:
        """Return how sure the model is at each pixel of one photograph; this takes about the time of a mask.

        The probabilities p1 >= p2 >= ... of the K classes are those that the mask is made from: bilinearly resized
        logits through a softmax, averaged over scales and mirrored views. They are computed in bands of rows.

        Args:
            image: as for a call.
            maps: some of ``"confidence"``: p1; ``"entropy"``: -sum(p log p) / log K; ``"margin"``: p1 - p2.

        Returns:
            For each name (H, W) float32 within 0..1.

        Raises:
            ValueError: no such map, or the model is an exported file that gives masks. Others as for a call.
        """
        pixels = _pixels(image, self.preprocessing)
        with self._computing(*pixels.shape[:2]):
            images = _batch([pixels]).to(self.device)
            return inspect(self._network, images, self.preprocessing, self.inference, maps)

    def features(
        self, image: str | os.PathLike[str] | np.ndarray | Image.Image, stage: int = STAGES
    ) -> np.ndarray:
        """Return the encoder's features of one whole photograph, at the protocol's size for scale 1.

        The model computes them, and not its deployed copy.

        Args:
            image: as for a call.
            stage: 1 to 4.

        Returns:
            (C, ceil(h/s), ceil(w/s)) float32, s = 4, 8, 16 or 32, where h x w is the size that the network sees.

        Raises:
            ValueError: no such stage, or the model is an exported file. Others as for a call.
        """
        if isinstance(self.model, ExportedNetwork):
            raise ValueError(
                f"{self.model.file}: features must be of a model in PyTorch, got an exported file; use the weights "
                "that it was made from"
            )
        pixels = _pixels(image, self.preprocessing)
        with self._computing(*pixels.shape[:2]):
            images = _batch([pixels]).to(self.device)
            features = encoder_features(self.model, images, stage, self.preprocessing, self.inference)
            return np.asarray(features[0].cpu())

    def _segment(self, pixels: Sequence[np.ndarray]) -> list[Prediction]:
        """Return the predictions of arrays (H, W, C) of one shape."""
        start = time.perf_counter()
        with self._computing(*pixels[0].shape[:2]):
            images = _batch(pixels).to(self.device)
            ids = predict_mask(self._network, images, self.preprocessing, self.inference)
            masks = ids.cpu().numpy()
        seconds = time.perf_counter() - start
        return [
            Prediction(mask, rgb_view(one), self.classes, self.palette, seconds)
            for mask, one in zip(masks, pixels, strict=True)
        ]

    @contextmanager
    def _computing(self, height: int, width: int) -> Iterator[None]:
        """Compute in `dtype`, and say in one line that images of this size need more memory than there is."""
        autocast = self.dtype != torch.float32 and isinstance(self._network, SegNeXt)
        try:
            with torch.autocast(self.device.type, self.dtype, enabled=autocast):
                yield
        except (RuntimeError, MemoryError) as error:
            if not _out_of_memory(error):
                raise
            raise MemoryError(self._too_large(height, width)) from None

    def _too_large(self, height: int, width: int) -> str:
        """Say that an image needs more memory than there is, and what needs less."""
        inference, start = self.inference, f"not enough memory for {width}x{height} pixels"
        rows, columns = max(inference.seen(height, width, scale) for scale in inference.scales)
        if rows * columns > height * width:
            return f"{start}, which the network sees as {columns}x{rows}; use smaller scales or a smaller short_side"
        advice = "use mode='slide'" if inference.mode == "whole" else "use a smaller crop"
        return f"{start} in mode {inference.mode!r}; {advice} or a short_side"


def network_of(model: SegNeXt, device: torch.device, dtype: torch.dtype) -> Network:
    """Return what predicts and is evaluated: the deployed model, or the model itself where it does not run."""
    return deploy(model, dtype) if runs_deployed(device, dtype, model) else model


def runs_deployed(device: torch.device, dtype: torch.dtype, model: SegNeXt) -> bool:
    """Return whether a `Predictor` runs the deployed model; if not, it runs the model, under autocast below float32."""
    is_taken = device.type in ("cpu", "cuda") and dtype in (torch.float32, torch.bfloat16)
    return is_taken and reason_against(model) is None


def _segnext_of(model: nn.Module | str | os.PathLike[str]) -> SegNeXt:
    """Return the SegNeXt that was given or named."""
    if isinstance(model, str | os.PathLike):
        built = create_model(weights=model)
        if not isinstance(built, SegNeXt):
            raise ValueError(
                f"Predictor: weights must be of a SegNeXt, got {built.config.architecture} from "
                f"{model}; a classifier has no masks"
            )
        model = built
    if not isinstance(model, nn.Module) or isinstance(model, MSCAN):
        raise TypeError(
            f"Predictor: model must be a SegNeXt or a name or path of weights, got {type(model).__name__}"
        )
    own = from_module(model, what="Predictor", rgb=True)
    expect_values("Predictor", own.state_dict())
    return own


def _pixels(
    image: str | os.PathLike[str] | np.ndarray | Image.Image, preprocessing: Preprocessing
) -> np.ndarray:
    if isinstance(image, str | os.PathLike):
        return read_bands(image, preprocessing.bands, preprocessing.value_range)
    if isinstance(image, Image.Image) and preprocessing.bands is None:
        return rgb_array(image, preprocessing.value_range)
    if isinstance(image, Tensor) or not isinstance(image, np.ndarray):
        raise TypeError(
            f"Predictor: image must be a path, a numpy array or a Pillow image, got {type(image).__name__}; "
            "normalised tensors go to model.predict"
        )
    channels = len(preprocessing.mean)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != channels or 0 in image.shape:
        raise ValueError(
            f"Predictor: an array must be (H, W, {channels}) uint8{' RGB' if channels == 3 else ''}, got "
            f"{image.shape} {image.dtype}; "
            "PIL.Image.fromarray(array) takes gray and alpha"
        )
    return image


def _batch(pixels: Sequence[np.ndarray]) -> Tensor:
    """Return arrays (H, W, C) as a tensor (N, C, H, W), channels_last; a single one is not copied."""
    return as_batch(pixels[0]) if len(pixels) == 1 else torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)


def _class_names(names: Sequence[str] | None, count: int) -> tuple[str, ...]:
    if names is None:
        return tuple(f"class {index}" for index in range(count))
    if isinstance(names, str | Mapping) or len(names) != count:
        given = len(names) if not isinstance(names, str | Mapping) else f"a {type(names).__name__}"
        raise ValueError(f"Predictor: classes in the weights' metadata must be {count} names, got {given}")
    return tuple(str(name) for name in names)


def _palette(colours: Sequence[Sequence[int]] | None, count: int) -> np.ndarray:
    if colours is None:
        return distinct_palette(count)
    palette = np.asarray(colours)
    is_whole = palette.dtype.kind in "iu"  # colours of 0..1 would all be black
    if palette.shape != (count, 3) or not is_whole or palette.min() < 0 or palette.max() > 255:
        raise ValueError(
            f"Predictor: palette in the weights' metadata must be {count} colours [r, g, b] of whole numbers "
            f"0..255, got {palette.dtype} of shape {palette.shape}"
        )
    return palette.astype(np.uint8)


# What torch's CPU allocator says: it raises a plain RuntimeError.
_OUT_OF_MEMORY = ("can't allocate memory", "Storage size calculation overflowed")


def _out_of_memory(error: RuntimeError | MemoryError) -> bool:
    known = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return known or any(text in str(error) for text in _OUT_OF_MEMORY)
