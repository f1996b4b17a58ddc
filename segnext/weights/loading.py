"""Loads checkpoints into a model, with a report."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from segnext.models import MSCAN, SegNeXt, dialects
from segnext.models.finite import first_without_values
from segnext.models.loading import expect_model
from segnext.models.values import expect_weights
from segnext.one_line import shown
from segnext.weights.identify import FROM_BASES, UNSEEN
from segnext.weights.reading import FIRST_CONVOLUTION, FROM_CONFIG, Checkpoint, bare, read_checkpoint, some
from segnext.weights.saving import in_own_memory


@dataclass(frozen=True)
class LoadReport:
    """The result of loading; ``str(report)`` is for people.

    Attributes:
        origin: file, container and dialect.
        matched: the model's names that were loaded.
        missing: the model's names that the file lacks; these were allowed, others raise.
        unexpected: names in the file that the model lacks: stages that an encoder was built without, and what was
            allowed; others raise.
        reshaped: loaded names whose shape differed in the file: layer scales, adapted input channels.
        reinitialised: names that ``head="reinit"`` left as the model was initialised.
        rank: the NMF rank used and where it comes from; "" if none was loaded.
        notes: facts to warn of.
        taken: which weights were taken, if the file holds averaged ones too; else "".
        settings: the other facts that no tensor shows, each with where it comes from.
        left_out: names in the file of parts beside the model, such as auxiliary heads.
    """

    origin: str
    matched: list[str]
    missing: list[str]
    unexpected: list[str]
    reshaped: list[str]
    reinitialised: list[str]
    rank: str
    notes: list[str]
    taken: str = ""
    settings: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lists = ("matched", "missing", "unexpected", "reshaped")
        lines = [f"{self.origin}: " + ", ".join(f"{len(getattr(self, name))} {name}" for name in lists)]
        for name in (*lists[1:], "reinitialised"):
            if keys := getattr(self, name):
                lines.append(f"  {name}: {some(keys)}")
        if self.left_out:
            parts = Counter(key.split(".")[0] for key in self.left_out)
            lines.append(
                "  left out: " + ", ".join(part if n == 1 else f"{n} of {part}" for part, n in parts.items())
            )
        if self.taken:
            lines.append(f"  weights: {self.taken}")
        if self.rank:
            lines.append(f"  NMF rank: {self.rank}")
        if self.settings:
            lines.append(f"  settings: {'; '.join(self.settings)}")
        return "\n".join(lines + [f"  note: {note}" for note in self.notes])


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
    average: bool | None = None,
    given: Sequence[str] = (),
    assign: bool = False,
) -> LoadReport:
    """Load a checkpoint of any dialect; tensors that do not fit raise, unless they are allowed by name.

    Args:
        model: a SegNeXt or MSCAN.
        source: a file, a shipped or published name, or the result of :func:`read_checkpoint`.
        head: ``"strict"``, or ``"reinit"`` to leave the classifier as it is (for another class count).
        part: ``"all"``, or ``"backbone"`` to load the encoder alone, from ImageNet or segmentation weights.
        allow_missing: beginnings of names that the file may lack, for example ``("decoder.",)``.
        allow_unexpected: beginnings of names that the file may have beyond the model's.
        adapt_input: fit the first convolution to the model's number of input channels. For 1, its weights are
            summed over the file's channels; else they are repeated, and scaled so that activations keep their size.
        rank: the NMF rank that a foreign checkpoint was trained with, if it is not the one that its origin uses.
        average: which weights of a file with averaged ones, see :func:`read_checkpoint`.
        given: fields such as ``"align_corners"`` that the model may have otherwise than the file says.
        assign: the model keeps the tensors that were read instead of copying their values, which takes half the memory;
            it may have been built under ``torch.device("meta")``.

    Raises:
        ValueError: a mismatch that was not allowed, an unknown option, a damaged file, a model on the meta device
            without ``assign``; the model is not changed.
        FileNotFoundError: no such file or name. OSError: it cannot be downloaded.
    """
    expect_model("load_weights", model)
    _expect_option("head", head, ("strict", "reinit"))
    _expect_option("part", part, ("all", "backbone"))
    allow_missing = _beginnings("allow_missing", allow_missing)
    allow_unexpected = _beginnings("allow_unexpected", allow_unexpected)
    given = _beginnings("given", given)
    if isinstance(source, Checkpoint) and (rank, average) != (None, None):
        raise ValueError(
            f"load_weights: rank and average must be None for a checkpoint that was read, got {shown(rank)} and "
            f"{shown(average)}; pass them to read_checkpoint"
        )
    checkpoint = (
        source
        if isinstance(source, Checkpoint)
        else read_checkpoint(source, rank, average, model.config.architecture, part)
    )
    _expect_computable(checkpoint, part)
    own = model.state_dict()
    if not assign and (empty := first_without_values(own)) is not None:
        raise ValueError(
            f"load_weights: model must have memory for its weights, got {empty} on the meta device; leave "
            "torch.device('meta'), or call model.to_empty(device='cpu') first"
        )
    found, reinitialised = _selected(dialects.fit_prefix(checkpoint.tensors, own), own, head, part)
    changed = {bare(key) for key in checkpoint.reshaped}
    reshaped = [key for key in found if bare(key) in changed]
    notes = _adapt_input(found, own, reshaped) if adapt_input else []
    missing = [key for key in own if key not in found and key not in reinitialised]
    unexpected = [key for key in found if key not in own]
    rank_text = _check_rank(model, own, checkpoint) if part == "all" else ""
    settings, contradictions = _check_settings(model, checkpoint, given) if part == "all" else ([], [])
    may_lack = (*allow_missing, *(("decoder.", "head.") if part == "backbone" else ()))
    _raise_unless_allowed(
        f"{checkpoint.origin} must match {model.config.architecture}",
        missing=[k for k in missing if not k.startswith(may_lack) and not k.endswith(dialects.OPTIONAL)],
        unexpected=[
            key for key in unexpected if not key.startswith(allow_unexpected) and not model.is_left_out(key)
        ],
        shapes=_other_shapes(found, own),
        found=found,
        own=own,
    )
    expect_weights(f"load_weights: {checkpoint.origin}", found, own)
    matched = [key for key in own if key in found]
    values = {key: found[key] for key in matched}
    model.load_state_dict(_kept(values, own) if assign else values, strict=False, assign=assign, native=True)
    if (empty := first_without_values(model.state_dict())) is not None:
        raise ValueError(
            f"load_weights: {checkpoint.origin} must hold all weights of a model on the meta device, got none for "
            f"{empty}; leave torch.device('meta')"
        )
    return LoadReport(
        checkpoint.origin,
        matched,
        missing,
        unexpected,
        reshaped,
        reinitialised,
        rank_text,
        [*checkpoint.notes, *contradictions, *notes],
        checkpoint.taken,
        settings,
        checkpoint.left_out,
    )


def _kept(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors as a model can keep them: in its dtypes and strides, each in memory of its own."""
    kept: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        storage = tensor.untyped_storage()
        fits = tensor.dtype == own[key].dtype and tensor.stride() == own[key].stride()
        # Memory of numpy's cannot be resized, as wrappers do; more bytes are those of other tensors.
        if not (fits and storage.resizable() and storage.nbytes() == tensor.nbytes):
            tensor = torch.empty_like(own[key], device=tensor.device).copy_(tensor)
        kept[key] = tensor
    return in_own_memory(kept)


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
    first = next(key for key in own if bare(key) == FIRST_CONVOLUTION)
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


