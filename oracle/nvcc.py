"""Finds NVIDIA's compiler on this machine, and makes the names of kernels readable."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

NVCC = shutil.which("nvcc") or next(iter(map(str, Path("/usr/local").glob("cuda/bin/nvcc"))), None)


def release() -> str:
    """Return the version of nvcc, such as 13.0."""
    text = subprocess.run([str(NVCC), "--version"], capture_output=True, text=True).stdout
    match = re.search(r"release ([\d.]+)", text)
    return match[1] if match else "?"


def readable(symbols: Sequence[str]) -> list[str]:
    """Turn the linker's symbols into names such as ``group_norm_act_sums_kernel<float, 1, false>``."""
    text = subprocess.run(
        ["c++filt"], input="\n".join(symbols), capture_output=True, text=True, check=True
    ).stdout
    names = [re.search(r"(\w+_kernel(?:<.*>)?)\(", line) for line in text.splitlines()]
    return [
        (name[1] if name else line).replace("segnext::", "")
        for name, line in zip(names, symbols, strict=True)
    ]
