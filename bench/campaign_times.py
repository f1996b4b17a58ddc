"""The stages of `bench.campaign` that time: ops, models, training. A function a stage, of its name."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench import plain_segnext, roofline, workloads
from bench.campaign import GPU_BACKENDS, TABLES, Campaign, DeviceLost, check_device
from bench.clock import Clock, Run
from bench.peers import in_layout
from bench.results import OURS, Row, Timing
from bench.test_ops import backward_backend
from segnext import deploy, runtimes
from segnext_kernels import use_backend
from segnext_kernels.specification import Sample, Spec, all_specs
from tests.accuracy import assert_accurate, assert_gradient_accurate, assert_labels
from tests.contract.cases import cast, random_grad, with_gradient

FORWARD, BACKWARD = TABLES["ops"]
(INFERENCE,), (TRAINING,) = TABLES["models"], TABLES["training"]
# Ops that are mostly matrix products: in 16 bits their floor is the tensor cores'.
PRODUCTS = ("conv_ffn", "gated_pointwise", "msca_block", "nmf2d")
SECONDS = 0.3  # of rounds, for each workload
EAGER = "eager channels_last"
# Size, batch, height, width, classes.
MODELS = (
    ("t", 1, 512, 512, 150),
    ("t", 1, 768, 1536, 19),
    ("t", 8, 512, 512, 150),
    ("t", 32, 512, 512, 150),
    ("t", 1, 1024, 2048, 19),
    ("b", 1, 512, 512, 150),
)
MORE_MODELS = (
    ("b", 8, 512, 512, 150), ("b", 32, 512, 512, 150), ("b", 1, 1024, 2048, 19),
    ("l", 1, 512, 512, 150), ("l", 8, 512, 512, 150), ("l", 32, 512, 512, 150), ("l", 1, 1024, 2048, 19),
)  # fmt: skip


def ops(campaign: Campaign) -> None:
    """Every op by every GPU backend: the gate, then ours and its peers in turns."""
    dtypes = (torch.bfloat16, torch.float32) if campaign.full else (torch.bfloat16,)
    for dtype in (torch.float32,) if campaign.dry_run else dtypes:
        for spec, name, make in _op_inputs(campaign):
            for is_backward in (False, True) if spec.differentiable else (False,):
                for backend in ("cpu",) if campaign.dry_run else GPU_BACKENDS:
                    table = BACKWARD if is_backward else FORWARD
                    label = f"{spec.name} {name} {str(dtype).removeprefix('torch.')}, {backend}"
                    with _measured(campaign, "ops", table, label) as keep:
                        if keep is not None:
                            measure = _backward_row if is_backward else _forward_row
                            keep(measure(campaign, spec, make(dtype), backend, table, label))


@contextlib.contextmanager
def _measured(
    campaign: Campaign, stage: str, table: str, label: str
) -> Iterator[Callable[[Row], None] | None]:
    """Gives what takes the row, or None where there is a number; what goes wrong becomes a reason without one."""
    workload = f"{table}: {label}"
    if not campaign.starts(stage, workload):
        yield None
        return
    try:
        yield campaign.add
    except (TimeoutError, DeviceLost):
        raise
    except (Exception, pytest.skip.Exception) as error:
        campaign.refuse(workload, error)
        check_device(campaign.device, workload)
    if campaign.device.type == "cuda":
        torch.cuda.empty_cache()


Make = Callable[[torch.dtype], tuple[Any, ...]]


def _op_inputs(campaign: Campaign) -> Iterator[tuple[Spec, str, Make]]:
    """Ops with inputs: T's and one of B's shapes at batch 1, and the first at batch 32."""
    for spec in all_specs().values():
        if campaign.dry_run:
            yield spec, spec.samples[0].name, partial(_on_device, campaign, spec.samples[0], {})
            continue
        batch = "b" if "b" in spec.samples[0].sizes else "n"
        for index, sample in enumerate(spec.model_shapes):
            if campaign.full or not sample.name.startswith(("b2", "b3", "b4")):
                yield spec, sample.name, partial(_on_device, campaign, sample, {})
            if campaign.full or index == 0:
                yield spec, f"{sample.name} x32", partial(_on_device, campaign, sample, {batch: 32})


def _on_device(
    campaign: Campaign, sample: Sample, changed: Mapping[str, Any], dtype: torch.dtype
) -> tuple[Any, ...]:
    return in_layout(sample.make(dtype, campaign.device, **changed), torch.channels_last)


def _forward_row(
    campaign: Campaign, spec: Spec, args: tuple[Any, ...], backend: str, table: str, label: str
) -> Row:
    with torch.inference_mode():
        eager = spec.reference(*args)

        def ours() -> Tensor:
            with use_backend(backend):
                return spec.call(*args)

        out = ours()
        if eager.is_floating_point():
            wide = spec.reference(*cast(args, torch.float32))
            assert_accurate(out, spec.reference(*cast(args, torch.float64)), eager, wide, label)
        else:
            assert_labels(out, args[0], (out.shape[1], out.shape[2]))
        peers = _op_peers(campaign, spec.reference, args)
        return _row(campaign, spec, table, label, {OURS: ours, **peers}, args, out, backend)


def _backward_row(
    campaign: Campaign, spec: Spec, args: tuple[Any, ...], backend: str, table: str, label: str
) -> Row:
    # as in training: what only inference leaves out is kept
    args = tuple(
        True if name == "save" else value for name, value in zip(spec.argument_names, args, strict=True)
    )
    grad = in_layout(random_grad(spec.reference(*args)), torch.channels_last)

    def train(function: Callable[..., Tensor], inputs: tuple[Any, ...], incoming: Tensor) -> list[Tensor]:
        fresh, leaves = with_gradient(spec, inputs)
        out = function(*fresh)
        return list(torch.autograd.grad(out, leaves, incoming.to(out.dtype)))

    def ours() -> list[Tensor]:
        with use_backend(backend):
            return train(spec.call, args, grad)

    versions = (cast(args, torch.float64), args, cast(args, torch.float32))
    expected = [train(spec.reference, version, grad) for version in versions]
    for index, (actual, *others) in enumerate(zip(ours(), *expected, strict=True)):
        assert_gradient_accurate(actual, *others, what=f"{label}, gradient {index}")
    runs = {OURS: ours, EAGER: partial(train, spec.reference, args, grad)}
    with use_backend(backend):
        took = backward_backend(spec, ours)
    return _row(campaign, spec, table, label, runs, (args, grad), expected[1], took, flops_of=args, times=3)


def _op_peers(campaign: Campaign, reference: Callable[..., Tensor], args: tuple[Any, ...]) -> dict[str, Run]:
    peers: dict[str, Run] = {EAGER: partial(reference, *args)}
    if campaign.full:  # ten seconds each
        with contextlib.suppress(runtimes.Unavailable):
            peers["torch.compile"] = runtimes.torch_compile(reference, *args)
    return peers


def _row(
    campaign: Campaign,
    spec: Spec,
    table: str,
    label: str,
    runs: Mapping[str, Run],
    inputs: Any,
    outputs: Any,
    backend: str,
    flops_of: tuple[Any, ...] | None = None,
    times: int = 1,
) -> Row:
    args = inputs if flops_of is None else flops_of
    is_half = args[0].dtype in (torch.bfloat16, torch.float16)
    seconds = Clock(campaign.device).interleaved(runs, SECONDS)
    return Row(
        table,
        label,
        {name: Timing.of(values) for name, values in seconds.items()},
        flops=times * spec.flops(args),
        bytes_moved=spec.bytes_moved(inputs, outputs),
        notes={"backend": backend},
        tensor_cores=is_half and spec.name in PRODUCTS,
    )


class PlainModule(nn.Module):
    """The official arithmetic on a state dict, as a module: compilers take its weights for constants."""

    def __init__(self, function: Callable[..., Tensor], state_dict: dict[str, Tensor], bases: Tensor) -> None:
        super().__init__()
        self.function, self.names = function, {name: name.replace(".", "__") for name in state_dict}
        for name, tensor in state_dict.items():
            self.register_buffer(self.names[name], tensor)
        self.register_buffer("own_bases", bases)

    def forward(self, images: Tensor) -> Tensor:
        """The function's result."""
        weights = {name: getattr(self, attribute) for name, attribute in self.names.items()}
        return self.function(weights, self.own_bases, images)


