"""`segnext val`: evaluates weights on a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

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

      segnext val camvid --root data/camvid -w camvid_int8.xml

      segnext val imagenet --root /data/imagenet -w mscan_b.pth

      segnext val mine.yaml -w runs/mine/final.safetensors --confusion confusion.png --worst-dir worst --boundary

      torchrun --nproc-per-node 4 -m segnext val ade20k --root /data/ade -w segnext_b.pth --multi-scale

    Data sets of the paper are evaluated by its protocol (`segnext recipes`), others whole and at the size that the
    weights were trained for, unless asked otherwise; the protocol is printed. Everything comes from one confusion
    matrix over the whole set at the labels' size. Labels and images are checked first, as `segnext doctor` does:
    errors stop the command, warnings are printed. Ignored pixels count nowhere, and classes that neither occur nor
    are predicted are left out of the means. Encoders (imagenet) are evaluated by top-1 and top-5 of the centre of each
    image, 224 pixels of 248. Several processes, one per GPU, share the images and count as one would. On CPUs torchrun
    gives each one thread: say --threads.
    """
    from segnext.cli._classification import val_classifier
    from segnext.cli._segmentation import Outputs, val_segmentation
    from segnext.cli._together import AGAIN
    from segnext.device import choose_device
    from segnext.evaluation.confusion_picture import require_matplotlib
    from segnext.evaluation.worst import LIST
    from segnext.export.targets import device_for
    from segnext.ranks import joined_ranks

    def prepare() -> None:
        """Make the places of the outputs before the evaluation, since it may be impossible."""
        prepare_file("val", "output", output, overwrite)
        prepare_file("val", "confusion", confusion, overwrite)
        prepare_file("val", "worst-dir", worst_dir and worst_dir / LIST, overwrite)
        if confusion is not None:
            require_matplotlib()

    if data == CLASSIFICATION:
        _expect_no_segmentation(options, multi_scale, confusion, worst_dir, boundary)
    configure_torch(threads, matmul_precision)
    with joined_ranks("val", choose_device(device_for(weights, device)), AGAIN) as (ranks, chosen):
        ranks.of_first(prepare)
        if data == CLASSIFICATION:
            val_classifier(root, weights, split, output, chosen, dtype, matmul_precision, ranks)
            return
        val_segmentation(
            data,
            root,
            weights,
            split,
            options,
            Outputs(output, confusion, worst_dir, worst_count),
            chosen,
            dtype,
            matmul_precision,
            ranks,
            multi_scale=multi_scale,
            boundary=boundary,
            deployed=deploy,
        )


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
