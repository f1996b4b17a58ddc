"""`segnext patch`: shows what `segnext.patch` would do to a model of the user's, and what that gains."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from segnext.cli._options import Batch, Size, Threads, configure_torch, parse_size
from segnext.one_line import one_line

if TYPE_CHECKING:
    from torch import Tensor, nn

MIN_ROUNDS, MAX_ROUNDS = 3, 30


def patch(
    model: Annotated[
        str,
        typer.Argument(
            help="package.module:name of a model, or of a function without arguments that builds one; "
            "modules of the current folder are found."
        ),
    ],
    size: Size = "512",
    channels: Annotated[int, typer.Option(min=1, help="Channels of the images.")] = 3,
    batch: Batch = 1,
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Compare outputs and gradients of the whole model, before and after."),
    ] = False,
    seconds: Annotated[
        float, typer.Option(min=0, help="Approximate time of the timed rounds; 0: do not time.")
    ] = 10,
    threads: Threads = None,
) -> None:
    """Try `segnext.patch` on a model of your own: what the kernels take over, what they leave, and what that gains.

    Examples:

      segnext patch my_project.networks:build_model --size 512 --verify

      segnext patch networks:van_b0 --size 224 --batch 8

    Nothing is written. In your code, `segnext.patch(model)` does the same.
    """
    import copy

    import torch
    from rich.console import Console

    from segnext.patching.patch import patch as patch_model

    console, errors = Console(highlight=False), Console(stderr=True, highlight=False)
    height, width = parse_size("--size", size)
    configure_torch(threads)
    before = _found(model).eval()
    after = copy.deepcopy(before)
    torch.manual_seed(0)
    images = torch.randn(batch, channels, height, width)
    with errors.status("comparing parts"):
        report = patch_model(after, verify=(images,) if verify else None)
    console.print(str(report), markup=False, soft_wrap=True)
    if seconds > 0 and report.patched:
        shape = "x".join(map(str, images.shape))
        _expect_to_run(model, before, images, shape)
        with errors.status("timing"):
            times = _times(before, after, images, seconds)
        for what, (old, new) in times.items():
            console.print(
                f"  {what} of {shape}: {1e3 * old:.1f} ms before, {1e3 * new:.1f} ms after, {old / new:.2f}x"
                f" ({torch.get_num_threads()} threads)",
                markup=False,
                soft_wrap=True,
            )


def _found(name: str) -> nn.Module:
    """Import a model, or call the function that builds it."""
    import importlib
    import sys

    from torch import nn

    home, separator, attributes = name.partition(":")
    if not (home and separator and attributes):
        raise ValueError(
            f"patch: MODEL must be package.module:name, got {name!r}; for example networks:build"
        )
    if "" not in sys.path:
        sys.path.insert(0, "")  # a script of pip's has its own folder there instead of the current one
    try:
        found: Any = importlib.import_module(home)
    except ModuleNotFoundError as error:
        raise ImportError(f"patch: {name} must be importable from here: {error}") from None
    for attribute in attributes.split("."):
        if not hasattr(found, attribute):
            raise ValueError(f"patch: {name} must exist, but there is no {attribute!r}")
        found = getattr(found, attribute)
    if not isinstance(found, nn.Module) and callable(found):
        try:
            found = found()
        except Exception as error:
            raise RuntimeError(
                f"patch: {name} must build a model, got {type(error).__name__}: {one_line(error)}"
            ) from error
    if not isinstance(found, nn.Module):
        raise TypeError(f"patch: {name} must be an nn.Module or build one, got {type(found).__name__}")
    return found


def _expect_to_run(name: str, model: nn.Module, images: Tensor, shape: str) -> None:
    import torch

    try:
        with torch.no_grad():
            model(images)
    except Exception as error:
        raise ValueError(
            f"patch: {name} must take images {shape}, got {type(error).__name__}: {one_line(error)}; see --size, "
            "--channels and --batch, or --seconds 0"
        ) from error


def _times(
    before: nn.Module, after: nn.Module, images: Tensor, seconds: float
) -> dict[str, tuple[float, float]]:
    """The median seconds of a forward without gradients, and of a forward and backward in training."""
    import torch
    from torch.utils._pytree import tree_leaves

    from segnext.measure.timing import interleaved, turn

    def forward(model: nn.Module) -> Callable[[], object]:
        def run() -> object:
            with torch.inference_mode():
                return model(images)

        return run

    def step(model: nn.Module) -> Callable[[], object]:
        def run() -> None:
            model.zero_grad(set_to_none=True)
            results = [
                t for t in tree_leaves(model(images)) if isinstance(t, torch.Tensor) and t.requires_grad
            ]
            torch.autograd.backward(results, [torch.ones_like(t) for t in results])

        return run

    found = {}
    for what, make, training in (("inference", forward, False), ("training step", step, True)):
        runs = {name: make(model.train(training)) for name, model in (("old", before), ("new", after))}
        taken = interleaved(
            {name: turn(run) for name, run in runs.items()}, seconds / 2, least=MIN_ROUNDS, most=MAX_ROUNDS
        )
        found[what] = statistics.median(taken["old"]), statistics.median(taken["new"])
    return found
