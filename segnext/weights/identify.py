"""Finds the model that a state dict belongs to, from its shapes and its origin."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np
from torch import Tensor

from segnext.models.config import DECODERS as STAGES_READ
from segnext.models.config import EXPANSIONS, FORMER_NAMES, ROOT, STAGES, STRIPS, SegNeXtConfig
from segnext.models.contexts.table import CONTEXTS
from segnext.models.decoder import Decoder
from segnext.models.decoders import DECODERS
from segnext.models.registry import CONFIGS, ModelConfig
from segnext.one_line import shown
from segnext.weights import restricted
from segnext.weights.config_text import DEFAULT_THRESHOLD, Settings

# No tensor of a foreign checkpoint shows the rank. The official code and JSeg set it per size, as our table does;
# the others train every size with the same rank.
FOREIGN_RANKS = {"mmsegmentation": 16, "geti": 16, "paddleseg": 16}
# The threshold of a head with one logit, where the file does not say.
FOREIGN_THRESHOLDS = {"mmsegmentation": DEFAULT_THRESHOLD}
HALF = 0.5
FROM_BASES = "from the bases in the file"
# Fields beside the rank that no tensor shows.
UNSEEN = ("align_corners", "decoder_align_corners", "eval_steps", "context", "threshold")


def describe(
    tensors: Mapping[str, Tensor], dialect: str, settings: Settings, rank: int | None = None
) -> tuple[dict[str, Any], str, list[str]]:
    """Describe the model that the tensors come from.

    Args:
        tensors: a state dict in our names.
        dialect: the one of ``dialects.DIALECTS`` that the file is in.
        settings: what the file's configuration says.
        rank: the NMF rank, if the user gives it.

    Returns:
        ``{"architecture": ..., "model": {overrides}}``, without ``architecture`` if no architecture has these
        channels and depths; in words, where the rank comes from ("" without a Hamburger); and the other fields that
        no tensor shows, each with where it comes from.

    Raises:
        ValueError: the user gives another rank than the bases have. IndexError: a tensor lacks axes.
    """
    segments = any(key.startswith("decoder.") for key in tensors)
    prefix = "backbone." if any(key.startswith("backbone.") for key in tensors) else ""
    base = _table_entry(tensors, prefix, segments)
    sizes = {
        "in_channels": (f"{prefix}stem.conv1.weight", 1),
        "num_classes": ("decoder.classifier.weight" if segments else "head.weight", 0),
    }
    overrides: dict[str, Any] = _kernels(tensors, prefix)
    if segments:
        found, decoder = _decoder(tensors, channels_and_depths(tensors, prefix)[0], settings)
        overrides |= found
        sizes |= {field: (f"decoder.{key}", axis) for field, (key, axis) in decoder.sizes.items()}
    overrides |= {name: tensors[key].shape[axis] for name, (key, axis) in sizes.items() if key in tensors}
    rank_from, said = "", list[str]()
    if any(key.startswith(("decoder.hamburger.", "decoder.em_attention.")) for key in tensors):
        held, rank_from = _rank(tensors, dialect, settings, rank, base)
        overrides |= {"rank": held} if held is not None else {}
    if segments:
        unseen, said = _unseen(overrides.get("num_classes"), dialect, settings)
        fits = fitting_stages(tensors, channels_and_depths(tensors, prefix)[0], settings)
        if (len(fits) > 1 or "in_indices" in overrides) and "in_indices" not in settings.model:
            others = "".join(f", as do those of {other}" for other in fits[1:])
            said.append(f"in_indices {fits[0]}, as the widths fit{others}; the file does not say")
        if overrides.get("context") == "vq" and "context" not in unseen:
            said.append("context vq, as the bases have both signs; the file does not say whether it is cd")
        overrides |= unseen
    if not segments and "num_classes" not in overrides:
        overrides["num_classes"] = 0
    known = {"architecture": base.architecture} if base is not None else {}
    return {**known, "model": overrides}, rank_from, said


def overrides_of(config: ModelConfig) -> dict[str, Any]:
    """List the fields to pass to ``build`` beside the architecture: those that depend on data, and changed ones."""
    base = CONFIGS[config.architecture]
    seldom = {"threshold", "context"}
    always = {"num_classes", "in_channels", "decoder_channels", "rank"} | set(UNSEEN) - seldom
    return {
        name: value
        for name, value in dataclasses.asdict(config).items()
        if name != "architecture" and (name in always or value != getattr(base, name))
    }


def complete(config: Mapping[str, Any]) -> dict[str, Any]:
    """Fill in the fields that no tensor shows where a file of ours, written before they existed, lacks them."""
    base = CONFIGS.get(config["architecture"]) if isinstance(config["architecture"], str) else None
    if not isinstance(base, SegNeXtConfig):
        return dict(config)
    model = {**{name: getattr(base, name) for name in UNSEEN}, **config["model"]}
    if model.get("decoder") in FORMER_NAMES:
        model["decoder"] = FORMER_NAMES[model["decoder"]]
    return {**config, "model": model}


def foreign_metadata(meta: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Read class names and palette where mmsegmentation keeps them: CLASSES in 0.x, dataset_meta.classes in 1.x.

    Returns:
        The metadata, and one note for each entry that is there and cannot be read.
    """
    nested = meta.get("dataset_meta")
    merged = {**meta, **nested} if isinstance(nested, Mapping) else meta
    known = {str(key).lower(): _plain(value) for key, value in merged.items()}
    result: dict[str, Any] = {}
    notes = []
    classes, palette = known.get("classes"), known.get("palette")
    if isinstance(classes, list | tuple):
        result["classes"] = [str(name) if isinstance(name, int | float) else name for name in classes]
    elif classes is not None:
        kind = classes.kind if isinstance(classes, restricted.Unusable) else f"a {type(classes).__name__}"
        notes.append(f"the class names in the file are left out: they are {kind}")
    own = meta.get("segnext")
    if isinstance(own, Mapping):  # what we kept there for the way back
        result |= {key: own[key] for key in ("preprocessing", "recipe", "metrics") if key in own}
    if palette is not None:
        palette = palette.tolist() if isinstance(palette, Tensor) else palette
        try:
            result["palette"] = [[_whole(value) for value in colour] for colour in palette]
        except (TypeError, ValueError, OverflowError):
            notes.append("the palette in the file is left out: it is not a list of colours of whole numbers")
    return result, notes


