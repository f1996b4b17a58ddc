"""Reads pickles without executing them.

Pickles name functions and call them. This unpickler knows the handful that rebuild tensors, arrays and
containers; everything else becomes an inert :class:`Foreign` object. So a checkpoint whose ``meta`` holds
objects of another framework loads, and one that names ``os.system`` does nothing.
"""

from __future__ import annotations

import codecs
import io
import pickle
import zipfile
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

# Files in PyTorch's format before 1.6 begin with this.
TORCH_LEGACY_START = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)


class Foreign:
    """Stands for an object of an unknown class: it accepts the calls of an unpickler and does nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Foreign:
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...

    def __setitem__(self, key: Any, value: Any) -> None: ...

    def append(self, item: Any) -> None: ...

    def extend(self, items: Any) -> None: ...

    def add(self, item: Any) -> None: ...


class _DType:
    """Numpy's dtype as pickles write it: a code such as ``f4``, then a state whose second entry is the byte order."""

    def __init__(self, code: str, align: bool = False, copy: bool = False) -> None:
        self.value = np.dtype(code)
        if self.value.kind not in "biuf":  # objects are refused: their bytes would be pointers
            raise pickle.UnpicklingError(f"array of dtype {code}")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.value = self.value.newbyteorder(state[1])


class Array:
    """A numpy array as a pickle rebuilds it; ``value`` is the array."""

    def __init__(self, *args: Any) -> None:
        self.value = np.empty(0, np.float32)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, column_major, raw = state
        self.value = _array(raw, dtype, shape, "F" if column_major else "C").value


def _array(raw: bytes, dtype: _DType, shape: tuple[int, ...], order: Any = "C") -> Array:
    array = Array()
    flat = np.frombuffer(raw, dtype.value)
    # torch.from_numpy needs native byte order and writable memory.
    array.value = flat.reshape(shape, order=order).astype(dtype.value.newbyteorder("="), order="C")
    return array


def _latin1(text: str, encoding: str) -> bytes:
    """Decode bytes, which Python 2 and protocol 2 write as latin-1 text."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"text encoding {encoding}")
    return codecs.encode(text, "latin1")


def _tensor(
    storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *rest: Any
) -> Tensor:
    return torch.as_strided(storage, size, stride, offset)  # checks the bounds


def _storage(raw: bytes, dtype: torch.dtype) -> Tensor:
    return torch.frombuffer(bytearray(raw), dtype=dtype) if raw else torch.empty(0, dtype=dtype)


def _parameter(data: Tensor, *rest: Any) -> Tensor:
    return data


_STORAGES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_KNOWN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("collections", "defaultdict"): defaultdict,
    ("_codecs", "encode"): _latin1,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("numpy", "dtype"): _DType,
    ("numpy", "ndarray"): Array,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): Array for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _array for core in ("core", "_core")},
    **{
        (module, kind.__name__): kind
        for kind in (dict, list, tuple, set, frozenset, bytes, bytearray, complex, int, float, bool)
        for module in ("builtins", "__builtin__")
    },
}


class RestrictedUnpickler(pickle.Unpickler):
    """Builds tensors, arrays and containers, and collects the names of everything else in ``foreign``."""

    def __init__(self, file: io.BufferedIOBase, load_storage: Callable[[Any], Tensor] | None = None) -> None:
        super().__init__(file, encoding="latin1")
        self.foreign: set[str] = set()
        self._load_storage = load_storage

    def find_class(self, module: str, name: str) -> Any:
        """Return the known function or class of this name, or a new inert class."""
        if (module, name) in _KNOWN:
            return _KNOWN[module, name]
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        self.foreign.add(f"{module}.{name}")
        return type(name, (Foreign,), {})

    def persistent_load(self, pid: Any) -> Tensor:
        """Return the storage that a torch checkpoint refers to."""
        if self._load_storage is None:
            raise pickle.UnpicklingError("a reference to data outside the pickle")
        return self._load_storage(pid)


def load_pickle(data: bytes) -> tuple[Any, set[str]]:
    """Read the object of a plain pickle, and the foreign names in it."""
    unpickler = RestrictedUnpickler(io.BytesIO(data))
    return unpickler.load(), unpickler.foreign


def load_torch_zip(path: Path) -> tuple[Any, set[str]]:
    """Read the object of a file that ``torch.save`` wrote, and the foreign names in it."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        root = next((name.removesuffix("data.pkl") for name in names if name.endswith("/data.pkl")), None)
        if root is None:
            raise pickle.UnpicklingError("no data.pkl inside")
        storages: dict[str, Tensor] = {}

        def load_storage(pid: Any) -> Tensor:
            _, dtype, key, _, _ = pid
            if key not in storages:
                storages[key] = _storage(archive.read(f"{root}data/{key}"), dtype)
            return storages[key]

        unpickler = RestrictedUnpickler(io.BytesIO(archive.read(f"{root}data.pkl")), load_storage)
        return unpickler.load(), unpickler.foreign


def load_torch_legacy(data: bytes) -> tuple[Any, set[str]]:
    """Read the object of a file that ``torch.save`` wrote before PyTorch 1.6, and the foreign names in it.

    The file holds four pickles (magic number, protocol, system, the object), then one with the storages' keys, then
    per storage its length as int64 and its elements.
    """
    file = io.BytesIO(data)
    for _ in range(3):
        RestrictedUnpickler(file).load()
    storages: dict[str, Tensor] = {}

    def load_storage(pid: Any) -> Tensor:
        _, dtype, key, _, length, view = pid
        if view is not None:
            raise pickle.UnpicklingError("a view of a storage, as PyTorch 0.3 wrote")
        return storages.setdefault(key, torch.empty(length, dtype=dtype))

    unpickler = RestrictedUnpickler(file, load_storage)
    result = unpickler.load()
    for key in RestrictedUnpickler(file).load():
        storage, length = storages[key], int.from_bytes(file.read(8), "little")
        storage.copy_(_storage(file.read(length * storage.element_size()), storage.dtype))
    return result, unpickler.foreign
