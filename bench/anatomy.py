"""Finds where the time of a deployed model goes on this machine's CPU, op by op: `python -m bench.anatomy`.

Each op runs in its place in the model, from image to mask, and is timed by itself. Beside its time stands its floor:
the time below which this machine cannot be, by ceilings that are measured first. Before anything is timed, logits and
mask must be those of `segnext.deploy` bit for bit. Without a model, size, classes or dtype, T and B at 512x512 and T at
1024x2048 are taken apart in fp32 and bf16, and the result is kept in bench/results/<machine>/anatomy/. With one of
them, only the table is shown. `bench.campaign.anatomy` is the same question on a GPU.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from bench import machine, report, results, roofline
from bench.models.networks import CLASSES, image, pair
from bench.op_costs import op_costs
from bench.results import Anatomy, OpCost, OpTime, Results
from oracle.inputs import DTYPES
from segnext import deploy
from segnext.deployment.folding import fold
from segnext.deployment.model import DeployedSegNeXt
from segnext.deployment.packed import PackedLayers, PackedNetwork
from segnext.deployment.parts import Layer, Layers
from segnext.measure.timing import interleaved, turn
from segnext.models import SegNeXt
from segnext.models.registry import SIZES
from segnext_kernels import packed, upsample_argmax

KEPT = (("t", CLASSES, 512, 512), ("b", CLASSES, 512, 512), ("t", 19, 1024, 2048))
SHORT = {name: DTYPES[name] for name in ("fp32", "bf16")}
MIN_ROUNDS = 5
LEAST_SIDE = 32  # pixels: the encoder's last map then has one


class TimedModel:
    """A deployed model on a CPU that notes the seconds of each op of a call.

    Attributes:
        laps: the seconds of each op in the last call, in their order.
    """

    def __init__(self, model: SegNeXt, deployed: DeployedSegNeXt) -> None:
        self.laps: list[float] = []
        self._deployed, self._align_corners = deployed, model.config.align_corners
        layers = cast(Layers, _TimedLayers(PackedLayers(deployed.dtype), self.laps))
        self._network = PackedNetwork(fold(model), model.config, deployed.dtype, layers)
        self._labels = _timed(upsample_argmax, self.laps)

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits and mask, by the steps of `DeployedSegNeXt.predict`."""
        self.laps.clear()
        logits = self._network.logits(images)
        self._deployed.expect_finite(logits)
        size = (images.shape[2], images.shape[3])
        return logits, self._labels(logits, size, self._align_corners)


class _TimedLayers:
    """Makes the layers of another maker, each of which adds the seconds of a call to ``laps``."""

    def __init__(self, layers: Layers, laps: list[float]) -> None:
        self._layers, self._laps = layers, laps

    def __getattr__(self, kind: str) -> Callable[..., Layer]:
        make = getattr(self._layers, kind)
        return lambda *args, **options: _timed(make(*args, **options), self._laps)


def _timed(layer: Layer, laps: list[float]) -> Layer:
    def run(*args: Any) -> Tensor:
        start = time.perf_counter()
        out = layer(*args)
        laps.append(time.perf_counter() - start)
        return out

    return run


def take_apart(name: str, model: SegNeXt, images: Tensor, dtype: torch.dtype, seconds: float) -> Anatomy:
    """Return where the time of a deployed model goes.

    Args:
        name: the model's, for the table.
        model: a SegNeXt on the CPU.
        images: (N, C, H, W), normalised, float32.
        dtype: float32 or bfloat16, see `segnext.deploy`.
        seconds: time for all rounds; at least `MIN_ROUNDS` are run.

    Raises:
        ValueError: there is no compiled library.
        AssertionError: logits or mask are not those of `segnext.deploy`, or the ops not those that were counted.
    """
    if (reason := packed.unavailable()) is not None:
        raise ValueError(f"anatomy: the CPU library must be there, got none: {reason}")
    costs = op_costs(model, images.shape, dtype)
    deployed = deploy(model, dtype)
    timed = TimedModel(model, deployed)
    rounds: list[tuple[float, list[float]]] = []

    def one_turn() -> float:
        whole = turn(partial(timed, images))()
        rounds.append((whole, list(timed.laps)))
        return whole

    with torch.inference_mode():
        check(timed(images), deployed, images)
        if len(timed.laps) != len(costs):
            raise AssertionError(f"anatomy: {len(timed.laps)} ops were timed, {len(costs)} were counted")
        turns = {"apart": one_turn, "predict": turn(partial(deployed.predict, images))}
        times = interleaved(turns, seconds, least=MIN_ROUNDS)
    whole, laps = middle(rounds)
    rows = grouped(costs, laps)
    short = next(short for short, known in SHORT.items() if known == dtype)
    predict, _ = middle([(seconds, []) for seconds in times["predict"]])
    return Anatomy(name, short, rows, 1e3 * (whole - sum(laps)), 1e3 * predict, len(rounds))


