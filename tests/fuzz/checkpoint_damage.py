"""Damages the bytes of checkpoints, and changes the instructions of their pickles."""

from __future__ import annotations

import hashlib
import io
import pickletools
import struct
import zipfile
from pathlib import Path

import numpy as np

Random = np.random.Generator


def change_bytes(random: Random, data: bytes) -> tuple[str, bytes]:
    """Flip, cut, add, remove or repeat bytes; return what was done, and the result."""
    changed, size = bytearray(data), len(data)
    kind = str(random.choice(["flips", "start", "end", "cut", "junk", "delete", "repeat", "zeros"]))
    if kind in ("flips", "start", "end"):
        low, high = {"flips": (0, size), "start": (0, min(size, 3000)), "end": (max(0, size - 3000), size)}[
            kind
        ]
        for position in random.integers(low, high, random.integers(1, 5)):
            changed[position] ^= int(random.integers(1, 256))
        return f"{kind} flipped", bytes(changed)
    begin = int(random.integers(size))
    length = int(random.integers(1, 5000))
    if kind == "cut":
        return f"cut at {begin}", data[:begin]
    if kind == "junk":
        return "junk at the end", data + random.bytes(length)
    middle = {"delete": b"", "repeat": 2 * data[begin : begin + length], "zeros": bytes(length)}[kind]
    return f"{kind} {length} at {begin}", data[:begin] + middle + data[begin + length :]


def change_opcodes(random: Random, data: bytes, container: str, canary: Path) -> tuple[str, bytes]:
    """Insert instructions into the pickle, or take some out."""
    pickled = data
    if container == "torch":
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            name = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
            pickled = archive.read(name)
    places = [position for _, _, position in pickletools.genops(pickled) if position]
    command = f"touch {canary}".encode()
    touch = b"cos\nsystem\nX" + struct.pack("<I", len(command)) + command + b"\x85R"
    program = f"open({str(canary)!r}, 'w')".encode()
    evaluate = b"cbuiltins\neval\nX" + struct.pack("<I", len(program)) + program + b"\x85R"
    inserted: dict[str, bytes] = {
        "a call": touch + b"0",
        "a call on the stack": touch,
        "eval": evaluate + b"0",
        "an object": b"(X" + struct.pack("<I", len(command)) + command + b"ios\nsystem\n0",
        "bytearray": b"cbuiltins\nbytearray\n\x8a\x05\x00\x00\x00\x00\x05\x85R0",
        "a memo": b"Nr\x00\x00\x00\x100",
        "a deep tuple": b")" + b"\x85" * 100_000 + b"0",
        "a deep key": b"})" + b"\x85" * 100_000 + b"Ns0",
        "a doubled key": b"})" + b"2\x86" * 40 + b"Ns0",
        "a state": b"ctorch._utils\n_rebuild_tensor_v2\nN}X\x0c\x00\x00\x00__defaults__)s\x86b0",
        "pop": b"0",
        "duplicate": b"2",
        "mark": b"(",
        "stop": b".",
        "extension": b"\x82\x01",
        "a persistent name": b"Phello\n",
        "a huge number": b"\x8b\x00\x00\x01\x00" + b"\x7f" * 65_536 + b"0",
        "noise": random.bytes(int(random.integers(1, 20))),
    }
    what = str(random.choice([*inserted, "taken out"]))
    index = int(random.integers(len(places) - 1))
    begin = places[index]
    end = places[index + 1] if what == "taken out" else begin
    pickled = pickled[:begin] + inserted.get(what, b"") + pickled[end:]
    if container == "jittor":
        pickled = pickled[:-28] + hashlib.sha1(pickled[:-28]).digest() + b"HCAJSLHD"
    if container != "torch":
        return f"instructions: {what}", pickled
    packed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(packed, "w") as new:
        for entry in old.namelist():
            new.writestr(entry, pickled if entry == name else old.read(entry))
    return f"instructions: {what}", packed.getvalue()
