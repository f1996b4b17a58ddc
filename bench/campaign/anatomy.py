"""Takes a deployed model apart: each op alone, by every backend that takes it; the graph as a whole; its kernels.

An op's time is that of a CUDA graph of several calls, so launches are in it and Python is not. It shows which backend
is fastest for which shape, and how much of the whole lies between the ops.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch

from bench.campaign.models import Setting, profile
from bench.clock import CAPTURED, Clock, captured
from segnext import deploy
from segnext_kernels import backend, use_backend
from segnext_kernels.backend import KERNELS

SECONDS = 0.01  # per op and backend
REPLAYS = 20


def anatomy(job: str, dry_run: bool, seconds: float) -> dict[str, Any]:
    """Time every op of a model at every shape; ``job`` as in `bench.campaign.models`."""
    device = torch.device("cpu" if dry_run else "cuda")
    setting = Setting(job, device)
    # on a CPU, where the deployed model would not call ops but packed layers, the ops' definitions stand for them
    with use_backend("reference" if dry_run else "auto"):
        plain = deploy(setting.model, torch.bfloat16, cuda_graph=False)
        ops = of_call(lambda: plain.predict(setting.images), device)
    total = sum(row["launched"] * row["us"]["auto"] for row in ops.values())
    found: dict[str, Any] = {"ops": ops, "sum of ops us": round(total)}
    if not dry_run:
        graph = deploy(setting.model, torch.bfloat16)
        found |= {"predict us": wall_us(lambda: graph.predict(setting.images))}
        replay = captured(
            lambda: plain.labels_and_sum(setting.images, tuple(setting.images.shape[2:])), device
        )
        found["graph us"] = round(
            1e6 * statistics.median(Clock(device).seconds(replay) / CAPTURED for _ in range(5))
        )
        found |= profile(lambda: graph.predict(setting.images))
    words = ", ".join(
        f"{name} {found[name]}" for name in ("sum of ops us", "graph us", "predict us") if name in found
    )
    return {"ok": True, "says": words, **found}


def of_call(run: Callable[[], Any], device: torch.device) -> dict[str, dict[str, Any]]:
    """Return for each op and shape of one call: how often it runs, and its microseconds by backend."""
    rows: dict[str, dict[str, Any]] = {}
    select, inside = backend.select, [False]

    def timing(op: str, args: tuple[Any, ...]) -> Any:
        chosen = select(op, args)
        if inside[0]:  # an op that another one calls
            return chosen

        def timed(*args: Any) -> Any:
            inside[0] = True
            try:
                row = rows.setdefault(described(op, args), {"launched": 0, "us": {}})
                row["launched"] += 1
                if row["launched"] == 1:
                    row["us"] = by_backend(op, chosen, args, device)
                return chosen.run(*args)
            finally:
                inside[0] = False

        return dataclasses.replace(chosen, run=timed)

    with mock.patch.object(backend, "select", timing), torch.inference_mode():
        run()
    return rows


def by_backend(op: str, chosen: Any, args: tuple[Any, ...], device: torch.device) -> dict[str, float]:
    """Return an op's microseconds by "auto", and by each kernel for this device that takes the arguments."""
    kernels = {"auto": chosen}
    for name, kernel in KERNELS[op].items():
        if kernel is not chosen and kernel.device == device.type and kernel.reason_against(*args) is None:
            kernels[name] = kernel
    times = {}
    for name, kernel in kernels.items():
        measured = Clock(device).in_graphs({name: lambda kernel=kernel: kernel.run(*args)}, SECONDS)  # type: ignore[misc]
        times[name] = round(1e6 * statistics.median(measured[name]), 2)
    return times


def described(op: str, args: tuple[Any, ...]) -> str:
    """Name an op and the shapes of its images and weights."""
    tensors = [arg for arg in args if isinstance(arg, torch.Tensor) and arg.ndim > 2][:2]
    return " ".join([op, *("x".join(map(str, tensor.shape)) for tensor in tensors)])


def wall_us(run: Callable[[], Any]) -> int:
    """Return the median microseconds from a call to the end of its work on the device."""
    times = []
    for _ in range(REPLAYS):
        torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return round(1e6 * statistics.median(times))
