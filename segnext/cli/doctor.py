"""`segnext doctor`: shows what this machine has, what was built for it, and what is wrong with a data set."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from segnext.cli._options import at_home
from segnext.cli._paths import prepare_file

if TYPE_CHECKING:
    from rich.console import Console

    from segnext.data.findings import Finding
    from segnext.data.inspection import SplitReport
    from segnext_kernels import Status
    from segnext_kernels.self_check import Subject, Verdict

SHOWN = 20  # files of a finding, and unknown ids


def doctor(
    data: Annotated[
        str | None, typer.Argument(help="A data YAML or the name of a shipped one: check that data set too.")
    ] = None,
    root: Annotated[Path | None, typer.Option(help="Folder of the data set, if not the YAML's own.")] = None,
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Read at most this many pairs of each split, evenly spread; default: all."),
    ] = None,
    browse: Annotated[
        Path | None,
        typer.Option(
            help="Draw a sheet of pairs of all splits into this PNG file, with masks over the photographs.",
            callback=at_home,
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the sheet if it exists.")] = False,
    self_check: Annotated[
        bool,
        typer.Option(
            "--self-check",
            help="Compare every GPU kernel with its definition again, on each GPU of this machine.",
        ),
    ] = False,
) -> None:
    """Show what this machine has, which kernels are built and why others are missing; or check a data set.

    Examples:

      segnext doctor

      segnext doctor --self-check

      segnext doctor my.yaml

      segnext doctor camvid --root data/camvid --limit 100

      segnext doctor my.yaml --browse sheet.png

    With a data set, the doctor checks that images and labels pair up, that every file is whole and that sizes and
    turns by EXIF agree; it counts how often each id occurs, finds ids that are no class, masks of 0 and 255, classes
    that never occur, labels without a class and images of val that are in train too, and says what to put into the
    YAML. `segnext train` checks the same before its first step. The exit status is 1 if something is wrong.

    With --self-check, each CUDA and Triton kernel runs on small inputs in a process of its own. The default
    backend, "auto", uses those that agree; it checks them by itself when a tensor on a GPU first needs them.
    The exit status is 1 if one does not agree.
    """
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    if browse is not None and (data is None or self_check):
        raise ValueError("doctor: --browse must come with a data set to be shown, got none; name a data YAML")
    prepare_file("doctor", "browse", browse, overwrite)
    is_healthy = True
    if self_check:
        is_healthy = _check_kernels(console)
    elif data is not None:
        is_healthy = _examine(console, data, root, limit)
        if browse is not None:
            _browse(console, data, root, browse)
    else:
        _print_facts(console)
    if not is_healthy:
        raise typer.Exit(1)


def _print_facts(console: Console) -> None:
    from segnext.measure import machine

    for title, facts in (
        ("Machine", machine.host()),
        ("Python", machine.libraries()),
        ("GPU", machine.gpus()),
        ("Kernels", backends()),
        ("Self-check", remembered_self_checks()),
        ("Build", build()),
        ("Weights", shipped_weights()),
    ):
        console.print(f"[bold]{title}[/bold]")
        width = max(14, *(len(name) + 2 for name, _ in facts))
        for name, value in facts:
            console.print(f"  {name:<{width}}{value}", markup=False)


def backends() -> list[tuple[str, str]]:
    """Return one line per backend of the kernels: what it is, or what is missing and what would add it."""
    import torch

    from segnext_kernels import current_backend, status

    found = status()
    sees_gpu = torch.cuda.is_available()
    openmp = found.build.get("openmp", "used")
    here = {
        "cuda": "available" if sees_gpu else "built; torch sees no GPU to run it on",
        "cpu": f"available, uses {found.instruction_set}{_tiles(found)}"
        + ("" if openmp == "used" else f"; OpenMP was {openmp}"),
    }
    if found.missing["triton"] is None:
        version = importlib.metadata.version("triton")
        here["triton"] = version if sees_gpu else f"{version}; torch sees no GPU to run it on"
    return [
        *((name, found.missing[name] or here[name]) for name in ("cuda", "triton", "cpu")),
        ("reference", "available: plain PyTorch, any device"),
        ("in force", current_backend()),
    ]


def _tiles(found: Status) -> str:
    """Return what a user of x86-64 wants to know about AMX."""
    if found.without_tiles is None:
        return ", and AMX for bfloat16"
    is_arm = found.instruction_set is not None and found.instruction_set.startswith("neon")
    return "" if is_arm else f", without AMX: {found.without_tiles}"


NO_GPU = "torch sees no GPU here; on a machine with one they are checked when they are first needed"


def remembered_self_checks() -> list[tuple[str, str]]:
    """Return what is known about the kernels on each GPU: how many agree with their definitions, and which do not."""
    import torch

    from segnext_kernels import self_check

    if not torch.cuda.is_available():
        return [("GPU kernels", NO_GPU)]
    facts = [] if self_check.is_wanted() else [("off", "SEGNEXT_SELF_CHECK=0: kernels are trusted unchecked")]
    for index in range(torch.cuda.device_count()):
        facts += _verdict_lines(f"cuda:{index}", self_check.remembered(index))
    return facts


def _verdict_lines(device: str, verdicts: dict[Subject, Verdict]) -> list[tuple[str, str]]:
    if not verdicts:
        return [(device, "not checked yet; segnext doctor --self-check does it now")]
    wrong = {subject: verdict for subject, verdict in verdicts.items() if not verdict.agrees}
    lines = [(device, f"{len(verdicts) - len(wrong)} of {len(verdicts)} kernels agree with their definition")]
    return [
        *lines,
        *((device, f"left out: {subject}: {verdict.reason}") for subject, verdict in wrong.items()),
    ]


def _check_kernels(console: Console) -> bool:
    """Check every GPU kernel on each GPU and print the result; return whether all agree."""
    import torch

    console.print("[bold]Self-check[/bold]")
    if not torch.cuda.is_available():
        console.print(f"  nothing to check: {NO_GPU}")
        return True
    healthy = True
    for index in range(torch.cuda.device_count()):
        try:
            verdicts = _with_progress(index)
        except RuntimeError as error:
            console.print(f"  cuda:{index}        not checked: {error}", markup=False)
            healthy = False
            continue
        for name, line in _verdict_lines(f"cuda:{index}", verdicts):
            console.print(f"  {name:<14}{line}", markup=False)
        healthy &= all(verdict.agrees for verdict in verdicts.values())
    return healthy


def _with_progress(index: int) -> dict[Subject, Verdict]:
    """Check one GPU's kernels and show the last one done: this takes minutes if Triton has compiled nothing yet."""
    from rich.console import Console
    from rich.progress import Progress

    from segnext_kernels import self_check

    errors = Console(stderr=True)
    with Progress(console=errors, disable=not errors.is_terminal, transient=True) as progress:
        task = progress.add_task(f"cuda:{index}", total=None)

        def advance(total: int, subject: Subject, verdict: Verdict) -> None:
            progress.update(task, total=total, advance=1, description=str(subject))

        return self_check.check_device(index, again=True, advance=advance)


