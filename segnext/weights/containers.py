"""Reads the state dict in a file of any kind, under the names that it was saved with."""

from __future__ import annotations

import hashlib
import json
import pickle
import stat
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from torch import Tensor

from segnext.one_line import is_one_line, one_line
from segnext.weights import restricted
from segnext.weights.arrays import Array, Unusable
from segnext.weights.averages import AVERAGED_KEYS, RAW_KEYS
from segnext.weights.pickles import Foreign
from segnext.weights.zip_files import open_zip

# Code bases keep the state dict in a checkpoint under these keys. They are tried in this order, also nested.
STATE_DICT_KEYS = ("state_dict", "model", "model_state_dict", "params", "module")
# The metadata of a safetensors header holds our config under this key, as JSON.
CONFIG_KEY = "segnext"
FORMAT = 1
# Under this one, a file with foreign names holds what torch checkpoints have in ``meta``, as JSON.
META_KEY = "meta"
# Jittor writes this after a pickle and its SHA-1 (20 bytes).
JITTOR_END = b"HCAJSLHD"
# A training checkpoint of SegNeXt-L with its averages has 0.8 GB and 5,000 tensors.
LARGEST_FILE = 4 * 2**30
MOST_TENSORS = 20_000
LONGEST_NAME = 300
# Files of ours that hold something else name it in their header, under "format", with these beginnings.
OTHER_FILES = {
    "segnext-deployed": "a deployed model; DeployedSegNeXt.load reads it, and weights= the file that it was made from",
    "segnext-training": "the state of a training; the same segnext train line with --resume goes on, and writes "
    "final.safetensors",
}
# Names of what `segnext export` writes. A checkpoint may have one too: the content decides.
EXPORTED = (".onnx", ".xml", ".pt2", ".torchscript", ".tflite")
# Bytes of a safetensors file that are mapped and used before it is opened anew: pages that were read stay in this
# process as long as the file is open, beside the tensors.
PORTION = 16 * 2**20
# PyTorch and safetensors quote this from the system, in errors that need not be a MemoryError.
OUT_OF_MEMORY = "Cannot allocate memory"
DEEPEST = 8
"""Most dictionaries around a state dict."""


class Refused(ValueError):
    """The file is no checkpoint that we can use; the message is for the user."""


@dataclass(frozen=True)
class Contents:
    """The contents of a checkpoint file.

    Attributes:
        state_dict: names as saved, to tensors or numpy arrays.
        kind: container in words.
        config: our config if the file is ours, else {}.
        beside: the other entries of the checkpoint: ``meta``, Geti's ``hyper_parameters``.
        second: a second state dict, averaged or not averaged, and its key.
        foreign: names of classes that were not loaded.
    """

    state_dict: dict[str, Tensor | np.ndarray]
    kind: str
    config: dict[str, Any] = field(default_factory=dict)
    beside: dict[str, Any] = field(default_factory=dict)
    second: tuple[str, dict[str, Tensor | np.ndarray]] | None = None
    foreign: set[str] = field(default_factory=set)

    @property
    def meta(self) -> Mapping[str, Any]:
        """Facts beside the tensors, where mmcv and mmengine keep them; {} if there are none."""
        meta = self.beside.get("meta")
        return meta if isinstance(meta, Mapping) else {}


def read_contents(path: Path) -> Contents:
    """Read a safetensors file, a torch checkpoint (new or old) or a plain pickle (Jittor, Paddle).

    The content decides the kind, not the file's name. Nothing in the file is executed, and the memory that it takes is
    bounded by its size.

    Raises:
        ValueError: damaged, truncated, empty, not a checkpoint, without a state dict, or larger than a checkpoint is.
        OSError: it cannot be read.
        MemoryError: the machine has not enough for it.
    """
    file = expect_file(path)
    try:
        return _read_contents(path, file)
    except ValueError:
        if path.suffix.lower() not in EXPORTED:
            raise
        raise Refused(
            f"{file}: file must be a checkpoint, got an exported file by its name ({path.suffix}); segnext predict, "
            "val and bench take it, all else takes the weights that it was made from"
        ) from None


