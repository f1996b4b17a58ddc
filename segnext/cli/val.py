"""`segnext val`: evaluates weights on a data set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from segnext.cli._options import (
    Chosen,
    Data,
    Device,
    InferenceOptions,
    MatmulPrecision,
    Root,
    Threads,
    Weights,
    at_home,
    configure_torch,
    expanded,
    output_option,
)
from segnext.cli._paths import prepare_file
from segnext.data.shipped import CLASSIFICATION

if TYPE_CHECKING:
    from segnext.data.config import DataConfig
    from segnext.data.dataset import SegmentationFolder
    from segnext.evaluation.evaluate import Evaluation
    from segnext.evaluation.worst import WorstImages
    from segnext.models import SegNeXt

MOST_WORST = 1000  # their masks are kept in memory


@expanded
def val(
    data: Data,
    weights: Weights,
    root: Root = None,
    split: Annotated[Literal["train", "val", "test"], typer.Option(help="Which images.")] = "val",
    options: Chosen[InferenceOptions] = InferenceOptions(),  # type: ignore[assignment]  # noqa: B008 (frozen)
    multi_scale: Annotated[
        bool,
        typer.Option("--multi-scale", help="Scales 0.5 to 1.75, mirrored too: the paper's second number."),
    ] = False,
    output: Annotated[Path | None, output_option("Write measures and confusion matrix as JSON.")] = None,
    confusion: Annotated[
        Path | None,
        typer.Option(
            help="Draw the confusion matrix into this PNG file (needs matplotlib).", callback=at_home
        ),
    ] = None,
    worst_dir: Annotated[
        Path | None,
        typer.Option(
            help="Save the worst images in this folder: photograph, label and prediction side by side, and worst.csv.",
            callback=at_home,
        ),
    ] = None,
    worst_count: Annotated[
        int, typer.Option(min=1, max=MOST_WORST, help="--worst-dir: how many, from the lowest mIoU up.")
    ] = 20,
    boundary: Annotated[
        bool,
        typer.Option("--boundary", help="Measure boundary IoU too, how well outlines are found (slower)."),
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what exists of the outputs.")
    ] = False,
    device: Device = "auto",
    dtype: Annotated[
        Literal["float32", "bfloat16"], typer.Option(help="Arithmetic of the network.")
    ] = "float32",
    deploy: Annotated[
        bool,
        typer.Option(
            "--deploy/--eager",
            help="Evaluate the deployed model, as `segnext predict` runs it, or the model itself (bfloat16: autocast).",
        ),
    ] = True,
    threads: Threads = None,
    matmul_precision: MatmulPrecision = "highest",
) -> None:
    """Evaluate weights: IoU, accuracy and Dice (F1) of each class, their means, pixel accuracy.

    Examples:

      segnext val camvid --root data/camvid --weights camvid

      segnext val mine.yaml --weights runs/mine/final.safetensors -o runs/mine/val.json

      segnext val ade20k --root /data/ade -w segnext_b.pth --multi-scale

      segnext val imagenet --root /data/imagenet -w mscan_b.pth

      segnext val mine.yaml -w runs/mine/final.safetensors --confusion confusion.png --worst-dir worst --boundary

    Data sets of the paper are evaluated by its protocol (`segnext recipes`), others whole and at the size that the
    weights were trained for, unless asked otherwise; the protocol is printed. Everything comes from one confusion
    matrix over the whole set at the labels' size. Labels and images are checked first, as `segnext doctor` does:
    errors stop the command, warnings are printed. Ignored pixels count nowhere, and classes that neither occur nor
    are predicted are left out of the means. Encoders (imagenet) are evaluated by top-1 and top-5 of the centre of each
    image, 224 pixels of 248.
    """
    from dataclasses import asdict, replace

    import torch
    from rich.console import Console
    from rich.progress import Progress

    from segnext.cli._classification import val_classifier
    from segnext.cli._tables import note_other_names, print_evaluation
    from segnext.data.check import require_sound
    from segnext.data.config import load_data_config
    from segnext.data.preprocessing import Preprocessing
    from segnext.device import choose_device
    from segnext.evaluation.confusion_picture import require_matplotlib
    from segnext.evaluation.evaluate import evaluate
    from segnext.evaluation.worst import LIST, WorstImages
    from segnext.predict.predictor import network_of
    from segnext.training.recipes import MULTI_SCALE, recipe_for

    if data == CLASSIFICATION:
        _expect_no_segmentation(options, multi_scale, confusion, worst_dir, boundary)
    # Before the evaluation, since it may be impossible.
    prepare_file("val", "output", output, overwrite)
    prepare_file("val", "confusion", confusion, overwrite)
    prepare_file("val", "worst-dir", worst_dir and worst_dir / LIST, overwrite)
    if confusion is not None:
        require_matplotlib()
    configure_torch(threads, matmul_precision)
    if data == CLASSIFICATION:
        val_classifier(root, weights, split, output, choose_device(device), dtype, matmul_precision)
        return
    config = load_data_config(data, root)
    defaults = {**recipe_for(config.name).evaluation, **(MULTI_SCALE if multi_scale else {})}
    inference = options.over(defaults).inference()
    model = _load(weights, config)
    preprocessing = Preprocessing.of(model.metadata)
    inference = inference.for_weights(preprocessing.short_side or config.short_side)
    config = replace(
        config,
        value_range=config.value_range or preprocessing.value_range,
        bands=config.bands or preprocessing.bands,
    )
    dataset = config.open(split)
    chosen, arithmetic = choose_device(device), getattr(torch, dtype)
    model.to(chosen).eval()
    network = network_of(model, chosen, arithmetic) if deploy else model
    deployed = network is not model
    console = Console(highlight=False, soft_wrap=True)
    require_sound(config, [split], console)
    note_other_names(console, config.classes, model, "ids are compared, not names")
    console.print(str(inference), markup=False)
    worst = WorstImages(worst_count) if worst_dir else None
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(f"{config.name} {split}", total=len(dataset))
        evaluation = evaluate(
            network,
            dataset,
            device=chosen,
            dtype=torch.float32 if deployed else arithmetic,
            inference=inference,
            boundary=boundary,
            look=worst.look if worst else None,
            after_image=lambda: progress.advance(task),
        )
    try:
        if output is not None:  # first, since what stands behind a pipe may be gone
            said = {
                "data": config.name,
                "split": split,
                "weights": weights,
                "deployed": deployed,
                "dtype": dtype,
                "matmul_precision": matmul_precision,
            }
            _save(output, {**said, "inference": asdict(inference)}, evaluation, config.classes)
        _save_pictures(confusion, worst_dir, evaluation, worst, dataset, config)
    finally:  # a file that cannot be written does not cost the measures
        print_evaluation(console, evaluation, config.classes)
    for name, place in (("measures", output), ("confusion matrix", confusion), ("worst images", worst_dir)):
        if place is not None:
            console.print(f"{name}: {place}", markup=False)


def _expect_no_segmentation(options: Chosen[InferenceOptions], *others: object) -> None:
    """Raise if an option is on the line that means nothing for a classifier."""
    names = ("multi_scale", "confusion", "worst_dir", "boundary")
    given = [*options.given, *(name for name, value in zip(names, others, strict=True) if value)]
    if given:
        name = min(given).replace("_", "-")
        raise ValueError(
            f"val: options must be those of a classifier for {CLASSIFICATION}, got --{name}, which is one of a "
            "segmentation; leave it out"
        )


def _load(weights: str, config: DataConfig) -> SegNeXt:
    from segnext.create import create_model
    from segnext.models import SegNeXt

    model = create_model(weights=weights)
    if not isinstance(model, SegNeXt) or model.config.num_classes != len(config.classes):
        raise ValueError(
            f"val: weights must be a SegNeXt of {len(config.classes)} classes for {config.name}, got "
            f"{weights}: {model.config.architecture} of {model.config.num_classes}"
        )
    return model


def _save(output: Path, said: dict[str, Any], evaluation: Evaluation, classes: tuple[str, ...]) -> None:
    import json

    from segnext.atomic import replace_text

    counts = evaluation.confusion.counts.tolist()
    text = json.dumps({**said, **evaluation.summary(classes), "confusion": counts}, indent=2) + "\n"
    replace_text(output, text)


def _save_pictures(
    confusion: Path | None,
    worst_dir: Path | None,
    evaluation: Evaluation,
    worst: WorstImages | None,
    dataset: SegmentationFolder,
    config: DataConfig,
) -> None:
    from segnext.atomic import replace_bytes
    from segnext.evaluation.confusion_picture import confusion_picture
    from segnext.evaluation.worst import save_worst

    if confusion is not None:
        replace_bytes(confusion, confusion_picture(evaluation.confusion, config.classes))
    if worst_dir is not None and worst is not None:
        save_worst(worst_dir, worst.ranked(), dataset, config.palette)
