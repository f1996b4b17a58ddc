"""Reads nvdisasm's text into the instructions that the executor runs.

An unknown instruction is an error that names it, because a silent guess would make every count wrong.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_LINE = re.compile(r"^\s*/\*([0-9a-f]{4,})\*/\s+(.*?)\s*;")
_LABEL = re.compile(r"^(\S+):$")
_SOURCE = re.compile(r'//## File "([^"]+)", line (\d+)')
_GUARD = re.compile(r"^@(!?)(U?P(?:\d|T))\s+")
BYTES = 16


class UnknownInstruction(ValueError):
    """The machine code holds an instruction that the executor does not know."""


@dataclass(frozen=True)
class Line:
    """Holds one instruction as nvdisasm prints it."""

    address: int  # in instructions
    guard: str
    guard_not: bool
    name: str  # with its modifiers
    operands: tuple[str, ...]
    text: str
    source: tuple[str, int]  # file and line, where the cubin says


def nvdisasm() -> str:
    """Find nvdisasm: Triton's wheel carries it, and so does a full CUDA toolkit."""
    try:
        import triton

        path = Path(triton.__file__).parent / "backends/nvidia/bin/nvdisasm"
        if path.exists():
            return str(path)
    except ImportError:
        pass
    found = shutil.which("nvdisasm") or "/usr/local/cuda/bin/nvdisasm"
    if not Path(found).exists():
        raise FileNotFoundError("issue_model: nvdisasm was not found; install triton, or CUDA's nvdisasm")
    return found


def disassemble(cubin: bytes, symbol: int) -> list[Line]:
    """Return the instructions of the kernel with this symbol index."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        done = subprocess.run(
            [nvdisasm(), "-c", "-g", "-fun", str(symbol), file.name], capture_output=True, text=True
        )
    if done.returncode:
        raise RuntimeError(f"issue_model: nvdisasm failed: {done.stderr.strip()}")
    return list(_parse(done.stdout))


def _parse(text: str) -> Iterator[Line]:
    labels: dict[str, int] = {}
    raw: list[tuple[int, str, tuple[str, int]]] = []
    pending: list[str] = []
    source = ("", 0)
    for line in text.splitlines():
        if match := _LINE.match(line):
            address = int(match[1], 16) // BYTES
            labels.update(dict.fromkeys(pending, address))
            pending = []
            raw.append((address, match[2], source))
        elif match := _SOURCE.search(line):
            source = (match[1], int(match[2]))
        elif match := _LABEL.match(line.strip()):
            pending.append(match[1])
    labels.update(dict.fromkeys(pending, len(raw)))
    for position, (address, body, where) in enumerate(raw):
        if address != position:
            raise RuntimeError(f"issue_model: instruction {position} lies at {address * BYTES:#x}")
        guard, guard_not, rest = "PT", False, body
        if match := _GUARD.match(body):
            guard, guard_not, rest = match[2], bool(match[1]), body[match.end() :]
        name, _, operands = rest.partition(" ")
        parts = tuple(_resolved(part.strip(), labels) for part in _split(operands))
        yield Line(address, guard, guard_not, name, parts, body, where)


def _split(text: str) -> list[str]:
    """Split operands at commas, and before a label that follows a blank."""
    text = re.sub(r"(\S) +(?=`\()", r"\1, ", text.strip())
    return [part for part in text.split(",") if part.strip()]


def _resolved(part: str, labels: dict[str, int]) -> str:
    if match := re.fullmatch(r"`\((.*)\)", part):
        name = match[1]
        if name not in labels:
            return f"@{labels.get('.text.' + name, 0)}"
        return f"@{labels[name]}"
    return part.replace(".reuse", "")
