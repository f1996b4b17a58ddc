"""Checks the configuration and the metadata that a file holds beside its tensors, before a model is built from them."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from segnext.data.preprocessing import MEAN, Preprocessing
from segnext.drawing.palette import is_colour
from segnext.models.config import LARGE_KERNEL, SegNeXtConfig
from segnext.models.decoders import DECODERS, stages_of
from segnext.models.registry import CONFIGS, ModelConfig
from segnext.one_line import is_class_name, one_line, shown

# A file may hold a part of a model; the rest is initialised. Beyond these, its config is not that of its tensors.
LARGEST_RATIO = 4
FREE_WEIGHTS, FREE_TENSORS = 2**24, 2000
# Square matrices of the decoder's width in a context; 2 in the others. A 3x3 convolution counts as nine.
CONTEXT_MATRICES = {None: 0, "cc": 3, "msca": 3, "aspp": 34, "psp": 49}


def expect_config(config: Mapping[str, Any], tensors: Mapping[str, Tensor], file: str) -> None:
    """Raise unless a model can be built from a configuration, and is about as large as the tensors.

    Args:
        config: ``architecture``, if it is known; ``model``, the fields that differ from it; metadata.
        tensors: what the file holds.
        file: begins the message.

    Raises:
        ValueError: an unknown architecture, a field that is unknown or out of range, a model much larger than the
            file, or metadata of another form.
    """
    name = config.get("architecture")
    if name is None:  # a foreign file with channels and depths of no known architecture: the user says them
        return
    if not isinstance(name, str) or name not in CONFIGS:
        raise ValueError(
            f"{file}: architecture in its config must be one of {', '.join(CONFIGS)}, got {one_line(name)}; "
            "update segnext if a newer one wrote it"
        )
    fields = config["model"]
    base = CONFIGS[name]
    known = {field.name for field in dataclasses.fields(base)} - {"architecture"}
    unknown = [key for key in fields if key not in known]
    if unknown:
        raise ValueError(
            f"{file}: model in its config must have fields of {name}, got {one_line(unknown[0])}; "
            "update segnext if a newer one wrote it"
        )
    try:
        built = dataclasses.replace(base, **fields)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"{file}: its tensors or its config are those of no model: {one_line(error, 240)}"
        ) from None
    if isinstance(built, SegNeXtConfig) and built.decoder not in DECODERS:
        raise ValueError(
            f"{file}: decoder in its config must be one of {', '.join(DECODERS)}, got {one_line(built.decoder)}"
        )
    expect_size(built, tensors, file)
    expect_metadata(config, built.num_classes, built.in_channels, file)


def expect_metadata(metadata: Mapping[str, Any], num_classes: int, in_channels: int, file: str) -> None:
    """Raise unless class names, colours, mean and std have the form that all who read them expect.

    Args:
        metadata: ``classes``, ``palette``, ``preprocessing``, ``recipe``, ``metrics``; each may be missing.
        num_classes: the model's.
        in_channels: the model's.
        file: begins the message.

    Raises:
        ValueError: one of them is of another form.
    """
    classes, palette = metadata.get("classes"), metadata.get("palette")
    if classes is not None and not (
        isinstance(classes, list) and len(classes) == num_classes and all(map(is_class_name, classes))
    ):
        raise ValueError(f"{file}: classes must be {num_classes} names of one line, got {shown(classes)}")
    if palette is not None and not (
        isinstance(palette, list) and len(palette) == num_classes and all(map(is_colour, palette))
    ):
        raise ValueError(
            f"{file}: palette must be {num_classes} colours [red, green, blue] of 0..255, got {shown(palette)}"
        )
    try:
        channels = len(Preprocessing.of(metadata).mean)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    # An adapted first convolution keeps the numbers of its weights.
    if channels not in (in_channels, len(MEAN)):
        raise ValueError(
            f"{file}: preprocessing: mean and std must have {in_channels} numbers, got {channels}"
        )
    for key in ("recipe", "metrics"):
        if not isinstance(metadata.get(key, {}), dict):
            raise ValueError(f"{file}: {key} must be a dictionary, got {shown(metadata[key])}")


def as_json(metadata: Mapping[str, Any], num_classes: int, in_channels: int, what: str) -> dict[str, Any]:
    """Return metadata as a file will hold it: lists for tuples, text for keys.

    Raises:
        ValueError: it does not fit into JSON, or `expect_metadata` would refuse it when the file is read.
    """
    try:
        plain: dict[str, Any] = json.loads(json.dumps(dict(metadata)))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{what}: metadata must be text, numbers, lists and dictionaries, got something else ({one_line(error)}); "
            "convert arrays with tolist()"
        ) from None
    expect_metadata(plain, num_classes, in_channels, what)
    return plain


def fitting_metadata(
    metadata: Mapping[str, Any], num_classes: int, in_channels: int
) -> tuple[dict[str, Any], list[str]]:
    """Return the entries that `expect_metadata` takes, and one note for each that it refuses."""
    kept: dict[str, Any] = {}
    notes = []
    for key, value in metadata.items():
        try:
            expect_metadata({key: value}, num_classes, in_channels, f"{key} in the file left out")
            kept[key] = value
        except ValueError as error:
            notes.append(str(error))
    return kept, notes


def expect_size(config: ModelConfig, tensors: Mapping[str, Tensor], file: str) -> None:
    """Raise a ValueError if a model of this configuration is much larger than the tensors of its file."""
    weights, blocks = _weights(config), sum(config.depths)
    held = sum(tensor.numel() for tensor in tensors.values())
    if (
        weights > LARGEST_RATIO * held + FREE_WEIGHTS
        or 20 * blocks > LARGEST_RATIO * len(tensors) + FREE_TENSORS
    ):
        raise ValueError(
            f"{file}: its config must be that of its tensors, got a model of {blocks:,} blocks and more than "
            f"{weights:,} weights for {len(tensors):,} tensors of {held:,} values; fetch the file again"
        )


def name_without_axes(tensors: Mapping[str, Tensor]) -> str:
    """Name the first tensor, with its shape, that has fewer axes than its name promises."""
    for name, tensor in tensors.items():
        is_matrix = name.endswith(".weight") and not re.search(
            r"\.(norm\d?|gn)\.weight$|^norms\.|\.norms\.", name
        )
        if tensor.ndim < (2 if is_matrix else 1) and not name.endswith("num_batches_tracked"):
            return f"{one_line(name)} {tuple(tensor.shape)}"
    return "others"


def _weights(config: ModelConfig) -> int:
    """Count the weights of the matrices in a model, which are most of them."""
    first = config.channels[0]
    count = 9 * (config.in_channels + first) * first // 2
    count += sum(
        9 * before * after for before, after in zip(config.channels, config.channels[1:], strict=False)
    )
    depthwise = config.root**2 + (2 * sum(config.strips) if config.attention == "msca" else LARGE_KERNEL**2)
    projections = 3 if config.mix else 2
    for width, depth, expansion in zip(config.channels, config.depths, config.expansions, strict=True):
        count += depth * width * (projections * width + 2 * expansion * width + depthwise)
    if isinstance(config, SegNeXtConfig):
        decoder, stages = config.decoder_channels, stages_of(config)
        matrices = 1 + CONTEXT_MATRICES.get(config.context, 2) if config.decoder != "mlp" else len(stages)
        read = sum(config.channels[stage] for stage in stages)
        return count + decoder * (read + matrices * decoder + config.num_classes + config.rank)
    return count + config.channels[-1] * config.num_classes
