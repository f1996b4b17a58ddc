"""Checks whether the library is built, what the device can do, and whether each kernel is right.

There is one function per phase; each returns what it found.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from bench import machine, roofline
from bench.campaign.cases import Case, Kernel, agreement, shapes
from bench.campaign.record import as_json
from segnext_kernels import native, self_check
from segnext_kernels.backend import KERNELS
from segnext_kernels.spec import all_specs

ROOT = machine.ROOT
FAULTS_SHOWN = 20
# Tests of what a GPU changes: a device is chosen, graphs are captured, a deployed model runs on it.
SUITE = (
    "tests/training/test_gradients.py",
    "tests/training/test_float16.py",
    "tests/predict",
    "tests/evaluation",
    "tests/contract/test_torch.py",
    "tests/contract/test_func.py",
    "tests/contract/test_errors.py",
    "tests/kernels/test_backend.py",
    "tests/kernels/test_self_check.py",
    "tests/models",
    "tests/deployment",
    "tests/training/test_loop.py",
    "tests/training/test_resume.py",
    "tests/cli",
)


def build(job: str, dry_run: bool, seconds: float) -> dict[str, Any]:
    """Compile the kernels for this GPU, in place, with what the machine has."""
    if not dry_run:
        major, minor = torch.cuda.get_device_capability()
        # as many jobs as cores, whatever memory is free: a guest's memory may grow only on demand
        environment = {
            **os.environ,
            "SEGNEXT_BUILD": "cuda",
            "TORCH_CUDA_ARCH_LIST": f"{major}.{minor}",
            "MAX_JOBS": str(os.cpu_count() or 1),
        }
        status, text = run([sys.executable, "setup.py", "build_ext", "--inplace"], seconds, environment)
        if status != 0:
            return {"ok": False, "says": last_line(text), "status": status}
        native.build_record.cache_clear()
    return {"ok": True, "says": "built", "record": native.build_record()}


def probe(job: str, dry_run: bool, seconds: float) -> dict[str, Any]:
    """Find the cores, whether the library fits this device, and the ceilings."""
    found: dict[str, Any] = {
        "cores": os.cpu_count(),
        "library": native.missing("cpu" if dry_run else "cuda") or "loads",
    }
    if not dry_run:
        found["architectures"] = native.architecture_gap(torch.device("cuda", 0)) or "fit this device"
    ceilings = roofline.measure() if dry_run else roofline.measure_gpu()
    bandwidth = max(rate for _, rate in ceilings.copies)
    found["says"] = f"library {found['library']}, copies {bandwidth / 1e3:.2f} TB/s"
    return {"ok": found["library"] == "loads", **found, "ceilings": as_json(ceilings)}


def smoke(job: str, dry_run: bool, seconds: float) -> dict[str, Any]:
    """Compare one kernel at the model's first shape, in bfloat16 and float32 where it takes them, with float64."""
    if job == "self-check":
        return _self_check(dry_run)
    device = torch.device("cpu" if dry_run else "cuda")
    kernel = Kernel(*job.split())
    errors, is_good = {}, True
    taken = None if dry_run or kernel.backend == "auto" else KERNELS[kernel.op][kernel.backend].dtypes
    for dtype in (torch.bfloat16, torch.float32):
        if taken is not None and dtype not in taken:
            continue
        ok, found = agreement(Case.of(kernel, shapes(kernel.spec, dry_run)[0], dtype, device))
        is_good = is_good and ok
        errors |= {f"{str(dtype).removeprefix('torch.')} {name}": text for name, text in found.items()}
    return {"ok": is_good, "says": "" if is_good else "; ".join(errors.values())[:200], "errors": errors}