def _plain(value: Any) -> Any:
    """Make a list of an array."""
    array = value.value if isinstance(value, restricted.Array) else value
    return array.tolist() if isinstance(array, np.ndarray) else array


def _whole(value: Any) -> int:
    """Return a number as an integer.

    Raises:
        ValueError: it is none: colours of 0..1 would all be black.
    """
    if not isinstance(value, int | float) or int(value) != value:
        raise ValueError(f"a colour must have whole numbers, got {shown(value)}")
    return int(value)


def _unseen(logits: int | None, dialect: str, settings: Settings) -> tuple[dict[str, Any], list[str]]:
    """Find the fields beside the rank that no tensor shows."""
    fields = {name: settings.model[name] for name in UNSEEN[:-1] if name in settings.model}
    said = [f"{name} {value}, from {settings.source}" for name, value in fields.items()]
    # mmsegmentation's files with fixed bases (rand_init=False) have Geti's names, but they say where they are from.
    if dialect == "geti" and "align_corners" not in settings.model:
        fields["align_corners"] = True
        said = ["align_corners True, as Geti resizes logits"]
    if logits == 1:
        threshold = settings.model.get("threshold")
        origin = f"from {settings.source}"
        if threshold is None:
            threshold, origin = (
                FOREIGN_THRESHOLDS.get(dialect, HALF),
                "for the one logit; the file does not say",
            )
        fields |= {"num_classes": 2, "threshold": threshold}
        said.append(f"threshold {threshold}, {origin}")
    return fields, said


