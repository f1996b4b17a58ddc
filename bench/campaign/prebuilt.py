"""Installs a library that was built beforehand, on a machine with nvcc."""

from __future__ import annotations

import filecmp
import json
import shutil
from pathlib import Path

from bench.machine import ROOT
from oracle.sources import digest

PACKAGE = ROOT / "segnext_kernels"
LIBRARY = "_C.abi3.so"


def missing(folder: Path) -> str | None:
    """Say why the library in this folder does not work here; None if it does."""
    library, record = folder / LIBRARY, folder / "_build.json"
    if not library.is_file():
        there = ", ".join(path.name for path in sorted(folder.glob("_C*"))) or "no _C*.so"
        return f"{folder} must hold {library.name}, got {there}"
    if not record.is_file():
        return f"{folder} must hold _build.json too, which the build writes beside the library"
    built = json.loads(record.read_text())
    if not built.get("cuda"):
        return f"{library} was built without CUDA; build it with SEGNEXT_BUILD=cuda"
    if built.get("sources") != digest():
        return f"{library} was built from other sources than this checkout's csrc; build it again"
    return None


def install(folder: Path) -> bool:
    """Put the library and its record where the package looks for them; return whether that changed them."""
    names = (LIBRARY, "_build.json")
    new = [
        name
        for name in names
        if not (PACKAGE / name).is_file() or not filecmp.cmp(folder / name, PACKAGE / name, shallow=False)
    ]
    for name in new:
        shutil.copyfile(folder / name, PACKAGE / name)
    return bool(new)