def _self_check(dry_run: bool) -> dict[str, Any]:
    """Do what a user's first call does: check the CUDA kernels in a process of their own, and remember the verdicts."""
    if dry_run:
        return {"ok": True, "says": "no GPU in a dry run"}
    start = time.perf_counter()
    x = torch.ones(1, 8, 4, 4, device="cuda")
    self_check.distrusted("dwconv_gelu", "cuda", (x, x, None))
    found = {str(subject): verdict.reason for subject, verdict in self_check.remembered(0).items()}
    wrong = {name: reason for name, reason in found.items() if reason}
    took = round(time.perf_counter() - start, 1)
    says = f"{len(found) - len(wrong)} of {len(found)} CUDA kernels agree, {took} s"
    return {"ok": bool(found) and not wrong, "says": says, "seconds": took, "wrong": wrong}


def layouts(op: str) -> tuple[str, ...]:
    """Return the memory formats in which the contract tests an op."""
    return ("nchw", "nhwc") if all_specs()[op].has_image else ("nchw",)


def contract(job: str, dry_run: bool, seconds: float) -> dict[str, Any]:
    """Test the contract's values of one op by one backend in one memory format: edge shapes, strides, NaN."""
    op, backend, layout = job.split()
    cases = f"fp32-{layout}-cpu and forward_is" if dry_run else f"-{layout}-{backend}-cuda"
    return tests(["-k", f"{op}- and {cases}", "tests/contract/test_values.py"], seconds)


def suite(job: str, dry_run: bool, seconds: float) -> dict[str, Any]:
    """Run tests that use a GPU where there is one."""
    return tests(["-m", "not proof", job], seconds)


def tests(options: Sequence[str], seconds: float) -> dict[str, Any]:
    """Run tests; ``cut`` is true if time ended before they did and none had failed."""
    common = ["-q", "--no-header", "-p", "no:cacheprovider", "--tb=line", f"--maxfail={FAULTS_SHOWN}", "-rf"]
    status, text = run([sys.executable, "-m", "pytest", *common, *options], seconds)
    lines = text.strip().splitlines()
    failed = [line[:300] for line in lines if line.startswith("FAILED")]
    says = lines[-1].strip("= ") if lines else "no output"
    if status is None:
        marks = "".join(re.findall(r"^([.sxXFE]+) *(?:\[ *\d+%\])?$", text, re.MULTILINE))
        failures = marks.count("F") + marks.count("E")
        says = f"{marks.count('.')} passed, {failures} failed, not finished in its time"
        return {"ok": not failures, "says": says, "failed": failed, "cut": not failures}
    return {"ok": status == 0 and "passed" in says, "says": says, "failed": failed}


def memcheck(job: str, dry_run: bool, seconds: float) -> dict[str, Any]:
    """Run compute-sanitizer over one op by one backend, on small inputs; a refusal by the machine is recorded."""
    op, backend = job.split()
    program = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    calls = [sys.executable, "-m", "bench.campaign.checked_calls", "cpu" if dry_run else backend, op]
    if dry_run:
        command = calls
    elif Path(program).exists():
        command = [program, "--tool", "memcheck", "--error-exitcode", "9", *calls]
    else:
        return {"ok": False, "says": "compute-sanitizer not found"}
    # each tensor gets memory of its own; otherwise an overrun would end unseen in a neighbour
    status, text = run(command, seconds, {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"})
    summary = re.findall(r"ERROR SUMMARY:.*", text)
    says = summary[-1] if summary else "killed at its limit" if status is None else last_line(text)
    lines = [line for line in text.splitlines() if line.startswith("=========")]
    return {"ok": status == 0, "says": says, **({} if status == 0 else {"output": lines[:60]})}


def run(
    command: Sequence[str], seconds: float, environment: Mapping[str, str] | None = None
) -> tuple[int | None, str]:
    """Return exit status and output of a program; the status is None if it was killed at its limit."""
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        text, _ = process.communicate(timeout=seconds)
        return process.returncode, text
    except subprocess.TimeoutExpired:
        process.kill()
        text, _ = process.communicate()
        return None, text


def last_line(text: str) -> str:
    """Return the last line of a program's output, which in Python names the error."""
    return (text.strip().splitlines() or ["no output"])[-1][:200]