def _kernels(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Any]:
    """Read the attention's fields and ``expansions`` off first blocks; those that are as published are left out.

    Whether there is a product (``gate``) no tensor shows.
    """
    attention = f"{prefix}stages.0.0.attention.strips."
    lengths: list[int] = []
    while (row := f"{attention}rows.{len(lengths)}.weight") in tensors:
        lengths.append(tensors[row].shape[-1])
    root = f"{attention}root.weight"
    found: dict[str, Any] = {}
    if f"{attention}dilated.weight" in tensors:
        found["attention"] = "lka"
    elif root in tensors and tuple(lengths) != STRIPS:
        found["strips"] = tuple(lengths)
    if root in tensors and f"{prefix}stages.0.0.attention.mix.weight" not in tensors:
        found["mix"] = False
    if root in tensors and tensors[root].shape[-1] != ROOT:
        found["root"] = tensors[root].shape[-1]
    first = [f"{prefix}stages.{stage}.0." for stage in range(STAGES)]
    if all(f"{block}ffn.fc1.weight" in tensors for block in first):
        shapes = [tensors[f"{block}ffn.fc1.weight"].shape for block in first]
        expansions = tuple(shape[0] // max(shape[1], 1) for shape in shapes)
        if expansions != EXPANSIONS:
            found["expansions"] = expansions
    return found


def _decoder(
    tensors: Mapping[str, Tensor], channels: tuple[int, ...], settings: Settings
) -> tuple[dict[str, Any], type[Decoder]]:
    """Find the decoder whose tensors are there, its stages and its context; without any, take the default one.

    Returns:
        The fields that are not as by default, and the decoder's class.
    """
    names = (
        name
        for name, decoder in DECODERS.items()
        if all(f"decoder.{key}" in tensors for key, _ in decoder.sizes.values())
    )
    name = next(names, SegNeXtConfig.decoder)
    stages = next(iter(fitting_stages(tensors, channels, settings)), None)
    if name == "ham" and stages is not None and len(stages) == 1:
        name = "cnn"
    found: dict[str, Any] = {} if name == SegNeXtConfig.decoder else {"decoder": name}
    if stages not in (None, STAGES_READ.get(name)):
        found["in_indices"] = stages
    if "decoder.squeeze.conv.weight" in tensors:
        context = _context(tensors)
        found |= {} if context == SegNeXtConfig.context else {"context": context}
    return found, DECODERS[name]


def fitting_stages(
    tensors: Mapping[str, Tensor], channels: tuple[int, ...], settings: Settings
) -> list[tuple[int, ...]]:
    """List the stages that a decoder may read, which have this many channels; the most usual ones come first."""
    levels: list[int] = []
    while (level := f"decoder.levels.{len(levels)}.conv.weight") in tensors:
        levels.append(tensors[level].shape[1])
    squeeze = tensors.get("decoder.squeeze.conv.weight")
    written = settings.model.get("in_indices")
    every = [stages for n in range(1, STAGES + 1) for stages in combinations(range(STAGES), n)]
    found: dict[tuple[int, ...], None] = {}
    for stages in [*([tuple(written)] if written else []), *STAGES_READ.values(), *every]:
        widths = [channels[stage] for stage in stages]
        if levels == widths or (squeeze is not None and squeeze.shape[1] == sum(widths)):
            found[stages] = None
    return list(found)


def _context(tensors: Mapping[str, Tensor]) -> str | None:
    """Find the context whose tensors are there; of those with the names of a Hamburger, by the bases."""
    names = [
        name
        for name, context in CONTEXTS.items()
        if any(key.startswith(f"decoder.{context.attribute}.") for key in tensors)
    ]
    bases = tensors.get("decoder.hamburger.bases")
    is_signed = bases is not None and bases.is_floating_point() and bool((bases < 0).any())
    if "ham" in names and is_signed:  # a factorisation into nonnegative ones has none below 0
        return "vq"
    return next(iter(names), None)


def _rank(
    tensors: Mapping[str, Tensor],
    dialect: str,
    settings: Settings,
    rank: int | None,
    base: ModelConfig | None,
) -> tuple[int | None, str]:
    written = settings.model.get("rank")
    bases = next((tensor for key, tensor in tensors.items() if key.endswith(".bases")), None)
    held = rank if bases is None else bases.shape[-1]
    if rank is not None:
        if held != rank:
            raise ValueError(f"rank must be {held} as the bases in the file have, got {rank}; leave it out")
        contradicted = written is not None and written != rank
        return rank, "given by the user" + (f"; {settings.source} says {written}" if contradicted else "")
    if held is not None:
        return held, FROM_BASES
    if written is not None:
        return written, f"from {settings.source}"
    if dialect in FOREIGN_RANKS:
        return FOREIGN_RANKS[dialect], f"as {dialect} trains all sizes; the file does not say"
    if isinstance(base, SegNeXtConfig):
        return base.rank, f"as the official {base.architecture}; the file does not say"
    return None, ""


def _table_entry(tensors: Mapping[str, Tensor], prefix: str, segments: bool) -> ModelConfig | None:
    """Find the architecture with these channels and depths."""
    sizes = channels_and_depths(tensors, prefix)
    for config in CONFIGS.values():
        if isinstance(config, SegNeXtConfig) == segments and (config.channels, config.depths) == sizes:
            return config
    return None


def channels_and_depths(
    tensors: Mapping[str, Tensor], prefix: str
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    channels, depths = [], []
    for stage in range(STAGES):
        pattern = re.compile(re.escape(f"{prefix}stages.{stage}.") + r"\d+\.layer_scale1")
        blocks = [key for key in tensors if pattern.fullmatch(key)]
        depths.append(len(blocks))
        channels.append(tensors[blocks[0]].shape[0] if blocks else 0)
    return tuple(channels), tuple(depths)
