"""An exported file as a network that predicts: what `Predictor`, `segnext val` and `segnext bench` run."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from segnext.data.preprocessing import Preprocessing
from segnext.export.description import LEAST_SIDE
from segnext.export.program_file import is_compiled
from segnext.export.running import RunOptions
from segnext.export.targets import TARGETS, is_exported, module_of, runs_here, targets_of
from segnext.models.finite import expect_finite
from segnext.models.labels import two_logits
from segnext.models.sizes import plain_size
from segnext.one_line import one_line
from segnext.weights.catalogue import find_file
from segnext_kernels import upsample_argmax


class ExportedNetwork:
    """A network in another runtime, on the CPU; made by `open_exported`.

    It takes normalised images (N, C, H, W), as every network here. For a file that takes pixels, the preprocessing in
    `metadata` leaves them as they are, and the network gets them back as uint8. It can be pickled while its file is
    there.

    Attributes:
        config: of the network.
        metadata: classes, palette, preprocessing.
        description: what the file says about itself.
        run: the file alone: images as its interface says to what it gives.
        runtime: what runs it, with its version.
        path: of the file.
        options: how it was opened.
        digest: of the file, 16 hexadecimal digits.
    """

    training = False  # as a module in evaluation mode

    def __init__(self, path: Path, options: RunOptions) -> None:
        self.path, self.options = path, options
        target = targets_of(path)[0]
        if target == "pt2" and is_compiled(path):
            target = "aoti"
        self.run, self.description, self.runtime = module_of(target).load(path, options)
        self.digest = _digest(path)
        self.config = self.description.config
        self.metadata = dict(self.description.metadata)
        if self.description.interface.input == "uint8":
            self.metadata["preprocessing"] = _unchanged(Preprocessing.of(self.metadata))

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy to other processes by the file's path: each opens it anew."""
        return open_exported, (self.path.absolute(), self.options.dtype)

    @property
    def file(self) -> str:
        """The file's path for messages."""
        return one_line(self.path, 240)

    def __repr__(self) -> str:
        """Say what it is."""
        return f"ExportedNetwork({self.file!r}, {self.config.architecture}, {self.runtime})"

    @property
    def gives_logits(self) -> bool:
        """Whether the file gives logits; if not, it gives masks."""
        return self.description.interface.output == "logits"

    def forward_logits(self, images: Tensor) -> Tensor:
        """Return logits (N, K, ceil(H/8), ceil(W/8)) in float32.

        Raises:
            ValueError: the file gives a mask, or was written for images of another size.
        """
        if not self.gives_logits:
            raise ValueError(
                f"{self.file}: output must be logits for windows, scales, mirrored views and other protocols, got a "
                "mask; export it without --mask"
            )
        return self._results(images)

    def predict(self, images: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Return the most likely class of each pixel: (N, height, width), uint8 up to 256 classes, else int32.

        A mask that the file gives is resized to another `size` by taking the nearest pixel.

        Raises:
            ValueError: the file was written for images of another size. NonFiniteError: a logit is NaN or Inf.
        """
        sides = (images.shape[2], images.shape[3]) if size is None else plain_size(size)
        results = self._results(images)
        if self.gives_logits:
            self.expect_finite(results)
            return upsample_argmax(
                two_logits(results, self.config.threshold), sides, self.config.align_corners
            )
        if tuple(results.shape[1:]) == tuple(sides):
            return results
        return F.interpolate(results[:, None].float(), sides, mode="nearest-exact")[:, 0].to(results.dtype)

    def expect_finite(self, logits: Tensor) -> None:
        """Raise a `segnext.models.finite.NonFiniteError` unless all logits are finite."""
        expect_finite(logits, self.file)

    def _results(self, images: Tensor) -> Tensor:
        interface = self.description.interface
        self._check(images)
        images = images.detach().to("cpu", torch.float32)
        if interface.input == "uint8":
            images = images.round().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
        images = images.contiguous()  # a compiled package takes other strides for these, without a word
        parts = [images] if interface.dynamic else images.split(interface.batch)
        with torch.autocast(
            "cpu", enabled=False
        ):  # PyTorch's formats would compute in other dtypes than recorded
            results = [self.run(part) for part in parts]
        return results[0] if len(results) == 1 else torch.cat(results)

    def _check(self, images: Tensor) -> None:
        interface, channels = self.description.interface, self.config.in_channels
        if images.ndim != 4 or images.shape[1] != channels:
            raise ValueError(
                f"{self.file}: images must be (N, {channels}, H, W), got {tuple(images.shape)}; see its description"
            )
        count, _, height, width = images.shape
        if interface.dynamic:
            if min(height, width) < LEAST_SIDE or not count:
                raise ValueError(
                    f"{self.file}: images must have sides from {LEAST_SIDE} pixels, got {count} of {height}x{width}; "
                    "pad them"
                )
        elif (height, width) != (interface.height, interface.width):
            square = (
                f" --mode slide --crop {interface.height}, or" if interface.height == interface.width else ""
            )
            raise ValueError(
                f"{self.file}: images must be {interface.height}x{interface.width}, for which it was exported, got "
                f"{height}x{width}; predict with{square} the file of `segnext export --dynamic`"
            )
        elif not count or count % interface.batch:
            raise ValueError(
                f"{self.file}: images must be a multiple of {interface.batch}, for which it was exported, got {count}; "
                "export with --batch 1 or --dynamic"
            )


def open_exported(path: Any, dtype: torch.dtype = torch.float32) -> ExportedNetwork:
    """Open a file that `segnext.export_model` or `segnext export` wrote, in its own runtime on the CPU.

    An exported file is a program: open only files that you trust.

    Args:
        path: .onnx, .xml (OpenVINO), .pt2 (torch.export or AOTInductor), .torchscript or .tflite (LiteRT).
        dtype: bfloat16 lets OpenVINO compute in it; the other runtimes compute as the file says.

    Raises:
        FileNotFoundError: no such file. ImportError: the runtime is not installed. ValueError: the file is damaged, or
            of other origin.
    """
    if is_exported(path) and not runs_here(path):
        raise ValueError(
            f"export: path must be of a format that runs here, got {one_line(path, 240)}; its devices run it"
        )
    found = find_file(path, "export: path must be an exported file", "`segnext export` writes one")
    if not runs_here(found):
        suffixes = dict.fromkeys(target.suffix for target in TARGETS.values() if target.runs)
        raise ValueError(
            f"export: path must end in one of {', '.join(suffixes)}, got {one_line(found.name)}; checkpoints go to "
            "create_model"
        )
    return ExportedNetwork(found, RunOptions(dtype))


def _unchanged(preprocessing: Preprocessing) -> dict[str, Any]:
    """Return a preprocessing that leaves pixels as they are, and resizes and reads files as before."""
    channels = len(preprocessing.mean)
    return {**preprocessing.as_json(), "mean": [0.0] * channels, "std": [1.0] * channels}


def _digest(path: Path) -> str:
    code = hashlib.blake2b(digest_size=8)
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            code.update(chunk)
    return code.hexdigest()
