"""Reads the pickles of PyTorch, Jittor, Paddle and numpy without executing them.

Here is the table of the functions that these pickles may call: those that rebuild tensors, arrays and containers. A
checkpoint whose ``meta`` holds objects of another framework loads, and one that names ``os.system`` does nothing.
"""

from __future__ import annotations

import io
import math
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from zipfile import ZipFile, ZipInfo

import torch
from torch import Tensor

from segnext.weights.arrays import Array, DType, Unusable, as_array, as_size, text_bytes
from segnext.weights.pickles import Budget, Calls, Global, Machine, expect_key
from segnext.weights.zip_files import open_zip

# Files in PyTorch's format before 1.6 begin with this.
TORCH_LEGACY_START = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)
_LOAD_INNER = "torch.storage._load_from_bytes"
_PORTION = 2**20  # bytes that are read at once, beside the memory for the whole
_BIG_ENDIAN = "its bytes are in the order of a big-endian machine"


class NotTorch(ValueError):
    """A whole zip file, but none that ``torch.save`` writes; the message says so."""


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


class _Table:
    """Makes the table for one file, whose budget its functions take from."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._inner_calls: Calls | None = None

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
            "numpy.dtype": DType,
            "numpy.ndarray": self._new_array,
            "torch.Size": partial(self._collection, tuple),
            _LOAD_INNER: self._storage,
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
        return text_bytes(text, encoding)

    def _new_array(self, *_: Any) -> Array:
        return Array(self._budget)

    def _array(self, raw: Any, dtype: DType, shape: Any, order: Any = "C") -> Array:
        array = Array(self._budget)
        array.value = as_array(self._budget, raw, dtype, shape, order)
        return array

    def _scalar(self, dtype: DType, raw: Any) -> Any:
        array = as_array(self._budget, raw, dtype, (1,))
        return array if isinstance(array, Unusable) else array[0].item()

    def _storage(self, raw: Any) -> _Storage | Unusable:
        """Read a storage as ``pickle.dump`` writes it: as a whole file of the older format, which holds no other."""
        if isinstance(raw, bytes) and raw.startswith(TORCH_LEGACY_START):
            self._budget.take(len(raw), "a storage")
            if self._inner_calls is None:
                self._inner_calls = {**self.calls(), _LOAD_INNER: _unusable_storage}
            try:
                storage = _run_legacy(raw, self._inner_calls, self._budget)
            except MemoryError:
                raise
            except Exception:  # damaged bytes can make a parser raise anything
                return _unusable_storage()
            if isinstance(storage, _Storage):
                return storage
        self._budget.foreign.add(_LOAD_INNER)
        return _unusable_storage()

    def _tensor(self, storage: _Storage | Unusable, *place: Any) -> Tensor | Unusable:
        return self._view(storage, None, *place)

    def _tensor_v2(
        self, storage: _Storage | Unusable, offset: Any, size: Any, stride: Any, *rest: Any
    ) -> Tensor | Unusable:
        _, _, *bits = rest  # after requires_grad and hooks
        return self._view(storage, None, offset, size, stride, *bits)

    def _tensor_v3(
        self, storage: _Storage | Unusable, offset: Any, size: Any, stride: Any, *rest: Any
    ) -> Tensor | Unusable:
        _, _, dtype, *bits = rest
        return self._view(storage, _DTYPES[dtype.name], offset, size, stride, *bits)

    def _tensor_of_type(self, function: Any, kind: Any, arguments: Any, state: Any) -> Tensor | Unusable:
        if function.name == "torch._utils._rebuild_tensor_v2":
            return self._tensor_v2(*arguments)
        return Unusable("an object of a subclass of Tensor")

    def _view(
        self,
        storage: _Storage | Unusable,
        dtype: torch.dtype | None,
        offset: int,
        size: Any,
        stride: Any,
        bits: Any = None,
    ) -> Tensor | Unusable:
        if isinstance(storage, Unusable):
            return storage
        if bits:  # {"conj": True} or {"neg": True}: the values wait to be conjugated or negated
            return Unusable("a conjugated or negated view")
        dtype = dtype or storage.dtype
        if dtype is None:
            return Unusable("a tensor of no plain numbers")
        shape = as_size(size)
        # With a stride of 0 a small storage makes a tensor of any size, and a model that is as large.
        self._budget.take(math.prod(shape) * dtype.itemsize, f"a tensor {shape}")
        return torch.as_strided(storage.data.view(dtype), shape, as_size(stride), offset)  # checks the bounds


def _nothing(*_: Any) -> None:
    return None


def _unusable_storage(*_: Any) -> Unusable:
    return Unusable("a tensor whose numbers cannot be read")


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
    budget = Budget(len(data))
    return Machine(io.BytesIO(data), _Table(budget).calls(), budget).run(), budget.foreign


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
                entry = archive.getinfo(f"{root}data/{key}")
                if entry.file_size != length * itemsize:
                    raise pickle.UnpicklingError(
                        f"storage {key} has {entry.file_size} bytes for {length} elements"
                    )
                storages[key] = _Storage(_read_entry(archive, entry), dtype, length)
            return storages[key]

        source = io.BytesIO(archive.read(f"{root}data.pkl"))
        return Machine(source, _Table(budget).calls(), budget, load_storage).run(), budget.foreign


def load_torch_legacy(data: bytes) -> tuple[Any, set[str]]:
    """Read the object of a file that ``torch.save`` wrote before PyTorch 1.6, and the foreign names in it."""
    budget = Budget(len(data))
    return _run_legacy(data, _Table(budget).calls(), budget), budget.foreign


def _run_legacy(data: bytes, calls: Calls, budget: Budget) -> Any:
    """Return the object of a file of the older format.

    The file holds four pickles (magic number, protocol, system, the object), then one with the storages' keys, then
    per storage its length as int64 and its elements.
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

    machine = Machine(file, calls, budget, load_storage)
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
    return result


def _read_entry(archive: ZipFile, entry: ZipInfo) -> Tensor:
    """Return the bytes of an entry in PyTorch's own memory, which becomes that of a model, and compare its checksum."""
    data, start = torch.empty(entry.file_size, dtype=torch.uint8), 0
    with archive.open(entry) as file:
        while portion := file.read(_PORTION):  # also after the last byte: the checksum is compared there
            data[start : start + len(portion)] = _as_bytes(bytearray(portion))
            start += len(portion)
    if start != entry.file_size:
        raise pickle.UnpicklingError(f"its entry {entry.filename} is cut")
    return data


def _as_bytes(raw: bytearray) -> Tensor:
    return torch.frombuffer(raw, dtype=torch.uint8) if raw else torch.empty(0, dtype=torch.uint8)