def build() -> list[tuple[str, str]]:
    """Return the record that the build of `segnext_kernels` wrote."""
    from segnext_kernels import status

    return [(name, _plain(value)) for name, value in status().build.items()]


def shipped_weights() -> list[tuple[str, str]]:
    """Return name, file and size of the weights that come with the package."""
    from segnext.weights.catalogue import FOLDER, shipped

    files = [(name, FOLDER / f"{name}.safetensors") for name in shipped()]
    return [(name, f"{file} ({file.stat().st_size / 1e6:.1f} MB)") for name, file in files] or [
        ("none", "shipped")
    ]


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{key}: {_plain(entry)}" for key, entry in value.items()) or "nothing"
    if isinstance(value, list | tuple):
        return " ".join(_plain(entry) for entry in value) or "nothing"
    return str(value)


def _examine(console: Console, data: str, root: Path | None, limit: int | None) -> bool:
    """Print a report on each split; return whether nothing is wrong."""
    from rich.console import Console

    from segnext.cli.main import message_of
    from segnext.data.check import inspect_shown
    from segnext.data.config import load_data_config
    from segnext.data.findings import judge

    config = load_data_config(data, root)
    reports: dict[str, SplitReport] = {}
    faults: dict[str, str] = {}
    for split in config.splits:
        try:
            reports[split] = inspect_shown(config, split, Console(stderr=True), limit)
        except (ValueError, OSError) as error:
            faults[split] = message_of(error)
    healthy = not faults
    for split, files in config.splits.items():
        listed = f", listed in {files.list}" if files.list else ""
        console.print(f"{config.name} {split}", style="bold", markup=False, end="")
        console.print(f": {files.images}, {files.labels}{listed}", markup=False)
        if split in faults:
            console.print(f"  {faults[split]}", markup=False)
            continue
        _print_split(console, reports[split])
        others = [reports[other] for other in reports if other != split]
        healthy &= _print_findings(console, judge(reports[split], others))
    return healthy


