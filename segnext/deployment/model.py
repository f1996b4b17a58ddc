"""`deploy` turns a trained SegNeXt into a fast inference model.

The weights are folded once (`segnext.deployment.folding`). On a CPU with the compiled library they are packed for
its instruction set, and every tensor of a forward pass lies in a plan that is made once per input shape
(`segnext.deployment.packed`). Elsewhere the same folded network runs on the public ops
(`segnext.deployment.modules`), in channels_last from the image to the label map: on a GPU SegNeXt-T takes at most 80
launches, captured in a CUDA graph per input shape (`segnext.deployment.graphs`).
"""

from __future__ import annotations

import json
from collections.abc import Hashable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from segnext.deployment.folding import DECODERS, by_name, fold, from_names
from segnext.deployment.graphs import Function, GraphCache
from segnext.deployment.modules import FoldedNetwork
from segnext.deployment.packed import PackedNetwork
from segnext.deployment.parts import FoldedWeights
from segnext.models import SegNeXt, SegNeXtConfig
from segnext.models.layers import check_images
from segnext_kernels import current_backend, packed, upsample_argmax

FORMAT = "segnext-deployed-1"


def deploy(model: SegNeXt, dtype: torch.dtype = torch.float32, cuda_graph: bool = True) -> DeployedSegNeXt:
    """Return an inference model with the weights of ``model``, which is not changed.

    Args:
        model: a SegNeXt; the result runs on its device.
        dtype: float32 or bfloat16, for activations and matrix products; sums, statistics, the NMF's state and logits
            are always float32.
        cuda_graph: on a GPU, capture each input shape and memory format in a CUDA graph at its first call, and keep a
            few graphs; without one, small batches wait for Python between kernels. It has no effect on a CPU.

    Raises:
        TypeError: not a SegNeXt.
        ValueError: another dtype; the model draws random bases in evaluation, so that its result is not fixed; or
            its decoder cannot be folded.
    """
    if not isinstance(model, SegNeXt):
        raise TypeError(
            f"deploy: model must be a SegNeXt, got {type(model).__name__}; encoders are not deployed alone"
        )
    reason = reason_against(model)
    if reason is not None:
        raise ValueError(f"deploy: {reason}")
    device = next(model.parameters()).device
    return DeployedSegNeXt(model.config, fold(model), dtype, model.metadata, device, cuda_graph)


def reason_against(model: SegNeXt) -> str | None:
    """Return why `deploy` refuses a model; None if it takes the model."""
    if model.config.random_eval_bases:
        return "model must have random_eval_bases=False, got True; its output changes at every call"
    if type(model.decoder) not in DECODERS:
        names = ", ".join(kind.__name__ for kind in DECODERS)
        return f"model must have one of the decoders {names}, got {type(model.decoder).__name__}"
    return None


