"""`segnext predict`: segments files, folders and globs of photographs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from segnext.atomic import replace_file
from segnext.cli._options import Device, InferenceOptions, Threads, Weights, expanded

if TYPE_CHECKING:
    from rich.console import Console

    from segnext.predict.prediction import Prediction
    from segnext.predict.predictor import Predictor

SUMMARY = "predictions.json"


@expanded
def predict(
    inputs: Annotated[
        list[str],
        typer.Argument(metavar="PHOTO|FOLDER|GLOB", help="Images, folders of images, quoted patterns."),
    ],
    weights: Weights = "camvid",
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the results.")] = Path(
        "predictions"
    ),
    options: InferenceOptions = InferenceOptions(),  # noqa: B008 (frozen)
    overlay: Annotated[bool, typer.Option(help="Also draw overlays with a legend.")] = True,
    alpha: Annotated[float, typer.Option(min=0, max=1, help="Strength of the overlay's colours.")] = 0.5,
    as_json: Annotated[bool, typer.Option("--json", help=f"Print {SUMMARY} to the standard output.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace results that exist.")] = False,
    device: Device = "auto",
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"],
        typer.Option(help="Arithmetic of the network."),
    ] = "float32",
    threads: Threads = None,
    max_pixels: Annotated[
        int | None,
        typer.Option(min=1, help="Largest image to read; default: Pillow's safety limit, 179 million."),
    ] = None,
) -> None:
    """Segment photographs: a mask and an overlay for each, and statistics of all.

    Examples:

      segnext predict street.jpg -o out/

      segnext predict photos/ "more/**/*.png" --weights runs/mine/final.safetensors -o out/

      segnext predict huge.tif --mode slide --crop 1024 --stride 768 -o out/

    For street.jpg the folder gets street_mask.png (pixels are class ids, the palette is the classes' colours)
    and street_overlay.jpg; predictions.json holds the share of every class, and times. Nothing is replaced
    without --overwrite. Images that cannot be read are listed at the end (exit status 1); the rest is done.
    """
    from rich.console import Console

    from segnext.cli._inputs import find_images, result_names

    files, failures = find_images(inputs)
    results = {
        file: _result_files(output, name, overlay)
        for file, name in zip(files, result_names(files), strict=True)
    }
    if not overwrite:
        _refuse_existing(output, results)
    notes = Console(stderr=True, highlight=False, soft_wrap=True)
    records: list[dict[str, Any]] = []
    if files:
        predictor = _predictor(weights, device, dtype, options, threads)
        _set_pixel_limit(max_pixels)
        output.mkdir(parents=True, exist_ok=True)
        records, unreadable = _segment(predictor, results, alpha, notes)
        failures += unreadable
        summary = _summary(predictor, weights, records, failures)
        replace_file(output / SUMMARY, lambda file: file.write_text(summary, encoding="utf-8"))
        if as_json:
            print(summary)
        else:
            _report(Console(highlight=False, soft_wrap=True), output, records)
    for failure in failures:
        notes.print(f"segnext: {failure}", markup=False)
    if failures:
        notes.print(f"segnext: {len(records)} of {len(records) + len(failures)} done, {len(failures)} failed")
        raise typer.Exit(1)


def _predictor(
    weights: str, device: str, dtype: str, options: InferenceOptions, threads: int | None
) -> Predictor:
    import torch

    from segnext.predict.predictor import Predictor

    if threads is not None:
        torch.set_num_threads(threads)
    return Predictor(weights, device=device, dtype=getattr(torch, dtype), inference=options.inference())


def _result_files(output: Path, name: str, overlay: bool) -> dict[str, Path]:
    files = {"mask": output / f"{name}_mask.png"}
    if overlay:
        files["overlay"] = output / f"{name}_overlay.jpg"
    return files


def _refuse_existing(output: Path, results: dict[Path, dict[str, Path]]) -> None:
    if output.exists() and not output.is_dir():
        raise ValueError(f"predict: --output must be a folder, got the file {output}; name another with -o")
    planned = [path for files in results.values() for path in files.values()] + [output / SUMMARY]
    existing = [path.name for path in planned if path.exists()]
    if existing:
        names = ", ".join(existing[:3]) + (", ..." if len(existing) > 3 else "")
        raise ValueError(
            f"predict: {len(existing)} results must not exist yet in {output}, got {names}; "
            "use --overwrite to replace them, or another folder with -o"
        )


def _set_pixel_limit(max_pixels: int | None) -> None:
    import warnings

    from PIL import Image

    # Pillow refuses images above twice its limit, and each of these becomes one line. Its warnings, about images
    # above the limit and about damaged metadata, are not shown.
    warnings.filterwarnings("ignore", module="PIL")
    if max_pixels is not None:
        Image.MAX_IMAGE_PIXELS = -(-max_pixels // 2)


def _segment(
    predictor: Predictor, results: dict[Path, dict[str, Path]], alpha: float, console: Console
) -> tuple[list[dict[str, Any]], list[str]]:
    """Segment and save one image after the other; return the records, and a line for each failure."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from segnext.data.images import ImageError

    records, failures = [], []
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}", markup=False),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task("", total=len(results))
        for file, paths in results.items():
            progress.update(task, description=file.name)
            try:
                prediction = predictor(file)
            except ImageError as error:
                failures.append(str(error))
            except MemoryError as error:
                failures.append(f"{file}: {error}")
            else:
                prediction.save_mask(paths["mask"])
                if "overlay" in paths:
                    prediction.overlay(alpha).save(paths["overlay"], quality=92, subsampling=0)
                records.append(_record(file, paths, prediction))
            progress.advance(task)
    return records, failures


def _record(file: Path, paths: dict[str, Path], prediction: Prediction) -> dict[str, Any]:
    height, width = prediction.mask.shape
    return {
        "image": str(file),
        **{kind: path.name for kind, path in paths.items()},
        "width": width,
        "height": height,
        "seconds": round(prediction.seconds, 4),
        "statistics": {name: round(share, 6) for name, share in prediction.statistics().items()},
    }


def _summary(predictor: Predictor, weights: str, records: list[dict[str, Any]], failures: list[str]) -> str:
    import dataclasses
    import json

    import segnext

    return json.dumps(
        {
            "segnext": segnext.__version__,
            "architecture": predictor.model.config.architecture,
            "weights": weights,
            "device": str(predictor.device),
            "dtype": str(predictor.dtype).removeprefix("torch."),
            "inference": dataclasses.asdict(predictor.inference),
            "classes": predictor.classes,
            "palette": predictor.palette.tolist(),
            "images": records,
            "failures": failures,
        },
        indent=1,
    )


def _report(console: Console, output: Path, records: list[dict[str, Any]]) -> None:
    import statistics

    if not records:
        return
    if len(records) > 1:
        typical = statistics.median(record["seconds"] for record in records)
        console.print(
            f"{len(records)} images, {typical:.3f} s each; results and {SUMMARY} in {output}", markup=False
        )
        return
    record = records[0]
    present = sorted(record["statistics"].items(), key=lambda item: -item[1])
    console.print(
        f"{record['image']}: {record['width']}x{record['height']}, {record['seconds']:.3f} s", markup=False
    )
    console.print(
        ", ".join(f"{name} {100 * share:.1f} %" for name, share in present if share >= 0.0005), markup=False
    )
    for kind in ("mask", "overlay"):
        if kind in record:
            console.print(f"{kind:<8}{output / record[kind]}", markup=False)
