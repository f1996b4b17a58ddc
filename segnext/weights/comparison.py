"""Runs a model that other code built beside the SegNeXt that was made of it, and refuses what differs.

Both take the same two small images in evaluation mode, in float32, with the same NMF bases: other code draws new ones
in every call. The other model is left as it was, and so are PyTorch's random numbers and settings.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segnext.models import SegNeXt
from segnext.models.contexts.context import without_autocast
from segnext.one_line import one_line

# Relative to the largest value of a part. Both sides compute in float32: the real packages differ from us by 3e-6.
ALLOWED = 1e-4
# Odd sides show each way to resize, and 73 pixels leave the last stage 3 rows. Two images show whether they are mixed.
IMAGES, HEIGHT, WIDTH = 2, 73, 105


def expect_equal(
    what: str,
    theirs: nn.Module,
    ours: SegNeXt,
    factorisation: nn.Module,
    wide: Mapping[str, Tensor],
    is_turned: bool,
) -> None:
    """Raise unless both models compute the same; set ``ours.config.align_corners`` as ``theirs`` resizes its logits.

    Args:
        what: begins the messages.
        theirs: a module with ``backbone`` and ``decode_head``.
        ours: in evaluation mode, on the same device.
        factorisation: the module of ``theirs`` that has or draws the NMF bases.
        wide: float32 values, by name, for those tensors of ``theirs`` that are of another dtype.
        is_turned: ``theirs`` takes images with blue first, and ``ours`` with red first.

    Raises:
        ValueError: a part computes something else, or numbers that are not finite; ``theirs`` does not run.
    """
    device = next(ours.parameters()).device
    shape = (IMAGES, ours.config.in_channels, HEIGHT, WIDTH)
    images = torch.randn(shape, generator=torch.Generator("cpu").manual_seed(0), device="cpu").to(device)
    given = images.flip(1) if is_turned else images
    bases = ours.get_buffer("decoder.hamburger.bases")
    with (
        _evaluated(theirs),
        _undisturbed(images),
        _pinned(factorisation, bases),
        _replaced(theirs, wide),
    ):
        try:
            features = theirs.get_submodule("backbone")(given)
            logits = theirs.get_submodule("decode_head")(features)
            full = _full_size(theirs, given)
        except Exception as error:  # it may be anything, since it is not our code
            raise ValueError(
                f"{what}: model must run on images {shape} on {device}, got {type(error).__name__} "
                f"({one_line(error, 240)}); use the model as it is"
            ) from error
        own_features = ours.forward_features(images)
        own_logits = ours.forward_logits(images)
    stages = features if isinstance(features, list | tuple) else [features]
    if len(stages) != len(own_features):
        raise ValueError(
            f"{what}: backbone must return the features of {len(own_features)} stages, got {len(stages)}; "
            "use the model as it is"
        )
    for number, (feature, own) in enumerate(zip(stages, own_features, strict=True), start=1):
        _expect_close(what, f"stage {number} of the encoder", feature, own)
    _expect_close(what, "the decoder", logits, own_logits)
    ours.config = replace(ours.config, align_corners=_align_corners(what, ours, logits, full))


def _full_size(model: Any, images: Tensor) -> Any:
    """Return logits of the images' size, by mmsegmentation's method or else by a call of the model."""
    if not hasattr(model, "encode_decode"):
        return model(images)
    size = images.shape[2:]
    return model.encode_decode(
        images, [dict.fromkeys(("img_shape", "pad_shape", "ori_shape"), size)] * IMAGES
    )


def _align_corners(what: str, ours: SegNeXt, logits: Tensor, full: Any) -> bool:
    """Find how a model resizes its logits; no attribute of OTX's models says it."""
    if isinstance(full, Tensor) and full.shape == logits.shape:
        return ours.config.align_corners  # it leaves that to its caller
    rules = (ours.config.align_corners, not ours.config.align_corners)
    for rule in rules:
        resized = F.interpolate(logits.float(), (HEIGHT, WIDTH), mode="bilinear", align_corners=rule)
        if isinstance(full, Tensor) and _difference(full, resized) <= ALLOWED:
            return rule
    kind = f"a tensor {tuple(full.shape)}" if isinstance(full, Tensor) else f"a {type(full).__name__}"
    raise ValueError(
        f"{what}: model must return its decoder's logits, resized bilinearly to {(HEIGHT, WIDTH)}, got {kind} with "
        "other values; use the model as it is"
    )


