"""Prints which data sets are read, trained and evaluated: one row per data set and layout on disk.

`python -m tests.data.table` writes a miniature of each layout with the real names and ids, reads it, takes two steps by
the data set's recipe, and evaluates by its protocol, as `tests/cli/test_every_data_set.py` does for one layout of each.
It takes some minutes; names of data sets after the command choose some. The exit status is 1 if a cell is not "yes".
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from rich.console import Console
from rich.table import Table

from tests.cli.test_every_data_set import (
    evaluate_by_protocol,
    evaluate_imagenet,
    read_imagenet,
    train_two_steps,
)
from tests.data.class_folders import write_thousand_folders
from tests.data.miniatures import ALL, MINIATURES
from tests.data.test_miniatures import test_a_shipped_set_is_read_in_each_layout as read

COLUMNS = ("read, all ids", "two steps by recipe", "evaluated by protocol")


def parts(name: str, layout: str, folder: Path) -> list[Callable[[], object]]:
    """Return what a row does, column by column; each raises if it fails."""
    root, run = folder / "data", folder / "run"
    if name == "imagenet":
        return [
            lambda: read_imagenet(write_thousand_folders(root)),
            lambda: train_two_steps(name, root, run),
            lambda: evaluate_imagenet(root, run),
        ]
    return [
        lambda: read(name, layout, root),
        lambda: train_two_steps(name, root, run),
        lambda: evaluate_by_protocol(name, root, run),
    ]


def cell(part: Callable[[], object]) -> str:
    """Return "yes", or why the part failed; what it prints is dropped."""
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            part()
    except (Exception, pytest.fail.Exception) as error:
        return f"NO: {type(error).__name__} {str(error).splitlines()[0] if str(error) else ''}"
    return "yes"


def main() -> None:
    rows = [*MINIATURES, ("imagenet", "class folders")]
    wanted = sys.argv[1:] or [name for name, _ in rows]
    if unknown := set(wanted) - {name for name, _ in rows}:
        raise SystemExit(f"table: names must be of data sets, got {', '.join(sorted(unknown))}")
    table = Table("data set", "layout", "ids in the files", "label maps", *COLUMNS)
    console = Console(width=max(Console().width, 150))
    good = True
    for name, layout in rows:
        if name not in wanted:
            continue
        with TemporaryDirectory() as folder:
            cells = [cell(part) for part in parts(name, layout, Path(folder))]
        good &= set(cells) == {"yes"}
        ids, labels = "1000 folders", "train/CLASS/*.JPEG"
        if name != "imagenet":
            miniature = ALL[name, layout]
            ids = f"{len(miniature.ids)} + {len(miniature.ignored)} ignored"
            labels = miniature.path(miniature.label, "val", "*")
        table.add_row(name, layout, ids, labels, *cells)
        print(f"{name} {layout}: {', '.join(cells)}", file=sys.stderr, flush=True)
    console.print(table)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
