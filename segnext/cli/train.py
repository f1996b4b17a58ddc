"""`segnext train`: trains SegNeXt on a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer


def train(
    data: Annotated[str, typer.Argument(help="A data YAML, or the name of a shipped one: camvid.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the run, e.g. runs/first.")],
    root: Annotated[Path | None, typer.Option(help="Folder of the data, if not the YAML's own.")] = None,
    model: Annotated[str, typer.Option("--model", "-m", help="t, s, b or l (or segnext_t ...).")] = "t",
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
    steps: Annotated[int, typer.Option(help="Optimiser steps.")] = 4800,
    batch_size: Annotated[int, typer.Option(help="Images a step.")] = 8,
    crop: Annotated[int, typer.Option(help="Side of the square training crops, in pixels.")] = 224,
    scale: Annotated[
        tuple[float, float], typer.Option(help="Range of the random resize, relative to each image.")
    ] = (0.5, 1.5),
    flip: Annotated[bool, typer.Option(help="Mirror every other crop.")] = True,
    distort: Annotated[bool, typer.Option(help="Vary brightness, contrast, saturation and hue.")] = True,
    lr: Annotated[
        float, typer.Option(help="Peak learning rate of AdamW (official, pretrained: 6e-5).")
    ] = 1e-3,
    head_lr_multiplier: Annotated[
        float,
        typer.Option(help="Learning rate of the decoder over the backbone's (official, pretrained: 10)."),
    ] = 1.0,
    weight_decay: Annotated[
        float, typer.Option(help="On all parameters but those whose official name holds 'norm'.")
    ] = 0.01,
    warmup: Annotated[int, typer.Option(help="Steps of linear warm-up (official: 1500).")] = 100,
    schedule: Annotated[
        Literal["linear", "cosine"],
        typer.Option(help="Fall of the learning rate to 0 (official 'poly' with power 1: linear)."),
    ] = "linear",
    clip: Annotated[float, typer.Option(help="Largest gradient norm; 0: no limit.")] = 5.0,
    ema: Annotated[
        float, typer.Option(help="Decay of the averaged weights, which are evaluated and saved; 0: none.")
    ] = 0.999,
    balance: Annotated[
        float,
        typer.Option(help="Weigh rare classes higher: (median frequency / frequency)^BALANCE, 0..1."),
    ] = 0.0,
    label_smoothing: Annotated[float, typer.Option(help="Of the cross-entropy, 0..1.")] = 0.0,
    reduction: Annotated[
        Literal["mean", "mean_all"],
        typer.Option(help="Loss over labelled pixels, or (official) over all with ignored ones as 0."),
    ] = "mean",
    seed: Annotated[int, typer.Option(help="Of initial weights, order, augmentation and dropout.")] = 0,
    device: Annotated[str, typer.Option(help="auto (a GPU if there is one), cpu, cuda, cuda:1 ...")] = "auto",
    precision: Annotated[
        Literal["float32", "bfloat16"], typer.Option(help="bfloat16: autocast; weights stay float32.")
    ] = "float32",
    workers: Annotated[
        int, typer.Option(min=0, help="Threads that prepare batches; any number gives the same batches.")
    ] = 1,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads; default: PyTorch's choice.")
    ] = None,
    eval_every: Annotated[
        int, typer.Option(min=0, help="Steps between evaluations on val; 0: only at the end.")
    ] = 800,
    checkpoint_every: Annotated[int, typer.Option(min=1, help="Steps between checkpoints.")] = 200,
    log_every: Annotated[int, typer.Option(min=1, help="Steps between rows of results.csv.")] = 50,
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

    mine.yaml names the classes, and two folders a split with files of equal stems:

      path: .

      classes: [road, car]

      train: {images: images/train, labels: labels/train}

      val: {images: images/val, labels: labels/val}

    Labels are single-channel images of ids 0, 1, ...; 255 is ignored. The run's folder gets final.safetensors
    (the averaged weights, for `segnext predict --weights`), checkpoint.safetensors (for --resume, which goes
    on exactly as if never interrupted), results.csv and, where matplotlib is installed, curves.png. Ctrl-C
    writes a checkpoint first.
    """
    import torch
    from rich.console import Console

    from segnext.cli._tables import print_evaluation
    from segnext.create import create_model
    from segnext.data.dataset import load_data_config
    from segnext.device import choose_device
    from segnext.models import SegNeXt
    from segnext.training.loop import FINAL
    from segnext.training.loop import train as run
    from segnext.training.settings import Reporting, TrainSettings

    if threads is not None:
        torch.set_num_threads(threads)
    config = load_data_config(data, root)
    settings = TrainSettings(
        steps=steps,
        batch_size=batch_size,
        crop=crop,
        scale=scale,
        flip=flip,
        distort=distort,
        lr=lr,
        head_lr_multiplier=head_lr_multiplier,
        weight_decay=weight_decay,
        warmup=warmup,
        schedule=schedule,
        clip=clip,
        ema=ema,
        balance=balance,
        label_smoothing=label_smoothing,
        reduction=reduction,
        precision=precision,
        seed=seed,
    )
    torch.manual_seed(seed)  # before the model draws its weights
    name = f"segnext_{model}" if len(model) == 1 else model
    network = create_model(name, weights, len(config.classes), head=head, part=part)
    if not isinstance(network, SegNeXt):
        raise ValueError(f"train: model must be one of t, s, b, l, got {model}, which does not segment")
    console = Console()
    evaluation = run(
        network,
        config,
        output,
        settings,
        Reporting(eval_every, checkpoint_every, log_every, workers),
        device=choose_device(device),
        resume=resume,
        overwrite=overwrite,
        console=console,
    )
    if evaluation is not None:
        print_evaluation(console, evaluation, config.classes)
    console.print(f"weights: {output / FINAL}", markup=False, highlight=False, soft_wrap=True)
