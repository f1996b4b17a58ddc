"""Measures Triton's configurations on this device, and runs the slowest kernels under Nsight Compute."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from bench.campaign import checks
from bench.campaign.models import Setting
from segnext import deploy

# The sections of ncu that are enough to tell what bounds a kernel.
SECTIONS = (
    "SpeedOfLight",
    "Occupancy",
    "WarpStateStats",
    "MemoryWorkloadAnalysis",
    "ComputeWorkloadAnalysis",
)


def tune(job: str, dry_run: bool, seconds: float) -> dict[str, Any]:
    """Measure every configuration of the Triton kernels of one deployed model; ``tuned`` is to be committed."""
    setting = Setting(job, torch.device("cpu" if dry_run else "cuda"))
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(XDG_CACHE_HOME=folder, SEGNEXT_AUTOTUNE="1")
        deploy(setting.model, torch.bfloat16, cuda_graph=False).predict(setting.images)
        tables = [json.loads(path.read_text()) for path in Path(folder).glob("segnext/tuned/*.json")]
    tuned = tables[0] if tables else {}
    return {"ok": True, "says": f"{sum(map(len, tuned.values()))} shapes tuned", "tuned": tuned}


def profile(job: str, dry_run: bool, seconds: float) -> dict[str, Any]:
    """Profile one kernel on one input under ncu; a refusal by the machine is recorded."""
    program = shutil.which("ncu") or "/usr/local/cuda/bin/ncu"
    *words, shape = job.split()
    calls = [sys.executable, "-m", "bench.campaign.one_call", *words, shape, "cpu" if dry_run else "cuda"]
    if not dry_run and not Path(program).exists():
        return {"ok": False, "says": "ncu not found"}
    options = [option for section in SECTIONS for option in ("--section", section)]
    # `one_call` starts the profiler for its second, warm call only
    command = [program, "--clock-control", "none", "--profile-from-start", "off", *options]
    status, text = checks.run([*([] if dry_run else command), *calls], seconds)
    refused = re.search(r"ERR_NVGPUCTRPERM.*|==ERROR==.*", text)
    says = refused[0][:200] if refused else "profiled" if status == 0 else checks.last_line(text)
    return {"ok": status == 0 and not refused, "says": says, "report": text[-12000:]}