def _expect_close(what: str, part: str, theirs: Any, ours: Tensor) -> None:
    if not isinstance(theirs, Tensor) or not bool(torch.isfinite(theirs).all()):
        kind = "NaN or infinity" if isinstance(theirs, Tensor) else f"a {type(theirs).__name__}"
        raise ValueError(
            f"{what}: {part} must give finite numbers, got {kind}; train or load the model first"
        )
    if theirs.shape != ours.shape:
        raise ValueError(
            f"{what}: {part} must give {tuple(ours.shape)}, got {tuple(theirs.shape)}; use the model as it is"
        )
    if not (difference := _difference(theirs, ours)) <= ALLOWED:
        raise ValueError(
            f"{what}: {part} must compute what SegNeXt's does, got values that differ by {difference:.1e} of the "
            "largest; its layers or its settings are others: use the model as it is"
        )


def _difference(theirs: Tensor, ours: Tensor) -> float:
    """Return the largest difference, relative to the largest value; infinity for other shapes."""
    if theirs.shape != ours.shape:
        return float("inf")
    scale = theirs.float().abs().max().clamp(min=torch.finfo(torch.float32).tiny)
    return float((theirs.float() - ours.float()).abs().max() / scale)


@contextmanager
def _evaluated(model: nn.Module) -> Iterator[None]:
    """Set evaluation mode without ``train``, which models override, and give each module its own mode back."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in modes:
            module.training = False
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def _undisturbed(images: Tensor) -> Iterator[None]:
    """Compute in full float32, without autocast, gradients or compilation; put random numbers and settings back."""
    device, precision = images.device, torch.get_float32_matmul_precision()
    tf32 = torch.backends.cudnn.allow_tf32
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng([device] if device.type == "cuda" else []))
        stack.enter_context(without_autocast(images))
        stack.enter_context(torch.no_grad())
        if "torch._dynamo" in sys.modules:  # else nothing is compiled, and the import would take a second
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        try:
            torch.set_float32_matmul_precision("highest")
            torch.backends.cudnn.allow_tf32 = False
            yield
        finally:
            torch.set_float32_matmul_precision(precision)
            torch.backends.cudnn.allow_tf32 = tf32


@contextmanager
def _pinned(factorisation: nn.Module, bases: Tensor) -> Iterator[None]:
    """Let a factorisation that would draw bases take these for every image."""
    name, own = "_build_bases", dict(vars(factorisation))
    if not hasattr(factorisation, name):
        yield
        return
    vars(factorisation)[name] = lambda *_, **__: bases.repeat(IMAGES, 1, 1)
    try:
        yield
    finally:
        del vars(factorisation)[name]
        if name in own:
            vars(factorisation)[name] = own[name]


@contextmanager
def _replaced(model: nn.Module, tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """Let a model compute with other tensors, and give it its own ones back, the very same objects."""
    held = []
    for name, tensor in tensors.items():
        path, _, leaf = name.rpartition(".")
        module = model.get_submodule(path)
        store = module._parameters if leaf in module._parameters else module._buffers
        held.append((store, leaf, store[leaf], tensor))
    try:
        for store, leaf, _, tensor in held:
            store[leaf] = tensor  # type: ignore[assignment]
        yield
    finally:
        for store, leaf, before, _ in held:
            store[leaf] = before  # type: ignore[assignment]
