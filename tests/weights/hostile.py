"""Makes files that ask for more memory or time than they have, or that are no checkpoints at all."""

from __future__ import annotations

import io
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

START, STOP = b"\x80\x04", b"."
ZEROS = np.zeros(4, np.float32)
# The start of a torch file before 1.6, up to the object.
LEGACY = b"".join(pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}))


def text(value: str) -> bytes:
    """Return the instruction that pushes text."""
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def entry(key: bytes, value: bytes) -> bytes:
    """Return a pickle of a dictionary with one entry, from the instructions of its key and its value."""
    return START + b"}" + key + value + b"s" + STOP


def call(function: str, arguments: bytes) -> bytes:
    """Return the instructions of a call."""
    return b"c" + function.replace(" ", "\n").encode() + b"\n" + arguments + b"R"


def nested(depth: int) -> bytes:
    """Return the instructions of a tuple in a tuple in a tuple ..."""
    return b")" + b"\x85" * depth


def doubled(levels: int) -> bytes:
    """Return the instructions of a tuple that holds itself twice at every level: 2^levels items, if counted."""
    return b")" + b"2\x86" * levels


def zipped(
    pickled: bytes, storages: dict[str, bytes], compression: int = zipfile.ZIP_STORED
) -> Callable[[Path], None]:
    """Return a writer of a torch file."""

    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w", compression) as archive:
            archive.writestr("archive/data.pkl", pickled)
            archive.writestr("archive/version", "3\n")
            for key, raw in storages.items():
                archive.writestr(f"archive/data/{key}", raw)

    return write


def bomb(entry_name: str) -> Callable[[Path], None]:
    """Return a writer of a torch file of 0.3 MB, of which one entry has 256 MB."""

    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            if entry_name != "data.pkl":
                archive.writestr("archive/data.pkl", tensor_pickle((64000000,), 64_000_000))
            with archive.open(f"archive/{entry_name}", "w") as file:
                for _ in range(256):
                    file.write(bytes(2**20))

    return write


def many_entries(path: Path) -> None:
    """Write a zip file whose directory has a million empty entries: 46 bytes each, and 700 for who lists them."""
    entry = struct.pack("<4s6H3L5H2L", b"PK\x01\x02", 20, 20, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"a"
    directory = entry * 1_000_000
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 65535, 65535, len(directory), 30, 0)
    path.write_bytes(b"PK\x03\x04" + bytes(26) + directory + end)


def tensor_pickle(
    size: tuple[int, ...],
    elements: int,
    stride: tuple[int, ...] = (1,),
    kind: str = "torch FloatStorage",
    legacy: bool = False,
    key: bytes = b"X\x01\x00\x00\x000",
    length: bytes | None = None,
    shape: bytes | None = None,
) -> bytes:
    """Return the pickle of a dictionary with one tensor, whose size and stride need not fit its storage.

    `key`, `length` and `shape` are the instructions that push those of the storage, and the size.
    """
    pid = b"(" + text("storage") + call_name(kind) + key + text("cpu") + (length or integer(elements))
    pid += b"NtQ" if legacy else b"tQ"
    sizes, strides = (b"(" + b"".join(map(integer, numbers)) + b"t" for numbers in (size, stride))
    arguments = b"(" + pid + integer(0) + (shape or sizes) + strides + b"\x89" + b"}" + b"t"
    return entry(text("backbone.norm1.weight"), call("torch._utils _rebuild_tensor_v2", arguments))


def call_name(name: str) -> bytes:
    """Return the instruction that names a function."""
    return b"c" + name.replace(" ", "\n").encode() + b"\n"


def integer(value: int) -> bytes:
    """Return the instruction that pushes an integer of up to twelve bytes."""
    return b"\x8a\x0c" + value.to_bytes(12, "little", signed=True)


def raw(data: bytes) -> Callable[[Path], None]:
    """Return a writer of these bytes."""
    return lambda path: path.write_bytes(data) and None


