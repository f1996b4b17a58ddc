"""Reads the state dict in a file of any kind, under the names that it was saved with."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from segnext.weights import restricted

# Code bases keep the state dict in a checkpoint under these keys. They are tried in this order, also nested.
STATE_DICT_KEYS = ("state_dict", "model", "model_state_dict", "params")
# The metadata of a safetensors header holds our config under this key, as JSON.
CONFIG_KEY = "segnext"
FORMAT = 1
# Jittor writes this after a pickle and its SHA-1 (20 bytes).
JITTOR_END = b"HCAJSLHD"


@dataclass(frozen=True)
class Contents:
    """The contents of a checkpoint file.

    Attributes:
        state_dict: names as saved, to tensors or numpy arrays.
        kind: container in words.
        config: our config if the file is ours, else {}.
        meta: facts beside the tensors (mmsegmentation's ``meta``), else {}.
        foreign: names of classes that were not loaded.
    """

    state_dict: dict[str, Tensor | np.ndarray]
    kind: str
    config: dict[str, Any] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)
    foreign: set[str] = field(default_factory=set)


def read_contents(path: Path) -> Contents:
    """Read a safetensors file, a torch checkpoint (new or old) or a plain pickle (Jittor, Paddle).

    The content decides the kind, not the file's name. Nothing in the file is executed.

    Raises:
        ValueError: damaged, truncated, empty, not a checkpoint, or without a state dict.
    """
    with path.open("rb") as file:
        head = file.read(64)
    if not head:
        raise ValueError(f"{path}: file must be a checkpoint, got 0 bytes; fetch it again")
    try:
        if head[8:9] == b"{":
            return _read_safetensors(path)
        if head.startswith(b"PK\x03\x04"):
            return _read_torch(path)
        if head.startswith(b"\x80"):
            return _read_pickle(path)
    except (_WholeButUnusable, OSError):
        raise
    except Exception as error:  # damaged bytes can make a parser raise anything
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:120]
        raise ValueError(
            f"{path}: file must be a whole checkpoint, got a damaged or cut one; fetch it again ({reason})"
        ) from error
    raise ValueError(
        f"{path}: file must be a safetensors, torch, Jittor or Paddle checkpoint, got one that begins with "
        f"{head[:8]!r}; is it a web page or a Git LFS pointer?"
    )


class _WholeButUnusable(ValueError):
    """The file can be read but holds no usable weights; the message is for the user."""


def _not_a_state_dict(path: Path, what: str) -> _WholeButUnusable:
    return _WholeButUnusable(f"{path}: file must hold a state dict, got {what}; save model.state_dict()")


def _read_safetensors(path: Path) -> Contents:
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        state_dict = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    if not state_dict:
        raise _not_a_state_dict(path, "no tensors")
    if CONFIG_KEY not in metadata:
        return Contents(state_dict, "safetensors")
    config = json.loads(metadata[CONFIG_KEY])
    described = (
        isinstance(config, dict) and isinstance(config.get("model"), dict) and "architecture" in config
    )
    if not described or config.get("format") != FORMAT:
        raise _WholeButUnusable(
            f"{path}: config in its header must have format {FORMAT}, architecture and model, "
            f"got {metadata[CONFIG_KEY][:60]}; update segnext if a newer one wrote it"
        )
    return Contents(state_dict, "safetensors", config)


def _read_torch(path: Path) -> Contents:
    with zipfile.ZipFile(path) as archive:
        if any(name.endswith("/constants.pkl") for name in archive.namelist()):
            raise _not_a_state_dict(path, "a TorchScript program")
    try:
        return _from_object(path, "torch", torch.load(path, map_location="cpu", weights_only=True), set())
    except pickle.UnpicklingError:  # it holds objects of another framework
        return _from_object(path, "torch", *restricted.load_torch_zip(path))


def _read_pickle(path: Path) -> Contents:
    data = path.read_bytes()
    if data.endswith(JITTOR_END) and hashlib.sha1(data[:-28]).digest() != data[-28:-8]:
        raise pickle.UnpicklingError("its SHA-1 is another one")
    if not data.startswith(restricted.TORCH_LEGACY_START):
        return _from_object(path, "pickle", *restricted.load_pickle(data))
    try:
        # The source is memory: given a file, torch.load first tries the tar format of 2016 and unpacks to disk.
        loaded = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        return _from_object(path, "legacy torch", *restricted.load_torch_legacy(data))
    return _from_object(path, "legacy torch", loaded, set())


def _from_object(path: Path, kind: str, loaded: Any, foreign: set[str]) -> Contents:
    if not isinstance(loaded, Mapping):
        raise _not_a_state_dict(path, f"a {type(loaded).__name__}")
    tensors = _find_tensors(loaded)
    if not tensors:
        raise _not_a_state_dict(
            path, ", ".join(str(key) for key in list(loaded)[:5]) or "an empty dictionary"
        )
    meta = loaded.get("meta")
    return Contents(tensors, kind, meta=dict(meta) if isinstance(meta, Mapping) else {}, foreign=foreign)


def _find_tensors(loaded: Mapping[Any, Any]) -> dict[str, Tensor | np.ndarray]:
    for key in STATE_DICT_KEYS:
        if isinstance(loaded.get(key), Mapping):
            return _find_tensors(loaded[key])
    found = {str(key): _tensor_or_array(value) for key, value in loaded.items()}
    return {key: value for key, value in found.items() if value is not None}


def _tensor_or_array(value: Any) -> Tensor | np.ndarray | None:
    if isinstance(value, tuple) and len(value) == 2:  # Paddle's (parameter name, array)
        value = value[1]
    if isinstance(value, restricted.Array):
        return value.value
    return value.detach() if isinstance(value, Tensor) else None
