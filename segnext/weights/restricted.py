"""Reads the pickles of PyTorch, Jittor, Paddle and numpy without executing them.

Here is the table of the functions that these pickles may call: those that rebuild tensors, arrays and containers. A
checkpoint whose ``meta`` holds objects of another framework loads, and one that names ``os.system`` does nothing.
"""

from __future__ import annotations

import io
import math
import pickle
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from segnext.one_line import shown
from segnext.weights.pickles import MOST_INSTRUCTIONS, Budget, Calls, Global, Machine, expect_key
from segnext.weights.zip_files import open_zip

# Files in PyTorch's format before 1.6 begin with this.
TORCH_LEGACY_START = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)
# A file inside the file holds one storage, which takes 60 instructions; its cost bounds how often it may be read.
_INNER_INSTRUCTIONS, _INNER_COST = 1_000, 2**16
_BIG_ENDIAN = "its bytes are in the order of a big-endian machine"


class NotTorch(ValueError):
    """A whole zip file, but none that ``torch.save`` writes; the message says so."""


@dataclass(frozen=True)
class Unusable:
    """Stands for a tensor that cannot be a weight.

    Attributes:
        kind: what it is, with an article.
    """

    kind: str


class Array:
    """A numpy array as a pickle rebuilds it; ``value`` is the array, or says why there is none."""

    def __init__(self, budget: Budget) -> None:
        self.value: np.ndarray | Unusable = np.empty(0, np.float32)
        self._budget = budget

    def build(self, state: Any) -> None:
        """Take the state of ``numpy.ndarray``: version, shape, dtype, whether columns lie together, bytes."""
        _, shape, dtype, column_major, raw = state
        self.value = _as_array(self._budget, raw, dtype, shape, "F" if column_major else "C")


class _DType:
    """Numpy's dtype as pickles write it: a code such as ``f4``, then a state whose second entry is the byte order.

    ``value`` is None for what is neither a number nor text: the bytes of objects would be pointers, dates need their
    unit, and PyTorch has no number longer than a double. Such arrays lie beside the tensors of real checkpoints.
    """

    def __init__(self, code: Any, *_: Any) -> None:
        if not isinstance(code, str) or not re.fullmatch(r"[<>=|]?[a-zA-Z]\d{0,5}", code):
            raise pickle.UnpicklingError(f"array of dtype {shown(code)}")
        self.code = code
        is_plain = re.fullmatch(r"[<>=|]?([biuf][1248]|c8|c16|[US][1-9]\d*)", code)
        self.value = np.dtype(code) if is_plain else None

    def build(self, state: Any) -> None:
        if state[1] not in ("<", ">", "=", "|"):
            raise pickle.UnpicklingError(f"the byte order {shown(state[1])}")
        if self.value is not None:
            self.value = self.value.newbyteorder(state[1])


@dataclass
class _Storage:
    """The numbers of one or more tensors.

    Attributes:
        data: (bytes,) uint8.
        dtype: of its elements; None: the tensor says it, or it cannot be a weight.
        length: elements.
        filled: whether the numbers have been read.
    """

    data: Tensor
    dtype: torch.dtype | None
    length: int
    filled: bool = True


_STORAGES = {
    "torch.FloatStorage": torch.float32,
    "torch.DoubleStorage": torch.float64,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
    "torch.ComplexFloatStorage": torch.complex64,
    "torch.ComplexDoubleStorage": torch.complex128,
}
# Their elements are no numbers, or the tensor says what they are.
_BYTE_SIZES = {
    "torch.storage.UntypedStorage": 1,
    "torch.QInt8Storage": 1,
    "torch.QUInt8Storage": 1,
    "torch.QUInt4x2Storage": 1,
    "torch.QUInt2x4Storage": 1,
    "torch.QInt32Storage": 4,
}
_DTYPES = {
    f"torch.{name}": getattr(torch, name)
    for name in dir(torch)
    if isinstance(getattr(torch, name), torch.dtype)
}
_UNUSABLE = {
    "_rebuild_sparse_tensor": "a sparse tensor",
    "_rebuild_sparse_csr_tensor": "a sparse tensor",
    "_rebuild_nested_tensor": "a nested tensor",
    "_rebuild_qtensor": "a quantised tensor",
    "_rebuild_meta_tensor_no_storage": "a tensor on the meta device, which has no values",
    "_rebuild_wrapper_subclass": "an object of a subclass of Tensor",
    "_rebuild_device_tensor_from_numpy": "a tensor of a device that PyTorch saves as an array",
    "_rebuild_device_tensor_from_cpu_tensor": "a tensor of a device that PyTorch saves as another tensor",
}


