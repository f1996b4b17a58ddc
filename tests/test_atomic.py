"""The one writer leaves the old file or the new one, and nothing beside it."""

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from segnext.atomic import remove_leftovers, replace_file


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
        assert target.read_text() == "old" and temporary.parent == tmp_path

    replace_file(str(target), write)
    assert target.read_text() == "new" and names(tmp_path) == ["a.txt"]


def test_a_writer_that_fails_changes_nothing(tmp_path):
    (tmp_path / "a.txt").write_text("old")

    def write(temporary: Path) -> None:
        temporary.write_text("half")
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        replace_file(tmp_path / "a.txt", write)
    assert (tmp_path / "a.txt").read_text() == "old" and names(tmp_path) == ["a.txt"]


def test_the_content_is_on_the_disk_before_the_rename(tmp_path, monkeypatch):
    done = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: done.append(os.fstat(descriptor).st_ino))
    rename = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (done.append(os.stat(a).st_ino), rename(a, b)))
    replace_file(tmp_path / "a.txt", lambda path: path.write_text("new"))
    assert done == [(tmp_path / "a.txt").stat().st_ino] * 2


def test_the_permissions_are_those_of_any_new_file(tmp_path):
    (tmp_path / "plain").write_text("")
    replace_file(tmp_path / "a.txt", lambda path: path.write_text("new"))
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "a.txt")]
    assert modes[0] == modes[1]


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
    (tmp_path / ".a.txt.gz.7.tmp").write_text("another file's")
    remove_leftovers(tmp_path / "a.txt")
    assert (tmp_path / "a.txt").read_text() == "old"
    assert names(tmp_path) == [".a.txt.gz.7.tmp", "a.txt"]
