"""Tests files of every kind, whole, damaged and hostile."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import subprocess
import sys
import types
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from segnext.weights.containers import Contents, read_contents
from tests import little_memory

TENSORS = {
    "backbone.norm1.weight": torch.arange(6.0).reshape(2, 3),
    "backbone.norm1.bias": torch.arange(6, dtype=torch.float16).reshape(3, 2).t(),
    "backbone.patch_embed1.proj.1.num_batches_tracked": torch.tensor(7),
}
ARRAYS = {key: value.numpy() for key, value in TENSORS.items()}


def write_safetensors(path: Path) -> None:
    save_file({key: value.contiguous() for key, value in TENSORS.items()}, path)


def write_torch(path: Path) -> None:
    torch.save({"meta": {"epoch": 3}, "state_dict": TENSORS, "optimizer": {"state": {}}}, path)


def write_torch_legacy(path: Path) -> None:
    torch.save({"state_dict": TENSORS}, path, _use_new_zipfile_serialization=False)


def write_jittor(path: Path) -> None:
    data = pickle.dumps({"meta": {"iter": 1}, "model": ARRAYS}, 4)
    path.write_bytes(data + hashlib.sha1(data).digest() + b"HCAJSLHD")


def write_paddle(path: Path) -> None:
    names = {key: f"parameter_{index}" for index, key in enumerate(ARRAYS)}
    path.write_bytes(pickle.dumps(ARRAYS | {"StructuredToParameterName@@": names}, 2))


def write_paddle_nested(path: Path) -> None:
    """Write tensors that are not at the top as paddle.save does: (name, array)."""
    path.write_bytes(pickle.dumps({"model": {key: (key, value) for key, value in ARRAYS.items()}}, 4))


def write_pickle_of_tensors(path: Path) -> None:
    """Write what ``pickle.dump(model.state_dict(), file)`` does: each storage is a legacy torch file of its own."""
    path.write_bytes(pickle.dumps({"epoch": 1, "state_dict": TENSORS}))


WRITERS: dict[str, Callable[[Path], None]] = {
    "safetensors": write_safetensors,
    "torch": write_torch,
    "torch-legacy": write_torch_legacy,
    "jittor": write_jittor,
    "paddle": write_paddle,
    "paddle-nested": write_paddle_nested,
    "pickle-of-tensors": write_pickle_of_tensors,
}


def assert_holds_tensors(contents: Contents) -> None:
    assert list(contents.state_dict) == list(TENSORS)
    for key, expected in TENSORS.items():
        actual = torch.as_tensor(contents.state_dict[key])
        assert actual.dtype == expected.dtype and torch.equal(actual, expected), key


@pytest.mark.parametrize("kind", WRITERS)
def test_reads(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.bin"  # the suffix says nothing
    WRITERS[kind](path)
    contents = read_contents(path)
    if kind == "safetensors":
        assert contents.state_dict.keys() == TENSORS.keys()
        contents = Contents({key: contents.state_dict[key] for key in TENSORS}, contents.kind)
    assert_holds_tensors(contents)
    assert not contents.foreign


@pytest.mark.parametrize("protocol", range(2, 6))
def test_arrays_of_every_pickle_protocol_and_order(protocol: int, tmp_path: Path) -> None:
    arrays = {
        "fortran": np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
        "big": np.arange(4, dtype=">f4"),
        "empty": np.zeros((0, 3), np.float64),
        "scalar": np.array(5, np.int64),
        "bool": np.array([True, False]),
    }
    path = tmp_path / "arrays.pkl"
    path.write_bytes(pickle.dumps(arrays, protocol))
    for key, value in read_contents(path).state_dict.items():
        tensor = torch.from_numpy(value)
        assert tensor.shape == arrays[key].shape
        assert np.array_equal(tensor.numpy(), arrays[key]), key


def views() -> dict[str, torch.Tensor]:
    """Return tensors of every dtype, and views that share memory."""
    base = torch.arange(24.0).reshape(4, 6)
    dtypes = (
        torch.uint16,
        torch.uint64,
        torch.int8,
        torch.bool,
        torch.complex64,
        torch.bfloat16,
        torch.float8_e4m3fn,
    )
    return {
        **{str(dtype): torch.tensor([0, 1, 3]).to(dtype) for dtype in dtypes},
        "row": base[2],
        "columns": base.t()[1:3],
        "expanded": base[:1].expand(3, 6),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "empty": torch.zeros(0, 3),
        "number": torch.tensor(2.5),
    }


@pytest.mark.parametrize("zipped", [True, False])
def test_reads_the_tensors_that_torch_reads(zipped: bool, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pth"
    tensors = views()
    if not zipped:  # PyTorch itself cannot read these back from an old file
        tensors = {
            key: value for key, value in tensors.items() if not key.startswith(("torch.uint", "torch.float8"))
        }
    torch.save(tensors, path, _use_new_zipfile_serialization=zipped)
    expected = torch.load(path, weights_only=True)
    actual = read_contents(path).state_dict
    assert list(actual) == list(expected)
    for key, tensor in expected.items():
        given = actual[key]
        assert (
            isinstance(given, torch.Tensor)
            and given.dtype == tensor.dtype
            and given.stride() == tensor.stride()
        )
        assert given.shape == tensor.shape and given.tolist() == tensor.tolist(), key


def test_a_compressed_torch_file_loads(tmp_path: Path) -> None:
    stored, packed = tmp_path / "stored", tmp_path / "packed"
    write_torch(stored)
    with zipfile.ZipFile(stored) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    assert_holds_tensors(read_contents(packed))


UNUSABLE = {
    "sparse": (lambda: torch.eye(3).to_sparse(), "a sparse tensor"),
    "meta": (lambda: torch.empty(3, device="meta"), "a tensor on the meta device"),
    "conjugated": (lambda: torch.ones(3, dtype=torch.complex64).conj(), "a conjugated or negated view"),
    "negated": (lambda: torch.ones(3, dtype=torch.complex64).conj().imag, "a conjugated or negated view"),
    "quantised": (
        lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
        "a quantised tensor",
    ),
    "longdouble": (lambda: np.ones(3, np.longdouble), "an array of numpy's dtype f16"),
    "dates": (lambda: np.zeros(3, "datetime64[s]"), "an array of numpy's dtype M8"),
    "records": (lambda: np.zeros(3, "f4,f4"), "an array of numpy's dtype V8"),
}


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
@pytest.mark.parametrize("kind", UNUSABLE)
def test_tensors_that_are_no_weights_are_named(kind: str, tmp_path: Path) -> None:
    make, message = UNUSABLE[kind]
    path = tmp_path / "checkpoint.pth"
    torch.save({"backbone.norm1.weight": make()}, path)
    expect_one_line(path, rf"dense tensors of numbers, got {message}.* as backbone\.norm1\.weight; convert")


@pytest.fixture
def foreign_meta(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return objects of a framework that is not installed when the file is read."""

    class HistoryBuffer:
        def __init__(self) -> None:
            self.values = np.arange(3.0)

    class ConfigDict(dict):
        pass

    class Tags(list):
        pass

    module = types.ModuleType("absent_framework")
    for kind in (HistoryBuffer, ConfigDict, Tags):
        kind.__module__, kind.__qualname__ = "absent_framework", kind.__name__
        setattr(module, kind.__name__, kind)
    monkeypatch.setitem(sys.modules, "absent_framework", module)
    return {
        "history": HistoryBuffer(),
        "cfg": ConfigDict(a=1, b=ConfigDict(c=2)),
        "tags": Tags([1, 2]),
        "path": Path("somewhere"),
        "seed": np.float64(3.0),
        "CLASSES": ("road", "sky"),
    }


