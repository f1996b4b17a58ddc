"""`segnext val`: evaluates weights on a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer


def val(
    data: Annotated[str, typer.Argument(help="A data YAML, or the name of a shipped one: camvid.")],
    weights: Annotated[
        str,
        typer.Option("--weights", "-w", help="Shipped name (camvid) or a checkpoint in any known layout."),
    ],
    root: Annotated[Path | None, typer.Option(help="Folder of the data, if not the YAML's own.")] = None,
    split: Annotated[Literal["train", "val", "test"], typer.Option(help="Which images.")] = "val",
    mode: Annotated[
        Literal["whole", "slide"],
        typer.Option(help="The whole image at once, or overlapping windows (Cityscapes protocol)."),
    ] = "whole",
    crop: Annotated[int, typer.Option(help="slide: side of a window, in pixels.")] = 1024,
    stride: Annotated[
        int | None, typer.Option(help="slide: step between windows; default 3/4 of the crop.")
    ] = None,
    scales: Annotated[
        str, typer.Option(help="Average over these sizes, e.g. 0.5,0.75,1,1.25,1.5,1.75 (slower, better).")
    ] = "1",
    flip: Annotated[bool, typer.Option("--flip", help="Average with the mirrored image too.")] = False,
    short_side: Annotated[
        int | None, typer.Option(help="Resize images to this for the network (ADE20K: 512); default: native.")
    ] = None,
    size_divisor: Annotated[
        int | None,
        typer.Option(help="Round the network's input up to a multiple; 32 matches published numbers."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write measures and confusion matrix as JSON.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output if it exists.")] = False,
    device: Annotated[str, typer.Option(help="auto (a GPU if there is one), cpu, cuda, cuda:1 ...")] = "auto",
    precision: Annotated[
        Literal["float32", "bfloat16"], typer.Option(help="bfloat16: autocast; weights stay float32.")
    ] = "float32",
    deployed: Annotated[
        bool, typer.Option("--deploy", help="Evaluate the deployed model, which `segnext predict` runs.")
    ] = False,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads; default: PyTorch's choice.")
    ] = None,
) -> None:
    """Evaluate weights: IoU and accuracy of each class, mIoU, pixel accuracy.

    Examples:

      segnext val camvid --root data/camvid --weights camvid

      segnext val mine.yaml --weights runs/mine/final.safetensors -o runs/mine/val.json

      segnext val camvid --root data/camvid -w camvid --scales 0.5,0.75,1,1.25,1.5,1.75 --flip

    Images are seen whole and at native size, unless asked otherwise. Everything comes from one confusion
    matrix over the whole set; ignored pixels (255) count nowhere, and classes that neither occur nor are
    predicted are left out of the means.
    """
    import json
    from dataclasses import asdict

    import torch
    from rich.console import Console
    from rich.progress import Progress

    from segnext.cli._options import parse_numbers
    from segnext.cli._tables import print_evaluation
    from segnext.create import create_model
    from segnext.data.dataset import load_data_config
    from segnext.deployment.model import deploy
    from segnext.device import choose_device
    from segnext.evaluation.evaluate import evaluate
    from segnext.models import SegNeXt
    from segnext.predict.inference import Inference

    if output is not None and output.exists() and not overwrite:
        raise FileExistsError(f"val: output must not exist, got {output}; replace it with --overwrite")
    inference = Inference(
        mode=mode,
        crop=crop,
        stride=stride,
        scales=parse_numbers("--scales", scales),
        flip=flip,
        short_side=short_side,
        size_divisor=size_divisor,
    )
    if threads is not None:
        torch.set_num_threads(threads)
    config = load_data_config(data, root)
    dataset = config.open(split)
    model = create_model(weights=weights)
    if not isinstance(model, SegNeXt) or model.config.num_classes != len(config.classes):
        raise ValueError(
            f"val: weights must be a SegNeXt of {len(config.classes)} classes for {config.name}, got "
            f"{weights}: {model.config.architecture} of {model.config.num_classes}"
        )
    chosen, dtype = choose_device(device), getattr(torch, precision)
    console = Console()
    names = zip(config.classes, model.metadata.get("classes", config.classes), strict=False)
    renamed = [f"{ours} / {theirs}" for ours, theirs in names if ours != theirs]
    if renamed:
        text = f"note: {len(renamed)} classes have another name in the weights ({', '.join(renamed[:3])})"
        console.print(f"{text}; ids are compared, not names", markup=False, highlight=False, soft_wrap=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(f"{config.name} {split}", total=len(dataset))
        evaluation = evaluate(
            deploy(model.to(chosen), dtype) if deployed else model.to(chosen).eval(),
            dataset,
            device=chosen,
            precision=torch.float32 if deployed else dtype,
            inference=inference,
            after_image=lambda: progress.advance(task),
        )
    print_evaluation(console, evaluation, config.classes)
    if output is not None:
        result = {
            "data": config.name,
            "split": split,
            "weights": weights,
            "deployed": deployed,
            "precision": precision,
            "inference": asdict(inference),
            **evaluation.summary(config.classes),
            "confusion": evaluation.confusion.counts.tolist(),
        }
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        console.print(f"measures: {output}", markup=False, highlight=False, soft_wrap=True)