def _text_bytes(text: Any, encoding: str) -> bytes:
    """Decode bytes, which Python 2 and protocol 2 write as latin-1 text."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"text encoding {shown(encoding)}")
    return text.encode("latin-1")


def _as_array(budget: Budget, raw: Any, dtype: _DType, shape: Any, order: Any = "C") -> np.ndarray | Unusable:
    """Copy bytes to an array in native byte order and writable memory, as torch.from_numpy needs it."""
    if dtype.value is None:
        return Unusable(f"an array of numpy's dtype {dtype.code}")
    if isinstance(raw, str):
        raw = _text_bytes(raw, "latin1")
    budget.take(len(raw), "an array")
    flat = np.frombuffer(raw, dtype.value)
    return flat.reshape(_as_size(shape), order=order).astype(dtype.value.newbyteorder("="), order="C")


def _as_size(size: Any) -> tuple[int, ...]:
    if not isinstance(size, tuple | list) or not all(type(axis) is int and axis >= 0 for axis in size):
        raise pickle.UnpicklingError(f"the shape {shown(size)}")
    return tuple(size)


class _Table:
    """Makes the table for one file, whose budget its functions take from; an inner file holds no other."""

    def __init__(self, budget: Budget, is_inner: bool = False) -> None:
        self._budget, self._is_inner = budget, is_inner

    def calls(self) -> Calls:
        collections = {
            f"{module}.{kind.__name__}": partial(self._collection, kind)
            for kind in (dict, list, tuple, set, frozenset, bytes, bytearray)
            for module in ("builtins", "__builtin__")
        }
        numpy: dict[str, Callable[..., Any]] = {
            f"numpy.{core}.{name}": function
            for core in ("core", "_core")
            for name, function in {
                "multiarray._reconstruct": self._new_array,
                "multiarray.scalar": self._scalar,
                "numeric._frombuffer": self._array,
            }.items()
        }
        return {
            **collections,
            **numpy,
            "collections.OrderedDict": partial(self._collection, dict),
            "collections.defaultdict": lambda *_: {},
            "collections.Counter": partial(self._collection, dict),
            "_codecs.encode": self._encoded,
            "numpy.dtype": _DType,
            "numpy.ndarray": self._new_array,
            "torch.Size": partial(self._collection, tuple),
            "torch.storage._load_from_bytes": self._storage,
            "torch._utils._rebuild_tensor": self._tensor,
            "torch._utils._rebuild_tensor_v2": self._tensor_v2,
            "torch._utils._rebuild_tensor_v3": self._tensor_v3,
            "torch._utils._rebuild_parameter": lambda data, *_: data,
            "torch._utils._rebuild_parameter_with_state": lambda data, *_: data,
            "torch._tensor._rebuild_from_type_v2": self._tensor_of_type,
            # Jittor pickles its tensors as Var(array); the module is written in either way.
            **dict.fromkeys(("jittor.jittor_core.Var", "jittor_core.Var"), lambda data, *_: data),
            **{
                f"torch._utils.{name}": lambda *_, kind=kind: Unusable(kind)
                for name, kind in _UNUSABLE.items()
            },
            # These are only named, as arguments of others.
            **dict.fromkeys(
                (*_STORAGES, *_BYTE_SIZES, *_DTYPES, "torch.device", "torch.serialization._get_layout"),
                _nothing,
            ),
        }

    def _collection(self, kind: Any, items: Any = (), encoding: str = "") -> Any:
        if isinstance(items, str) and kind in (bytes, bytearray):
            return kind(self._encoded(items, encoding))
        if not isinstance(items, list | tuple | set | frozenset | dict | bytes | bytearray):
            raise pickle.UnpicklingError(f"a {kind.__name__} of a {type(items).__name__}")
        self._budget.take(64 * len(items), f"a {kind.__name__}")
        if kind is dict and not isinstance(items, dict):
            return {expect_key(key): value for key, value in list(items)}
        return kind(map(expect_key, items)) if kind in (set, frozenset) else kind(items)

    def _encoded(self, text: Any, encoding: str) -> bytes:
        self._budget.take(len(text), "text")
        return _text_bytes(text, encoding)

    def _new_array(self, *_: Any) -> Array:
        return Array(self._budget)

    def _array(self, raw: Any, dtype: _DType, shape: Any, order: Any = "C") -> Array:
        array = Array(self._budget)
        array.value = _as_array(self._budget, raw, dtype, shape, order)
        return array

    def _scalar(self, dtype: _DType, raw: Any) -> Any:
        array = _as_array(self._budget, raw, dtype, (1,))
        return array if isinstance(array, Unusable) else array[0].item()

    def _storage(self, raw: Any) -> _Storage | Unusable:
        """Read a storage as ``pickle.dump`` writes it: as a whole file of the older format."""
        if isinstance(raw, bytes) and raw.startswith(TORCH_LEGACY_START) and not self._is_inner:
            self._budget.take(len(raw) + _INNER_COST, "a storage")
            storage, _ = load_torch_legacy(raw, self._budget)
            if isinstance(storage, _Storage):
                return storage
        return Unusable("an object that PyTorch would read from a file inside the file")

    def _tensor(self, storage: _Storage, *place: Any) -> Tensor | Unusable:
        return self._view(storage, storage.dtype, *place)

    def _tensor_v2(
        self, storage: _Storage, offset: Any, size: Any, stride: Any, *rest: Any
    ) -> Tensor | Unusable:
        _, _, *bits = rest  # after requires_grad and hooks
        return self._view(storage, storage.dtype, offset, size, stride, *bits)

    def _tensor_v3(
        self, storage: _Storage, offset: Any, size: Any, stride: Any, *rest: Any
    ) -> Tensor | Unusable:
        _, _, dtype, *bits = rest
        return self._view(storage, _DTYPES[dtype.name], offset, size, stride, *bits)

    def _tensor_of_type(self, function: Any, kind: Any, arguments: Any, state: Any) -> Tensor | Unusable:
        if function.name == "torch._utils._rebuild_tensor_v2":
            return self._tensor_v2(*arguments)
        return Unusable("an object of a subclass of Tensor")

    def _view(
        self,
        storage: _Storage,
        dtype: torch.dtype | None,
        offset: int,
        size: Any,
        stride: Any,
        bits: Any = None,
    ) -> Tensor | Unusable:
        if bits:  # {"conj": True} or {"neg": True}: the values wait to be conjugated or negated
            return Unusable("a conjugated or negated view")
        if dtype is None:
            return Unusable("a tensor of no plain numbers")
        shape = _as_size(size)
        # With a stride of 0 a small storage makes a tensor of any size, and a model that is as large.
        self._budget.take(math.prod(shape) * dtype.itemsize, f"a tensor {shape}")
        return torch.as_strided(
            storage.data.view(dtype), shape, _as_size(stride), offset
        )  # checks the bounds


def _nothing(*_: Any) -> None:
    return None


def _storage_type(kind: Any) -> tuple[torch.dtype | None, int]:
    """Return the dtype of a storage's elements, and their size in bytes."""
    name = kind.name if isinstance(kind, Global) else type(kind).__name__
    if name in _STORAGES:
        return _STORAGES[name], _STORAGES[name].itemsize
    if name in _BYTE_SIZES:
        return None, _BYTE_SIZES[name]
    raise pickle.UnpicklingError(f"a storage of type {name}")