def _read_contents(path: Path, file: str) -> Contents:
    with path.open("rb") as opened:
        head = opened.read(64)
    try:
        if head[8:9] == b"{":
            return _expect_names(_read_safetensors(path), path)
        if head.startswith(b"PK\x03\x04"):
            return _expect_names(_read_torch(path), path)
        if head.startswith(b"\x80"):
            return _expect_names(_read_pickle(path), path)
    except Refused:
        raise
    except Exception as error:  # damaged bytes can make a parser raise anything
        if isinstance(error, OSError) and error.filename is not None:  # the system's, not a parser's
            raise
        raise _unreadable(file, error) from error
    raise ValueError(
        f"{file}: file must be a safetensors, torch, Jittor or Paddle checkpoint, got one that begins with "
        f"{head[:8]!r}; is it a web page or a Git LFS pointer?"
    )


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the tensors and the metadata of a safetensors file.

    Raises:
        ValueError: not a file, empty, damaged, or its names are not those of tensors.
        OSError: it cannot be read.
        MemoryError: the machine has not enough for it.
    """
    file = expect_file(path)
    with path.open("rb") as begun:
        head = begun.read(9)
    if len(head) == 9 and head[8:] != b"{":
        raise Refused(f"{file}: file must be a safetensors file, got one that begins with {head[:8]!r}")
    if not _is_utf_8(path):
        raise Refused(f"{file}: a safetensors file must have a name in UTF-8 to be read; rename it")
    try:
        with safe_open(path, framework="pt") as opened:
            metadata, names = opened.metadata() or {}, list(opened.keys())
        _expect_tensor_names(names, file)
        tensors: dict[str, Tensor] = {}
        while len(tensors) < len(names):
            tensors |= _next_tensors(path, names[len(tensors) :])
        return tensors, metadata
    except (Refused, FileNotFoundError, PermissionError):
        raise
    except Exception as error:  # of a header whose numbers or types are unknown to it
        raise _unreadable(file, error) from None


def _next_tensors(path: Path, names: list[str]) -> dict[str, Tensor]:
    """Copy the first of these tensors, about ``PORTION`` bytes of them, to memory of their own.

    Mapped memory would change with a file that is written in place, and end the process with one that is cut.
    """
    tensors, size = {}, 0
    with safe_open(path, framework="pt") as opened:
        for name in names:
            tensors[name] = opened.get_tensor(name).clone()
            size += tensors[name].nbytes
            if size >= PORTION:
                break
    return tensors


def _is_utf_8(path: Path) -> bool:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def expect_file(path: Path) -> str:
    """Return how messages name the file.

    Raises:
        ValueError: it is a pipe or a device, empty, or too large for a checkpoint.
        OSError: it does not exist.
    """
    name, status = one_line(path, 240), path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(
            f"{name}: file must be a regular one, got a folder, pipe or device; copy it to a file"
        )
    if not status.st_size:
        raise ValueError(f"{name}: file must be a checkpoint, got 0 bytes; fetch it again")
    if status.st_size > LARGEST_FILE:
        raise ValueError(
            f"{name}: file must have at most {LARGEST_FILE:,} bytes, got {status.st_size:,}; "
            "no checkpoint of SegNeXt is as large"
        )
    return name


def _expect_names(contents: Contents, path: Path) -> Contents:
    _expect_tensor_names(contents.state_dict, one_line(path, 240))
    return contents


def _expect_tensor_names(names: Collection[str], file: str) -> None:
    """Raise unless the names fit into messages, and are few enough to be translated."""
    if len(names) > MOST_TENSORS:
        raise Refused(
            f"{file}: file must hold at most {MOST_TENSORS:,} tensors, got {len(names):,}; is it a SegNeXt's?"
        )
    for name in names:
        if len(name) > LONGEST_NAME or not is_one_line(name):
            raise Refused(
                f"{file}: names of tensors must be one line of at most {LONGEST_NAME} letters, got {one_line(name)} "
                f"of {len(name):,}; is it a SegNeXt's checkpoint?"
            )


def _unreadable(file: str, error: Exception) -> Refused | MemoryError:
    if isinstance(error, MemoryError) or OUT_OF_MEMORY in str(error):
        return MemoryError(f"{file}: there is not enough memory to read it; close other programs")
    reason = one_line(str(error).strip() or type(error).__name__)
    return Refused(
        f"{file}: file must be a whole checkpoint, got a damaged or cut one; fetch it again ({reason})"
    )


def _not_a_state_dict(path: Path, what: str) -> Refused:
    return Refused(
        f"{one_line(path, 240)}: file must hold a state dict, got {one_line(what)}; save model.state_dict()"
    )


def _read_safetensors(path: Path) -> Contents:
    state_dict, metadata = read_safetensors(path)
    if not state_dict:
        raise _not_a_state_dict(path, "no tensors")
    for beginning, what in OTHER_FILES.items():
        if metadata.get("format", "").startswith(beginning):
            raise Refused(f"{one_line(path, 240)}: file must hold the weights of a model, got {what}")
    if CONFIG_KEY not in metadata:
        meta = json.loads(metadata.get(META_KEY, "{}"))
        return Contents(dict(state_dict), "safetensors", beside={"meta": meta})
    config = json.loads(metadata[CONFIG_KEY])
    described = (
        isinstance(config, dict)
        and isinstance(config.get("model"), dict)
        and isinstance(config.get("architecture"), str)
    )
    if not described or config.get("format") != FORMAT:
        raise Refused(
            f"{one_line(path, 240)}: config in its header must have format {FORMAT}, architecture and model, "
            f"got {one_line(metadata[CONFIG_KEY], 60)}; update segnext if a newer one wrote it"
        )
    return Contents(dict(state_dict), "safetensors", config)


def _read_torch(path: Path) -> Contents:
    with open_zip(path) as archive:
        if any(name.endswith("/constants.pkl") for name in archive.namelist()):
            raise _not_a_state_dict(path, "a TorchScript program")
    try:
        return _from_object(path, "torch", *restricted.load_torch_zip(path))
    except restricted.NotTorch as error:
        raise Refused(f"{one_line(path, 240)}: file must be a checkpoint, got {error}") from None


def _read_pickle(path: Path) -> Contents:
    data = path.read_bytes()
    if data.endswith(JITTOR_END) and hashlib.sha1(data[:-28]).digest() != data[-28:-8]:
        raise pickle.UnpicklingError("its SHA-1 is another one")
    if data.startswith(restricted.TORCH_LEGACY_START):
        return _from_object(path, "legacy torch", *restricted.load_torch_legacy(data))
    return _from_object(path, "pickle", *restricted.load_pickle(data))


def _from_object(path: Path, kind: str, loaded: Any, foreign: set[str]) -> Contents:
    if not isinstance(loaded, Mapping):
        what = loaded.name.rpartition(".")[2] if isinstance(loaded, Foreign) else type(loaded).__name__
        raise _not_a_state_dict(path, f"a {what}")
    tensors, second = _find_tensors(path, loaded), None
    for key in (*AVERAGED_KEYS, *RAW_KEYS):
        if isinstance(loaded.get(key), Mapping) and (others := _find_tensors(path, loaded[key])):
            second = (key, others)
            break
    if not tensors and second is not None:
        tensors, second = {f"ema.{name}": tensor for name, tensor in second[1].items()}, None
    if not tensors:
        raise _not_a_state_dict(path, _in_words(loaded))
    beside = {str(key): value for key, value in loaded.items() if key not in STATE_DICT_KEYS}
    return Contents(tensors, kind, beside=beside, second=second, foreign=foreign)


def _in_words(loaded: Mapping[Any, Any]) -> str:
    """Describe a checkpoint without tensors: by the class that stands in their place, or by its keys."""
    names = sorted({value.name for value in _state_dict(loaded).values() if isinstance(value, Foreign)})
    if names:
        return f"objects of {', '.join(one_line(name, 60) for name in names[:3])}, which are no tensors or arrays"
    return ", ".join(one_line(key, 40) for key in list(loaded)[:5]) or "an empty dictionary"


def _state_dict(loaded: Mapping[Any, Any]) -> Mapping[Any, Any]:
    for _ in range(DEEPEST):  # a dictionary can hold itself
        nested = next((loaded[key] for key in STATE_DICT_KEYS if isinstance(loaded.get(key), Mapping)), None)
        if nested is None:
            break
        loaded = nested
    return loaded


def _find_tensors(path: Path, loaded: Mapping[Any, Any]) -> dict[str, Tensor | np.ndarray]:
    tensors: dict[str, Tensor | np.ndarray] = {}
    for key, value in _state_dict(loaded).items():
        tensor = _tensor_or_array(value)
        if isinstance(tensor, Unusable):
            raise Refused(
                f"{one_line(path, 240)}: file must hold dense tensors of numbers, got {tensor.kind} as "
                f"{one_line(key)}; convert it before saving"
            )
        if tensor is not None:
            tensors[str(key)] = tensor
    return tensors


def _tensor_or_array(value: Any) -> Tensor | np.ndarray | Unusable | None:
    if isinstance(value, tuple) and len(value) == 2:  # Paddle's (parameter name, array)
        value = value[1]
    if isinstance(value, Array):
        return value.value
    return value if isinstance(value, Tensor | Unusable) else None
