"""The one writer leaves the old file or the new one, and nothing beside it."""

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from segnext.atomic import (
    append_text,
    remove_leftovers,
    replace_file,
    replace_folder,
    replace_text,
    whole_lines,
)
from tests.full_disk import MESSAGE, full_disk


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_new_file_in_a_new_folder(tmp_path):
    replace_file(tmp_path / "deep" / "er" / "a.txt", lambda path: path.write_text("new"))
    assert (tmp_path / "deep" / "er" / "a.txt").read_text() == "new"
    assert names(tmp_path / "deep" / "er") == ["a.txt"]


def test_the_old_file_stays_until_the_new_one_is_complete(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")

    def write(temporary: Path) -> None:
        temporary.write_text("new")
        assert target.read_text() == "old" and temporary.parent.parent == tmp_path

    replace_file(str(target), write)
    assert target.read_text() == "new" and names(tmp_path) == ["a.txt"]


def test_names_that_the_system_s_encoding_lacks(tmp_path):
    """Python has no letters for such bytes in ASCII, and keeps them as they are; so must the temporary name."""
    program = r"import os, segnext.atomic as a; a.replace_text(os.fsdecode(b'\xc3\xb6'), 'new')"
    settings = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    path = os.pathsep.join(os.path.abspath(folder) for folder in sys.path)
    subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **settings, "PYTHONPATH": path},
        cwd=tmp_path,
        check=True,
    )
    assert names(tmp_path) == ["ö"] and (tmp_path / "ö").read_text() == "new"


def test_a_writer_that_fails_changes_nothing(tmp_path):
    (tmp_path / "a.txt").write_text("old")

    def write(temporary: Path) -> None:
        temporary.write_text("half")
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        replace_file(tmp_path / "a.txt", write)
    assert (tmp_path / "a.txt").read_text() == "old" and names(tmp_path) == ["a.txt"]


def test_content_and_name_are_on_the_disk(tmp_path, monkeypatch):
    done = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: done.append(os.fstat(descriptor).st_ino))
    rename = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (done.append("rename"), rename(a, b)))
    replace_file(tmp_path / "a.txt", lambda path: path.write_text("new"))
    assert done == [(tmp_path / "a.txt").stat().st_ino, "rename", tmp_path.stat().st_ino]


def _safetensors(path: Path) -> None:
    save_file({"x": torch.zeros(10_000)}, path)


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002], ids=oct)
@pytest.mark.parametrize(
    "write", [lambda path: path.write_text("new"), _safetensors], ids=["text", "tensors"]
)
def test_the_permissions_are_those_of_any_new_file(tmp_path, write, mask):
    before = os.umask(mask)
    try:
        replace_file(tmp_path / "a", write)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o666 & ~mask


class TestLinks:
    @pytest.mark.parametrize("exists", [True, False], ids=["to-a-file", "dangling"])
    def test_a_link_is_replaced_and_not_followed(self, tmp_path, exists):
        outside, link = tmp_path / "outside.txt", tmp_path / "out" / "a.txt"
        link.parent.mkdir()
        link.symlink_to(outside)
        if exists:
            outside.write_text("mine")
        replace_file(link, lambda path: path.write_text("new"))
        assert not link.is_symlink() and link.read_text() == "new" and names(link.parent) == ["a.txt"]
        assert outside.read_text() == "mine" if exists else not outside.exists()

    def test_records_are_not_appended_through_a_link(self, tmp_path):
        (tmp_path / "link").symlink_to(tmp_path / "outside")
        with pytest.raises(OSError):
            append_text(tmp_path / "link", "1\n")
        assert names(tmp_path) == ["link"]

    @pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo], ids=["folder", "pipe"])
    def test_what_is_no_regular_file_is_refused(self, tmp_path, make):
        make(tmp_path / "a")  # a device such as /dev/null is refused like a pipe, but no test may risk it
        with pytest.raises(OSError, match="must be a regular file"):
            replace_file(tmp_path / "a", lambda path: path.write_text("new"))
        assert names(tmp_path) == ["a"] and not (tmp_path / "a").is_file()