def _storage_place(pid: Any, parts: int) -> tuple[Any, str, int]:
    """Return type, key and length of the storage that a reference means; its parts are of any kind."""
    if not isinstance(pid, tuple) or len(pid) != parts:
        raise pickle.UnpicklingError("a reference to something that is no storage")
    kind, key, length = pid[1], pid[2], pid[4]
    if not isinstance(key, str) or type(length) is not int or length < 0:
        raise pickle.UnpicklingError("a storage without a key or a length")
    return kind, key, length


def load_pickle(data: bytes) -> tuple[Any, set[str]]:
    """Read the object of a plain pickle, and the foreign names in it."""
    machine = Machine(io.BytesIO(data), _Table(Budget(len(data))).calls())
    return machine.run(), machine.foreign


def load_torch_zip(path: Path) -> tuple[Any, set[str]]:
    """Read the object of a file that ``torch.save`` wrote, and the foreign names in it."""
    size = path.stat().st_size
    with open_zip(path) as archive:
        unpacked, budget = Budget(size), Budget(size)
        for entry in archive.infolist():
            unpacked.take(entry.file_size, f"its entry {entry.filename}")
        names = set(archive.namelist())
        root = next((name.removesuffix("data.pkl") for name in names if name.endswith("/data.pkl")), None)
        if root is None:
            raise NotTorch("a zip file without data.pkl; if a checkpoint is inside, unpack it")
        if f"{root}byteorder" in names and archive.read(f"{root}byteorder") == b"big":
            raise pickle.UnpicklingError(_BIG_ENDIAN)
        storages: dict[str, _Storage] = {}

        def load_storage(pid: Any) -> _Storage:
            kind, key, length = _storage_place(pid, 5)
            if key not in storages:
                dtype, itemsize = _storage_type(kind)
                raw = bytearray(archive.read(f"{root}data/{key}"))
                if len(raw) != length * itemsize:
                    raise pickle.UnpicklingError(f"storage {key} has {len(raw)} bytes for {length} elements")
                storages[key] = _Storage(_as_bytes(raw), dtype, length)
            return storages[key]

        source = io.BytesIO(archive.read(f"{root}data.pkl"))
        machine = Machine(source, _Table(budget).calls(), load_storage)
        return machine.run(), machine.foreign


