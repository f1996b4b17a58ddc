"""The stages of `bench.campaign` that come before any time: is it built, is it right, what can the device do?

A function a stage, of its name; each runs in a process of its own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import plain_segnext, roofline, workloads
from bench.campaign import GPU_BACKENDS, ROOT, Campaign, DeviceLost, check_device
from bench.clock import Run
from segnext import deploy
from segnext_kernels import _library
from tests.contract.cases import cast

MOST_ERROR = {False: 1e-4, True: 0.1}  # of logits over the largest one; True for bfloat16
TOOLS = ("memcheck", "racecheck", "synccheck", "initcheck")  # of compute-sanitizer


def build(campaign: Campaign) -> None:
    """Compile the kernels for this GPU, in place, with what the machine has."""
    findings = campaign.stage("build")["findings"]
    if not campaign.dry_run:
        major, minor = torch.cuda.get_device_capability()
        environment = {**os.environ, "SEGNEXT_BUILD": "cuda", "TORCH_CUDA_ARCH_LIST": f"{major}.{minor}"}
        command = [sys.executable, "setup.py", "build_ext", "--inplace"]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        findings["output"] = (done.stdout + done.stderr).strip().splitlines()[-3:]
        if done.returncode:
            raise RuntimeError(f"build: {findings['output']}")
        _library.build_record.cache_clear()
    findings["built"] = _library.build_record()


def parity(campaign: Campaign) -> None:
    """The contract suite's values on this device, op after op in turns, and the models against plain PyTorch."""
    findings = campaign.stage("parity")["findings"]
    findings["models"] = {
        f"{size} {dtype}": error
        for size in (("t",) if campaign.dry_run else ("t", "b"))
        for dtype, error in _model_errors(size, campaign).items()
    }
    wrong = {run: error for run, error in findings["models"].items() if error > MOST_ERROR["bf" in run]}
    campaign.save()
    outcomes = _Outcomes(campaign, findings.setdefault("ops", {"passed": [], "skipped": [], "failed": {}}))
    where = "upsample_argmax and fp32 and nhwc" if campaign.dry_run else "cuda"
    options = ["-q", "--no-header", "-p", "no:cacheprovider", "--tb=line", "-k", where]
    code = pytest.main([*options, "tests/contract/test_values.py"], plugins=[outcomes])
    if outcomes.lost:
        raise DeviceLost(outcomes.lost)
    if outcomes.is_late:
        raise TimeoutError
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED) and not outcomes.found["passed"]:
        raise RuntimeError(f"parity: pytest ended with {code!r}")
    if wrong:
        raise RuntimeError(f"parity: errors of the logits above {MOST_ERROR}: {wrong}")


class _Outcomes:
    """Keeps what passed and failed, leaves out what ran before, and stops when the time is up."""

    def __init__(self, campaign: Campaign, found: dict[str, Any]) -> None:
        self.campaign, self.found, self.is_late, self.lost = campaign, found, False, ""

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        known = {*self.found["passed"], *self.found["skipped"], *self.found["failed"]}
        known |= self.campaign.results.without_number.keys()  # a kernel that hung
        rest = [item for item in items if item.nodeid not in known]
        # in turns over the ops: what there is time for says something of each
        turn: dict[str, int] = {}
        places = {}
        for item in rest:
            op = item.callspec.params["case"].spec.name  # type: ignore[attr-defined]
            places[item] = turn[op] = turn.get(op, 0) + 1
        items[:] = sorted(rest, key=lambda item: places[item])

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            text = crash.message if crash else str(report.longrepr)
            self.found["failed"][report.nodeid] = text.partition("\n")[0][:300]
            try:
                check_device(self.campaign.device, report.nodeid)
            except DeviceLost:
                self.lost = report.nodeid
        elif report.skipped:
            self.found["skipped"].append(report.nodeid)
        elif report.when == "call":
            self.found["passed"].append(report.nodeid)

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self.campaign.save()

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        self.is_late = time.monotonic() > self.campaign.deadline
        if self.is_late or self.lost:
            pytest.exit(self.lost or "the stage's time is up", returncode=0)
        self.campaign.runs("parity", item.nodeid)


def _model_errors(size: str, campaign: Campaign) -> dict[str, float]:
    """Of each way to run a model on this device: the largest error of its logits over the largest logit."""
    model, state_dict = workloads.pair(size)
    images, bases = workloads.image(64, 96), model.decoder.hamburger.bases
    with torch.inference_mode():
        oracle = plain_segnext.logits(cast(state_dict, torch.float64), bases.double(), images.double())
        there, on_device = model.to(campaign.device), images.to(campaign.device)
        runs: dict[str, Run] = {"module float32": partial(there.forward_logits, on_device)}
        for dtype in (torch.float32, torch.bfloat16):
            name = f"deployed {str(dtype).removeprefix('torch.')}"
            runs[name] = partial(deploy(there, dtype).forward_logits, on_device)
        return {
            name: float((run().cpu().double() - oracle).abs().max() / oracle.abs().max())
            for name, run in runs.items()
        }


def sanitizer(campaign: Campaign) -> None:
    """compute-sanitizer's tools over every op on small inputs; a refusal by the machine is recorded."""
    findings = campaign.stage("sanitizer")["findings"]
    program = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    is_there = Path(program).exists()
    if not is_there:
        findings["compute-sanitizer"] = "not found"
    for name in ("cpu",) if campaign.dry_run else GPU_BACKENDS:
        run = [sys.executable, "-m", "bench.small_calls", name]
        for tool in TOOLS if is_there and not campaign.dry_run else ("none",):
            workload = f"sanitizer: {name}, {tool}"
            if workload in findings or not campaign.starts("sanitizer", workload):
                continue
            command = run if tool == "none" else [program, "--tool", tool, "--error-exitcode", "9", *run]
            # each tensor in memory of its own, or an overrun ends in a neighbour unseen
            environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
            done = subprocess.run(
                command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
            )
            lines = (done.stdout + done.stderr).strip().splitlines()
            summary = [line for line in lines if "SUMMARY" in line] or lines[-1:]
            findings[workload] = {"exit status": done.returncode, "summary": summary}
            if done.returncode:
                findings[workload]["output"] = lines[:40]
            campaign.save()


def ceilings(campaign: Campaign) -> None:
    """What this device can do at best; every share of a roofline is of these."""
    measure = roofline.measure if campaign.dry_run else roofline.measure_gpu
    campaign.results.ceilings = measure()