def check(found: tuple[Tensor, Tensor], deployed: DeployedSegNeXt, images: Tensor) -> None:
    """Raise an AssertionError unless logits and mask are the deployed model's, bit for bit."""
    expected = deployed.forward_logits(images), deployed.predict(images)
    for what, ours, theirs in zip(("logits", "mask"), found, expected, strict=True):
        if not torch.equal(ours, theirs):
            raise AssertionError(
                f"anatomy: {what} must be those of segnext.deploy, got others; nothing was timed"
            )


def middle(rounds: Sequence[tuple[float, list[float]]]) -> tuple[float, list[float]]:
    """Return whole and laps, each the mean of the middle half of the rounds by their whole.

    Medians would be as robust, but those of the laps do not add up to that of the whole.
    """
    ordered = sorted(rounds, key=lambda one: one[0])
    cut = len(ordered) // 4
    kept = ordered[cut : len(ordered) - cut]
    laps = [statistics.fmean(lap) for lap in zip(*(laps for _, laps in kept), strict=True)]
    return statistics.fmean(whole for whole, _ in kept), laps


def grouped(costs: Sequence[OpCost], laps: Sequence[float]) -> list[OpTime]:
    """Return a row per op and shape, in the order of their first calls; ``laps`` are seconds."""
    groups: dict[tuple[str, str, bool], list[tuple[OpCost, float]]] = {}
    for cost, lap in zip(costs, laps, strict=True):
        groups.setdefault((cost.op, cost.shapes, cost.half), []).append((cost, lap))
    return [
        OpTime(
            op=op,
            shapes=shapes,
            products=sum(cost.products for cost, _ in group),
            taps=sum(cost.taps for cost, _ in group),
            bytes_moved=sum(cost.bytes_moved for cost, _ in group),
            half=half,
            calls=len(group),
            ms=1e3 * sum(lap for _, lap in group),
        )
        for (op, shapes, half), group in groups.items()
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `python -m bench.anatomy`."""
    options = _parser().parse_args(arguments)
    kept = (options.model, options.size, options.classes, options.dtype) == (None,) * 4
    own = (options.model or "t", options.classes or CLASSES, *(options.size or (512, 512)))
    if options.threads:
        torch.set_num_threads(options.threads)
    run = Results(machine.describe(), roofline.measure(), [])
    for case in KEPT if kept else [own]:
        for dtype in [options.dtype] if options.dtype else SHORT:
            try:
                found = _case(*case, SHORT[dtype], options.seconds)
            except (AssertionError, ValueError) as error:
                raise SystemExit(str(error)) from None
            run.anatomy.append(found)
            print(f"## {found.title}\n\n{report.anatomy(found, run.ceilings)}\n", flush=True)
    print(f"{run.machine['threads']} threads; ceilings, measured: {report.measured_ceilings(run.ceilings)}")
    if kept:
        path = results.write(run, options.results, "anatomy")
        print("\n".join(f"wrote {written}" for written in [path, *report.draw(run, path)]))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.anatomy",
        description=__doc__,
        epilog="Columns: calls of the op at this shape; milliseconds of all of them; their share of the whole (the "
        "three longest are bold); their floor, which is the larger of the time of the FLOPs and of that of the "
        "(modelled) bytes at this machine's ceilings; the floor over the time; and which of the two the floor is. "
        "docs/benchmarks.md says more. Example: python -m bench.anatomy --model b --size 1024x2048 --classes 19",
    )
    parser.add_argument("--model", choices=SIZES, help="size of SegNeXt (default: t)")
    parser.add_argument("--size", type=_size, metavar="HxW", help="input: 512, or 1024x2048 (default: 512)")
    parser.add_argument("--classes", type=_at_least(2), help=f"number of classes (default: {CLASSES})")
    parser.add_argument("--dtype", choices=SHORT, help="arithmetic (default: both, one after the other)")
    parser.add_argument("--threads", type=_at_least(1), help="CPU threads (default: PyTorch's choice)")
    parser.add_argument(
        "--seconds", type=float, default=5.0, help="time for each model and dtype (default: 5)"
    )
    parser.add_argument(
        "--results", type=Path, default=results.FOLDER, help="folder of the machines' results"
    )
    return parser


def _at_least(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"must be a number from {least} on, got {text!r}")
        return int(text)

    return number


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    side = _at_least(LEAST_SIDE)
    return side(height), side(width or height)


def _case(size: str, classes: int, height: int, width: int, dtype: torch.dtype, seconds: float) -> Anatomy:
    """Take a model with weights of trained-like statistics apart, on an image as in the benchmarks of models."""
    model, _ = pair(size, classes)
    name = f"{size.upper()} {height}x{width}, {classes} classes"
    return take_apart(name, model, image(height, width), dtype, seconds)


if __name__ == "__main__":
    main()