class DeployedSegNeXt:
    """A folded SegNeXt for inference; made by `deploy` or `DeployedSegNeXt.load`.

    With ``fast = deploy(model)`` and normalised float32 images x (N, C, H, W) of any size, ``fast(x)`` gives logits at
    the input's size, ``fast.forward_logits(x)`` logits at H/8, and ``fast.predict(x)`` labels. Several threads may call
    it at once; results never share memory with the model.
    """

    training = False  # as a module in evaluation mode

    def __init__(
        self,
        config: SegNeXtConfig,
        weights: FoldedWeights,
        dtype: torch.dtype = torch.float32,
        metadata: dict[str, Any] | None = None,
        device: torch.device | str = "cpu",
        cuda_graph: bool = True,
    ) -> None:
        if dtype not in packed.DTYPES:
            raise ValueError(f"deploy: dtype must be torch.float32 or torch.bfloat16, got {dtype}")
        self.config, self.weights, self.dtype = config, weights, dtype
        self.metadata = metadata or {}
        self.device = torch.device(device)
        is_packed = (
            self.device.type == "cpu"
            and packed.unavailable() is None
            and current_backend() in ("auto", "cpu")
        )
        self._network: PackedNetwork | FoldedNetwork = (
            PackedNetwork(weights, dtype) if is_packed else FoldedNetwork(weights, dtype, self.device)
        )
        self._stem_weight = weights.stem.weight.to(self.device)
        self._graphs = GraphCache() if cuda_graph and self.device.type == "cuda" else None

    def __call__(self, images: Tensor) -> Tensor:
        """Return logits (N, num_classes, H, W) in float32."""
        logits, size = self.forward_logits(images), images.shape[2:]
        return F.interpolate(logits, size=size, mode="bilinear", align_corners=False)

    def forward_logits(self, images: Tensor) -> Tensor:
        """Return logits (N, num_classes, ceil(H/8), ceil(W/8)) in float32, before resizing to the image."""
        self._check(images)
        if self._graphs is not None:
            return self._through_graph("logits", self._network.logits, images)
        with torch.inference_mode():
            logits = self._network.logits(images)
        return logits.clone() if logits.is_inference() and not torch.is_inference_mode_enabled() else logits

    def predict(self, images: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Return the most likely class of each pixel: (N, height, width), uint8 up to 256 classes, else int32.

        Args:
            images: (N, C, H, W) normalised images, float32.
            size: height and width of the result; the images' by default.
        """
        self._check(images)
        size = size or (images.shape[2], images.shape[3])
        if self._graphs is not None:
            return self._through_graph(
                tuple(size), lambda pixels: upsample_argmax(self._network.logits(pixels), size), images
            )
        with torch.inference_mode():
            logits = self._network.logits(images)
        with torch.no_grad():  # outside inference mode, so that the caller may change the result in place
            return upsample_argmax(logits, size)

    def _through_graph(self, kind: Hashable, function: Function, images: Tensor) -> Tensor:
        """Capture and replay outside inference mode and autocast, so that one graph serves callers in any mode."""
        assert self._graphs is not None
        with torch.inference_mode(False), torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            return self._graphs((kind, current_backend()), function, images)

    def _check(self, images: Tensor) -> None:
        """Raise a one-line error if the images do not fit."""
        check_images(f"deployed {self.config.architecture}", images, self._stem_weight)

    def save(self, path: str | Path) -> None:
        """Write folded, unpacked weights and the configuration as safetensors; each machine packs them at loading.

        The file is written under a temporary name and renamed, so that it is never half written.
        """
        from safetensors.torch import save_file

        from segnext.atomic import replace_file

        header = {
            "format": FORMAT,
            "config": json.dumps(asdict(self.config)),
            "dtype": str(self.dtype).removeprefix("torch."),
            "metadata": json.dumps(self.metadata),
        }
        tensors = by_name(self.config, self.weights)
        replace_file(path, lambda temporary: save_file(tensors, temporary, header))

    @classmethod
    def load(
        cls,
        path: str | Path,
        dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
        cuda_graph: bool = True,
    ) -> DeployedSegNeXt:
        """Read what `save` wrote.

        Args:
            path: a .safetensors file.
            dtype: replaces the saved one.
            device: where the model runs.
            cuda_graph: see `deploy`.

        Raises:
            FileNotFoundError: no such file. ValueError: not a deployed SegNeXt.
        """
        from safetensors import SafetensorError, safe_open

        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"deploy: {path} does not exist")
        try:
            with safe_open(path, "pt") as file:
                header = file.metadata() or {}
                names = file.keys()
                tensors = {name: file.get_tensor(name) for name in names}
        except SafetensorError as error:
            raise ValueError(f"deploy: {path} is not a safetensors file ({error})") from error
        if header.get("format") != FORMAT:
            raise ValueError(
                f"deploy: {path} must be a file of DeployedSegNeXt.save, got other weights; "
                "create_model(weights=...) reads checkpoints, deploy(model) folds them"
            )
        saved = getattr(torch, header["dtype"])
        config = SegNeXtConfig(**json.loads(header["config"]))
        try:
            weights = from_names(config, tensors)
        except KeyError as error:
            raise ValueError(
                f"deploy: {path} must have every tensor of a deployed {config.architecture}, lacks {error.args[0]}"
            ) from None
        return cls(config, weights, dtype or saved, json.loads(header["metadata"]), device, cuda_graph)
