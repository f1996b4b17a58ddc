"""What model a state dict belongs to, read off its shapes and its origin."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from segnext.models.config import SegNeXtConfig
from segnext.models.registry import CONFIGS, ModelConfig

# The rank is in no tensor of foreign checkpoints. The official code and JSeg set it by size, as our table
# does; the others train every size with the same one.
FOREIGN_RANKS = {"mmsegmentation": 16, "geti": 16, "paddleseg": 16}


def describe(
    tensors: Mapping[str, Tensor], layout: str, rank: int | None = None
) -> tuple[dict[str, Any], str]:
    """The config of the model that the tensors come from.

    Args:
        tensors: a state dict in our names.
        layout: where it came from, one of ``layouts.LAYOUTS``.
        rank: the NMF rank, if the user knows better.

    Returns:
        ``{"architecture": ..., "model": {overrides}}``, without ``architecture`` where channels and depths
        are of none, and where the rank comes from in words ("" without a decoder).
    """
    segments = any(key.startswith("decoder.") for key in tensors)
    prefix = "backbone." if any(key.startswith("backbone.") for key in tensors) else ""
    base = _table_entry(tensors, prefix, segments)
    sizes = {
        "in_channels": (f"{prefix}stem.conv1.weight", 1),
        "num_classes": ("decoder.classifier.weight" if segments else "head.weight", 0),
        "decoder_channels": ("decoder.squeeze.conv.weight", 0),
    }
    overrides = {name: tensors[key].shape[axis] for name, (key, axis) in sizes.items() if key in tensors}
    rank_from = ""
    if segments:
        found, rank_from = _rank(tensors, layout, rank, base)
        overrides |= {"rank": found} if found is not None else {}
    elif "num_classes" not in overrides:
        overrides["num_classes"] = 0
    known = {"architecture": base.architecture} if base is not None else {}
    return {**known, "model": overrides}, rank_from


def overrides_of(config: ModelConfig) -> dict[str, Any]:
    """The fields to give ``build`` beside the architecture: those that data decides, and changed ones."""
    base = CONFIGS[config.architecture]
    always = {"num_classes", "in_channels", "decoder_channels", "rank"}
    return {
        name: value
        for name, value in dataclasses.asdict(config).items()
        if name != "architecture" and (name in always or value != getattr(base, name))
    }


def foreign_metadata(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Class names and palette as mmsegmentation keeps them: CLASSES in 0.x, dataset_meta.classes in 1.x."""
    nested = meta.get("dataset_meta")
    merged = {**meta, **nested} if isinstance(nested, Mapping) else meta
    known = {str(key).lower(): value for key, value in merged.items()}
    result: dict[str, Any] = {}
    if isinstance(known.get("classes"), list | tuple):
        result["classes"] = [str(name) for name in known["classes"]]
    if isinstance(known.get("palette"), list | tuple):
        result["palette"] = [[int(value) for value in colour] for colour in known["palette"]]
    return result


def _rank(
    tensors: Mapping[str, Tensor], layout: str, rank: int | None, base: ModelConfig | None
) -> tuple[int | None, str]:
    if rank is not None:
        return rank, "given by the user"
    if "decoder.hamburger.bases" in tensors:
        return tensors["decoder.hamburger.bases"].shape[-1], "from the bases in the file"
    if layout in FOREIGN_RANKS:
        return FOREIGN_RANKS[layout], f"as {layout} trains all sizes; the file does not say"
    if isinstance(base, SegNeXtConfig):
        return base.rank, f"as the official {base.architecture}; the file does not say"
    return None, ""


def _table_entry(tensors: Mapping[str, Tensor], prefix: str, segments: bool) -> ModelConfig | None:
    """The architecture with these channels and depths."""
    channels, depths = [], []
    for stage in range(4):
        pattern = re.compile(re.escape(f"{prefix}stages.{stage}.") + r"\d+\.layer_scale1")
        blocks = [key for key in tensors if pattern.fullmatch(key)]
        depths.append(len(blocks))
        channels.append(tensors[blocks[0]].shape[0] if blocks else 0)
    sizes = (tuple(channels), tuple(depths))
    for config in CONFIGS.values():
        if isinstance(config, SegNeXtConfig) == segments and (config.channels, config.depths) == sizes:
            return config
    return None
