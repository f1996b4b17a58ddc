"""Times SegNeXt and its rivals from an image to its mask on this machine's CPU: `python -m bench.rivals`.

The rivals are real networks from real packages, with random weights: a network takes as long with these as with
trained ones. What is installed is measured. For the rest, `--list` says which command installs it, and docs/rivals.md
how to make an environment that has everything. Nothing is downloaded.

Each row gets parameters, multiply-adds, peak memory in a process of its own, and the time from a normalised image to
the label map: batch 1, float32. Before it is timed, its logits must be finite and its mask right. All rows of a size
take turns in one process. The medians go to bench/results/<machine>/rivals/, with plots of time against published
accuracy; `make readme` then writes docs/rivals.md.

With everything installed, a run takes 15 to 20 minutes on two cores. Examples:

  python -m bench.rivals
  python -m bench.rivals --rows "SegNeXt-T*,SegFormer-B0" --sizes 512x512 --seconds 30
  python -m bench.rivals --rows "SegFormer-*" --sizes 1024x2048 --limit 120
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from bench import machine
from bench.results import FOLDER, path_of
from bench.rivals import page, plot
from bench.rivals.catalogue import NETWORKS, PACKAGES, SIZES, Network, Size, chosen
from bench.rivals.measure import Measured, Settings, measure, progress
from segnext.atomic import replace_file

DISTRIBUTIONS = ("transformers", "timm", "segmentation_models_pytorch", "onedl-mmsegmentation", "torchvision")
PEAKS_AT = ("512x512", "1024x2048")  # a process per row takes some seconds


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `python -m bench.rivals`."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        rows = chosen(options.rows.split(",")) if options.rows else list(NETWORKS)
        sizes = _sizes(options.sizes)
    except ValueError as error:
        parser.error(str(error))
    if options.list:
        print(page.published(rows))
        return
    torch.set_num_threads(options.threads or torch.get_num_threads())
    host = machine.describe()
    settings = Settings(options.seconds, options.limit, PEAKS_AT, progress)
    if options.dry_run:
        settings = Settings(0, options.limit, (), progress)
    content: dict[str, Any] = {
        "machine": host,
        "packages": _versions(),
        "settings": {"seconds": settings.seconds, "limit": settings.limit, "dry_run": options.dry_run},
        "rows": [],
    }
    folder = options.results or (None if options.dry_run else FOLDER)
    path = None if folder is None else path_of(host, folder, "rivals")
    measured: list[Measured] = []
    for size in sizes:
        there = [row for row in rows if row.runs and not row.missing() and _is_wanted(row, size, options)]
        measured += measure(size.tiny if options.dry_run else size, there, settings, measured)
        content["rows"] = [asdict(row) for row in measured]
        if path is not None:
            _save(content, path)  # after each size, so that an interruption loses one
    print(page.measured_tables(content))
    print("\n".join(["", *_not_measured(rows)]))
    if path is not None:
        print(f"\nwrote {', '.join(str(one) for one in [path, *plot.draw(content, path)])}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.rivals",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--rows", metavar="NAMES", help='only these, separated by commas, with * and ?: "SegNeXt-*,EoMT-L"'
    )
    parser.add_argument(
        "--sizes",
        metavar="SIZES",
        help=f"only these, separated by commas, and every row at each of them; there are {', '.join(SIZES)}; "
        "default: all, with few slow rows at the larger ones",
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=200,
        help="for the rounds at each size, of which there are two to five (default: 200); checks take as long again",
    )
    parser.add_argument(
        "--limit", type=float, default=45, help="leave out what takes more seconds per call (default: 45)"
    )
    parser.add_argument("--threads", type=int, help="default: as many as PyTorch takes")
    parser.add_argument(
        "--list", action="store_true", help="print rows, packages and sources; measure nothing"
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="an eighth of each side: proves that every row works",
    )
    parser.add_argument(
        "--results",
        type=Path,
        help="folder of the machines' results (default: bench/results; none for a dry run)",
    )
    return parser


def _sizes(names: str | None) -> list[Size]:
    """Return the sizes of `--sizes`, the smallest first.

    Raises:
        ValueError: there is no such size.
    """
    wanted = names.split(",") if names else list(SIZES)
    if unknown := [name for name in wanted if name not in SIZES]:
        raise ValueError(f"rivals: --sizes must be some of {', '.join(SIZES)}, got {', '.join(unknown)}")
    return [size for name, size in SIZES.items() if name in wanted]


def _is_wanted(row: Network, size: Size, options: argparse.Namespace) -> bool:
    return size.name in row.sizes or bool(options.sizes)


def _versions() -> dict[str, str]:
    found = {}
    for name in DISTRIBUTIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _not_measured(rows: Sequence[Network]) -> list[str]:
    """Return a line per package that is missing."""
    missing = {row.package for row in rows if row.missing()}
    return [f"{package} is not installed: {PACKAGES[package].install}" for package in sorted(missing)]


def _save(content: dict[str, Any], path: Path) -> None:
    replace_file(path, lambda temporary: temporary.write_text(json.dumps(content, indent=1) + "\n"))


if __name__ == "__main__":
    main()
