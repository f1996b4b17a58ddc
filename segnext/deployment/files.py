"""The file of a deployed model: folded, unpacked weights as safetensors, with the configuration in the header."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from segnext.atomic import replace_file
from segnext.deployment.folding import by_name, fold_anywhere, from_names
from segnext.deployment.parts import FoldedWeights
from segnext.models import SegNeXt, SegNeXtConfig
from segnext.models.decoders import decoder_of
from segnext.models.finite import first_non_finite
from segnext.one_line import one_line
from segnext.weights.catalogue import find_file
from segnext.weights.configuration import as_json, expect_metadata, expect_size
from segnext.weights.containers import read_safetensors
from segnext_kernels import packed

FORMAT = "segnext-deployed-1"
DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in packed.DTYPES}


@dataclass(frozen=True)
class Contents:
    """What a file holds; its tensors have the shapes that its configuration asks for, and are finite."""

    config: SegNeXtConfig
    weights: FoldedWeights
    dtype: torch.dtype
    metadata: dict[str, Any]


def write(path: str | Path, contents: Contents) -> None:
    """Write a file; an existing one is replaced atomically.

    Raises:
        ValueError: `read` would refuse the file: its metadata are misshaped, or its weights not finite.
    """
    config, tensors = contents.config, by_name(contents.config, contents.weights)
    metadata = as_json(contents.metadata, config.num_classes, config.in_channels, "deploy")
    if (bad := first_non_finite(tensors)) is not None:
        raise ValueError(f"deploy: weights to save must be finite, got NaN or Inf in {bad}")
    header = {
        "format": FORMAT,
        "config": json.dumps(asdict(contents.config)),
        "dtype": str(contents.dtype).removeprefix("torch."),
        "metadata": json.dumps(metadata),
    }
    replace_file(path, lambda temporary: save_file(tensors, temporary, header))


def read(path: str | Path) -> Contents:
    """Read what `write` wrote.

    Raises:
        FileNotFoundError: no such file. ValueError: not such a file, or one whose tensors do not fit its configuration.
    """
    expected = "must be a file of DeployedSegNeXt.save"
    path = find_file(path, f"deploy: path {expected}", "deploy(model).save(path) writes one")
    tensors, header = read_safetensors(path)
    shown = one_line(path, 240)
    if header.get("format") != FORMAT:
        raise ValueError(
            f"deploy: {shown} {expected}, got other weights; "
            "create_model(weights=...) reads checkpoints, deploy(model) folds them"
        )
    config, dtype, metadata = _header(shown, header)
    expect_size(config, tensors, f"deploy: {shown}")
    expect_metadata(metadata, config.num_classes, config.in_channels, f"deploy: {shown}")
    _check(shown, config, tensors)
    return Contents(config, from_names(config, tensors), dtype, metadata)


def expected_shapes(config: SegNeXtConfig) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor of a file, by name."""
    with torch.device("meta"):
        weights = fold_anywhere(SegNeXt(config))
    return {name: tuple(tensor.shape) for name, tensor in by_name(config, weights).items()}


def _header(path: str, header: Mapping[str, str]) -> tuple[SegNeXtConfig, torch.dtype, dict[str, Any]]:
    try:
        config, metadata = json.loads(header["config"]), json.loads(header["metadata"])
        if not isinstance(config, dict) or not isinstance(metadata, dict):
            raise TypeError("config and metadata must be JSON objects")
        built = SegNeXtConfig(**config)
        decoder_of(built)
        return built, DTYPES[header["dtype"]], metadata
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"deploy: {path} must have a readable header of DeployedSegNeXt.save, got "
            f"{one_line(f'{type(error).__name__}: {error}', 240)}"
        ) from None


def _check(path: str, config: SegNeXtConfig, tensors: Mapping[str, Tensor]) -> None:
    """Raise unless there is every tensor, in float32 and in the shape of this configuration, and all are finite."""
    shapes, what = expected_shapes(config), f"deploy: {path} must have"
    lacking, more = sorted(shapes.keys() - tensors.keys()), sorted(tensors.keys() - shapes.keys())
    if lacking:
        raise ValueError(f"{what} every tensor of a deployed {config.architecture}, lacks {lacking[0]}")
    if more:
        raise ValueError(f"{what} the tensors of a deployed {config.architecture} alone, got {more[0]!r:.80}")
    for name, shape in shapes.items():
        found = tensors[name]
        if tuple(found.shape) != shape or found.dtype != torch.float32:
            raise ValueError(
                f"{what} {name} as {shape} float32 for its configuration, got {tuple(found.shape)} "
                f"{str(found.dtype).removeprefix('torch.')}"
            )
    if (bad := first_non_finite(tensors)) is not None:
        raise ValueError(f"{what} finite weights, got NaN or Inf in {bad}")