def _beginnings(name: str, texts: Sequence[str]) -> tuple[str, ...]:
    """Return a tuple of names; a string alone would count as its letters, and one letter allows nearly everything."""
    if isinstance(texts, str) or not all(isinstance(text, str) and text for text in texts):
        raise ValueError(
            f"load_weights: {name} must be a list of names or their beginnings, got {shown(texts)}; "
            "write ['decoder.'] for one"
        )
    return tuple(texts)


def _expect_computable(checkpoint: Checkpoint, part: str) -> None:
    refusals = [
        text for text in checkpoint.refusals if part == "all" or text.startswith(dialects.BACKBONE_PREFIX)
    ]
    if refusals:
        remedy = "run it with the code that wrote it"
        if any(not text.startswith(dialects.BACKBONE_PREFIX) for text in refusals):
            remedy += ", or load the encoder with part='backbone'"
        raise ValueError(
            f"load_weights: the configuration in {checkpoint.origin}: {'; '.join(refusals)}; {remedy}"
        )


def _check_settings(
    model: SegNeXt | MSCAN, checkpoint: Checkpoint, given: Sequence[str]
) -> tuple[list[str], list[str]]:
    """Compare the model's fields that no tensor shows with the file's; return what it says, and contradictions."""
    if isinstance(model, MSCAN):
        return [text for text in checkpoint.settings if text.split()[0] not in UNSEEN], []
    settings, contradictions = list(checkpoint.settings), []
    for name in UNSEEN:
        expected, used = checkpoint.config["model"].get(name), getattr(model.config, name)
        if expected is None or expected == used:
            continue
        if name not in given:
            # Without a threshold there is one logit more, which nobody can give.
            other = f", or pass given=[{name!r}] to load_weights" if used is not None else ""
            raise ValueError(
                f"load_weights: {name} of the model must be {expected} as in {checkpoint.origin}, got {used}; "
                f"create it with {name}={expected}{other}"
            )
        settings = [text for text in settings if text.split()[0] != name]
        contradictions.append(f"{name} {used}, given by the user; the file says {expected}")
    return settings, contradictions