def sparse(start: bytes, size: int) -> Callable[[Path], None]:
    """Return a writer of a file that has this size but occupies little."""

    def write(path: Path) -> None:
        path.write_bytes(start)
        os.truncate(path, size)

    return write


def safetensors(header: str, data: bytes = b"", length: int | None = None) -> Callable[[Path], None]:
    """Return a writer of a safetensors file whose header may lie."""
    encoded = header.encode()
    return raw(struct.pack("<Q", len(encoded) if length is None else length) + encoded + data)


def saved(value: Any) -> Callable[[Path], None]:
    """Return a writer of an object by torch.save."""
    return lambda path: torch.save(value, path)


def cyclic() -> dict[str, Any]:
    """Return a dictionary that is its own state dict."""
    loop: dict[str, Any] = {}
    loop["state_dict"] = loop
    return loop


COLLIDING = b"(" + b"".join(integer((2**61 - 1) * i) + b"N" for i in range(1, 40_000)) + b"d"


def loading(file: bytes, name: bytes = b"q\x00") -> bytes:
    """Return the instructions that read a legacy torch file in the pickle, which is kept in its memory."""
    return (
        b"B" + struct.pack("<I", len(file)) + file + name + b"0" + call(LOAD_INNER, b"h" + name[1:] + b"\x85")
    )


