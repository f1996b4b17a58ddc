"""Measures deployed SegNeXts beside SegFormers of the same cost, as the paper compares them: time and peak memory."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bench.campaign.models import SECONDS, Setting
from bench.campaign.record import as_json
from bench.campaign.training import peak_mib
from bench.clock import Clock, captured
from bench.results import OURS, Row, Timing
from bench.rivals.networks import segformer
from segnext import deploy
from segnext.measure.runtimes import label_map

TABLE = "rivals, image to mask"
# Ours as in `bench.campaign.models`, and the SegFormer beside it.
PAIRS = ("b 1 1024 2048 19 segformer-b2", "l 1 1024 2048 19 segformer-b3")
DRY_PAIRS = ("t 1 64 96 19 segformer-b2",)
TOLERANCE = 0.1  # of the largest logit, between bfloat16 and float32


def rivals(job: str, dry_run: bool, seconds: float) -> dict[str, Any]:
    """Time one pair in turns; the rival's bfloat16 logits are compared with its float32 ones before."""
    if importlib.util.find_spec("transformers") is None:
        return {"ok": True, "says": "no rivals: pip install transformers"}
    device = torch.device("cpu" if dry_run else "cuda")
    ours_job, _, name = job.rpartition(" ")
    setting = Setting(ours_job, device)
    fast = deploy(setting.model, torch.bfloat16)
    images, low_images = setting.images, setting.images.to(torch.bfloat16)
    size = (images.shape[2], images.shape[3])
    torch.manual_seed(0)
    classes = int(ours_job.split()[-1])
    model = segformer(classes, *size, size=name.removeprefix("segformer-")).eval().to(device)
    with torch.inference_mode():
        expected = model(images)
        model = model.to(torch.bfloat16)
        error = (model(low_images).float() - expected).abs().max() / expected.abs().max()
    if not error <= TOLERANCE:
        return {"ok": False, "says": f"{name}: error of its bfloat16 logits {error:.2g}"}

    def mask() -> Tensor:
        with torch.no_grad():
            return label_map(model(low_images), size)

    runs: dict[str, Callable[[], Tensor]] = {OURS: lambda: fast.predict(images), f"{name} eager": mask}
    peaks = {}
    for variant, run in runs.items():
        before = peak_mib(device, reset=True)
        run()
        if before is not None:
            peaks[variant] = round((peak_mib(device) or 0) - before)
    refused = {}
    if not dry_run:  # after the peaks: a replay allocates nothing
        try:
            runs[f"{name} in a graph"] = captured(mask, device, calls=1)
        except RuntimeError as error_:
            refused["in a graph"] = str(error_).partition("\n")[0][:200]
    measured = Clock(device).interleaved(runs, 0 if dry_run else SECONDS)
    timings = {variant: Timing.of(values) for variant, values in measured.items()}
    row = Row(
        TABLE,
        f"{setting.name} beside {name}",
        timings,
        flops=setting.flops,
        notes={"peak_mib": peaks},
        tensor_cores=not dry_run,
    )
    says = ", ".join(f"{variant} {t.median:.2f} ms" for variant, t in timings.items())
    return {"ok": True, "says": f"{says} {refused or ''}", "rows": [as_json(row)]}
