"""Saves a model's weights."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from segnext.atomic import replace_bytes, replace_file
from segnext.models import MSCAN, SegNeXt, dialects
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

    The NMF bases are left out, because the official model has no place for them.

    Args:
        model: a SegNeXt or MSCAN.
        path: ``*.safetensors``, or anything else for a torch checkpoint ``{"meta", "state_dict"}`` like the
            official ones, whose ``meta`` holds class names and palette.
    """
    tensors = dialects.to_official(_on_cpu(model))
    if Path(path).suffix == ".safetensors":
        replace_file(path, lambda temporary: save_file(tensors, temporary, {"format": "pt"}))
    else:
        meta = {key.upper(): model.metadata[key] for key in ("classes", "palette") if key in model.metadata}
        content = io.BytesIO()
        torch.save({"meta": meta, "state_dict": tensors}, content)
        replace_bytes(path, content.getbuffer())


def _on_cpu(model: SegNeXt | MSCAN) -> dict[str, Tensor]:
    return {key: tensor.detach().cpu().contiguous() for key, tensor in model.state_dict().items()}
