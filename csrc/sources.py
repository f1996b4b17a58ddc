"""What a library is built from: a digest that says whether it belongs to these sources, and all bindings in a file."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

FOLDER = Path(__file__).resolve().parent


def digest() -> str:
    """Of the names and contents of all C++ and CUDA sources here."""
    total = hashlib.blake2b(digest_size=8)
    for path in sorted(FOLDER.rglob("*")):
        if path.suffix in (".h", ".cpp", ".cu", ".cuh"):
            total.update(path.relative_to(FOLDER).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return total.hexdigest()


def bindings(folder: Path, *more: Path) -> Path:
    """A file in ``folder`` that includes every op's binding, and ``more``.

    The headers of pybind11 take seven seconds to compile, a binding one: together they take 16 instead of 98.
    """
    files = [*more, *sorted(FOLDER.glob("ops/*/*_bind.cpp"))]
    text = "".join(f'#include "{file}"\n' for file in files)
    path = folder / "bindings.cpp"
    folder.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text() != text:
        temporary = folder / f"bindings.{os.getpid()}"  # another process may be compiling what is there
        temporary.write_text(text)
        temporary.replace(path)
    return path
