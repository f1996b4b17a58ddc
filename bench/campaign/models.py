"""Measures deployed models against eager PyTorch: error, and time with and without a graph."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from bench import roofline
from bench.campaign import modelled, turns
from bench.campaign.record import as_json
from bench.clock import Clock, Run, captured
from bench.models import checks, networks
from bench.results import OURS, Row, Timing
from oracle import transcription
from oracle.inputs import in_layout
from segnext import deploy

TABLE = "models, image to mask"
SECONDS = 1.0
EAGER = "eager channels_last"
EAGER_IN_GRAPH = f"{EAGER} in a graph"
COMPILE = "torch.compile max-autotune"
# Size, batch, height, width, classes; the promised ones come first.
MODELS = (
    "t 1 768 1536 19",
    "b 1 512 512 150",
    "t 1 512 512 150",
    "b 1 1024 2048 19",
    "t 32 512 512 150",
    "b 32 512 512 150",
    "t 1 1024 2048 19",
    "l 1 512 512 150",
    "l 1 1024 2048 19",
    "l 32 512 512 150",
    "t 8 512 512 150",
    "b 8 512 512 150",
    "l 8 512 512 150",
)
TAKEN_APART = 3  # the first of them
# torch.compile takes a minute or more per model, so only these are compared with it.
COMPILED = ("t 1 768 1536 19", "b 1 512 512 150", "t 32 512 512 150")
DRY_MODELS = ("t 1 64 96 19",)
PROFILED = 5  # forward passes per profile
MOST_KERNELS = 40  # kernels that a profile shows


class PlainModule(nn.Module):
    """Wraps the official arithmetic on a state dict as a module, so that compilers take its weights as constants."""

    def __init__(self, function: Callable[..., Tensor], state_dict: dict[str, Tensor], bases: Tensor) -> None:
        super().__init__()
        self.function, self.names = function, {name: name.replace(".", "__") for name in state_dict}
        for name, tensor in state_dict.items():
            self.register_buffer(self.names[name], tensor)
        self.register_buffer("own_bases", bases)

    def forward(self, images: Tensor) -> Tensor:
        """Return the function's result."""
        weights = {name: getattr(self, attribute) for name, attribute in self.names.items()}
        return self.function(weights, self.own_bases, images)


class Setting:
    """Holds one model, its weights in plain PyTorch, and a scene to which the classifier is fitted."""

    def __init__(self, job: str, device: torch.device) -> None:
        self.size, *numbers = job.split()
        self.batch, height, width, classes = map(int, numbers)
        model, state_dict, images = networks.fitted_pair(self.size, classes, height, width)
        self.flops = self.batch * roofline.counted_flops(lambda: model.forward_logits(images))
        self.state_dict = in_layout(
            {name: t.to(device) for name, t in state_dict.items()}, torch.channels_last
        )
        self.images = in_layout(images.to(device).expand(self.batch, -1, -1, -1), torch.channels_last)
        self.model, self.bases = model.to(device), model.decoder.hamburger.bases.to(device)
        self.name = f"{self.size.upper()} {self.batch}x{height}x{width}, {classes} classes, bfloat16"
        with torch.inference_mode():
            self.oracle = transcription.logits(self.state_dict, self.bases, self.images)

    def plain(self) -> PlainModule:
        """Return the official arithmetic in bfloat16."""
        low = {
            name: t.to(torch.bfloat16) if t.is_floating_point() else t for name, t in self.state_dict.items()
        }
        return PlainModule(transcription.mask, low, self.bases.to(torch.bfloat16))


def models(job: str, dry_run: bool, seconds: float) -> dict[str, Any]:
    """Measure one deployed model; a variant that fails does not stop the others."""
    device = torch.device("cpu" if dry_run else "cuda")
    setting = Setting(job, device)
    found: dict[str, Any] = {}
    plain = deploy(setting.model, torch.bfloat16, cuda_graph=False)
    graph = deploy(setting.model, torch.bfloat16)
    lower = setting.plain()
    error = (plain.forward_logits(setting.images) - setting.oracle).abs().max() / setting.oracle.abs().max()
    found["error of logits"] = round(error.item(), 5)
    runs: dict[str, Run] = {
        OURS: lambda: graph.predict(setting.images),
        "ours without a graph": lambda: plain.predict(setting.images),
        EAGER: torch.inference_mode()(lambda: lower(setting.images.to(torch.bfloat16))),
    }
    uncaptured = {}
    try:
        runs[EAGER_IN_GRAPH] = captured(runs[EAGER], device, calls=1)
    except Exception as error:
        uncaptured[EAGER_IN_GRAPH] = f"{type(error).__name__}: {error}".partition("\n")[0][:200]
    passed, refused = agreeing(runs, setting.oracle)
    refused |= uncaptured
    measured = Clock(device).interleaved(passed, 0 if dry_run else SECONDS)
    timings = {name: Timing.of(values) for name, values in measured.items()}
    if refused:
        found["refused"] = refused
    if OURS not in timings:
        return {"ok": False, "says": str(refused)[:300], **found}
    ours = timings[OURS].median
    says = f"{ours:.3f} ms, {1e3 * setting.batch / ours:.0f} images/s, error {found['error of logits']}"
    says += f"; {refused}" if refused else ""
    beside = "ours without a graph"
    row = Row(
        TABLE,
        setting.name,
        {name: t for name, t in timings.items() if name != beside},
        {beside: timings[beside]} if beside in timings else {},
        flops=setting.flops,
        notes={
            "images_per_s": {name: round(1e3 * setting.batch / t.median, 1) for name, t in timings.items()},
            **modelled.of_model(setting.size, setting.batch, *setting.images.shape[2:]),
        },
        tensor_cores=not dry_run,
    )
    return {"ok": True, "says": says, **found, "rows": [as_json(row)]}


