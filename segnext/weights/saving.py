"""Saves a model's weights."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from segnext.atomic import replace_file
from segnext.models import MSCAN, SegNeXt
from segnext.models.changed import first_unsaved_change
from segnext.models.finite import expect_values, first_non_finite
from segnext.models.loading import expect_model
from segnext.models.registry import CONFIGS
from segnext.models.values import FLOATING
from segnext.one_line import one_line
from segnext.weights.configuration import as_json
from segnext.weights.containers import CONFIG_KEY, FORMAT
from segnext.weights.identify import overrides_of

METADATA_KEYS = ("classes", "palette", "preprocessing", "recipe", "metrics")


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
        metadata: classes, palette, preprocessing, recipe, metrics; they replace those in ``model.metadata``.
        dtype: dtype of the convolution weights in the file; vectors, statistics and bases stay as they are.

    Raises:
        TypeError: not a SegNeXt or an MSCAN.
        ValueError: what could not be loaded again: unknown or misshaped metadata, a layer with another geometry or
            eps, which no file of weights shows, or weights that are not finite in this dtype.
    """
    if dtype not in (None, *FLOATING):
        raise ValueError(f"save: dtype must be one of {', '.join(map(str, FLOATING))}, got {one_line(dtype)}")
    expect_model("save", model)
    merged = expect_savable(model, {**model.metadata, **(metadata or {})})
    model_config = {"architecture": model.config.architecture, "model": overrides_of(model.config)}
    config = {"format": FORMAT, **model_config, **merged}
    tensors = finite_on_cpu(model)
    if dtype is not None:
        tensors |= {
            key: _converted(key, tensor, dtype) for key, tensor in tensors.items() if tensor.ndim == 4
        }
    header = {CONFIG_KEY: json.dumps(config), "format": "pt"}
    replace_file(path, lambda temporary: save_file(tensors, temporary, header))


def expect_savable(model: SegNeXt | MSCAN, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Raise a ValueError, see :func:`save`, before there is work to lose; return the metadata as in a file."""
    for key in metadata:
        if key not in METADATA_KEYS:
            raise ValueError(f"save: metadata must be among {', '.join(METADATA_KEYS)}, got {key!r}")
    if model.config.architecture not in CONFIGS:
        raise ValueError(
            f"save: architecture must be one of {', '.join(CONFIGS)}, got {model.config.architecture}; channels and "
            "depths of your own go with each of them"
        )
    tensors = model.state_dict()
    expect_values("save", tensors)
    sharded = [name for name, tensor in tensors.items() if hasattr(tensor, "full_tensor")]
    if sharded:
        raise ValueError(
            f"save: model must be whole in this process, got {sharded[0]} spread over several; "
            "torch.distributed.checkpoint.state_dict gathers a state dict for a model that is not"
        )
    with torch.device("meta"):
        plain = SegNeXt(model.config) if isinstance(model, SegNeXt) else MSCAN(model.config)
    change = first_unsaved_change(model, plain)
    if change is not None:
        raise ValueError(
            f"save: model must have the layers of its configuration, got {change}; a file would load as another "
            "model; torch.save(model.state_dict(), path) keeps the tensors alone"
        )
    return as_json(metadata, model.config.num_classes, model.config.in_channels, "save")


def finite_on_cpu(model: SegNeXt | MSCAN) -> dict[str, Tensor]:
    """Copy a model's state dict to the CPU.

    Raises:
        ValueError: a tensor holds NaN or infinity, which no reader takes.
    """
    state_dict = model.state_dict()
    if (name := first_non_finite(state_dict)) is not None:
        raise ValueError(f"save: weights must be finite, got NaN or Inf in {name}; save an earlier state")
    return in_own_memory({key: tensor.detach().cpu().contiguous() for key, tensor in state_dict.items()})


def _converted(key: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    converted = tensor.to(dtype)
    if not bool(converted.isfinite().all()):
        raise ValueError(
            f"save: dtype must hold the weights, got {dtype} for {key}, whose largest is "
            f"{tensor.abs().max().item():.4g}; save torch.bfloat16 or torch.float32"
        )
    return converted


def in_own_memory(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy the tensors that share memory with an earlier one, as tied weights do: a safetensors file holds each."""
    seen: set[int] = set()
    apart = {}
    for key, tensor in tensors.items():
        memory = tensor.untyped_storage().data_ptr()
        apart[key] = tensor.clone() if memory in seen else tensor
        seen.add(memory)
    return apart
