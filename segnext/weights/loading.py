"""Reads checkpoints, and loads them into a model with a report."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from segnext.models import MSCAN, SegNeXt, dialects
from segnext.models.values import expect_weights
from segnext.one_line import one_line
from segnext.weights.catalogue import locate
from segnext.weights.configuration import expect_config, name_without_axes
from segnext.weights.containers import read_contents
from segnext.weights.identify import describe, foreign_metadata

FIRST_CONVOLUTION = "stem.conv1.weight"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in our names.

    Attributes:
        tensors: our names to tensors on the CPU.
        config: architecture and model overrides; where known, classes, palette, preprocessing, recipe and
            metrics.
        origin: file, container and dialect in words.
        rank_from: where the NMF rank in ``config`` comes from; "" if there is none.
        reshaped: names whose shape differed in the file.
    """

    tensors: dict[str, Tensor]
    config: dict[str, Any]
    origin: str
    rank_from: str = ""
    reshaped: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class LoadReport:
    """The result of loading; ``str(report)`` is for people.

    Attributes:
        origin: file, container and dialect.
        matched: the model's names that were loaded.
        missing: the model's names that the file lacks; these were allowed, others raise.
        unexpected: names in the file that the model lacks; these were allowed, others raise.
        reshaped: loaded names whose shape differed in the file: layer scales, adapted input channels.
        reinitialised: names that ``head="reinit"`` left as the model was initialised.
        rank: the NMF rank used and where it comes from; "" if none was loaded.
        notes: other facts.
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
    """Read a checkpoint of any container and dialect; nothing in the file is executed.

    Args:
        source: a file or a shipped name.
        rank: NMF rank of a foreign checkpoint, if it is not the one that its origin uses.

    Raises:
        FileNotFoundError: neither a file nor a shipped name.
        ValueError: damaged, or not a checkpoint of SegNeXt or MSCAN.
    """
    path = locate(source)
    shown = one_line(path, 240)
    contents = read_contents(path)
    try:
        translation = dialects.translate(contents.state_dict)
    except ValueError as error:
        raise ValueError(f"{shown}: {error}") from error
    if contents.config:
        config, rank_from = contents.config, "from the file's config"
    else:
        try:
            config, rank_from = describe(translation.tensors, translation.dialect, rank)
        except IndexError:
            short = name_without_axes(translation.tensors)
            raise ValueError(
                f"{shown}: tensors must have a SegNeXt's axes, got {short}; fetch it again"
            ) from None
        config |= foreign_metadata(contents.meta)
    expect_config(config, translation.tensors, shown)
    origin = f"{shown} ({contents.kind}, {translation.dialect} layout)"
    if contents.foreign:
        origin += (
            f", without its objects of {_some([one_line(name, 60) for name in sorted(contents.foreign)])}"
        )
    return Checkpoint(translation.tensors, config, origin, rank_from, translation.reshaped)


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
    """Load a checkpoint of any dialect; tensors that do not fit raise, unless they are allowed by name.

    Args:
        model: a SegNeXt or MSCAN.
        source: a file, a shipped name, or the result of :func:`read_checkpoint`.
        head: ``"strict"``, or ``"reinit"`` to leave the classifier as it is (for another class count).
        part: ``"all"``, or ``"backbone"`` to load the encoder alone, from ImageNet or segmentation weights.
        allow_missing: beginnings of names that the file may lack, for example ``("decoder.",)``.
        allow_unexpected: beginnings of names that the file may have beyond the model's.
        adapt_input: fit the first convolution to the model's number of input channels. For 1, its weights are
            summed over the file's channels; else they are repeated, and scaled so that activations keep their size.
        rank: the NMF rank that the checkpoint was trained with, if it is not the one that its origin uses.

    Raises:
        ValueError: a mismatch that was not allowed, an unknown option, a damaged file; the model is not changed.
        FileNotFoundError: no such file or shipped name.
    """
    _expect_option("head", head, ("strict", "reinit"))
    _expect_option("part", part, ("all", "backbone"))
    checkpoint = source if isinstance(source, Checkpoint) else read_checkpoint(source, rank)
    own = model.state_dict()
    found, reinitialised = _selected(dialects.fit_prefix(checkpoint.tensors, own), own, head, part)
    changed = {_bare(key) for key in checkpoint.reshaped}
    reshaped = [key for key in found if _bare(key) in changed]
    notes = _adapt_input(found, own, reshaped) if adapt_input else []
    missing = [key for key in own if key not in found and key not in reinitialised]
    unexpected = [key for key in found if key not in own]
    rank_text = _check_rank(model, own, checkpoint) if part == "all" else ""
    may_lack = (*allow_missing, *(("decoder.", "head.") if part == "backbone" else ()))
    _raise_unless_allowed(
        f"{checkpoint.origin} must match {model.config.architecture}",
        missing=[k for k in missing if not k.startswith(may_lack) and not k.endswith(dialects.OPTIONAL)],
        unexpected=[key for key in unexpected if not key.startswith(tuple(allow_unexpected))],
        shapes=_other_shapes(found, own),
    )
    expect_weights(f"load_weights: {checkpoint.origin}", found, own)
    matched = [key for key in own if key in found]
    model.load_state_dict({key: found[key] for key in matched}, strict=False, native=True)
    return LoadReport(
        checkpoint.origin, matched, missing, unexpected, reshaped, reinitialised, rank_text, notes
    )


def _selected(
    tensors: dict[str, Tensor], own: Mapping[str, Tensor], head: str, part: str
) -> tuple[dict[str, Tensor], list[str]]:
    """Select the tensors to load, and list the model's names that stay as they were initialised."""
    if part == "backbone":
        beginnings = ("backbone.", *dialects.ENCODER)
        return {key: tensor for key, tensor in tensors.items() if key.startswith(beginnings)}, []
    if head == "reinit":
        kept = {key: tensor for key, tensor in tensors.items() if not key.startswith(dialects.CLASSIFIERS)}
        return kept, [key for key in own if key.startswith(dialects.CLASSIFIERS)]
    return tensors, []


