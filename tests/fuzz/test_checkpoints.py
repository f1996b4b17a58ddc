"""Draws checkpoints, hostile, damaged and good: each loads exactly, or is refused in one line that names the file."""

from __future__ import annotations

import json
import select
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.fuzz.checkpoint_cases import Case, draw, model, native, write_ours
from tests.fuzz.checkpoint_child import digest
from tests.fuzz.conftest import Fuzzer

FILES = 1000
SECONDS = 10.0  # of computing; the longest pickle that is read takes two
HANGS = 120.0  # of waiting, on a machine that has other things to do
MEMORY = 400 * 2**20


class Reader:
    """The process that reads; a new one begins if a file kills it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._errors = (folder / "errors").open("w+")
        self._begin()

    def _begin(self) -> None:
        command = [sys.executable, "-m", "tests.fuzz.checkpoint_child"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"
        good = self._folder / "good.safetensors"
        good.write_bytes(write_ours(native()))
        assert "model" in self.read(good, True), "a good file must load"

    def read(self, path: Path, own: bool) -> dict[str, Any]:
        """Return the answer of the process; {"died": why} if there is none."""
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        print(json.dumps({"path": str(path), "own": own}), file=process.stdin, flush=True)
        if select.select([process.stdout], [], [], HANGS)[0]:
            line = process.stdout.readline()
            if line:
                return dict(json.loads(line))
        process.kill()
        code = process.wait()
        self._begin()
        return {"died": f"no answer, exit code {code}"}

    def end(self) -> str:
        """End the process; return what it printed to the error stream."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        self._errors.seek(0)
        return self._errors.read()


def fault_in(case: Case, path: Path, answer: dict[str, Any]) -> str | None:
    """Judge an answer; return what is wrong with it."""
    if "died" in answer:
        return str(answer["died"])
    if answer["seconds"] > SECONDS or answer["memory"] > MEMORY:
        return f"{answer['seconds']:.1f} s and {answer['memory'] >> 20} MB"
    if "error" in answer:
        message = str(answer["message"])
        if case.outcome == "loads":
            return f"refused: {message}"
        if answer["kind"] != "expected" or "MemoryError" in message:
            return f"{answer['error']}: {message[:300]}"
        if not message.isprintable() or len(message) > 900 or path.name not in message:
            return f"not one line with the file's name: {message[:300]!r}"
        return None
    if case.outcome == "refused":
        return "accepted"
    if answer["model"] == "not finite":
        return "weights that are not finite"
    return _fault_in_values(case, answer)


def _fault_in_values(case: Case, answer: dict[str, Any]) -> str | None:
    """Compare with what an independent reader finds in the file, or in the file before it was changed."""
    found = [_digest_by_reader(case, data) for data in (case.data, case.original) if data is not None]
    if answer["contents"] in found:
        return None
    return f"loaded other tensors than another reader: {found[0][:200]}"


def _digest_by_reader(case: Case, data: bytes) -> str:
    try:
        return digest(case.reader(data))
    except Exception as error:  # it refuses the file
        return f"{type(error).__name__}: {error}"


def test_every_file_loads_exactly_or_is_refused_in_one_line(fuzzer: Fuzzer, tmp_path: Path) -> None:
    model()
    canary, reader = tmp_path / "canary", Reader(tmp_path)
    for index, random in fuzzer.cases("checkpoints", FILES):
        path = tmp_path / f"case{index}.bin"

        def run(index: int = index, random: Any = random, path: Path = path) -> str | None:
            case = draw(random, canary)
            path.write_bytes(case.data)
            fault = fault_in(case, path, reader.read(path, case.own))
            if canary.exists():
                canary.unlink()
                fault = "it was executed"
            return None if fault is None else f"{case.what}: {fault}"

        fuzzer.check(index, run)
        path.unlink(missing_ok=True)
    printed = reader.end()
    assert not printed, printed[:2000]
