"""`segnext export`: writes weights as a file for another runtime, and compares the two."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from segnext.cli._options import LARGEST_SIDE, Root, Threads, configure_torch, output_option, parse_size
from segnext.export.targets import TARGETS
from segnext.one_line import one_line

if TYPE_CHECKING:
    from rich.console import Console

    from segnext.data.config import DataConfig
    from segnext.evaluation.exported import Agreement
    from segnext.export.network import ExportedNetwork
    from segnext.models import SegNeXt

FORMATS = "; ".join(f"{name}: {target.text}" for name, target in TARGETS.items())


def export(
    target: Annotated[
        Literal["onnx", "openvino", "pt2", "aoti", "torchscript", "litert", "coreml"],
        typer.Argument(help=f"Format. {FORMATS}."),
    ],
    weights: Annotated[
        str, typer.Argument(help="A name (`segnext weights` lists them) or a checkpoint in any known layout.")
    ],
    output: Annotated[
        Path | None, output_option("File to write; default: the weights' name and the format's suffix, here.")
    ] = None,
    size: Annotated[str | None, typer.Option(help="Of images: 512 (the default), or HEIGHTxWIDTH.")] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, max=LARGEST_SIDE, help="Images at once; default 1.")
    ] = None,
    dynamic: Annotated[
        bool,
        typer.Option(
            "--dynamic",
            help="Any number of images of any size from 33 pixels, instead of --batch and --size.",
        ),
    ] = False,
    dtype: Annotated[
        Literal["float32", "float16", "int8"],
        typer.Option(help="float16: ONNX, OpenVINO; int8: OpenVINO, needs --calibrate."),
    ] = "float32",
    uint8: Annotated[
        bool,
        typer.Option(
            "--uint8", help="Take pixels (N, H, W, 3) and normalise them inside; else normalised float32."
        ),
    ] = False,
    mask: Annotated[
        bool,
        typer.Option(
            "--mask", help="Resize and choose the class inside; else logits at an eighth of the size."
        ),
    ] = False,
    opset: Annotated[
        int | None, typer.Option(help="ONNX's version of operators, 18 to 23; default 20.")
    ] = None,
    calibrate: Annotated[
        list[str] | None,
        typer.Option(
            help="int8: photographs like those of use, folders, quoted patterns, or the training images of a data set; "
            "20 are enough; may be given several times."
        ),
    ] = None,
    verify: Annotated[
        list[str] | None,
        typer.Option(
            help="Compare masks on photographs, folders, quoted patterns, or on the labelled images of a data set "
            "(a YAML or a shipped name), with mIoU; may be given several times."
        ),
    ] = None,
    root: Root = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if it is there.")] = False,
    threads: Threads = None,
) -> None:
    """Export weights to another runtime, and check the file there.

    Examples:

      segnext export onnx camvid -o camvid.onnx --verify photos/

      segnext export onnx mine.safetensors --dynamic --uint8 --mask

      segnext export openvino mine.safetensors --size 720x960 --dtype float16 --verify mine.yaml

      segnext export openvino mine.safetensors --dtype int8 --calibrate mine.yaml --verify mine.yaml

      segnext predict photos/ --weights camvid.onnx -o out/

    The graph holds standard operators alone, with folded weights and nothing random. Every file is opened in its
    runtime and compared with PyTorch on random images. With --verify it is compared with `segnext predict` too: at
    least 99.9 % of the pixels must have the same class (float16: 99.5 %), and on labelled images the mIoU may be at
    most 0.2 points lower. A file that fails is not kept. Class names, palette, mean and std are kept in the file:
    `segnext predict`, `val` and `bench` take it as --weights. An exported file is a program: run only those you trust.
    """
    import torch
    from rich.console import Console

    from segnext.cli._segmentation import expect_classes
    from segnext.create import create_model
    from segnext.data.config import load_data_config
    from segnext.export.description import Interface
    from segnext.export.exporting import export_model, files_of, replacing
    from segnext.models import SegNeXt

    if verify and not TARGETS[target].runs:
        raise ValueError(
            f"export: --verify must be left out for {target}, whose files do not run here, got {verify[0]}"
        )
    if root is not None and not _split([*(verify or []), *(calibrate or [])])[0]:
        raise ValueError(
            "export: --root must come with a data set in --verify or --calibrate, got none; leave it out"
        )
    console = Console(highlight=False, soft_wrap=True)
    notes = Console(stderr=True, highlight=False, soft_wrap=True)
    for option, value in (("--size", size), ("--batch", batch)):
        if dynamic and value is not None:
            raise ValueError(
                f"export: {option} must be left out with --dynamic, got {one_line(value)}; a file takes one size, "
                "or any; leave out one of the two"
            )
    height, width = parse_size("--size", "512" if size is None else size)
    configure_torch(threads)
    place = output or Path(f"{Path(weights).stem}{TARGETS[target].suffix}")
    if os.path.lexists(place) and not overwrite:
        raise FileExistsError(
            f"export: output must be a new file, got {place}; pass --overwrite to replace it"
        )
    model = create_model(weights=weights)
    if not isinstance(model, SegNeXt):
        raise ValueError(
            f"export: weights must be of a SegNeXt, got {model.config.architecture} from {weights}; a classifier has "
            "no masks; torch.onnx.export takes it"
        )
    model.eval()
    interface = Interface(
        height=height,
        width=width,
        batch=batch or 1,
        dynamic=dynamic,
        input="uint8" if uint8 else "float32",
        output="mask" if mask else "logits",
    )
    photographs = _calibration(calibrate or [], root)
    sets, names = _split(verify or [])
    labelled = [load_data_config(name, root) for name in sets]
    for config in labelled:
        expect_classes("export", config, weights, model.config)
    files = _photographs("--verify", names)
    with replacing(place) as draft:
        with notes.status(f"exporting to {target}"), torch.no_grad():
            network = export_model(
                model,
                draft,
                target,
                dtype=dtype,
                opset=opset,
                calibrate=photographs,
                **asdict(interface),
            )
        megabytes = sum(file.stat().st_size for file in files_of(draft)) / 1e6
        console.print(
            f"{one_line(place, 240)}: {model.config.architecture}, {model.config.num_classes} classes, "
            f"{interface}, {dtype}, {megabytes:.1f} MB",
            markup=False,
        )
        if network is None:
            console.print(
                f"nothing here runs {target}: names and shapes were checked, results were not", markup=False
            )
            return
        network.path = place  # messages name the file that was asked for, not the draft
        console.print(
            f"{network.runtime} runs it; --verify says how good int8 is"
            if dtype == "int8"
            else f"{network.runtime} gives the same as PyTorch on random images",
            markup=False,
        )
        for agreement in _agreements(model, network, labelled, files, notes):
            console.print(f"verified: {agreement}", markup=False)
            if (failure := agreement.failure(dtype)) is not None:
                raise ValueError(f"export: {place}: {failure}; it was not kept")


def _split(names: list[str]) -> tuple[list[str], list[str]]:
    """Return the data sets among the names, and the photographs, folders and patterns."""
    from segnext.data.shipped import names_set

    sets = [name for name in names if names_set(name)]
    return sets, [name for name in names if name not in sets]


def _photographs(option: str, names: list[str]) -> list[Path]:
    """Return the photographs that an option names, before anything is exported."""
    from segnext.cli._inputs import find_images

    files, problems, _ = find_images(names)
    problems += [f"{file}: no such file" for file in files if not file.is_file()]
    if problems:
        raise ValueError(f"export: {option} must be photographs or a data set, got {problems[0]}")
    return files


def _calibration(names: list[str], root: Path | None) -> list[Path]:
    """Return the photographs for int8: those that are named, and the training images of data sets."""
    from segnext.data.config import load_data_config

    sets, photographs = _split(names)
    files = _photographs("--calibrate", photographs)
    for name in sets:
        files += [image for image, _ in load_data_config(name, root).open("train").pairs]
    return files


def _agreements(
    model: SegNeXt,
    network: ExportedNetwork,
    labelled: list[DataConfig],
    files: list[Path],
    notes: Console,
) -> Iterator[Agreement]:
    """Compare on photographs, all together, and on each data set."""
    from rich.progress import Progress

    from segnext import deploy
    from segnext.cli._options import InferenceOptions
    from segnext.evaluation.exported import compare_on_labels, compare_on_photographs

    ours = deploy(model)
    with Progress(console=notes, transient=True, disable=not notes.is_terminal) as progress:

        def counted(title: str, total: int) -> Callable[[], None]:
            task = progress.add_task(title, total=total)
            return lambda: progress.advance(task)

        if files:
            yield compare_on_photographs(ours, network, files, counted("comparing photographs", len(files)))
        for config in labelled:
            dataset, inference = config.open("val"), InferenceOptions().inference()
            yield compare_on_labels(
                ours, network, dataset, inference, counted(f"comparing {config.name}", len(dataset))
            )
