"""Tests that every door for weights answers a strange path in one line, at once."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from segnext import create_model, load_weights
from segnext.deployment.model import DeployedSegNeXt
from segnext.models import build

PATHS = {
    "nul": ("a\0b", r"got 'a\x00b' (embedded null byte)"),
    "lines": ("a\nb\n\nc", r"got 'a\nb\n\nc'; "),
    "escape": ("a\x1b[2J", r"got 'a\x1b[2J'; "),
    "300-letters": ("a" * 300, "(File name too long)"),
    "100000-letters": ("a/" * 50_000, "(File name too long)"),
    "no-user": ("~nobody_of_this_name/a.pth", "(Could not determine home directory.)"),
    "device": ("/dev/zero", "got '/dev/zero', a pipe or a device; copy it to a file"),
    "below-a-file": (f"{__file__}/a.pth", "test_paths.py/a.pth'; "),
}
DOORS: dict[str, Callable[[Any], Any]] = {
    "create_model": lambda path: create_model(weights=path),
    "load_weights": lambda path: load_weights(build("mscan_t", depths=(1, 1, 1, 1)), path),
    "deployed": DeployedSegNeXt.load,
}


def refusal(door: str, path: str) -> str:
    with pytest.raises((ValueError, OSError)) as error:
        DOORS[door](path)
    message = str(error.value)
    assert message.isprintable() and len(message) < 500, "one line"
    return message


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("case", PATHS)
def test_strange_path(case: str, door: str) -> None:
    path, message = PATHS[case]
    assert message in refusal(door, path)


@pytest.mark.parametrize("door", DOORS)
def test_pipe_and_folder(door: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")  # reading it would wait for a writer for ever
    assert "a pipe or a device" in refusal(door, str(tmp_path / "pipe"))
    assert "got the folder" in refusal(door, str(tmp_path))


@pytest.mark.parametrize("content", [b"", b"no weights", b"\x80\x04", b"PK\x03\x04", bytes(64)], ids=repr)
@pytest.mark.parametrize("door", DOORS)
def test_a_file_whose_name_has_lines(door: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "my\nfile.pth"
    path.write_bytes(content)
    assert r"my\nfile.pth: file must be" in refusal(door, str(path))


@pytest.mark.parametrize(
    "thing", [{"a": 1}, None, 3, io.BytesIO(b"weights")], ids=lambda thing: type(thing).__name__
)
def test_other_things_than_paths_are_named(thing: Any) -> None:
    for read in (lambda: create_model("t", weights=thing or []), lambda: DeployedSegNeXt.load(thing)):
        with pytest.raises(
            TypeError, match="must be a file.*, got a .*; model.load_state_dict takes tensors"
        ):
            read()


def test_paths_of_bytes(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="got '.*nothing.pth'"):
        create_model(weights=bytes(tmp_path / "nothing.pth"))
