"""Describes machine, software and commit, as every result file records them."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

import torch

from segnext.measure import machine
from segnext_kernels import current_backend, native

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("torch", "numpy", "segnext", "triton", "onnx", "onnxruntime", "openvino")


def describe() -> dict[str, Any]:
    """Return device, cores, instruction sets, versions, commit and thread count, in a form that JSON takes."""
    host = dict(machine.host())
    cpu, _, cores = host["CPU"].rpartition(", ")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else cpu
    built = native.missing("cpu") is None
    return {
        "slug": slug(device, host["instructions"].split(), cores),
        "device": device,
        "cpu": cpu,
        "cores": cores,
        "threads": torch.get_num_threads(),
        "instruction_sets": host["instructions"].split(),
        "kernel_instruction_set": native.INSTRUCTION_SETS[native.instruction_set()] if built else None,
        "backend": current_backend(),
        "memory": host.get("memory", ""),
        "system": host["system"],
        "versions": {"python": platform.python_version(), **_versions(), **_cuda()},
        "commit": commit(),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }


def slug(device: str, instruction_sets: list[str], cores: str) -> str:
    """Return a short folder name: "h200", or a CPU with its widest vectors and its cores, "amd-epyc-avx512-2c"."""
    words = re.sub(r"\((R|TM|C)\)|\b(CPU|Processor|NVIDIA)\b|@.*", " ", device, flags=re.IGNORECASE)
    name = re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-") or "unknown"
    if "NVIDIA" in device:
        return name
    widest = [
        short
        for flag, short in (("avx512f", "avx512"), ("avx2", "avx2"), ("asimd", "neon"))
        if flag in instruction_sets
    ]
    return "-".join([name, *widest[:1], f"{cores.split()[0]}c"])


def commit() -> str:
    """Return the short hash of the commit, with "+" if files differ from it; "nocommit" outside git."""
    head = _git("rev-parse", "--short", "HEAD")
    if not head:
        return "nocommit"
    # new result files do not change what was measured
    return head + ("+" if _git("status", "--porcelain", "--", ".", ":!bench/results") else "")


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _cuda() -> dict[str, str]:
    """Return the versions of the CUDA that torch was built for and of the driver; nothing without a GPU."""
    if not torch.cuda.is_available():
        return {}
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        driver = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        driver = "unknown"
    return {"cuda": str(torch.version.cuda), "driver": driver}


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
