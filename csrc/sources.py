"""The sources of a library: a digest that identifies them, and one file that includes all bindings."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

FOLDER = Path(__file__).resolve().parent


def digest() -> str:
    """Hash the names and contents of all C++ and CUDA sources of `_C`: the runtime in C++ is no part of it."""
    total = hashlib.blake2b(digest_size=8)
    for path in sorted(FOLDER.rglob("*")):
        is_runtime = path.relative_to(FOLDER).parts[0] == "runtime"
        if path.suffix in (".h", ".cpp", ".cu", ".cuh") and not is_runtime:
            total.update(path.relative_to(FOLDER).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return total.hexdigest()


def bindings(folder: Path, *more: Path) -> Path:
    """Write a file in ``folder`` that includes ``more`` and every op's binding.

    Most of the time goes to the headers: in one file all bindings take 6 seconds instead of 16.
    """
    files = [*more, *sorted(FOLDER.glob("ops/*/*_bind.cpp"))]
    # relative to this folder, where they lie in it: a folder above may have any name
    names = [file.relative_to(FOLDER) if file.is_relative_to(FOLDER) else file for file in files]
    text = "".join(f'#include "{name}"\n' for name in names)
    path = folder / "bindings.cpp"
    folder.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text() != text:
        temporary = folder / f"bindings.{os.getpid()}"  # another process may be compiling the old file
        temporary.write_text(text)
        temporary.replace(path)
    return path