def models(campaign: Campaign) -> None:
    """Deployed models in bfloat16, image to mask, against PyTorch's ways to run the same.

    Against torch.compile in workloads of their own, after the others: it may take a minute, and more than its time.
    """
    shapes = MODELS + MORE_MODELS if campaign.full else MODELS
    for compiled in (False,) if campaign.dry_run else (False, True):
        for size, batch, height, width, classes in (("t", 1, 64, 96, 19),) if campaign.dry_run else shapes:
            label = f"{size.upper()} {batch}x{height}x{width}, {classes} classes, bfloat16"
            label += ", compiled" if compiled else ""
            with _measured(campaign, "models", INFERENCE, label) as keep:
                if keep is not None:
                    keep(_model_row(campaign, size, (batch, height, width), classes, compiled, label))


def _model_row(
    campaign: Campaign, size: str, shape: tuple[int, int, int], classes: int, compiled: bool, label: str
) -> Row:
    device, dtype, (batch, height, width) = campaign.device, torch.bfloat16, shape
    model, state_dict = workloads.pair(size, classes)
    images, labels = workloads.scene(height, width, classes)
    workloads.fit_classifier(model, state_dict, images, labels)
    flops = batch * roofline.counted_flops(lambda: model.forward_logits(images))
    state_dict = in_layout({name: t.to(device) for name, t in state_dict.items()}, torch.channels_last)
    images = in_layout(images.to(device).expand(batch, -1, -1, -1), torch.channels_last)
    model, bases = model.to(device), model.decoder.hamburger.bases.to(device)
    ours = deploy(model, dtype)
    without_graph = deploy(model, dtype, cuda_graph=False)
    low = {name: t.to(dtype) if t.is_floating_point() else t for name, t in state_dict.items()}
    lower = PlainModule(plain_segnext.mask, low, bases.to(dtype))

    with torch.inference_mode():
        oracle = plain_segnext.logits(state_dict, bases, images)
    runs: dict[str, Run] = {OURS: lambda: ours.predict(images)}
    beside: dict[str, Run] = {"ours without a graph": lambda: without_graph.predict(images)}
    with torch.inference_mode():
        if compiled:
            runs |= _compiled(campaign, lower, images.to(dtype), label)
            ours_low = model.to(dtype)
            beside |= _compiled(campaign, ours_low.predict, images.to(dtype), label, "ours by ", (None,))
        else:
            plain = PlainModule(plain_segnext.mask, state_dict, bases)
            runs[EAGER] = lambda: lower(images.to(dtype))
            runs["eager, autocast"] = lambda: _autocast(plain, images, dtype)
        passed: dict[str, Run] = {}
        for name, run in runs.items():
            try:
                workloads.assert_labels_agree(run(), oracle, name)
                passed[name] = run
            except AssertionError as error:
                if name == OURS:
                    raise
                campaign.refuse(f"{INFERENCE}: {label}, {name}", error)
        del oracle
        times = Clock(device).interleaved({**passed, **beside}, 3 * SECONDS)
    timings = {name: Timing.of(values) for name, values in times.items()}
    return Row(
        INFERENCE,
        label,
        {name: timings[name] for name in passed},
        {name: timings[name] for name in beside},
        flops=flops,
        notes={"images_per_s": {name: round(1e3 * batch / t.median, 1) for name, t in timings.items()}},
        tensor_cores=True,
    )


