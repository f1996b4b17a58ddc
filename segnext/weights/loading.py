"""Loading weights into a model with a report, and saving them."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from segnext.models import MSCAN, SegNeXt, dialects
from segnext.weights.catalogue import locate
from segnext.weights.containers import CONFIG_KEY, FORMAT, read_contents
from segnext.weights.identify import describe, foreign_metadata, overrides_of

METADATA_KEYS = ("classes", "palette", "preprocessing", "recipe", "metrics")
# What foreign checkpoints may lack: the model then keeps its own.
OPTIONAL = ("hamburger.bases", "num_batches_tracked")
CLASSIFIERS = ("decoder.classifier.", "head.")
BACKBONE = ("backbone.", "stem.", "downsamples.", "stages.", "norms.")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in our names.

    Attributes:
        tensors: our names to tensors on the CPU.
        config: architecture, model overrides, and what is known of classes, palette, preprocessing, recipe
            and metrics.
        origin: file, container and layout in words.
        rank_from: where the NMF rank in ``config`` comes from; "" where there is none.
        reshaped: names whose shape differed in the file.
    """

    tensors: dict[str, Tensor]
    config: dict[str, Any]
    origin: str
    rank_from: str = ""
    reshaped: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class LoadReport:
    """What loading did; ``str(report)`` is for reading.

    Attributes:
        origin: file, container and layout.
        matched: the model's names that were loaded.
        missing: the model's names that were not in the file; allowed ones, others raise.
        unexpected: names in the file that the model lacks; allowed ones, others raise.
        reshaped: loaded names whose shape differed in the file: layer scales, adapted input channels.
        reinitialised: names that ``head="reinit"`` left as the model was initialised.
        rank: the NMF rank used and where it comes from; "" where none was loaded.
        notes: anything else to know.
    """

    origin: str
    matched: list[str]
    missing: list[str]
    unexpected: list[str]
    reshaped: list[str]
    reinitialised: list[str]
    rank: str
    notes: list[str]

    def __str__(self) -> str:
        lists = ("matched", "missing", "unexpected", "reshaped")
        lines = [f"{self.origin}: " + ", ".join(f"{len(getattr(self, name))} {name}" for name in lists)]
        for name in (*lists[1:], "reinitialised"):
            if keys := getattr(self, name):
                lines.append(f"  {name}: {_some(keys)}")
        if self.rank:
            lines.append(f"  NMF rank: {self.rank}")
        return "\n".join(lines + [f"  note: {note}" for note in self.notes])


def read_checkpoint(source: str | os.PathLike[str], rank: int | None = None) -> Checkpoint:
    """Read a checkpoint of any container and layout, executing nothing in it.

    Args:
        source: a file or a shipped name.
        rank: NMF rank of a foreign checkpoint, if not the one its origin uses.

    Raises:
        FileNotFoundError: neither a file nor a shipped name.
        ValueError: damaged, or not a checkpoint of SegNeXt or MSCAN.
    """
    path = locate(source)
    contents = read_contents(path)
    try:
        translation = dialects.translate(contents.state_dict)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if contents.config:
        config, rank_from = contents.config, "from the file's config"
    else:
        config, rank_from = describe(translation.tensors, translation.layout, rank)
        config |= foreign_metadata(contents.meta)
    origin = f"{path} ({contents.kind}, {translation.layout} layout)"
    if contents.foreign:
        origin += f", without its objects of {_some(sorted(contents.foreign))}"
    return Checkpoint(translation.tensors, config, origin, rank_from, translation.reshaped)


def read(source: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, Any], str]:
    """State dict in our names, config, and origin in words; see :func:`read_checkpoint`."""
    checkpoint = read_checkpoint(source)
    return checkpoint.tensors, checkpoint.config, checkpoint.origin