@pytest.mark.parametrize("write", [replace_text, append_text])
def test_home_is_where_readers_look_for_it(tmp_path, monkeypatch, write):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path)
    write("~/note.txt", "text\n")
    assert (tmp_path / "home" / "note.txt").read_text() == "text\n"
    for path, words in (("~no-such-user/note.txt", "home of a user"), ("a\0b", "no null character")):
        with pytest.raises(ValueError, match=f"save: path must .*{words}.*, got '") as error:
            write(path, "text\n")
        assert "\0" not in str(error.value)
    assert [entry.name for entry in tmp_path.iterdir()] == ["home"]


def test_names_of_any_length_that_a_folder_takes(tmp_path):
    name = "\u00e4" * 127 + "a"  # 255 bytes
    replace_file(tmp_path / name, lambda path: path.write_text("new"))
    assert names(tmp_path) == [name]
    with pytest.raises(OSError, match="name too long") as error:
        replace_file(tmp_path / f"{name}b", lambda path: path.write_text("new"))
    assert error.value.filename == str(tmp_path / f"{name}b")


class TestFullDisk:
    @pytest.mark.parametrize(
        "write",
        [lambda path: path.write_bytes(bytes(10_000)), _safetensors],
        ids=["bytes", "tensors"],
    )
    def test_it_names_the_file_and_keeps_the_old_one(self, tmp_path, write):
        target = tmp_path / "a.bin"
        target.write_text("old")
        with full_disk(4096), pytest.raises(OSError) as error:
            replace_file(target, write)
        assert (error.value.filename, error.value.strerror) == (str(target), MESSAGE)
        assert target.read_text() == "old" and names(tmp_path) == ["a.bin"]

    def test_a_record_that_does_not_fit_leaves_no_part(self, tmp_path):
        target = tmp_path / "records"
        append_text(target, "first\n")
        with full_disk(10), pytest.raises(OSError) as error:
            append_text(target, "second\n")
        assert (error.value.filename, error.value.strerror) == (str(target), MESSAGE)
        append_text(target, "third\n")
        assert target.read_text() == "first\nthird\n"


def test_a_record_that_a_power_cut_halved_is_left_out(tmp_path):
    (tmp_path / "records").write_text("first\nsec")
    assert whole_lines(tmp_path / "records") == ["first"]


def test_what_a_killed_process_leaves_can_be_removed(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    program = (
        "import os, signal, sys; from pathlib import Path; from segnext.atomic import replace_file\n"
        "def write(path): path.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)\n"
        "replace_file(sys.argv[1], write)"
    )
    root = str(Path(__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "a.txt")], env={**os.environ, "PYTHONPATH": root}
    )
    assert done.returncode == -signal.SIGKILL and len(names(tmp_path)) == 2
    (tmp_path / ".a.txt.7.tmp").write_text("half, by an earlier version")
    (tmp_path / ".a.txt.gz.7.tmp").write_text("another file's")
    remove_leftovers(tmp_path, ["a.txt", "b.txt"])
    assert (tmp_path / "a.txt").read_text() == "old"
    assert names(tmp_path) == [".a.txt.gz.7.tmp", "a.txt"]


def test_a_folder_is_replaced_as_a_whole_and_only_by_its_kind(tmp_path):
    path = tmp_path / "a" / "m.package"

    def write(content, place):
        place.mkdir()
        (place / "mark").write_text(content)
        (place / content).touch()

    replace_folder(path, lambda place: write("old", place), marked_by="mark")
    replace_folder(path, lambda place: write("new", place), marked_by="mark")
    assert sorted(file.name for file in path.iterdir()) == ["mark", "new"]

    def fail(place):
        write("half", place)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        replace_folder(path, fail, marked_by="mark")
    assert (path / "mark").read_text() == "new"
    (path / "mark").unlink()
    with pytest.raises(OSError, match=r"m.package must be a folder with mark to be replaced, got another"):
        replace_folder(path, lambda place: write("x", place), marked_by="mark")
    assert [file.name for file in path.iterdir()] == ["new"]
    assert [file.name for file in path.parent.iterdir()] == ["m.package"]