def _autocast(module: nn.Module, images: Tensor, dtype: torch.dtype) -> Tensor:
    with torch.autocast(images.device.type, dtype):
        return module(images)


def _compiled(
    campaign: Campaign,
    function: Callable[[Tensor], Tensor],
    images: Tensor,
    label: str,
    prefix: str = "",
    modes: tuple[str | None, ...] = (None, "max-autotune"),
) -> dict[str, Run]:
    made: dict[str, Run] = {}
    for mode in modes:
        name = f"{prefix}torch.compile{' ' + mode if mode else ''}"
        try:
            alone = not made and not prefix
            made[name] = runtimes.torch_compile(function, images, mode=mode, alone=alone)
        except runtimes.Unavailable as reason:
            campaign.refuse(f"{INFERENCE}: {label}, {name}", reason)
    return made


def training(campaign: Campaign) -> None:
    """A training step of T under bfloat16 autocast: time, peak memory, losses."""
    batch, side = (2, 64) if campaign.dry_run else (16, 512)
    label = f"T {batch}x{side}x{side}, 150 classes, AdamW, bfloat16 autocast"
    with _measured(campaign, "training", TRAINING, label) as keep:
        if keep is not None:
            keep(_training_row(campaign, batch, side, label))


def _training_row(campaign: Campaign, batch: int, side: int, label: str) -> Row:
    device = campaign.device
    model, state_dict = workloads.pair("t", drop_path=0.0, decoder_dropout=0.0)
    generator = torch.Generator().manual_seed(2)
    images = torch.randn(batch, 3, side, side, generator=generator)
    images = in_layout(images.to(device), torch.channels_last)
    targets = torch.randint(workloads.CLASSES, (batch, side, side), generator=generator).to(device)
    flops = 3 * batch * roofline.counted_flops(lambda: model.forward_logits(images[:1].cpu()))
    state_dict = in_layout({name: t.to(device) for name, t in state_dict.items()}, torch.channels_last)
    model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def training_of(
        made: tuple[dict[str, Tensor], workloads.Loss], autocast: bool = True
    ) -> workloads.Training:
        parameters, loss = made

        def low() -> Tensor:
            with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
                return loss(images, targets)

        return workloads.Training(parameters, low)

    oracle = training_of(workloads.plain_loss(state_dict, model), autocast=False).step()
    runs = {
        EAGER: training_of(workloads.plain_loss(state_dict, model)),
        OURS: training_of(workloads.model_loss(model)),
    }
    fresh: dict[str, dict[str, float]] = {}
    for name, run in runs.items():
        before = _peak(device, reset=True)
        first = Clock(device).seconds(run.step)
        workloads.assert_step_no_worse(run, oracle, runs[EAGER], name)
        if before is not None:
            fresh[name] = {"peak_mib": (_peak(device) or 0) - before, "first_ms": 1e3 * first}
    seconds = Clock(device).interleaved({name: run.step for name, run in runs.items()}, 3 * SECONDS)
    timings = {name: Timing.of(values) for name, values in seconds.items()}
    for name, found in fresh.items():
        found["warm_ms"] = timings[name].median
    notes: dict[str, Any] = {"losses": {name: run.losses[:20] for name, run in runs.items()}}
    return Row(
        TRAINING,
        label,
        {name: timings[name] for name in (OURS, EAGER)},
        flops=flops,
        notes={**notes, **({"fresh": fresh} if fresh else {})},
        tensor_cores=True,
    )


def _peak(device: torch.device, reset: bool = False) -> float | None:
    """MiB that were allocated at most, or are now after a reset; None on a CPU."""
    if device.type != "cuda":
        return None
    if reset:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    return torch.cuda.max_memory_allocated() / 2**20