def load_weights(
    model: SegNeXt | MSCAN,
    source: str | os.PathLike[str] | Checkpoint,
    *,
    head: str = "strict",
    part: str = "all",
    allow_missing: Sequence[str] = (),
    allow_unexpected: Sequence[str] = (),
    adapt_input: bool = False,
    rank: int | None = None,
) -> LoadReport:
    """Load a checkpoint of any layout; what does not fit raises, unless it was allowed by name.

    Args:
        model: a SegNeXt or MSCAN.
        source: a file, a shipped name, or what :func:`read_checkpoint` gave.
        head: ``"strict"``, or ``"reinit"`` to leave the classifier as it is (for another class count).
        part: ``"all"``, or ``"backbone"`` to load the encoder alone, from ImageNet or segmentation weights.
        allow_missing: beginnings of names that the file may lack, for example ``("decoder.",)``.
        allow_unexpected: beginnings of names that the file may have beyond the model's.
        adapt_input: fit the first convolution to the model's number of input channels: summed over the file's
            channels for 1, else repeated and scaled so that activations keep their size.
        rank: the NMF rank the checkpoint was trained with, if not the one its origin uses.

    Raises:
        ValueError: a mismatch that was not allowed, an unknown option, a damaged file; the model is kept.
        FileNotFoundError: no such file or shipped name.
    """
    _expect_option("head", head, ("strict", "reinit"))
    _expect_option("part", part, ("all", "backbone"))
    checkpoint = source if isinstance(source, Checkpoint) else read_checkpoint(source, rank)
    own = model.state_dict()
    found = dialects.to_native(checkpoint.tensors, own)
    reinitialised: list[str] = []
    if part == "backbone":
        found = {key: tensor for key, tensor in found.items() if key.startswith(BACKBONE)}
        allow_missing = (*allow_missing, "decoder.", "head.")
    elif head == "reinit":
        found = {key: tensor for key, tensor in found.items() if not key.startswith(CLASSIFIERS)}
        reinitialised = [key for key in own if key.startswith(CLASSIFIERS)]
    reshaped = [key for key in found if key in checkpoint.reshaped or _bare(key) in checkpoint.reshaped]
    notes = []
    first = next(key for key in own if _bare(key) == "stem.conv1.weight")
    if adapt_input and first in found and found[first].shape[1] != own[first].shape[1]:
        given, wanted = found[first].shape[1], own[first].shape[1]
        found[first] = _adapt_channels(found[first], wanted)
        reshaped.append(first)
        notes.append(f"{first} adapted from {given} to {wanted} input channels")
    missing = [key for key in own if key not in found and key not in reinitialised]
    unexpected = [key for key in found if key not in own]
    allowed_missing, allowed_unexpected = tuple(allow_missing), tuple(allow_unexpected)
    rank_text = _check_rank(model, checkpoint) if part == "all" and isinstance(model, SegNeXt) else ""
    _raise_unless_allowed(
        f"{checkpoint.origin} must match {model.config.architecture}",
        missing=[
            key for key in missing if not key.startswith(allowed_missing) and not key.endswith(OPTIONAL)
        ],
        unexpected=[key for key in unexpected if not key.startswith(allowed_unexpected)],
        shapes=[
            f"{key} {tuple(found[key].shape)} for {tuple(own[key].shape)}"
            for key in own
            if key in found and found[key].shape != own[key].shape
        ],
    )
    matched = [key for key in own if key in found]
    model.load_state_dict({key: found[key] for key in matched}, strict=False)
    return LoadReport(
        checkpoint.origin, matched, missing, unexpected, reshaped, reinitialised, rank_text, notes
    )