LOAD_INNER = "torch.storage _load_from_bytes"
LOAD_AGAIN = b"0" + call(LOAD_INNER, b"h\x00\x85")
SMALL = LEGACY + START + b"N0" * 300 + b"N" + STOP + pickle.dumps([])
# Each reading of these 4 MB counts.
LARGE = io.BytesIO()
torch.save(torch.zeros(2**20).untyped_storage(), LARGE, _use_new_zipfile_serialization=False)
# Each has the writer of the file and a part of the message.
HOSTILE: dict[str, tuple[Callable[[Path], None], str]] = {
    "bytearray-20-gb": (
        raw(entry(text("a"), call("builtins bytearray", integer(20 * 10**9) + b"\x85"))),
        "a bytearray of a int",
    ),
    "bytes-20-gb": (
        raw(entry(text("a"), call("builtins bytes", integer(20 * 10**9) + b"\x85"))),
        "a bytes of a int",
    ),
    "bytearray-in-torch": (
        zipped(entry(text("a"), call("builtins bytearray", integer(20 * 10**9) + b"\x85")), {}),
        "a bytearray of a int",
    ),
    "memo-2-28": (raw(START + b"}r" + struct.pack("<I", 2**28) + STOP), "an empty dictionary"),
    "text-that-lies": (raw(START + b"X" + struct.pack("<I", 2**31 - 1) + b"abc"), "damaged"),
    "bytes-that-lie": (raw(START + b"\x8e" + struct.pack("<Q", 2**40) + b"abc"), "damaged"),
    "frame-that-lies": (raw(START + b"\x95" + struct.pack("<Q", 2**60) + b"}" + STOP), "an empty dictionary"),
    "many-instructions": (raw(START + b"]" * 1_600_000 + STOP), "more than 1,500,000 instructions"),
    "many-sets": (raw(START + b"\x8f0" * 800_000 + STOP), "more than 1,500,000 instructions"),
    "lists-of-a-list": (
        raw(START + b"](" + b"N" * 1_000_000 + b"eq\x00" + call("builtins list", b"h\x00\x85") * 50 + STOP),
        "too many for a file",
    ),
    "key-2-36": (raw(entry(doubled(36), b"N")), "a key that is a tuple"),
    "key-300000-deep": (raw(entry(nested(300_000), b"N")), "a key that is a tuple"),
    "key-in-a-set": (raw(entry(text("a"), b"\x8f(" + doubled(36) + b"\x90")), "a key that is a tuple"),
    "key-in-a-frozenset": (raw(entry(text("a"), b"(" + doubled(36) + b"\x91")), "a key that is a tuple"),
    "key-in-pairs": (
        raw(entry(text("a"), call("collections OrderedDict", b"(" + doubled(36) + b"N\x86" + b"l\x85"))),
        "a key that is a tuple",
    ),
    "key-huge": (
        raw(entry(b"\x8b" + struct.pack("<I", 1_000_000) + b"\x01" * 1_000_000, b"N")),
        "a key that is a huge number",
    ),
    "keys-collide": (raw(START + COLLIDING + STOP), "a key that is a huge number"),
    "key-of-3-mb": (saved({"a" * 3_000_000: torch.zeros(1)}), "at most 300 letters"),
    "key-of-many-lines": (saved({"a\n" * 50: torch.zeros(1)}), "one line of at most 300 letters"),
    "function-of-3-mb": (raw(START + b"c" + b"m" * 3_000_000 + b"\nf\n)R" + STOP), "got a f; save"),
    "one-file-in-the-file-often": (
        raw(START + loading(SMALL) + LOAD_AGAIN * 200_000 + STOP),
        "more than 1,500,000 instructions",
    ),
    "one-storage-in-the-file-often": (
        raw(START + loading(LARGE.getvalue()) + LOAD_AGAIN * 200_000 + STOP),
        "too many for a file",
    ),
    "long-file-in-the-file": (
        raw(START + loading(LEGACY + START + b"N0" * 800_000 + b"N" + STOP) + STOP),
        "more than 1,500,000 instructions",
    ),
    "file-in-a-file-in-the-file": (
        raw(START + loading(LEGACY + START + loading(SMALL) + LOAD_AGAIN * 700_000 + STOP) + STOP),
        "more than 1,500,000 instructions",
    ),
    "many-tensors": (raw(pickle.dumps({str(i): ZEROS for i in range(30_000)})), "at most 20,000 tensors"),
    "deep-object": (raw(entry(text("a"), nested(300_000))), "got a; save"),
    "holds-itself": (saved(cyclic()), "got state_dict; save"),
    "changes-our-functions": (
        raw(
            START
            + call_name("torch._utils _rebuild_parameter")
            + b"N}"
            + text("__defaults__")
            + b"Ns\x86b0}"
            + STOP
        ),
        "an empty dictionary",
    ),
    "extension": (raw(START + b"\x82\x01" + STOP), "the instruction EXT1"),
    "bomb-pickle": (bomb("data.pkl"), "its entry archive/data.pkl takes 268,435,456 bytes"),
    "bomb-storage": (bomb("data/0"), "its entry archive/data/0 takes 268,435,456 bytes"),
    "expanded": (
        zipped(tensor_pickle((4_000_000, 256, 1, 1), 256, (0, 1, 1, 1)), {"0": bytes(1024)}),
        "a tensor (4000000, 256, 1, 1) takes",
    ),
    "size-beyond-storage": (zipped(tensor_pickle((300,), 256), {"0": bytes(1024)}), "damaged"),
    "size-2-62": (zipped(tensor_pickle((2**62, 4), 256, (1, 1)), {"0": bytes(1024)}), "too many for a file"),
    "size-negative": (zipped(tensor_pickle((-3,), 256), {"0": bytes(1024)}), "the shape"),
    "stride-2-62": (zipped(tensor_pickle((3,), 256, (2**62,)), {"0": bytes(1024)}), "damaged"),
    "storage-cut": (
        zipped(tensor_pickle((256,), 256), {"0": bytes(1000)}),
        "storage 0 has 1000 bytes for 256",
    ),
    "storage-unknown": (
        zipped(tensor_pickle((2,), 2, kind="os system"), {"0": bytes(8)}),
        "a storage of type os.system",
    ),
    "storage-key-2-36": (
        zipped(tensor_pickle((2,), 2, key=doubled(36)), {"0": bytes(8)}),
        "a storage without a key",
    ),
    "storage-key-deep": (
        zipped(tensor_pickle((2,), 2, key=nested(300_000)), {"0": bytes(8)}),
        "a storage without a key",
    ),
    "storage-length-2-36": (
        zipped(tensor_pickle((2,), 2, length=doubled(36)), {"0": bytes(8)}),
        "without a key or a length",
    ),
    "storage-elsewhere": (
        zipped(tensor_pickle((2,), 2, key=text("../../0")), {"0": bytes(8)}),
        "no item named",
    ),
    "shape-2-36": (
        zipped(tensor_pickle((2,), 2, shape=doubled(36)), {"0": bytes(8)}),
        "the shape 2 in a tuple",
    ),
    "legacy-key-2-36": (
        raw(LEGACY + tensor_pickle((3,), 3, legacy=True, key=doubled(36))),
        "a storage without a key",
    ),
    "legacy-keys-2-36": (
        raw(LEGACY + START + b"}" + STOP + START + b"(" + doubled(36) + b"l" + STOP),
        "a storage without a key",
    ),
    "text-2-36": (
        raw(entry(text("a"), call("_codecs encode", doubled(36) + text("latin1") + b"\x86"))),
        "text encoding",
    ),
    "encoding-2-36": (
        raw(entry(text("a"), call("_codecs encode", text("b") + doubled(36) + b"\x86"))),
        "text encoding 2 in",
    ),
    "dtype-2-36": (
        raw(entry(text("a"), call("numpy dtype", doubled(36) + b"\x85"))),
        "array of dtype 2 in a tuple",
    ),
    "byte-order-2-36": (
        raw(
            entry(text("a"), call("numpy dtype", text("f4") + b"\x85") + integer(3) + doubled(36) + b"\x86b")
        ),
        "the byte order 2 in a tuple",
    ),
    "deep-foreign": (
        raw(entry(text("a"), b"N" + (b"\x85q\x000" + call_name("m f") + b"h\x00R") * 100_000)),
        "objects of m.f",
    ),
    "deep-state": (
        raw(entry(text("a"), b"N" + (b"q\x000" + call("m f", b")") + b"h\x00b") * 100_000)),
        "objects of m.f",
    ),
    "many-entries": (many_entries, "its directory has"),
    "legacy-storage-2-40": (raw(LEGACY + tensor_pickle((3,), 2**40, legacy=True)), "is longer than the file"),
    "legacy-unfilled": (
        raw(LEGACY + tensor_pickle((3,), 3, legacy=True) + pickle.dumps([], 2)),
        "without its elements",
    ),
    "legacy-cut": (
        raw(LEGACY + tensor_pickle((3,), 3, legacy=True) + pickle.dumps(["0"], 2) + bytes(8)),
        "another length",
    ),
    "safetensors-header-2-40": (safetensors("{}", length=2**40), "damaged"),
    "safetensors-beyond": (
        safetensors('{"a":{"dtype":"F32","shape":[1000000000],"data_offsets":[0,4000000000]}}', bytes(4)),
        "damaged",
    ),
    "safetensors-overlap": (
        safetensors(
            '{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
            bytes(4),
        ),
        "damaged",
    ),
    "safetensors-deep": (safetensors("[" * 500_000), "begins with"),
    "safetensors-config-deep": (
        safetensors(
            '{"__metadata__":{"segnext":"'
            + "[" * 500_000
            + '"},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
            bytes(4),
        ),
        "damaged",
    ),
    "safetensors-name": (
        safetensors('{"a\\nb":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', bytes(4)),
        "must be one line",
    ),
    "sparse-10-tb-pickle": (sparse(START, 10 * 2**40), "at most 4,294,967,296 bytes"),
    "sparse-10-tb-safetensors": (
        sparse(struct.pack("<Q", 2) + b"{}", 10 * 2**40),
        "at most 4,294,967,296 bytes",
    ),
    "array-objects": (raw(pickle.dumps({"a": np.array([None])})), "an array of numpy's dtype O8"),
    "array-of-arrays": (
        raw(pickle.dumps({"a": ZEROS}).replace(b"\x8c\x02f4", b"\x8c\x0c(9999999,)f4")),
        "damaged",
    ),
    "nothing": (raw(b""), "0 bytes"),
    "text": (raw(b"hello\nworld"), "begins with"),
}