def _adapt_input(found: dict[str, Tensor], own: Mapping[str, Tensor], reshaped: list[str]) -> list[str]:
    """Give the first convolution in ``found`` the model's input channels; return notes for the report."""
    first = next(key for key in own if _bare(key) == FIRST_CONVOLUTION)
    if first not in found or found[first].shape[1] == own[first].shape[1]:
        return []
    given, wanted = found[first].shape[1], own[first].shape[1]
    found[first] = _adapt_channels(found[first], wanted)
    reshaped.append(first)
    return [f"{first} adapted from {given} to {wanted} input channels"]


def _other_shapes(found: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> list[str]:
    return [
        f"{key} {tuple(found[key].shape)} for {tuple(own[key].shape)}"
        for key in own
        if key in found and found[key].shape != own[key].shape
    ]


def _expect_option(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"load_weights: {name} must be {' or '.join(map(repr, allowed))}, got {value!r}")


def _check_rank(model: SegNeXt | MSCAN, own: Mapping[str, Tensor], checkpoint: Checkpoint) -> str:
    if isinstance(model, MSCAN) or not any(key.endswith(dialects.BASES) for key in own):
        return ""
    rank, used = checkpoint.config["model"].get("rank"), model.config.rank
    if rank is None:
        return f"{used}, the model's; the file does not say"
    if rank != used:
        raise ValueError(
            f"load_weights: rank of the model must be {rank} ({checkpoint.rank_from}), got {used}; "
            f"create it with rank={rank}, or pass rank={used} to load_weights if the checkpoint was trained so"
        )
    return f"{rank}, {checkpoint.rank_from}"


def _raise_unless_allowed(what: str, missing: list[str], unexpected: list[str], shapes: list[str]) -> None:
    problems = {"missing": missing, "unexpected": unexpected, "of another shape": shapes}
    found = "; ".join(f"{len(keys)} {title}: {_some(keys)}" for title, keys in problems.items() if keys)
    remedies = []
    if missing or unexpected:
        remedies.append("name what may differ in allow_missing or allow_unexpected, or load part='backbone'")
    if any(key.startswith(dialects.CLASSIFIERS) for key in shapes):
        remedies.append("head='reinit' for another class count")
    if any(_bare(key).startswith(FIRST_CONVOLUTION) for key in shapes):
        remedies.append("adapt_input=True for other input channels")
    if found:
        remedy = ", ".join(remedies) or "create_model(weights=...) builds the model that fits"
        raise ValueError(f"load_weights: {what}, got {found}; {remedy}")


def _adapt_channels(weight: Tensor, channels: int) -> Tensor:
    """Turn (C, C_file, 3, 3) into (C, channels, 3, 3), as timm does."""
    if channels == 1:
        return weight.sum(1, keepdim=True)
    given = weight.shape[1]
    return weight.repeat(1, math.ceil(channels / given), 1, 1)[:, :channels] * (given / channels)


def _bare(key: str) -> str:
    return key.removeprefix("backbone.")


def _some(names: list[str], limit: int = 4) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
