"""`segnext train`: trains SegNeXt on a data set."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from segnext.cli._options import (
    SIZE_NAMES,
    Data,
    Device,
    Root,
    Threads,
    configure_torch,
    expanded,
    output_option,
)
from segnext.training.settings import Reporting, TrainSettings

if TYPE_CHECKING:
    from segnext.models import SegNeXt


@expanded
def train(
    data: Data,
    output: Annotated[Path, output_option("Folder of the run, e.g. runs/first.")],
    root: Root = None,
    model: Annotated[str, typer.Option("--model", "-m", help=f"{SIZE_NAMES}, or segnext_t ...")] = "t",
    weights: Annotated[
        str | None,
        typer.Option(
            "--weights", "-w", help="Start from a shipped name or a checkpoint in any known layout."
        ),
    ] = None,
    head: Annotated[
        Literal["strict", "reinit"],
        typer.Option(help="reinit: a new classifier, for weights of other classes than the data's."),
    ] = "strict",
    part: Annotated[
        Literal["all", "backbone"],
        typer.Option(help="backbone: take only the encoder of the weights (ImageNet)."),
    ] = "all",
    one_step_grad: Annotated[
        bool,
        typer.Option(
            "--one-step-grad",
            help="Differentiate only the last step of the decoder's factorisation (less memory).",
        ),
    ] = False,
    settings: TrainSettings = TrainSettings(),  # noqa: B008 (frozen)
    device: Device = "auto",
    reporting: Reporting = Reporting(eval_every=800),  # noqa: B008 (frozen)
    threads: Threads = None,
    compiled: Annotated[
        bool,
        typer.Option("--compile", help="Compile the network (torch.compile); the first step takes long."),
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the folder's checkpoint; repeat the same options.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a run that lies in the folder.")
    ] = False,
) -> None:
    """Train SegNeXt. The defaults suit a small data set (hundreds of images) from scratch.

    Examples:

      segnext train camvid --root data/camvid -o runs/camvid

      segnext train camvid --root data/camvid -o runs/camvid --resume

      segnext train mine.yaml -o runs/mine --weights camvid --head reinit --lr 2e-4

      torchrun --nproc-per-node 4 -m segnext train mine.yaml -o runs/mine --batch-size 16

    mine.yaml names the classes, and for each split two folders whose files have equal names:

      path: .

      classes: [road, car]

      train: {images: images/train, labels: labels/train}

      val: {images: images/val, labels: labels/val}

    Labels are single-channel images of ids 0, 1, ...; 255 is ignored (masks of 0 and 255 need one more line,
    label_map: {0: 0, 255: 1}). All are checked before the first step, as `segnext doctor mine.yaml` does. The
    run's folder gets final.safetensors (the averaged weights, for `segnext predict --weights`),
    checkpoint.safetensors (for --resume, which goes on exactly as if the run had never stopped), results.csv and,
    if matplotlib is installed, curves.png. Ctrl-C writes a checkpoint before it stops the run.
    """
    import torch
    from rich.console import Console

    from segnext.cli._tables import note_other_names, print_evaluation
    from segnext.data.config import load_data_config
    from segnext.device import choose_device
    from segnext.training.loop import FINAL
    from segnext.training.loop import train as run

    configure_torch(threads)
    config = load_data_config(data, root)
    torch.manual_seed(settings.seed)  # before the model draws its weights
    options = {"nmf_grad": "one_step"} if one_step_grad else {}
    network = _network(model, weights, len(config.classes), head, part, options)
    if compiled:
        network.compile()
    is_first = os.environ.get("RANK", "0") == "0"  # of the processes that torchrun started
    console = Console(quiet=not is_first)
    effect = "ids are kept, not names; --head reinit begins with a new classifier"
    note_other_names(console, config.classes, network, effect)
    evaluation = run(
        network,
        config,
        output,
        settings,
        reporting,
        device=choose_device(device),
        resume=resume,
        overwrite=overwrite,
        console=console,
    )
    if evaluation is not None:
        print_evaluation(console, evaluation, config.classes)
    console.print(f"weights: {output / FINAL}", markup=False, highlight=False, soft_wrap=True)


def _network(
    name: str, weights: str | None, classes: int, head: str, part: str, options: dict[str, Any]
) -> SegNeXt:
    from segnext.create import create_model
    from segnext.models import SegNeXt

    network = create_model(name, weights, classes, head=head, part=part, **options)
    if not isinstance(network, SegNeXt):
        raise ValueError(f"train: model must be one of {SIZE_NAMES}, got {name}, which does not segment")
    return network
