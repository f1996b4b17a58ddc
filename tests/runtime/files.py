"""Makes deployed files that are damaged, that lie, or that hold what the C++ runtime does not run."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from segnext import deploy
from tests.models.narrow import narrow

Header = dict[str, Any]
# Changes the parsed header and the data of a good file.
Change = Callable[[Header, bytearray], None]
# Returns the bytes of a whole file, from those of a good one.
Bytes = Callable[[bytes], bytes]


def good(path: Path) -> bytes:
    """Return a small deployed model as a file; ``path`` is where it is written."""
    deploy(narrow()).save(path)
    return path.read_bytes()


def split(content: bytes) -> tuple[Header, bytearray]:
    """Return the header and the data of a file."""
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), bytearray(content[8 + length :])


def framed(header: bytes, data: bytes, length: int | None = None) -> bytes:
    """Return a file with this header, whose stated length may lie."""
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def changed(change: Change) -> Bytes:
    """Return what makes a file with a change of header or data."""

    def make(content: bytes) -> bytes:
        header, data = split(content)
        change(header, data)
        return framed(json.dumps(header).encode(), bytes(data))

    return make


def tensor(name: str, **entry: Any) -> Bytes:
    """Return what changes the entry of a tensor."""
    return changed(lambda header, data: header[name].update(entry))


def inside(part: str, **fields: Any) -> Bytes:
    """Return what changes fields of the config or the metadata."""

    def change(header: Header, data: bytearray) -> None:
        value = json.loads(header["__metadata__"][part])
        header["__metadata__"][part] = json.dumps(value | fields)

    return changed(change)


def without(part: str, field: str) -> Bytes:
    """Return what removes a field of the config or the metadata."""

    def change(header: Header, data: bytearray) -> None:
        value = json.loads(header["__metadata__"][part])
        del value[field]
        header["__metadata__"][part] = json.dumps(value)

    return changed(change)


def text(part: str, value: str) -> Bytes:
    """Return what replaces a text of the header."""
    return changed(lambda header, data: header["__metadata__"].update({part: value}))


def _nan(header: Header, data: bytearray) -> None:
    begin = header["stem.0.weight"]["data_offsets"][0]
    data[begin : begin + 4] = struct.pack("<f", float("nan"))


def _overlap(header: Header, data: bytearray) -> None:
    header["norm.0.weight"]["data_offsets"] = header["norm.0.bias"]["data_offsets"]


def _renamed(header: Header, data: bytearray) -> None:
    header["evil\n\x1b[31m"] = header.pop("stem.0.weight")


def _foreign(header: Header, data: bytearray) -> None:
    header["extra"] = {"dtype": "F32", "shape": [1], "data_offsets": [len(data), len(data) + 4]}
    data += bytes(4)


def _many(header: Header, data: bytearray) -> None:
    for i in range(20_001):
        header[str(i)] = {"dtype": "F32", "shape": [0], "data_offsets": [len(data), len(data)]}


STEM = "stem.0.weight"
# What both this library and Python refuse, and what this library says.
HOSTILE: dict[str, tuple[Bytes, str]] = {
    "empty": (lambda good: b"", "it has 0 bytes"),
    "seven-bytes": (lambda good: bytes(7), "it has 7 bytes"),
    "no-header": (lambda good: bytes(8), "its header is no JSON"),
    "text": (lambda good: b"hello\nworld, this is no model", "the length of its header does not fit"),
    "pickle": (lambda good: b"\x80\x04}q\x00." * 9, "the length of its header does not fit"),
    "cut-in-the-header": (lambda good: good[:500], "the length of its header does not fit"),
    "cut-in-the-data": (lambda good: good[:-4], "lies outside of its"),
    "longer": (lambda good: good + bytes(8), "bytes of data"),
    "header-2-63": (lambda good: framed(b"{}", b"", 2**63), "the length of its header does not fit"),
    "header-2-64": (lambda good: framed(b"{}", b"", 2**64 - 1), "the length of its header does not fit"),
    "header-one-more": (lambda good: framed(b"{}", b"", 3), "the length of its header does not fit"),
    "header-a-list": (lambda good: framed(b"[1, 2]", b""), "its header is no JSON object"),
    "header-a-number": (lambda good: framed(b"17", b""), "its header is no JSON object"),
    "header-deep": (lambda good: framed(b"[" * 2_000_000, b""), "its header is nested too deeply"),
    "header-deep-objects": (lambda good: framed(b'{"a":' * 400_000, b""), "its header is nested too deeply"),
    "header-not-utf-8": (lambda good: framed(b'{"a\xff": 1}', b""), "its header is no JSON"),
    "header-with-a-comment": (lambda good: framed(b"{} // ", b""), "its header is no JSON"),
    "metadata-a-number": (changed(lambda h, d: h.update(__metadata__=7)), "its metadata must be texts"),
    "metadata-of-numbers": (changed(lambda h, d: h["__metadata__"].update(a=7)), "its metadata must be texts"),
    "entry-a-number": (changed(lambda h, d: h.update({STEM: 7})), "lacks dtype, shape or data_offsets"),
    "entry-without-shape": (changed(lambda h, d: h[STEM].pop("shape")), "lacks dtype, shape or data_offsets"),
    "shape-negative": (tensor(STEM, shape=[-4, 3, 3, 3]), "has a size that is no whole number"),
    "shape-of-fractions": (tensor(STEM, shape=[4.0, 3, 3, 3]), "has a size that is no whole number"),
    "shape-2-64": (tensor(STEM, shape=[2**64, 1]), "has a size that is no whole number"),
    "shape-2-63": (tensor(STEM, shape=[2**63, 1]), "has a size that is no whole number"),
    "shape-overflows": (tensor(STEM, shape=[2**40, 2**40]), "has a shape too large for any file"),
    "shape-overflows-to-its-size": (tensor(STEM, shape=[2**62 + 27, 4]), "has a shape too large for any file"),
    "shape-of-other-size": (tensor(STEM, shape=[4, 3, 3, 4]), "has 432 bytes, its shape takes 576"),
    "shape-a-text": (tensor(STEM, shape="4"), "has no list of sizes"),
    "offsets-beyond": (tensor(STEM, data_offsets=[0, 2**50]), "lies outside of its"),
    "offsets-backwards": (tensor(STEM, data_offsets=[432, 0]), "lies outside of its"),
    "offsets-negative": (tensor(STEM, data_offsets=[-432, 0]), "has a size that is no whole number"),
    "offsets-three": (tensor(STEM, data_offsets=[0, 432, 432]), "lies outside of its"),
    "offsets-overlap": (changed(_overlap), "its tensors overlap or leave gaps"),
    "dtype-unknown": (tensor(STEM, dtype="F31"), "has the dtype F31"),
    "dtype-a-number": (tensor(STEM, dtype=32), "lacks dtype, shape or data_offsets"),
    "dtype-other": (tensor(STEM, dtype="I32"), r"stem.0.weight as \(4, 3, 3, 3\) F32 .* got \(4, 3, 3, 3\) I32"),
    "shape-other": (tensor(STEM, shape=[3, 4, 3, 3]), r"\(4, 3, 3, 3\) F32 .* got \(3, 4, 3, 3\) F32"),
    "nan": (changed(_nan), "must have finite weights, got NaN or Inf in stem.0.weight"),
    "renamed": (changed(_renamed), "must have every tensor of its network, lacks stem.0.weight"),
    "foreign-tensor": (changed(_foreign), "must have the tensors of its network alone, got extra"),
    "20001-tensors": (changed(_many), "it has more than 20000 tensors"),
    "no-format": (changed(lambda h, d: h.pop("__metadata__")), "must be a deployed SegNeXt, got other weights"),
    "other-format": (text("format", "segnext-deployed-2"), "must be a deployed SegNeXt, got other weights"),
    "no-config": (changed(lambda h, d: h["__metadata__"].pop("config")), "must have config in its header"),
    "config-no-json": (text("config", "{"), "must have config as a JSON object in its header, got a text that is"),
    "config-a-list": (text("config", "[]"), "must have config as a JSON object in its header, got a text that is"),
    "config-deep": (text("config", "[" * 500_000), "got a text that is nested too deeply"),
    "metadata-deep": (text("metadata", '{"a":' * 500_000), "got a text that is nested too deeply"),
    "dtype-of-the-model": (text("dtype", "float16"), 'dtype as float32 or bfloat16, got "float16"'),
    "channels-three": (inside("config", channels=[8, 16, 24]), "channels as four positive integers"),
    "channels-0": (inside("config", channels=[8, 16, 24, 0]), "channels as a list of whole numbers, each from 1"),
    "channels-2-64": (inside("config", channels=[8, 16, 24, 2**64]), "channels as a list of whole numbers"),
    "channels-a-text": (inside("config", channels="wide"), 'channels as a list of whole numbers, .* got "wide"'),
    "channels-odd": (inside("config", channels=[7, 16, 24, 32]), "channels as even in the first stage"),
    "channels-true": (inside("config", channels=[True, 16, 24, 32]), "channels as a list of whole numbers"),
    "channels-others": (inside("config", channels=[8, 16, 24, 64]), r"\(32, 64, 1, 1\) F32 .* got \(32, 32, 1, 1\)"),
    "depths-256": (inside("config", depths=[256] * 4), "must have every tensor of its network, lacks attention.0.1"),
    "depths-257": (inside("config", depths=[257] * 4), "depths as a list of whole numbers, each from 1 to 256"),
    "strips-even": (inside("config", strips=[7, 8, 21]), "strips as odd lengths"),
    "root-even": (inside("config", root=4), "root as odd, got 4"),
    "classes-1": (inside("config", num_classes=1), "num_classes as from 2 to 65536, got 1"),
    "classes-a-text": (inside("config", num_classes="3"), 'num_classes as from 2 to 65536, got "3"'),
    "threshold-1": (inside("config", threshold=1), "threshold as a number between 0 and 1, or null, got 1"),
    "threshold-3-classes": (inside("config", threshold=0.5), "num_classes as 2 with a threshold, got 3"),
    "width-33": (inside("config", decoder_channels=33), "decoder_channels as a multiple of 32, got 33"),
    "rank-0": (inside("config", rank=0), "rank as from 1 to 65536, got 0"),
    "steps-2-31": (inside("config", eval_steps=2**31), "eval_steps as from 1 to 1000"),
    "stages-fall": (inside("config", in_indices=[2, 1]), "in_indices as stages from 0 to 3 in rising order"),
    "stages-none": (inside("config", in_indices=[]), "in_indices as stages from 0 to 3 in rising order"),
    "stage-4": (inside("config", in_indices=[4]), "in_indices as a list of whole numbers, each from 0 to 3"),
    "align-corners-a-text": (inside("config", align_corners="no"), 'align_corners as true or false, got "no"'),
    "class-names-two": (inside("metadata", classes=["a", "b"]), r'classes as 3 names of one line, got \["a","b"\]'),
    "class-names-two-lines": (inside("metadata", classes=["a", "b\nc", "d"]), "classes as 3 names of one line"),
    "class-names-zero": (inside("metadata", classes=["a", "b\0c", "d"]), "classes as 3 names of one line"),
    "class-names-numbers": (inside("metadata", classes=[1, 2, 3]), "classes as 3 names of one line"),
    "palette-256": (inside("metadata", palette=[[0, 0, 256]] * 3), "palette as 3 colours"),
    "palette-flat": (inside("metadata", palette=[0, 0, 0]), "palette as 3 colours"),
    "preprocessing-a-list": (inside("metadata", preprocessing=[1]), "preprocessing as an object, got"),
    "mean-four": (inside("metadata", preprocessing={"mean": [1, 2, 3, 4]}), "the mean of its preprocessing as 3"),
    "std-0": (inside("metadata", preprocessing={"std": [1, 0, 1]}), "the std of its preprocessing as 3 numbers"),
    "mean-a-text": (inside("metadata", preprocessing={"mean": "dark"}), "the mean of its preprocessing as 3"),
}  # fmt: skip
# What Python runs, and this library does not; or what a later version wrote.
UNSUPPORTED: dict[str, tuple[dict[str, Any], str]] = {
    "attention": (dict(attention="lka"), r'attention "msca" for this library, got "lka"'),
    "gate": (dict(gate=False), "gate true for this library, got false"),
    "context": (dict(context="nl"), r'context "ham" or null for this library, got "nl"'),
    "decoder": (dict(decoder="mlp"), r'decoder "ham" or "cnn" for this library, got "mlp"'),
    "align_corners": (dict(align_corners=True), "align_corners false for this library, got true"),
    "decoder_align_corners": (
        dict(decoder_align_corners=True),
        "decoder_align_corners false for this library",
    ),
    "strips": (dict(strips=(129,)), r"strips of up to 8 lengths up to 127 for this library, got \[129\]"),
    "many-strips": (dict(strips=(3,) * 9), "strips of up to 8 lengths up to 127 for this library"),
    "root": (dict(root=65), "root up to 63 for this library, got 65"),
}