def _check_rank(model: SegNeXt | MSCAN, own: Mapping[str, Tensor], checkpoint: Checkpoint) -> str:
    if isinstance(model, MSCAN) or not any(key.endswith(".bases") for key in own):
        return ""
    rank, used = checkpoint.config["model"].get("rank"), model.config.rank
    if rank is None:
        return f"{used}, the model's; the file does not say"
    if rank != used:
        is_guess = checkpoint.rank_from not in (FROM_CONFIG, FROM_BASES)
        other = f", or pass rank={used} to load_weights if the checkpoint was trained so" if is_guess else ""
        raise ValueError(
            f"load_weights: rank of the model must be {rank} ({checkpoint.rank_from}), got {used}; "
            f"create it with rank={rank}{other}"
        )
    return f"{rank}, {checkpoint.rank_from}"


def _raise_unless_allowed(
    what: str,
    missing: list[str],
    unexpected: list[str],
    shapes: list[str],
    found: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
) -> None:
    problems = {"missing": missing, "unexpected": unexpected, "of another shape": shapes}
    listed = "; ".join(f"{len(keys)} {title}: {some(keys)}" for title, keys in problems.items() if keys)
    if not listed:
        return
    remedies = []
    if missing or unexpected:
        remedies.append(
            "name what may differ in allow_missing or allow_unexpected (segnext convert: --allow-unexpected), "
            "or load part='backbone'"
        )
    if any(
        key.startswith(dialects.CLASSIFIERS) and found[key].shape[1:] == own[key].shape[1:]
        for key in own
        if key in found and found[key].shape != own[key].shape
    ):
        remedies.append("head='reinit' for another class count")
    if any(bare(key).startswith(FIRST_CONVOLUTION) for key in shapes):
        remedies.append("adapt_input=True for other input channels")
    if not remedies:
        remedies.append("create_model(weights=...) builds the model that fits, if segnext has one")
    raise ValueError(f"load_weights: {what}, got {listed}; {', '.join(remedies)}")


def _adapt_channels(weight: Tensor, channels: int) -> Tensor:
    """Turn (C, C_file, 3, 3) into (C, channels, 3, 3), as timm does."""
    if channels == 1:
        return weight.sum(1, keepdim=True)
    given = weight.shape[1]
    return weight.repeat(1, math.ceil(channels / given), 1, 1)[:, :channels] * (given / channels)