def save(
    model: SegNeXt | MSCAN,
    path: str | os.PathLike[str],
    metadata: dict[str, Any] | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Write a model as one safetensors file with its config; an existing file is replaced atomically.

    Args:
        model: a SegNeXt or MSCAN.
        path: the file.
        metadata: classes, palette, preprocessing, recipe, metrics; over those in ``model.metadata``.
        dtype: of the convolution weights in the file; vectors, statistics and bases stay as they are.

    Raises:
        ValueError: unknown metadata.
    """
    merged = {**model.metadata, **(metadata or {})}
    for key in merged:
        if key not in METADATA_KEYS:
            raise ValueError(f"save: metadata must be among {', '.join(METADATA_KEYS)}, got {key!r}")
    model_config = {"architecture": model.config.architecture, "model": overrides_of(model.config)}
    config = {"format": FORMAT, **model_config, **merged}
    tensors = _on_cpu(model)
    if dtype is not None:
        tensors |= {key: tensor.to(dtype) for key, tensor in tensors.items() if tensor.ndim == 4}
    header = {CONFIG_KEY: json.dumps(config), "format": "pt"}
    replace_file(path, lambda temporary: save_file(tensors, temporary, header))


def save_official(model: SegNeXt | MSCAN, path: str | os.PathLike[str]) -> None:
    """Write a model in the official code's names; an existing file is replaced atomically.

    The NMF bases are left out: the official model has no place for them.

    Args:
        model: a SegNeXt or MSCAN.
        path: ``*.safetensors``, or anything else for a torch checkpoint ``{"meta", "state_dict"}`` like the
            official ones, whose ``meta`` tells class names and palette.
    """
    tensors = dialects.to_official(_on_cpu(model))
    if Path(path).suffix == ".safetensors":
        replace_file(path, lambda temporary: save_file(tensors, temporary, {"format": "pt"}))
    else:
        meta = {key.upper(): model.metadata[key] for key in ("classes", "palette") if key in model.metadata}
        replace_file(path, lambda temporary: torch.save({"meta": meta, "state_dict": tensors}, temporary))


def _on_cpu(model: SegNeXt | MSCAN) -> dict[str, Tensor]:
    return {key: tensor.detach().cpu().contiguous() for key, tensor in model.state_dict().items()}


def replace_file(path: str | os.PathLike[str], write: Callable[[Path], object]) -> None:
    """Write under a temporary name beside ``path``, then rename: never half a file."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _expect_option(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"load_weights: {name} must be {' or '.join(map(repr, allowed))}, got {value!r}")


def _check_rank(model: SegNeXt, checkpoint: Checkpoint) -> str:
    rank, own = checkpoint.config["model"].get("rank"), model.config.rank
    if rank is None:
        return f"{own}, the model's; the file does not say"
    if rank != own:
        raise ValueError(
            f"load_weights: rank of the model must be {rank} ({checkpoint.rank_from}), got {own}; "
            f"create it with rank={rank}, or pass rank={own} to load_weights if the checkpoint was trained so"
        )
    return f"{rank}, {checkpoint.rank_from}"


def _raise_unless_allowed(what: str, missing: list[str], unexpected: list[str], shapes: list[str]) -> None:
    problems = {"missing": missing, "unexpected": unexpected, "of another shape": shapes}
    found = "; ".join(f"{len(keys)} {title}: {_some(keys)}" for title, keys in problems.items() if keys)
    remedies = []
    if missing or unexpected:
        remedies.append("name what may differ in allow_missing or allow_unexpected, or load part='backbone'")
    if any(key.startswith(CLASSIFIERS) for key in shapes):
        remedies.append("head='reinit' for another class count")
    if any(_bare(key).startswith("stem.conv1.weight") for key in shapes):
        remedies.append("adapt_input=True for other input channels")
    if found:
        remedy = ", ".join(remedies) or "create_model(weights=...) builds the model that fits"
        raise ValueError(f"load_weights: {what}, got {found}; {remedy}")


def _adapt_channels(weight: Tensor, channels: int) -> Tensor:
    """(C, C_file, 3, 3) to (C, channels, 3, 3), as timm does it."""
    if channels == 1:
        return weight.sum(1, keepdim=True)
    given = weight.shape[1]
    return weight.repeat(1, math.ceil(channels / given), 1, 1)[:, :channels] * (given / channels)


def _bare(key: str) -> str:
    return key.removeprefix("backbone.")


def _some(names: list[str], limit: int = 4) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
