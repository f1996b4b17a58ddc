"""`deploy` turns a trained SegNeXt into a fast inference model.

The weights are folded once (`segnext.deployment.folding`). On a CPU with the compiled library they are packed for
its instruction set, and every tensor of a forward pass lies in a plan that is made once per input shape
(`segnext.deployment.packed`). Elsewhere the same folded network runs on the public ops
(`segnext.deployment.modules`), in channels_last from the image to the label map: on a GPU SegNeXt-T takes at most 102
launches, captured in a CUDA graph per input shape (`segnext.deployment.graphs`).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad

from segnext.deployment import files
from segnext.deployment.folding import DECODERS, by_name, fold
from segnext.deployment.graphs import Function, GraphCache
from segnext.deployment.modules import FoldedNetwork
from segnext.deployment.packed import PackedNetwork
from segnext.deployment.packed import reason_against as reason_against_packed
from segnext.deployment.parts import FoldedWeights
from segnext.device import choose_device
from segnext.models import SegNeXt, SegNeXtConfig
from segnext.models.changed import first_changed_child
from segnext.models.finite import expect_finite, expect_values
from segnext.models.labels import two_logits
from segnext.models.layers import check_images
from segnext.models.sizes import plain_size
from segnext.weights.foreign import from_module
from segnext_kernels import checks, current_backend, packed, upsample_argmax

PRECISIONS = ("highest", "high", "medium")  # of torch.set_float32_matmul_precision


def deploy(
    model: nn.Module,
    dtype: torch.dtype = torch.float32,
    cuda_graph: bool = True,
    matmul_precision: str | None = None,
) -> DeployedSegNeXt:
    """Return an inference model with the weights of ``model``, which is not changed.

    Args:
        model: a SegNeXt, or one that other code built: mmsegmentation's and the official EncoderDecoder with MSCAN
            and LightHamHead, and the model of OpenVINO Training Extensions. It may be compiled, or in DataParallel,
            DistributedDataParallel or AveragedModel. A model of other code runs once on two small images, and has to
            compute what ours does (`segnext.weights.foreign`). The result runs on the model's device.
        dtype: float32 or bfloat16, for activations and matrix products; sums, statistics, the NMF's state and logits
            are always float32.
        cuda_graph: on a GPU, capture each input shape and memory format in a CUDA graph at its first call, and keep a
            few graphs; without one, small batches wait for Python between kernels. It has no effect on a CPU.
        matmul_precision: of float32 products on a CPU, as in `torch.set_float32_matmul_precision`, whose setting is
            the default. "high" computes them of bfloat16 pieces where the CPU has AMX, with 16 instead of 24 bits.

    Raises:
        TypeError: not a SegNeXt, or it is scripted, traced or sharded.
        ValueError: another dtype; the model draws random bases in evaluation, so that its result is not fixed; its
            decoder cannot be folded; it is on the meta device; a layer has hooks, was replaced or given
            another geometry; or a model of other code is quantised, or computes something else than a SegNeXt.
    """
    model = from_module(model, what="deploy")
    reason = reason_against(model)
    if reason is not None:
        raise ValueError(f"deploy: {reason}")
    expect_values("deploy", model.state_dict())
    device = next(model.parameters()).device
    return DeployedSegNeXt(
        model.config, fold(model), dtype, model.metadata, device, cuda_graph, matmul_precision
    )


def reason_against(model: SegNeXt) -> str | None:
    """Return why `deploy` refuses a model; None if it takes the model."""
    if model.config.random_eval_bases:
        return "model must have random_eval_bases=False, got True; its output changes at every call"
    if type(model.decoder) not in DECODERS:
        names = ", ".join(kind.__name__ for kind in DECODERS)
        return f"model must have one of the decoders {names}, got {type(model.decoder).__name__}"
    changed = first_changed_child(model)
    if changed is not None:
        return f"model must have the layers that it was built with, got {changed}; use the model as it is"
    return None


class DeployedSegNeXt:
    """A folded SegNeXt for inference; made by `deploy` or `DeployedSegNeXt.load`.

    With ``fast = deploy(model)`` and normalised float32 images x (N, C, H, W) of any size, ``fast(x)`` gives logits at
    the input's size, ``fast.forward_logits(x)`` logits at H/8, and ``fast.predict(x)`` labels. Several threads may call
    it at once; results never share memory with the model. Images for whose logits a derivative is asked are refused.
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
        matmul_precision: str | None = None,
    ) -> None:
        if dtype not in packed.DTYPES:
            raise ValueError(f"deploy: dtype must be torch.float32 or torch.bfloat16, got {dtype}")
        self.matmul_precision = matmul_precision or torch.get_float32_matmul_precision()
        checks.expect_choice("deploy", "matmul_precision", self.matmul_precision, PRECISIONS)
        self.config, self.weights, self.dtype = config, weights, dtype
        self.metadata = deepcopy(metadata or {})
        self.device = torch.device(device)
        with _products_in(self.matmul_precision):
            self._network = _network_of(weights, config, dtype, self.device)
        self._stem_weight = weights.stem.weight.to(self.device)
        self._graphs = GraphCache() if cuda_graph and self.device.type == "cuda" else None

    def __call__(self, images: Tensor) -> Tensor:
        """Return logits (N, K, H, W) in float32; K as in `segnext.models.SegNeXt`."""
        logits, size = self.forward_logits(images), images.shape[2:]
        return F.interpolate(logits, size=size, mode="bilinear", align_corners=self.config.align_corners)

    def forward_logits(self, images: Tensor) -> Tensor:
        """Return logits (N, K, ceil(H/8), ceil(W/8)) in float32, before resizing to the image."""
        self._check(images)
        if _is_differentiated(images):  # in inference mode, all derivatives would be zero
            raise TypeError(
                f"deployed {self.config.architecture}: images must need no derivative, got some that do; use the "
                "model that it was made from, or images.detach()"
            )
        if self._graphs is not None:
            return self._through_graph("logits", lambda pixels: (self._network.logits(pixels),), images)[0]
        with torch.inference_mode():
            logits = self._network.logits(images)
        return logits.clone() if logits.is_inference() and not torch.is_inference_mode_enabled() else logits

    def predict(self, images: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Return the most likely class of each pixel: (N, height, width), uint8 up to 256 classes, else int32.

        Args:
            images: (N, C, H, W) normalised images, float32.
            size: height and width of the result, integers of any kind; the images' by default.

        Raises:
            NonFiniteError: there are NaN or Inf among the logits; on a GPU their sum is waited for.
        """
        self._check(images)
        size = (images.shape[2], images.shape[3]) if size is None else plain_size(size)
        if self._graphs is not None:
            size = checks.expect_size("upsample_argmax", size)
            labels, total = self._through_graph(
                size, lambda pixels: self.labels_and_sum(pixels, size), images
            )
            if not (torch.cuda.is_current_stream_capturing() or math.isfinite(total.item())):
                self.expect_finite(self.forward_logits(images))
            return labels
        with torch.inference_mode():
            logits = self._network.logits(images)
            self.expect_finite(logits)
        with torch.no_grad():  # outside inference mode, so that the caller may change the result in place
            return self._labels(logits, size)

    def labels_and_sum(self, images: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Return the labels and the sum of the logits, which is finite if all of them are: one launch more."""
        logits = self._network.logits(images)
        return self._labels(logits, size), logits.sum(dtype=torch.float32)

    def _labels(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        return upsample_argmax(two_logits(logits, self.config.threshold), size, self.config.align_corners)

    def expect_finite(self, logits: Tensor) -> None:
        """Raise a `segnext.models.finite.NonFiniteError`, which names a tensor, unless all logits are finite."""
        name = f"deployed {self.config.architecture}"
        expect_finite(logits, name, lambda: by_name(self.config, self.weights))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle and copy the unpacked weights; each machine and process packs them anew."""
        cuda_graph = self._graphs is not None
        arguments = (self.config, self.weights, self.dtype, self.metadata, self.device, cuda_graph)
        return type(self), (*arguments, self.matmul_precision)

    def _through_graph(self, kind: Hashable, function: Function, images: Tensor) -> tuple[Tensor, ...]:
        """Capture and replay outside inference mode and autocast, so that one graph serves callers in any mode."""
        assert self._graphs is not None
        with torch.inference_mode(False), torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            return self._graphs((kind, current_backend()), function, images)

    def _check(self, images: Tensor) -> None:
        """Raise a one-line error if the images do not fit."""
        name = f"deployed {self.config.architecture}"
        check_images(name, images, self._stem_weight)
        reason = reason_against_packed(images) if isinstance(self._network, PackedNetwork) else None
        if reason is not None:
            raise TypeError(
                f"{name}: images must be ordinary tensors, got {reason}; use the model that it was made from"
            )

    def save(self, path: str | Path) -> None:
        """Write folded, unpacked weights and the configuration as safetensors; each machine packs them at loading.

        The file is written under a temporary name and renamed, so that it is never half written.
        """
        files.write(path, files.Contents(self.config, self.weights, self.dtype, self.metadata))

    @classmethod
    def load(
        cls,
        path: str | Path,
        dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
        cuda_graph: bool = True,
        matmul_precision: str | None = None,
    ) -> DeployedSegNeXt:
        """Read what `save` wrote.

        Args:
            path: a .safetensors file.
            dtype: replaces the saved one.
            device: where the model runs.
            cuda_graph, matmul_precision: see `deploy`.

        Raises:
            FileNotFoundError: no such file. ValueError: not a deployed SegNeXt, its tensors do not fit, or there is
                no such device.
        """
        chosen, found = choose_device(device), files.read(path)
        return cls(
            found.config,
            found.weights,
            dtype or found.dtype,
            found.metadata,
            chosen,
            cuda_graph,
            matmul_precision,
        )


@contextmanager
def _products_in(precision: str) -> Iterator[None]:
    """Pack weights for products of this precision: the kernels take PyTorch's setting."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _network_of(
    weights: FoldedWeights, config: SegNeXtConfig, dtype: torch.dtype, device: torch.device
) -> PackedNetwork | FoldedNetwork:
    can_be_packed = device.type == "cpu" and packed.unavailable() is None
    if can_be_packed and current_backend() in ("auto", "cpu"):
        with suppress(packed.TooLarge):
            return PackedNetwork(weights, config, dtype)
    return FoldedNetwork(weights, config, dtype, device)


def _is_differentiated(images: Tensor) -> bool:
    """Whether a gradient or a forward-mode derivative with respect to the images is asked for."""
    if torch.is_grad_enabled() and images.requires_grad:
        return True
    while torch._C._functorch.is_functorch_wrapped_tensor(images):
        if torch._C._functorch.is_gradtrackingtensor(images):
            return True
        images = torch._C._functorch.get_unwrapped(images)
    return forward_ad._current_level >= 0 and forward_ad.unpack_dual(images).tangent is not None