def load_torch_legacy(data: bytes, outer: Budget | None = None) -> tuple[Any, set[str]]:
    """Read the object of a file that ``torch.save`` wrote before PyTorch 1.6, and the foreign names in it.

    The file holds four pickles (magic number, protocol, system, the object), then one with the storages' keys, then
    per storage its length as int64 and its elements.

    Args:
        data: the file.
        outer: budget of the pickle that the file is a part of.
    """
    file = io.BytesIO(data)
    storages: dict[str, _Storage] = {}

    def load_storage(pid: Any) -> _Storage:
        kind, key, length = _storage_place(pid, 6)
        if pid[5] is not None:
            raise pickle.UnpicklingError("a view of a storage, as PyTorch 0.3 wrote")
        dtype, itemsize = _storage_type(kind)
        if key not in storages:
            if length * itemsize > len(data):
                raise pickle.UnpicklingError(f"storage {key} of {length} elements is longer than the file")
            budget.take(length * itemsize, f"storage {key}")
            storages[key] = _Storage(
                torch.empty(length * itemsize, dtype=torch.uint8), dtype, length, filled=False
            )
        return storages[key]

    budget = outer or Budget(len(data))
    most = MOST_INSTRUCTIONS if outer is None else _INNER_INSTRUCTIONS
    machine = Machine(file, _Table(budget, is_inner=outer is not None).calls(), load_storage, most)
    _, _, system, result, keys = [machine.run() for _ in range(5)]
    if isinstance(system, Mapping) and system.get("little_endian") is False:
        raise pickle.UnpicklingError(_BIG_ENDIAN)
    for key in keys:
        if not isinstance(key, str):
            raise pickle.UnpicklingError("a storage without a key")
        storage, length = storages[key], int.from_bytes(file.read(8), "little")
        raw = file.read(storage.data.numel())
        if length != storage.length or len(raw) != storage.data.numel():
            raise pickle.UnpicklingError(f"storage {key} has another length than its tensors say")
        storage.data.copy_(_as_bytes(bytearray(raw)))
        storage.filled = True
    if not all(storage.filled for storage in storages.values()):
        raise pickle.UnpicklingError("a storage without its elements")
    return result, machine.foreign


def _as_bytes(raw: bytearray) -> Tensor:
    return torch.frombuffer(raw, dtype=torch.uint8) if raw else torch.empty(0, dtype=torch.uint8)
