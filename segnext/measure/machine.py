"""Finds facts about this machine: CPU, memory, GPUs, versions. `segnext doctor` shows them, results hold them.

Each function returns pairs of a name and a text.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import torch

# CPU kernels may use these. The names are those of the Linux kernel; x86-64 comes first, then aarch64.
INSTRUCTIONS = (
    *("avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
    *("amx_tile", "amx_bf16", "asimd", "asimdhp", "asimddp", "bf16", "sve", "sve2"),
)


def host() -> list[tuple[str, str]]:
    """Return system, CPU, cores, instruction sets and memory."""
    cpu = _cpu_info()
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    flags = set((cpu.get("flags") or cpu.get("Features") or "").split())
    facts = [
        ("system", f"{platform.system()} {platform.release()}, {platform.machine()}"),
        ("CPU", f"{_cpu_name(cpu)}, {usable} of {os.cpu_count()} cores"),
        ("instructions", " ".join(word for word in INSTRUCTIONS if word in flags) or "unknown"),
    ]
    memory = _memory()
    if memory:
        facts.append(("memory", memory))
    return facts


def libraries() -> list[tuple[str, str]]:
    """Return the versions of Python and of the packages that matter, with the command that installs a missing one."""
    facts = [("python", f"{platform.python_version()} ({sys.executable})")]
    threads = f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"
    cuda = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU build"
    facts.append(("torch", f"{torch.__version__} ({cuda}, {threads})"))
    for name in ("segnext", "numpy", "pillow", "safetensors"):
        try:
            facts.append((name, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            facts.append((name, "not installed; pip install " + ("." if name == "segnext" else name)))
    return facts


def gpus() -> list[tuple[str, str]]:
    """Return the GPUs that torch sees and the driver, or why there is no GPU."""
    facts = []
    driver = nvidia_driver()
    if driver:
        facts.append(("driver", driver))
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            facts.append(
                (
                    f"cuda:{index}",
                    f"{properties.name}, sm_{properties.major}{properties.minor}, "
                    f"{properties.total_memory / 2**30:.0f} GiB",
                )
            )
    elif driver and torch.version.cuda is None:
        facts.append(("torch", "is a CPU build and does not see the GPU; install a CUDA build of torch"))
    else:
        facts.append(("none", "torch sees no GPU; everything runs on the CPU"))
    nvcc = shutil.which("nvcc")
    facts.append(("nvcc", nvcc or "not found; only needed to build the CUDA kernels"))
    return facts


def _cpu_info() -> dict[str, str]:
    """Return the first processor's entries of /proc/cpuinfo; nothing if there is no such file."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    lines = (line.partition(":") for line in text.split("\n\n")[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in lines}


def _cpu_name(cpu: dict[str, str]) -> str:
    """Return a CPU's name; virtual machines often hide the model's ("AMD EPYC"), then family and model tell it."""
    name = cpu.get("model name") or platform.processor() or "unknown"
    if "cpu family" in cpu and not any(map(str.isdigit, name)):
        name += f" (family {cpu['cpu family']}, model {cpu.get('model', 'unknown')})"
    return name


def _memory() -> str:
    try:
        lines = (line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        kibibytes = {key: int(value.split()[0]) for key, value in lines}
        return f"{kibibytes['MemTotal'] / 2**20:.1f} GiB, {kibibytes['MemAvailable'] / 2**20:.1f} available"
    except (OSError, ValueError, KeyError):
        return ""


def nvidia_driver() -> str:
    """Return the version of NVIDIA's driver; an empty text if there is none."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return ""
    query = [command, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        result = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return result.stdout.strip().split("\n")[0] if result.returncode == 0 else ""