def _browse(console: Console, data: str, root: Path | None, file: Path) -> None:
    from segnext.atomic import replace_bytes
    from segnext.data.browse import browse
    from segnext.data.config import load_data_config
    from segnext.drawing.encoding import encoded

    replace_bytes(file, encoded(browse(load_data_config(data, root)), format="PNG"))
    console.print(f"sheet: {file}", markup=False)


def _print_split(console: Console, report: SplitReport) -> None:
    from rich.markup import escape
    from rich.table import Table

    read = "" if report.is_complete else f", {report.inspected} of them read"
    common = [f"{width}x{height} ({count})" for (height, width), count in report.sizes.most_common(3)]
    more = f" and {len(report.sizes) - 3} other sizes" if len(report.sizes) > 3 else ""
    console.print(f"  pairs: {report.total}{read}; width x height: {', '.join(common) or 'none'}{more}")
    kinds = [f"{kind}: {count}" for kind, count in report.kinds.most_common()]
    if kinds:
        console.print(f"  images: {', '.join(kinds)}", markup=False)
    total, config = max(sum(report.values.values()), 1), report.config
    table = Table("id", "class")
    table.add_column("pixels", justify="right")
    table.add_column("images", justify="right")
    rows = list(enumerate(config.classes))
    if config.ignore_index >= len(rows):
        rows.append((config.ignore_index, "(ignored)"))
    for label, name in rows:
        share = 100 * report.pixels[label] / total
        style = "yellow" if not share and name != "(ignored)" else None
        shown = f"{name} (ignored)" if label == config.ignore_index < len(config.classes) else name
        table.add_row(str(label), escape(shown), f"{share:.2f} %", str(report.images[label]), style=style)
    unknown = sorted(report.unknown)
    for value in unknown[:SHOWN]:
        share, shown = 100 * report.values[value] / total, escape(report.reader.shown(value))
        table.add_row(shown, "(unknown)", f"{share:.2f} %", str(report.unknown[value]), style="red")
    console.print(table)
    if len(unknown) > SHOWN:
        console.print(f"  and {len(unknown) - SHOWN} more unknown {report.reader.kind}")
    values = sorted(report.values)
    if values and report.reader.has_colours:
        console.print(f"  colours: {len(values)} different")
    else:
        found = f"{values[0]}..{values[-1]}, {len(values)} different" if values else "none"
        console.print(f"  ids in the files: {found}")


def _print_findings(console: Console, findings: list[Finding]) -> bool:
    """Print each finding and the files that it is about; return whether nothing is wrong."""
    styles = {"error": "red", "warning": "yellow", "note": "dim"}
    for finding in findings:
        console.print(f"  {finding.level}: ", style=styles[finding.level], end="")
        console.print(finding.text, markup=False)
        others = finding.files[1:SHOWN]
        if others:
            more = len(finding.files) - 1 - len(others)
            names = [file.name for file in others] + ([f"... and {more} more"] if more else [])
            console.print(f"    also {', '.join(names)}", markup=False)
    healthy = all(finding.level == "note" for finding in findings)
    if healthy:
        console.print("  nothing wrong")
    return healthy