@pytest.mark.parametrize("container", ["torch", "torch-legacy", "pickle"])
def test_foreign_objects_are_left_out(
    container: str, foreign_meta: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "checkpoint.pth"
    if container == "pickle":
        path.write_bytes(pickle.dumps({"meta": foreign_meta, "state_dict": ARRAYS}))
    else:
        checkpoint = {"meta": foreign_meta, "state_dict": TENSORS}
        torch.save(checkpoint, path, _use_new_zipfile_serialization=container == "torch")
    monkeypatch.delitem(sys.modules, "absent_framework")
    contents = read_contents(path)
    assert_holds_tensors(contents)
    assert contents.meta["CLASSES"] == ("road", "sky")
    expected = {f"absent_framework.{name}" for name in ("HistoryBuffer", "ConfigDict", "Tags")}
    assert expected <= contents.foreign


def test_jittors_tensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Jittor pickles a tensor as a call of its class with the array."""

    class Var:
        def __init__(self, array: np.ndarray) -> None:
            self.array = array

        def __reduce__(self) -> Any:
            return Var, (self.array,)

    Var.__module__, Var.__qualname__ = "jittor", "jittor_core.Var"
    package, core = types.ModuleType("jittor"), types.ModuleType("jittor_core")
    package.jittor_core, core.Var = core, Var  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "jittor", package)
    data = pickle.dumps({"meta": {}, "model": {key: Var(value) for key, value in ARRAYS.items()}}, 4)
    path = tmp_path / "checkpoint.pkl"
    path.write_bytes(data + hashlib.sha1(data).digest() + b"HCAJSLHD")
    contents = read_contents(path)
    assert_holds_tensors(contents)
    assert not contents.foreign


def test_a_file_of_unknown_tensors_names_their_class(
    foreign_meta: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "checkpoint.pkl"
    history = foreign_meta["history"]
    path.write_bytes(
        pickle.dumps({"meta": {"seed": foreign_meta["path"]}, "model": {"a": history, "b": history}})
    )
    monkeypatch.delitem(sys.modules, "absent_framework")
    with pytest.raises(
        ValueError, match=r"got objects of absent_framework\.HistoryBuffer, which are no tensors"
    ):
        read_contents(path)


class Call:
    """Becomes a call when it is unpickled."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def attacks(marker: Path) -> dict[str, Call]:
    touch = f"touch {marker}"
    inner = pickle.dumps(Call(os.system, touch))
    file = io.BytesIO()
    torch.save(Call(os.system, touch), file, _use_new_zipfile_serialization=False)
    return {
        "os.system": Call(os.system, touch),
        "subprocess.Popen": Call(subprocess.check_call, ["touch", str(marker)]),
        "eval": Call(eval, f"open({str(marker)!r}, 'w')"),
        "exec": Call(exec, f"open({str(marker)!r}, 'w')"),
        "open": Call(open, str(marker), "w"),
        "pickle.loads": Call(pickle.loads, inner),
        "torch.load": Call(torch.storage._load_from_bytes, inner),
        "torch.load of a file": Call(torch.storage._load_from_bytes, file.getvalue()),
    }


@pytest.mark.parametrize("attack", attacks(Path()))
@pytest.mark.parametrize("container", ["torch", "torch-legacy", "pickle"])
def test_nothing_in_a_pickle_is_executed(attack: str, container: str, tmp_path: Path) -> None:
    marker, path = tmp_path / "marker", tmp_path / "checkpoint.pth"
    checkpoint = {"meta": attacks(marker)[attack], "state_dict": TENSORS}
    if container == "pickle":
        path.write_bytes(pickle.dumps(checkpoint | {"state_dict": ARRAYS}))
    else:
        torch.save(checkpoint, path, _use_new_zipfile_serialization=container == "torch")
    contents = read_contents(path)
    assert not marker.exists()
    assert contents.foreign, "the call must have been seen and refused"
    assert_holds_tensors(contents)


def test_a_pickled_training_state(tmp_path: Path) -> None:
    """Its optimiser has two tensors per weight, and each storage is a file of its own."""
    weights = {f"backbone.{i}.weight": torch.full((4, 3), float(i)) for i in range(600)}
    state = {i: {"exp_avg": w.clone(), "exp_avg_sq": w.clone()} for i, w in enumerate(weights.values())}
    path = tmp_path / "checkpoint.pkl"
    path.write_bytes(pickle.dumps({"state_dict": weights, "optimizer": {"state": state}}))
    contents = read_contents(path)
    assert all(torch.equal(torch.as_tensor(contents.state_dict[name]), weights[name]) for name in weights)


def test_a_large_object_in_a_file_in_the_file_is_left_out(tmp_path: Path) -> None:
    inner = io.BytesIO()
    torch.save({str(i): i for i in range(400)}, inner, _use_new_zipfile_serialization=False)
    meta = Call(torch.storage._load_from_bytes, inner.getvalue())
    torch.save({"meta": meta, "state_dict": TENSORS}, tmp_path / "checkpoint.pth")
    contents = read_contents(tmp_path / "checkpoint.pth")
    assert_holds_tensors(contents)
    assert contents.foreign == {"torch.storage._load_from_bytes"}


@pytest.mark.parametrize("attack", ["os.system", "torch.load of a file"])
def test_the_attack_is_real(attack: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "load", partial(torch.load, weights_only=False))
    pickle.loads(pickle.dumps(attacks(tmp_path / "marker")[attack]))
    assert (tmp_path / "marker").exists()


def expect_one_line(path: Path, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        read_contents(path)
    assert str(error.value).startswith(f"{path}: file must ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_truncated(kind: str, share: float, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    WRITERS[kind](path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    expect_one_line(path, "whole checkpoint, got a damaged or cut one; fetch it again")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("kind", WRITERS)
def test_changed_bytes_give_tensors_or_one_line(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    WRITERS[kind](path)
    data = path.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(150):
        changed = bytearray(data)
        for position in rng.integers(0, min(len(data), 1500), 3):
            changed[position] = rng.integers(256)
        path.write_bytes(changed)
        try:
            read_contents(path)
        except ValueError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > 15


def test_a_zip_whose_directory_lies_before_the_file(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    write_torch(path)
    data = path.read_bytes()
    path.write_bytes(data[:200] + data[600:])  # zipfile seeks to a negative place and raises an OSError
    expect_one_line(path, "damaged")


# Leaves the process less memory than the file has.
READ_WITH_LITTLE_MEMORY = """
import sys
from pathlib import Path
from segnext.weights.containers import read_contents
from tests import little_memory
little_memory.leave(int(sys.argv[2]) * 2**20)
try:
    read_contents(Path(sys.argv[1]))
except MemoryError as error:
    print(error)
"""


@pytest.mark.skipif(not little_memory.SIZE.exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize(
    ("kind", "mebibytes"),
    [
        ("safetensors", 40),
        ("torch", 40),
        ("torch-legacy", 40),
        ("torch-legacy", 180),  # enough for the bytes, too little for the tensor: PyTorch has no MemoryError
        ("jittor", 40),
    ],
)
def test_a_machine_without_memory_is_no_damaged_file(
    kind: str, mebibytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / kind
    large = torch.zeros(30 * 2**20)
    monkeypatch.setitem(TENSORS, "large", large)
    monkeypatch.setitem(ARRAYS, "large", large.numpy())
    WRITERS[kind](path)
    child = subprocess.run(
        [sys.executable, "-c", READ_WITH_LITTLE_MEMORY, str(path), str(mebibytes)],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert child.stdout == f"{path}: there is not enough memory to read it; close other programs\n"


def test_jittors_checksum_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pkl"
    write_jittor(path)
    data = path.read_bytes()
    start = ARRAYS["backbone.norm1.weight"].tobytes()
    assert start in data
    path.write_bytes(data.replace(start, b"\x01" + start[1:]))
    expect_one_line(path, "SHA-1")


def write_bytes(data: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(data) and None


def write_object(value: Any) -> Callable[[Path], None]:
    return lambda path: torch.save(value, path)


def write_config(config: str) -> Callable[[Path], None]:
    return lambda path: save_file({"a": torch.zeros(1)}, path, {"segnext": config})


def write_script(path: Path) -> None:
    torch.jit.save(torch.jit.trace(torch.nn.Identity(), torch.zeros(1)), path)


def write_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model.pth", b"anything")


def write_npz(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, **ARRAYS)


def write_header(form: str) -> Callable[[Path], None]:
    return lambda path: save_file({"a": torch.zeros(1)}, path, {"format": form})


BAD_FILES: dict[str, tuple[Callable[[Path], None], str]] = {
    "empty": (write_bytes(b""), "got 0 bytes; fetch it again"),
    "web-page": (write_bytes(b"<!DOCTYPE html><html>"), r"begins with b'<!DOCTYP'; is it a web page"),
    "zip-of-a-checkpoint": (write_zip, "file must be a checkpoint, got a zip file .*unpack"),
    "numpy-zip": (write_npz, "file must be a checkpoint, got a zip file without"),
    "deployed": (write_header("segnext-deployed-1"), "got a deployed model; DeployedSegNeXt.load reads it"),
    "training": (write_header("segnext-training-1"), "got the state of a training; .* --resume goes on"),
    "no-zip": (write_bytes(b"PK\x03\x04" + bytes(100)), "damaged or cut"),
    "no-pickle": (write_bytes(b"\x80\x04" + bytes(100)), "damaged or cut"),
    "whole-module": (write_object(torch.nn.Linear(2, 2)), r"got a Linear; save model\.state_dict\(\)"),
    "list": (write_object([torch.zeros(1)]), r"got a list; save model\.state_dict\(\)"),
    "no-tensors": (write_object({"epoch": 3, "lr": 0.1}), "got epoch, lr; save"),
    "empty-dict": (write_object({}), "got an empty dictionary; save"),
    "script": (write_script, "got a TorchScript program; save"),
    "config-text": (write_config("{"), "damaged or cut"),
    "config-list": (write_config("[1]"), r"format 1, architecture and model, got \[1\]; update segnext"),
    "config-newer": (write_config('{"format": 2, "architecture": "x", "model": {}}'), "must have format 1"),
    "object-array": (
        write_bytes(pickle.dumps({"backbone.norm1.weight": np.array([None])})),
        "dense tensors of numbers, got an array of numpy's dtype O8 as",
    ),
}


def test_a_name_that_safetensors_cannot_read(tmp_path: Path) -> None:
    """It opens no name that is not UTF-8; the file is whole all the same."""
    write_safetensors(tmp_path / "whole")
    path = tmp_path / os.fsdecode(b"\xff.safetensors")
    os.replace(tmp_path / "whole", path)
    with pytest.raises(
        ValueError, match=r"udcff\.safetensors: a safetensors file must have a name in UTF-8.*; rename"
    ):
        read_contents(path)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_files(case: str, tmp_path: Path) -> None:
    write, message = BAD_FILES[case]
    path = tmp_path / "checkpoint"
    write(path)
    with pytest.raises(ValueError, match=message) as error:
        read_contents(path)
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)
