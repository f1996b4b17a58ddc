"""Files that are damaged, that lie, or that need another library: one line, never a crash."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from segnext import DeployedSegNeXt, deploy
from segnext.one_line import is_one_line
from tests.models.narrow import narrow
from tests.runtime import built, files
from tests.runtime.interface import BAD_FILE, UNSUPPORTED, Failure, Library


@pytest.fixture(scope="module")
def library() -> Library:
    return Library(built.library())


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return files.good(tmp_path_factory.mktemp("good") / "model.safetensors")


@pytest.mark.parametrize("name", files.HOSTILE)
def test_hostile_files(library: Library, good: bytes, name: str, tmp_path: Path) -> None:
    make, message = files.HOSTILE[name]
    path = tmp_path / "hostile.safetensors"
    path.write_bytes(make(good))
    with pytest.raises(Failure, match=message) as failure:
        library.open(path)
    assert failure.value.status == BAD_FILE
    said = str(failure.value)
    assert said.startswith(f"segnext_open: {path} must ") and is_one_line(said) and len(said) < 700
    with pytest.raises(ValueError, match=r"^(?!.*\n)"):  # Python agrees that it is no model
        DeployedSegNeXt.load(path)


@pytest.mark.parametrize("name", files.UNSUPPORTED)
def test_networks_of_other_operators(library: Library, name: str, tmp_path: Path) -> None:
    fields, message = files.UNSUPPORTED[name]
    path = tmp_path / "other.safetensors"
    deploy(narrow(**fields)).save(path)
    with pytest.raises(Failure, match=f"must have {message}") as failure:
        library.open(path)
    assert failure.value.status == UNSUPPORTED
    assert str(failure.value).endswith("; DeployedSegNeXt.load in Python runs it")


def test_a_field_of_a_later_version(library: Library, good: bytes, tmp_path: Path) -> None:
    path = tmp_path / "later.safetensors"
    path.write_bytes(files.inside("config", head_count=3)(good))
    with pytest.raises(
        Failure, match="fields in its config that this library knows, got head_count"
    ) as failure:
        library.open(path)
    assert failure.value.status == UNSUPPORTED
    path.write_bytes(files.without("config", "rank")(good))
    with pytest.raises(Failure, match="must have the field rank in its config, got none"):
        library.open(path)


def test_what_is_no_file(library: Library, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, message in (
        (tmp_path / "nothing", "must be a file, got none there; deploy"),
        (tmp_path, "must be a file, got a folder or a device"),
        (tmp_path / "pipe", "must be a file, got a folder or a device"),
        (Path("/dev/zero"), "must be a file, got a folder or a device"),
        (tmp_path / "two\nlines\x1b[31m", r"two\\x0alines\\x1b\[31m must be a file, got none there"),
        (tmp_path / ("x" * 5000), r"xxx\.\.\.xxx.* must be "),
    ):
        with pytest.raises(Failure, match=message) as failure:
            library.open(path)
        assert failure.value.status == BAD_FILE and is_one_line(str(failure.value))


def test_a_file_of_10_tb(library: Library, tmp_path: Path) -> None:
    path = tmp_path / "sparse.safetensors"
    path.write_bytes(files.framed(b"{}", b""))
    os.truncate(path, 10 * 2**40)
    with pytest.raises(Failure, match="must have at most 4294967296 bytes, got 10995116277760"):
        library.open(path)


def test_cut_and_flipped_files(library: Library, good: bytes, tmp_path: Path) -> None:
    """A file of any length and with any byte changed opens or is refused; most changes of weights are legal."""
    path, source = tmp_path / "damaged.safetensors", random.Random(0)
    header = len(good) - len(files.split(good)[1])
    opened = 0
    for case in range(300):
        if case % 3 == 0:
            content = good[: source.randrange(len(good))]
        else:
            content = bytearray(good)
            for _ in range(1 if case % 3 == 1 else 20):
                content[source.randrange(header)] = source.randrange(256)
        path.write_bytes(content)
        try:
            library.open(path)
            opened += 1
        except Failure as failure:
            assert failure.status in (BAD_FILE, UNSUPPORTED) and is_one_line(str(failure)), failure
    assert opened < 30  # a letter of a metric or a class's name