def agreeing(runs: Mapping[str, Run], oracle: Tensor) -> tuple[dict[str, Run], dict[str, str]]:
    """Return the runs whose label maps agree with the oracle's, and why the others are left out."""
    passed, refused = {}, {}
    for name, run in runs.items():
        try:
            checks.assert_labels_agree(run(), oracle, name)
            passed[name] = run
        except Exception as error:
            refused[name] = f"{type(error).__name__}: {error}".partition("\n")[0][:200]
    return passed, refused


def profile(run: Run) -> dict[str, Any]:
    """Return the launches of one call, and the device's microseconds by kernel, the longest first.

    A process is slower to launch after it: nothing is timed there any more.
    """
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
        for _ in range(PROFILED):
            run()
        torch.cuda.synchronize()
    kernels: dict[str, dict[str, float]] = {}
    for row in profiler.key_averages():
        if row.device_time_total > 0:  # else an event of the host
            kernel = kernels.setdefault(short_name(row.key), {"us": 0.0, "launches": 0.0})
            kernel["us"] = round(kernel["us"] + row.device_time_total / PROFILED, 1)
            kernel["launches"] = round(kernel["launches"] + row.count / PROFILED, 1)
    longest = sorted(kernels, key=lambda name: -kernels[name]["us"])
    return {
        "launches": round(sum(kernel["launches"] for kernel in kernels.values()), 1),
        "device_us": round(sum(kernel["us"] for kernel in kernels.values()), 1),
        "kernels": {name: kernels[name] for name in longest[:MOST_KERNELS]},
    }


def short_name(key: str) -> str:
    """Return a kernel's name with its template arguments, without namespaces and parameters.

    >>> short_name("void a::(anonymous namespace)::add<float, a::Shape<2> >(a::View)")
    'add<float, Shape<2> >'
    """
    name = re.sub(r"^void |\(anonymous namespace\)::", "", key)
    return re.sub(r"\b\w+::", "", name.partition("(")[0])[:160]


def compiled(job: str, dry_run: bool, seconds: float) -> dict[str, Any]:
    """Time one model under torch.compile with CUDA graphs, beside ours.

    Jobs compile at the same time, because that is work for one core of many; then they take turns on the device.
    """
    with turns.Turns(job) as turn:
        return _compiled(job, dry_run, turn)


def _compiled(job: str, dry_run: bool, turn: turns.Turns) -> dict[str, Any]:
    from segnext.measure import runtimes

    device = torch.device("cpu" if dry_run else "cuda")
    setting = Setting(job, device)
    ours, lower = deploy(setting.model, torch.bfloat16), setting.plain()
    low_images = setting.images.to(torch.bfloat16)
    runs: dict[str, Run] = {OURS: lambda: ours.predict(setting.images)}
    refused: dict[str, str] = {}
    start = time.perf_counter()
    if not dry_run:
        try:
            with torch.inference_mode():
                runs[COMPILE] = runtimes.torch_compile(lower, low_images, mode="max-autotune", alone=True)
        except runtimes.Unavailable as reason:
            refused[COMPILE] = str(reason)
    compiled_after = time.perf_counter() - start
    turn.wait()
    passed, more = agreeing(runs, setting.oracle)
    refused |= more
    measured = Clock(device).interleaved(passed, 0 if dry_run else SECONDS)
    timings = {name: Timing.of(values) for name, values in measured.items()}
    says = ", ".join(f"{name} {t.median:.3f} ms" for name, t in timings.items())
    row = Row(TABLE, f"{setting.name}, compiled", timings, flops=setting.flops, tensor_cores=not dry_run)
    return {
        "ok": OURS in timings and not refused,
        "says": f"{says} {refused or ''}"[:300],
        "seconds": round(compiled_after, 1),
        "rows": [as_json(row)] if OURS in timings else [],
    }
