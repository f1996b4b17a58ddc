"""Runs jobs in a process of their own: `jobs` starts `python -m bench.campaign.worker OPTIONS "PHASE: JOB" ...`.

A Python error is the job's result. An error that the device does not survive ends the process, and the parent says so.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch

from segnext_kernels import isolation

Job = Callable[[str, bool, float], dict[str, Any]]


def functions() -> Mapping[str, Job]:
    """Map each phase to the function that runs its jobs."""
    from bench.campaign import anatomy, checks, models, rivals, times, training, tuning

    return {
        "build": checks.build,
        "probe": checks.probe,
        "smoke": checks.smoke,
        "times": times.times,
        "models": models.models,
        "anatomy": anatomy.anatomy,
        "contract": checks.contract,
        "suite": checks.suite,
        "memcheck": checks.memcheck,
        "tune": tuning.tune,
        "compile": models.compiled,
        "training": training.training,
        "rivals": rivals.rivals,
        "profile": tuning.profile,
    }


def run(name: str, dry_run: bool, seconds: float, planted: Mapping[str, str]) -> dict[str, Any]:
    """Return one job's result."""
    phase, _, job = name.partition(": ")
    start = time.perf_counter()
    fault = FAULTS[planted[name]]() if name in planted else contextlib.nullcontext()
    try:
        with fault:
            result = functions()[phase](job, dry_run, seconds)
    except Exception as error:
        if not dry_run:
            torch.cuda.synchronize()  # raises if the device is lost, and so ends this process
        result = {
            "ok": False,
            "says": f"{type(error).__name__}: {str(error).strip()}".partition("\n")[0][:300],
        }
    return {**result, "took": round(time.perf_counter() - start, 1)}


@contextlib.contextmanager
def _segv() -> Iterator[None]:
    os.kill(os.getpid(), signal.SIGSEGV)
    yield


@contextlib.contextmanager
def _hang() -> Iterator[None]:
    time.sleep(3600)
    yield


@contextlib.contextmanager
def _triton_error() -> Iterator[None]:
    from triton.compiler.errors import CompilationError

    raise CompilationError("def kernel(): tl.dot(a, b)", None, "planted: tl.dot of incompatible shapes")
    yield


@contextlib.contextmanager
def _no_capture() -> Iterator[None]:
    from bench import clock

    def refuse(*_: Any) -> Any:
        raise RuntimeError("planted: operation not permitted when stream is capturing")

    captured, clock.captured = clock.captured, refuse
    try:
        yield
    finally:
        clock.captured = captured


# the faults that `--plant` can give a job in a dry run
FAULTS: Mapping[str, Callable[[], contextlib.AbstractContextManager[None]]] = {
    "segv": _segv,
    "hang": _hang,
    "triton": _triton_error,
    "capture": _no_capture,
}


def main(options: str, *names: str) -> None:
    """Run the named jobs; ``options`` are JSON."""
    # oracles and peers compute float32 as float32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    isolation.report((name, partial(run, name, **json.loads(options))) for name in names)


if __name__ == "__main__":
    main(*sys.argv[1:])
