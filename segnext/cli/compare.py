"""`segnext compare`: two models on the same photographs, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from segnext.cli._options import (
    Device,
    InferenceOptions,
    MatmulPrecision,
    Threads,
    configure_torch,
    expanded,
    output_option,
)

if TYPE_CHECKING:
    from segnext.predict.predictor import Predictor

SUMMARY = "comparison.json"
LONGEST = 2000  # characters of a line about a failure
STOPPED = 130  # exit status after a signal
WEIGHTS = "A name (`segnext weights` lists them), a checkpoint in any known layout, or an exported file."


@expanded
def compare(
    a: Annotated[str, typer.Argument(metavar="A", help=WEIGHTS)],
    b: Annotated[str, typer.Argument(metavar="B", help="Another one, which is compared with A.")],
    inputs: Annotated[
        list[str],
        typer.Argument(metavar="PHOTO|FOLDER|GLOB", help="Images, folders of images, quoted patterns."),
    ],
    output: Annotated[Path, output_option("Folder for the results.")] = Path("comparison"),
    expect: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="Fail if a smaller share of the pixels has the same class, e.g. 0.999."
        ),
    ] = None,
    options: InferenceOptions = InferenceOptions(),  # noqa: B008 (frozen)
    pictures: Annotated[bool, typer.Option(help="Draw a picture per photograph.")] = True,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace results that exist.")] = False,
    device: Device = "auto",
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"], typer.Option(help="Arithmetic of the networks.")
    ] = "float32",
    threads: Threads = None,
    matmul_precision: MatmulPrecision = "highest",
) -> None:
    """Compare two models on photographs: where their masks differ, and which one is surer there.

    Examples:

      segnext compare runs/mine/best.safetensors runs/mine/final.safetensors photos/ -o out/

      segnext compare camvid camvid.onnx photos/ -o out/ --expect 0.999

    For street.jpg the folder gets street_compare.jpg: photograph, differences, and both masks. The table and
    comparison.json have, for each class: its share of the pixels in A and in B; "kept", the share of A's pixels that B
    gives the class too; IoU, with A's masks as labels; and how sure each model is of the pixels that it gives the class
    (mean probability). Classes are matched by name. Photographs that cannot be read are listed at the end (exit status
    1), as a share below --expect is.
    """
    from rich.console import Console

    from segnext.atomic import replace_text
    from segnext.cli._compared import compare_all, print_comparison, summary_of
    from segnext.cli._inputs import find_images, result_names
    from segnext.evaluation.comparison import Comparison, share_classes
    from segnext.locks import sole_use
    from segnext.one_line import one_line
    from segnext.signals import stop_signals

    console = Console(highlight=False, soft_wrap=True)
    notes = Console(stderr=True, highlight=False, soft_wrap=True)
    found = find_images(inputs, output)
    names = result_names(found.files)
    files = {file: output / f"{name}_compare.jpg" for file, name in zip(found.files, names, strict=True)}
    _expect_free(output, [output / SUMMARY, *(files.values() if pictures else ())], overwrite)
    configure_torch(threads, matmul_precision)
    models = {weights: _predictor(weights, device, dtype, options) for weights in (a, b)}
    classes = share_classes(models[a], models[b])
    if classes.of_one:
        own = one_line(", ".join(classes.of_one), 240)
        notes.print(f"segnext: note: classes of one model alone: {own}", markup=False)
    comparison = Comparison(classes)
    output.mkdir(parents=True, exist_ok=True)
    with sole_use("compare", output), stop_signals("stopping after this photograph") as stop:
        titles = (Path(a).name, Path(b).name) if Path(a).name != Path(b).name else (a, b)
        wanted = {file: picture if pictures else None for file, picture in files.items()}
        records, failures = compare_all(
            (models[a], models[b]), comparison, wanted, titles, stop.is_set, notes
        )
        failures = [*found.problems, *failures]
        is_whole = len(records) + len(failures) == len(files) + len(found.problems)
        if records and is_whole:
            text = summary_of((a, b), (models[a], models[b]), comparison, records, failures)
            replace_text(output / SUMMARY, text)
    if records:
        print_comparison(console, comparison, records)
    for failure in failures:
        notes.print(f"segnext: {one_line(failure, LONGEST)}", markup=False)
    if not is_whole:
        notes.print(f"segnext: stopped; {len(records)} of {len(files)} compared, {SUMMARY} is not written")
        raise typer.Exit(STOPPED)
    if expect is not None and records and not comparison.agreement >= expect:
        raise ValueError(
            f"compare: at least {100 * expect:g} % of the pixels must have the same class, got "
            f"{100 * comparison.agreement:.4f} %"
        )
    if failures:
        raise typer.Exit(1)


def _predictor(weights: str, device: str, dtype: str, options: InferenceOptions) -> Predictor:
    import torch

    from segnext.predict.predictor import Predictor

    return Predictor(weights, device=device, dtype=getattr(torch, dtype), inference=options.inference())


def _expect_free(output: Path, planned: list[Path], overwrite: bool) -> None:
    """Refuse a folder that holds results already, unless they are to be replaced."""
    import os

    if os.path.lexists(output) and not output.is_dir():
        raise ValueError(
            f"compare: --output must be a folder, got {output}, which is none; name another with -o"
        )
    existing = [path.name for path in planned if os.path.lexists(path)]
    if existing and not overwrite:
        names = ", ".join(existing[:3]) + (", ..." if len(existing) > 3 else "")
        raise ValueError(
            f"compare: {len(existing)} results must not exist yet in {output}, got {names}; use --overwrite to replace "
            "them, or another folder with -o"
        )
