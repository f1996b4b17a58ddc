"""`segnext predict`: segments files, folders and globs of photographs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from segnext.cli._journal import JOURNAL, KINDS, SUMMARY
from segnext.cli._options import (
    Device,
    InferenceOptions,
    MatmulPrecision,
    Threads,
    Weights,
    configure_torch,
    expanded,
    output_option,
    parse_numbers,
)
from segnext.cli._paths import real_path
from segnext.cli._show import TITLES, expect_shown, parse_shown

if TYPE_CHECKING:
    import torch
    from rich.console import Console

    from segnext.cli._batch import Plan
    from segnext.cli._films import Filmed
    from segnext.predict.predictor import Predictor

LONGEST = 2000  # characters of a line about a failure


@expanded
def predict(
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PHOTO|FOLDER|GLOB|FILM",
            help="Images, folders of images, quoted patterns; films, animated images, frames/%06d.png.",
            show_default=False,
        ),
    ] = None,
    weights: Weights = "camvid",
    output: Annotated[Path, output_option("Folder for the results.")] = Path("predictions"),
    options: InferenceOptions = InferenceOptions(),  # noqa: B008 (frozen)
    overlay: Annotated[bool, typer.Option(help="Also draw overlays with a legend.")] = True,
    show: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KIND",
            help=f"Also draw {', '.join(TITLES)} or features[:STAGE]; several with commas, or --show again.",
        ),
    ] = None,
    alpha: Annotated[float, typer.Option(min=0, max=1, help="Strength of the overlay's colours.")] = 0.5,
    as_json: Annotated[bool, typer.Option("--json", help=f"Print {SUMMARY} to the standard output.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace results that exist.")] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where an earlier call stopped; images that are done stay.")
    ] = False,
    camera: Annotated[
        str | None, typer.Option(help="A live source: 0, /dev/video2, rtsp://...; until Ctrl-C or --frames.")
    ] = None,
    masks: Annotated[bool, typer.Option("--masks", help="Films: write the mask of each frame too.")] = False,
    frames: Annotated[int | None, typer.Option(min=1, help="Films: end after this many frames.")] = None,
    rate: Annotated[
        float | None,
        typer.Option(min=0.01, max=1000, help="Frames per second of numbered images. [default: 25]"),
    ] = None,
    device: Device = "auto",
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"],
        typer.Option(help="Arithmetic of the network."),
    ] = "float32",
    threads: Threads = None,
    matmul_precision: MatmulPrecision = "highest",
    value_range: Annotated[
        str | None,
        typer.Option(help="Values that become black and white in images of more than 8 bits, e.g. 0,4095."),
    ] = None,
    max_pixels: Annotated[
        int | None,
        typer.Option(min=1, help="Largest image to read; default: Pillow's safety limit, 179 million."),
    ] = None,
) -> None:
    """Segment photographs and films: masks, overlays, and statistics.

    Examples:

      segnext predict street.jpg -o out/

      segnext predict photos/ "more/**/*.png" --weights runs/mine/final.safetensors -o out/

      segnext predict photos/ --weights model.onnx -o out/

      segnext predict street.jpg --show confidence,features -o out/

      segnext predict huge.tif --mode slide --crop 1024 --stride 768 -o out/

      segnext predict clip.mp4 -o out/

      segnext predict --camera 0 -o out/

      torchrun --nproc-per-node 4 -m segnext predict photos/ -o out/

    For street.jpg the folder gets street_mask.png (pixels are class ids, the palette is the classes' colours)
    and street_overlay.jpg; predictions.json holds the share of every class, and times. Nothing is replaced
    without --overwrite. Images that cannot be read are listed at the end (exit status 1); the rest is done. A call
    that was stopped or killed goes on with --resume, which leaves out what is done unless the photograph changed: until
    the end, predictions.jsonl has a line per finished image. Several processes, one per GPU, share the images; --resume
    may have another number of them. On CPUs torchrun gives each one thread: say --threads.

    With --show there are pictures such as street_confidence.png and street_features3.png, which show how sure the
    model is at each pixel, and what a stage of its encoder tells apart.

    For clip.mp4 the folder gets clip_overlay.mp4, clip_frames.jsonl (the shares of the classes in each frame),
    clip_film.json (frames, times, mean shares) and, with --masks, clip_masks/000000.png and so on. Films, animated
    images, numbered images and --camera need pip install 'segnext[video]'. Ctrl-C ends a film after the current frame,
    and its results are whole.
    """
    from dataclasses import replace

    from rich.console import Console

    from segnext.cli._batch import STOPPED, Done, segment_all
    from segnext.device import choose_device
    from segnext.export.targets import device_for
    from segnext.one_line import one_line
    from segnext.ranks import joined_ranks

    if resume and overwrite:
        raise ValueError("predict: --resume and --overwrite must not both be given, got both; choose one")
    shown = parse_shown(show or [])
    films: list[str] = []
    film_notes: list[str] = []
    if not inputs and camera is None:
        raise ValueError("predict: inputs must name photographs or films, got nothing; or use --camera 0")
    if inputs:
        from segnext.cli._films import split_films

        films, inputs, film_notes = split_films(inputs, output)
    if shown and (films or camera is not None):
        got = films[0] if films else f"--camera {camera}"
        raise ValueError(
            f"predict: --show must come with photographs alone, got {one_line(got)}; leave it out"
        )
    with joined_ranks("predict", choose_device(device_for(weights, device)), "go on with --resume") as (
        ranks,
        chosen,
    ):
        notes = Console(stderr=True, highlight=False, soft_wrap=True, quiet=not ranks.is_first)
        if (films or camera is not None) and ranks.count > 1:
            raise ValueError(
                f"predict: films must run in one process, got {ranks.count}; give each process its own films"
            )
        plan = ranks.of_first(lambda: _plan(inputs or [], output, overlay, shown, resume, overwrite))
        names = _film_names(films, camera, output, resume, overwrite) if films or camera is not None else {}
        for note in [*film_notes, *plan.notes]:
            notes.print(f"segnext: note: {note}", markup=False)
        done = Done(failures=plan.failures, status=1 if plan.failures else 0)
        filmed: Filmed | None = None
        if plan.results or names:
            predictor = _predictor(weights, chosen, dtype, options, threads, matmul_precision, value_range)
            expect_shown(predictor, shown)
            _set_pixel_limit(max_pixels)
            run = _run(predictor, weights, alpha if overlay else None)
            if plan.results:
                done = segment_all(predictor, run, plan, output, alpha, resume, ranks, notes)
            if names and done.status != STOPPED:
                from segnext.cli._films import FilmOptions, segment_films

                wanted = FilmOptions(output, overlay, alpha, masks, frames, rate, run)
                filmed = segment_films(predictor, names, camera, wanted, resume, notes)
                done = replace(
                    done, failures=[*done.failures, *filmed.failures], status=max(done.status, filmed.status)
                )
    if ranks.is_first:
        if done.summary and as_json:
            print(done.summary)
        elif done.summary:
            console = Console(highlight=False, soft_wrap=True)
            _report(console, output, done.records, str(predictor.inference))
        if filmed is not None:
            _show_films(filmed, output, as_json)
        for failure in done.failures:
            notes.print(f"segnext: {one_line(failure, LONGEST)}", markup=False)
    if done.status:
        finished = len(done.records) + (len(filmed.summaries) if filmed is not None else 0)
        said = f"{finished} of {len(plan.results) + len(plan.failures) + len(names)} done, {len(done.failures)} failed"
        notes.print(f"segnext: {said}{'; stopped, go on with --resume' * (done.status == STOPPED)}")
        raise typer.Exit(done.status)


def _plan(
    inputs: list[str], output: Path, overlay: bool, shown: tuple[str, ...], resume: bool, overwrite: bool
) -> Plan:
    """Find the images, and names for their results."""
    from segnext.cli._batch import Plan
    from segnext.cli._inputs import RESULT_ENDINGS, find_images, result_names
    from segnext.one_line import one_line

    files, failures, left_out = find_images(inputs, output)
    names = result_names(files)
    results = {
        file: _result_files(output, name, overlay, shown) for file, name in zip(files, names, strict=True)
    }
    _expect_free(output, results, resume, overwrite)
    notes = []
    own = {name + ending for name in names for ending in RESULT_ENDINGS}
    if others := [file.name for file in left_out if file.name not in own]:
        some = ", ".join(map(one_line, others[:3])) + ", ..." * (len(others) > 3)
        count = "1 file" if len(others) == 1 else f"{len(others)} files"
        notes.append(f"{count} of a result's name left out: {some}; name what is a photograph itself")
    return Plan(results, failures, notes)


def _film_names(
    films: list[str], camera: str | None, output: Path, resume: bool, overwrite: bool
) -> dict[str, str]:
    """Return for each film the name with which its results begin, if they may be written."""
    from segnext.cli._films import expect_free, film_results

    names = film_results(films, camera)
    expect_free(output, names, resume, overwrite)
    return names


def _show_films(filmed: Filmed, output: Path, as_json: bool) -> None:
    import json

    from rich.console import Console

    from segnext.cli._films import show

    for summary in filmed.summaries:
        if as_json:
            print(json.dumps(summary))
        else:
            show(Console(highlight=False, soft_wrap=True), summary, output)


def _predictor(
    weights: str,
    device: torch.device,
    dtype: str,
    options: InferenceOptions,
    threads: int | None,
    matmul_precision: str,
    value_range: str | None,
) -> Predictor:
    from dataclasses import replace

    import torch

    from segnext.predict.predictor import Predictor

    configure_torch(threads, matmul_precision)
    predictor = Predictor(weights, device=device, dtype=getattr(torch, dtype), inference=options.inference())
    if value_range is not None:
        declared: Any = parse_numbers("--value-range", value_range)
        predictor.preprocessing = replace(predictor.preprocessing, value_range=declared)
    return predictor


def _result_files(output: Path, name: str, overlay: bool, shown: tuple[str, ...]) -> dict[str, Path]:
    files = {"mask": output / f"{name}_mask.png"}
    if overlay:
        files["overlay"] = output / f"{name}_overlay.jpg"
    return files | {kind: output / f"{name}_{kind}.png" for kind in shown}


def _expect_free(output: Path, results: dict[Path, dict[str, Path]], resume: bool, overwrite: bool) -> None:
    """Refuse a folder that holds results already, unless they are to be taken over or replaced."""
    import os

    if os.path.lexists(output) and not output.is_dir():
        raise ValueError(
            f"predict: --output must be a folder, got {output}, which is none; name another with -o"
        )
    _expect_no_photograph(results)
    has_records = any(os.path.lexists(output / name) for name in (SUMMARY, JOURNAL))
    if overwrite or (resume and has_records):
        return
    planned = [path for files in results.values() for path in _planned(files)]
    existing = [path.name for path in (*planned, output / SUMMARY, output / JOURNAL) if os.path.lexists(path)]
    if existing:
        names = ", ".join(existing[:3]) + (", ..." if len(existing) > 3 else "")
        raise ValueError(
            f"predict: {len(existing)} results must not exist yet in {output}, got {names}; "
            "use --overwrite to replace them, --resume to go on, or another folder with -o"
        )


def _expect_no_photograph(results: dict[Path, dict[str, Path]]) -> None:
    """Refuse results that would replace a photograph of the same call, whatever else may be replaced."""

    def place(path: Path) -> str:  # a link at the end is what a result replaces
        return f"{real_path(path.parent)}/{path.name}"

    photographs = {place(file) for file in results} | {real_path(file) for file in results}
    for file, paths in results.items():
        for path in _planned(paths):
            if place(path) in photographs:
                raise ValueError(
                    f"predict: results must not replace photographs, got {path} for {file}; choose another folder "
                    "with -o"
                )


def _planned(files: dict[str, Path]) -> list[Path]:
    """Return all files that an image's results may become: an overlay that is too large for a JPEG becomes a PNG."""
    return [*files.values()] + ([files["overlay"].with_suffix(".png")] if "overlay" in files else [])


def _set_pixel_limit(max_pixels: int | None) -> None:
    from PIL import Image

    # Pillow refuses images above twice its limit, and each of these becomes one line.
    if max_pixels is not None:
        Image.MAX_IMAGE_PIXELS = -(-max_pixels // 2)


def _run(predictor: Predictor, weights: str, overlay: float | None) -> dict[str, Any]:
    """Return what the summary says about all images; JSON has no tuples, so that it is compared as it is stored."""
    import dataclasses
    import json

    import torch

    import segnext
    from segnext.export.network import ExportedNetwork
    from segnext.weights.digest import digest

    model = predictor.model
    run = {
        "segnext": segnext.__version__,
        "architecture": model.config.architecture,
        "weights": weights,
        "weights_digest": model.digest if isinstance(model, ExportedNetwork) else digest(model),
        "device": str(predictor.device),
        "dtype": str(predictor.dtype).removeprefix("torch."),
        "inference": dataclasses.asdict(predictor.inference),
        "preprocessing": predictor.preprocessing.as_json(),
        "overlay": overlay,
        "classes": predictor.classes,
        "palette": predictor.palette.tolist(),
    }
    if (precision := torch.get_float32_matmul_precision()) != "highest":
        run["matmul_precision"] = precision
    return dict(json.loads(json.dumps(run)))


def _report(console: Console, output: Path, records: list[dict[str, Any]], protocol: str) -> None:
    import statistics

    if not records:
        return
    console.print(protocol)
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
    width = max(len(kind) for kind in KINDS if kind in record) + 1
    for kind in KINDS:
        if kind in record:
            console.print(f"{kind:<{width}}{output / record[kind]}", markup=False)
