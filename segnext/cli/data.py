"""`segnext data`: makes label maps from what public data sets and annotation programs give."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from segnext.cli._options import output_option
from segnext.data.prepare import KINDS

if TYPE_CHECKING:
    from rich.console import Console

    from segnext.data.prepare.plan import Plan, Request
    from segnext.data.prepare.work import Summary

STOPPING = "stopping after the files in work; once more stops at once"
SHOWN = 20  # failures
LARGEST_POOL = 61  # processes: more than 61 cannot be waited for on Windows
_LIST = "\n".join(f"    - **{name}**: {text}" for name, text in KINDS.items())

data = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown")


@data.callback()
def _data() -> None:
    """Prepare data sets.

    Example:

      segnext data prepare cityscapes --root data/cityscapes
    """


@data.command(
    help=f"""Make label maps of class ids from a download, or from the files of an annotation program.

    NAME is one of:

{_LIST}

    ADE20K, and every folder of images beside a folder of PNG label maps, needs nothing.

    Examples:

      segnext data prepare voc2012_aug --root VOCdevkit/VOC2012

      segnext data prepare labelme --root photos --classes road,car --background 255

    A file that is complete is left as it is, so that the same command goes on where an earlier one stopped. A damaged
    file is named at the end and ends none of the others; the exit status is then 1.
    """
)
def prepare(
    name: Annotated[str, typer.Argument(help="What is to be prepared, see above.")],
    root: Annotated[Path, typer.Option(help="Folder of the download.")],
    output: Annotated[
        Path | None, output_option("Folder of the results, which may be large; default: the one of --root.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, max=LARGEST_POOL, help="Processes; default: one per CPU core.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Make files again that are complete.")
    ] = False,
    background: Annotated[
        int | None,
        typer.Option(
            help="Id of pixels without an object, for coco_json and labelme: 0, a class of its own (default), "
            "or 255, ignored."
        ),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            help="For labelme: the labels in the order of their ids, such as road,car; default: sorted."
        ),
    ] = None,
) -> None:
    """Make label maps, see the help."""
    from rich.console import Console

    from segnext.data.prepare.plan import Request, plan
    from segnext.data.prepare.work import available_cores

    if background not in (None, 0, 255):
        raise ValueError(f"data prepare: background must be 0 or 255, got {background}")
    names = None if classes is None else tuple(word.strip() for word in classes.split(","))
    root = root.expanduser()
    request = Request(name, root, output or root, overwrite, background, names)
    console, errors = (Console(highlight=False, soft_wrap=True, stderr=stderr) for stderr in (False, True))
    made = plan(request)
    for note in made.notes:
        errors.print(f"segnext: note: {note}", markup=False)
    summary, stopped = _run(request, made, workers or min(available_cores(), LARGEST_POOL), errors)
    for failure in summary.failures[:SHOWN]:
        errors.print(failure, markup=False)
    if len(summary.failures) > SHOWN:
        errors.print(f"... and {len(summary.failures) - SHOWN} other files", markup=False)
    counts = f"{summary.written} written, {summary.skipped} skipped, {len(summary.failures)} failed"
    console.print(f"{name}: {counts}{'; stopped, the same command goes on' * stopped}", markup=False)
    if stopped or summary.failures:
        raise typer.Exit(130 if stopped else 1)
    _print_next(console, request, made)


def _run(request: Request, made: Plan, workers: int, errors: Console) -> tuple[Summary, bool]:
    """Run the jobs and show their progress; return also whether a signal ended the work before the last one."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from segnext.data.prepare.work import run
    from segnext.signals import stop_signals

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with (
        stop_signals(STOPPING) as stop,
        Progress(*columns, console=errors, disable=not errors.is_terminal, transient=True) as progress,
    ):
        task = progress.add_task(request.kind, total=len(made.jobs))
        finished = 0

        def advance() -> None:
            nonlocal finished
            finished += 1
            progress.advance(task)

        summary = run(made, workers=workers, overwrite=request.overwrite, stop=stop, advance=advance)
    return summary, finished < len(made.jobs)


def _print_next(console: Console, request: Request, made: Plan) -> None:
    """Print what to do next: link the images if the results lie elsewhere, and check the data set."""
    import shlex

    for folder in made.images:
        if not (request.out / folder).exists():
            here = request.root / folder
            step = f"link {here.resolve()} to" if here.exists() else "unpack the images to"
            console.print(f"then: {step} {request.out / folder}", markup=False)
    console.print(f"next: segnext doctor {shlex.join(made.check)}", markup=False)
