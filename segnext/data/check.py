"""Checks a data set before anything is learned from it or measured on it."""

from __future__ import annotations

from collections.abc import Container, Iterable

from rich.console import Console
from rich.progress import Progress

from segnext.data.config import DataConfig
from segnext.data.findings import judge
from segnext.data.inspection import SplitReport, inspect_split


def inspect_shown(
    config: DataConfig,
    split: str,
    console: Console,
    limit: int | None = None,
    *,
    with_fingerprints: bool = True,
) -> SplitReport:
    """Inspect a split, see `inspect_split`, with a progress bar if the console is a terminal."""
    with Progress(console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task(f"checking {split}", total=None)

        def advance(total: int) -> None:
            progress.update(task, total=total, advance=1)

        return inspect_split(config, split, limit, advance, with_fingerprints=with_fingerprints)


def require_sound(
    config: DataConfig, splits: Iterable[str], console: Console, tolerant: Container[str] = ()
) -> dict[str, SplitReport]:
    """Inspect all pairs of some splits and print what is wrong but no error.

    Args:
        config: the data set.
        splits: which splits.
        console: prints progress and warnings.
        tolerant: splits whose files need not all be readable; a file that is not is a warning.

    Returns:
        The report of each split.

    Raises:
        ValueError: there are errors; the message is the first one, with the setting that cures it, and their number.
        FileNotFoundError: a folder is missing.
    """
    splits = list(splits)
    reports = {
        split: inspect_shown(config, split, console, with_fingerprints=len(splits) > 1) for split in splits
    }
    errors = []
    for split, report in reports.items():
        findings = judge(report, [reports[other] for other in reports if other != split])
        unreadable = {file for file, _ in report.unreadable} if split in tolerant else set()
        for finding in findings:
            is_tolerated = bool(finding.files) and unreadable.issuperset(finding.files)
            if finding.level == "error" and not is_tolerated:
                errors.append(finding.text)
            elif finding.level == "warning" or is_tolerated:
                console.print(f"warning: {finding.text}", markup=False, highlight=False, soft_wrap=True)
    if errors:
        more = f"; segnext doctor shows all {len(errors)} errors" if len(errors) > 1 else ""
        raise ValueError(f"{errors[0]}{more}")
    return reports
