"""`segnext bench`: times our inference model against other runtimes on this machine."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from segnext.cli._options import (
    SIZE_NAMES,
    Batch,
    MatmulPrecision,
    Size,
    Threads,
    configure_torch,
    parse_size,
)
from segnext.export.targets import is_exported

if TYPE_CHECKING:
    import torch
    from rich.console import Console
    from torch import Tensor

    from segnext.measure.runtimes import Run
    from segnext.models import SegNeXt

OURS = "segnext"
# Largest accepted error of a logit, relative to the largest logit: rounding adds up through the whole network.
TOLERANCES = {"float32": 1e-4, "bfloat16": 5e-2}
MIN_ROUNDS, MAX_ROUNDS = 3, 50


def bench(
    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            help=f"{SIZE_NAMES}; an architecture; weights, a checkpoint, or an exported file.",
        ),
    ] = "t",
    size: Size = "512",
    dtype: Annotated[
        Literal["float32", "bfloat16"], typer.Option(help="Arithmetic of all runtimes.")
    ] = "float32",
    batch: Batch = 1,
    logits: Annotated[
        bool,
        typer.Option("--logits", help="Stop at the logits, at an eighth of the size: no resize, no mask."),
    ] = False,
    compile: Annotated[
        bool, typer.Option("--compile/--no-compile", help="Include torch.compile: minutes of compilation.")
    ] = False,
    seconds: Annotated[float, typer.Option(min=0, help="Approximate time of all rounds together.")] = 10,
    threads: Threads = None,
    matmul_precision: MatmulPrecision = "highest",
) -> None:
    """Time SegNeXt from image to mask on this machine's CPU, against the other runtimes that are installed.

    Examples:

      segnext bench

      segnext bench --model b --size 512 --dtype bfloat16

      segnext bench --model camvid --size 360x480 --compile

      segnext bench --model camvid.onnx

      pip install onnx onnxscript onnxruntime openvino && segnext bench --size 1024x2048

    The others are eager PyTorch and, where they are installed, ONNX Runtime and OpenVINO, all on the same weights
    with the same number of threads. A runtime whose result differs from that of eager float32 gets no number. All
    of them take turns, so that a busy machine slows all of them down; the medians are printed. Preparing the
    others takes half a minute for T and several minutes for L. An exported file is timed alone, in its own runtime, at
    the size that it takes (--size for one of free sizes).
    """
    import torch
    from rich.console import Console

    from segnext.measure import timing

    console, errors = Console(highlight=False), Console(stderr=True, highlight=False)
    height, width = parse_size("--size", size)
    configure_torch(threads, matmul_precision)
    if is_exported(model):
        title, times = _time_file(model, getattr(torch, dtype), (batch, height, width), logits, seconds)
        _print(console, title, times, {}, batch)
        return
    network = _build(model)
    images = _noise(batch, network.config.in_channels, height, width)
    with errors.status("preparing eager PyTorch") as status:
        show = _progress(errors, status.update)
        runs, reasons = _prepare(network, images, getattr(torch, dtype), logits, compile, show)
        with torch.inference_mode():
            times = timing.interleaved(
                {name: timing.turn(run) for name, run in runs.items()},
                seconds,
                least=MIN_ROUNDS,
                most=MAX_ROUNDS,
                before_turn=lambda number, name: show(f"round {number}: {name}"),
            )
    name = network.config.architecture
    target = "logits" if logits else "mask"
    title = f"{name}, {batch}x{height}x{width} to {target}, {dtype}, {torch.get_num_threads()} threads"
    _print(console, title, times, reasons, batch)


def _time_file(
    file: str, dtype: torch.dtype, shape: tuple[int, int, int], logits: bool, seconds: float
) -> tuple[str, dict[str, list[float]]]:
    """Time an exported file; returns a title, and the seconds of each round."""
    import torch

    from segnext.export.network import open_exported
    from segnext.measure import timing

    network = open_exported(file, dtype)
    interface = network.description.interface
    batch, height, width = shape if interface.dynamic else (shape[0], interface.height, interface.width)
    images = _noise(batch, network.config.in_channels, height, width)
    run = partial(network.forward_logits if logits else network.predict, images)
    times = timing.interleaved(
        {network.runtime: timing.turn(run)}, seconds, least=MIN_ROUNDS, most=MAX_ROUNDS
    )
    title = f"{network.file}: {network.config.architecture}, {batch}x{height}x{width} to "
    title += (
        f"{'logits' if logits else 'mask'}, {network.description.dtype}, {torch.get_num_threads()} threads"
    )
    return title, times


def _noise(*shape: int) -> Tensor:
    import torch

    torch.manual_seed(0)
    return torch.randn(shape).contiguous(memory_format=torch.channels_last)


def _progress(errors: Console, update: Callable[[str], None]) -> Callable[[str], None]:
    """Show the current task: on a terminal as one line that changes, elsewhere as one line per task without rounds."""

    def show(text: str) -> None:
        if errors.is_terminal:
            update(text)
        elif not text.startswith("round"):
            errors.print(text, markup=False)

    return show


def _build(name: str) -> SegNeXt:
    import torch

    from segnext.create import create_model
    from segnext.models import SegNeXt, list_models
    from segnext.models.registry import find_architecture

    torch.manual_seed(0)
    network = create_model(name) if find_architecture(name) else create_model(weights=name)
    if not isinstance(network, SegNeXt):
        raise ValueError(
            f"bench: --model must be a SegNeXt, got {name!r}; {', '.join(list_models('segnext*'))}"
        )
    return network.eval()


def _prepare(
    network: SegNeXt,
    images: Tensor,
    dtype: torch.dtype,
    logits: bool,
    compile: bool,
    show: Callable[[str], None],
) -> tuple[dict[str, Run], dict[str, str]]:
    """Return the runtimes that agree with plain PyTorch in float32, ours first, and why others get no number."""
    import torch

    from segnext.measure import agreement, runtimes

    plain = runtimes.plain(network, images)
    with torch.inference_mode():
        oracle = plain(images)
    tolerance = TOLERANCES[str(dtype).removeprefix("torch.")]
    runs: dict[str, Run] = {}
    reasons: dict[str, str] = {}
    for name, make in _makers(network, images, plain, dtype, logits, compile).items():
        show(f"preparing {name}")
        try:
            run = make()
            with torch.inference_mode():
                wrong = agreement.disagreement(run(), oracle, tolerance)
        except runtimes.Unavailable as reason:
            wrong = str(reason)
        if wrong and name == OURS:
            raise RuntimeError(
                f"bench: {wrong}, while plain PyTorch in float32 says otherwise; please report"
            )
        if wrong:
            reasons[name] = wrong
        else:
            runs[name] = run
    return runs, reasons


def _makers(
    network: SegNeXt,
    images: Tensor,
    plain: Callable[[Tensor], Tensor],
    dtype: torch.dtype,
    logits: bool,
    compile: bool,
) -> dict[str, Callable[[], Run]]:
    """Return a function per runtime that prepares it; `plain` is the network in PyTorch's own operators, float32."""
    import copy

    import torch

    from segnext import deploy
    from segnext.measure import runtimes

    half = dtype != torch.float32
    eager = runtimes.plain(copy.deepcopy(network).to(dtype), images.to(dtype)) if half else plain
    ours = deploy(network, dtype)
    size = (images.shape[2], images.shape[3])

    def to_end(function: Callable[[Tensor], Tensor], axis: int) -> Callable[[Tensor], Tensor]:
        return function if logits else lambda x: runtimes.label_map(function(x), size, axis)

    eager_run = to_end(lambda x: eager(x.to(dtype)), axis=1)
    graphs: list[bytes] = []

    def on_graphs(runtime: Callable[..., Run]) -> Run:
        """Return the faster of the formulations; runtimes differ in which one that is."""
        if not graphs:
            graphs.extend(
                runtimes.export_onnx(to_end(plain, axis), images) for axis in ((1,) if logits else (1, -1))
            )
        return runtimes.fastest([runtime(graph, images) for graph in graphs])

    makers: dict[str, Callable[[], Run]] = {
        OURS: lambda: partial(ours.forward_logits if logits else ours.predict, images),
        "eager PyTorch": lambda: partial(eager_run, images),
    }
    if compile:
        makers["torch.compile"] = lambda: runtimes.torch_compile(eager_run, images)
    if not half:
        makers["ONNX Runtime"] = lambda: on_graphs(runtimes.onnx_runtime)
    makers["OpenVINO"] = lambda: on_graphs(partial(runtimes.openvino, dtype=dtype))
    return makers


def _print(
    console: Console, title: str, times: dict[str, list[float]], reasons: dict[str, str], batch: int
) -> None:
    from rich.table import Table

    table = Table("runtime", title=title)
    headings = ["ms", "fastest", "slowest", "images/s", *(["its time / segnext's"] if OURS in times else [])]
    for heading in headings:
        table.add_column(heading, justify="right")
    for name, each in times.items():
        median = statistics.median(each)
        ratio = (
            [] if name == OURS or OURS not in times else [f"{median / statistics.median(times[OURS]):.2f}x"]
        )
        shown = (f"{1e3 * value:.1f}" for value in (median, min(each), max(each)))
        table.add_row(name, *shown, f"{batch / median:.1f}", *ratio)
    console.print(table)
    for name, reason in reasons.items():
        console.print(f"{name}: no number: {reason}", markup=False)
