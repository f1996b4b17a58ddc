"""Measures a training step under bfloat16 autocast: time, peak memory and losses; ours and eager take turns.

On a GPU ours runs as in `segnext train`, forward and backward in a CUDA graph, and eager PyTorch with and without one.
"""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bench import roofline
from bench.campaign.models import profile
from bench.campaign.record import as_json
from bench.clock import Clock
from bench.models.networks import CLASSES, pair
from bench.models.training import (
    GraphedTraining,
    Loss,
    Training,
    assert_step_no_worse,
    model_loss,
    plain_loss,
)
from bench.results import OURS, Row, Timing
from oracle.inputs import in_layout

TABLE = "training step"
SECONDS = 1.0
EAGER = "eager channels_last"
WITHOUT_GRAPH = "ours without a graph"
STEPS = ("t 8 512", "b 8 512")  # size, batch, side
DRY_STEPS = ("t 2 64",)


def training(job: str, dry_run: bool, seconds: float) -> dict[str, Any]:
    """Time steps of one model from the same weights, after the first one's loss and gradients were found right."""
    device = torch.device("cpu" if dry_run else "cuda")
    size, *numbers = job.split()
    batch, side = map(int, numbers)
    model, state_dict = pair(size, drop_path=0.0, decoder_dropout=0.0)
    generator = torch.Generator(device).manual_seed(2)
    images = torch.randn(batch, 3, side, side, generator=generator, device=device)
    images = in_layout(images, torch.channels_last)
    targets = torch.randint(CLASSES, (batch, side, side), generator=generator, device=device)
    flops = 3 * batch * roofline.counted_flops(lambda: model.forward_logits(images[:1].cpu()))
    state_dict = in_layout({name: t.to(device) for name, t in state_dict.items()}, torch.channels_last)
    model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def low(loss: Loss) -> Loss:
        def cast(images: Tensor, targets: Tensor) -> Tensor:
            with torch.autocast(device.type, torch.bfloat16):
                return loss(images, targets)

        return cast

    parameters, exact = plain_loss(state_dict, model)
    oracle = Training(parameters, partial(exact, images, targets)).step()
    parameters, plain = plain_loss(state_dict, model)
    runs = {EAGER: Training(parameters, partial(low(plain), images, targets))}
    if not dry_run:  # each variant trains weights of its own
        parameters, plain = plain_loss(state_dict, model)
        runs[f"{EAGER} in a graph"] = GraphedTraining(parameters, plain, low(plain), images, targets)
        graphed = copy.deepcopy(model)
        parameters, loss = model_loss(graphed)
        runs[OURS] = GraphedTraining(parameters, graphed, low(loss), images, targets)
    parameters, loss = model_loss(model)
    runs[OURS if dry_run else WITHOUT_GRAPH] = Training(parameters, partial(low(loss), images, targets))
    fresh: dict[str, dict[str, float]] = {}
    for name, run in runs.items():
        before = peak_mib(device, reset=True)
        run.step()
        assert_step_no_worse(run, oracle, runs[EAGER], name)
        if before is not None:
            fresh[name] = {"peak_mib": (peak_mib(device) or 0) - before}
    measured = Clock(device).interleaved(
        {name: run.step for name, run in runs.items()}, 0 if dry_run else SECONDS
    )
    timings = {name: Timing.of(values) for name, values in measured.items()}
    notes: dict[str, Any] = {"losses": {name: run.losses[:20] for name, run in runs.items()}}
    row = Row(
        TABLE,
        f"{size.upper()} {batch}x{side}x{side}, 150 classes, AdamW, bfloat16 autocast",
        {name: timing for name, timing in timings.items() if name != WITHOUT_GRAPH},
        {name: timing for name, timing in timings.items() if name == WITHOUT_GRAPH},
        flops=flops,
        notes={**notes, **({"fresh": fresh} if fresh else {})},
        tensor_cores=not dry_run,
    )
    says = ", ".join(f"{name} {t.median:.1f} ms" for name, t in timings.items())
    kernels = {} if dry_run else profile(runs[OURS].step)
    return {"ok": True, "says": says, "rows": [as_json(row)], **kernels}


def peak_mib(device: torch.device, reset: bool = False) -> float | None:
    """Return the peak MiB allocated since the last reset; None on a CPU."""
    if device.type != "cuda":
        return None
    if reset:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    return torch.cuda.max_memory_allocated() / 2**20
