"""Writes the tables of docs/rivals.md: published numbers from the catalogue, times from the newest result files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import report, results
from bench.rivals import plot
from bench.rivals.catalogue import CLAIMS, NETWORKS, PACKAGES, SIZES, Cited, Claim, Network

ROOT = Path(__file__).resolve().parents[2]
BY_NAME = {network.name: network for network in NETWORKS}


def documents(folder: Path = results.FOLDER) -> str:
    """Return the newest run of each machine: plots, tables, the paper's comparisons, and what was left out."""
    parts = []
    for machine in sorted({path.parent for path in folder.glob("*/rivals/*.json")}):
        runs = {path: json.loads(path.read_text()) for path in machine.glob("*.json")}
        whole = [path for path, run in runs.items() if not run["settings"]["dry_run"]]
        if not whole:
            continue
        path = max(whole, key=lambda one: str(runs[one]["machine"]["date"]))
        content = runs[path]
        host = content["machine"]
        versions = ", ".join(
            f"{name} {version}"
            for name, version in {"torch": host["versions"]["torch"], **content["packages"]}.items()
        )
        parts.append(
            f"## {host['device']}, {host['threads']} threads\n\n{host['date'][:10]}, commit {host['commit']}, "
            f"{_rounds(content)} rounds ([numbers]({_link(path)})). {versions}."
        )
        parts += [
            f"![{title}]({_link(drawn)})" for title, drawn in plot.paths(path).items() if drawn.exists()
        ]
        parts.append(measured_tables(content))
    return "\n\n".join(parts) or "Not yet measured; `python -m bench.rivals` measures your machine."


def measured_tables(content: dict[str, Any]) -> str:
    """Return a table per size, then the paper's comparisons and the reasons for rows without a time."""
    parts = []
    for size in SIZES.values():
        rows = [row for row in content["rows"] if row["size"] == size.name]
        if rows:
            parts.append(f"### {size.name}, {size.classes} classes\n\n{_table(rows)}")
    shown = [text for claim in CLAIMS if (text := _claim(claim, content["rows"]))]
    if shown:
        parts.append("### The paper's comparisons, measured here\n\n" + "\n\n".join(shown))
    reasons = [
        f"- {row['name']} at {row['size']}: {row['left_out']}" for row in content["rows"] if row["left_out"]
    ]
    if reasons:
        parts.append("### Left out\n\n" + "\n".join(reasons))
    return "\n\n".join(parts)


def _table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows of one size, the fastest first."""
    accuracy = "cityscapes" if rows[0]["classes"] == SIZES["1024x2048"].classes else "ade20k"
    title = {"ade20k": "ADE20K mIoU, published", "cityscapes": "Cityscapes mIoU, published"}[accuracy]
    lines = [["network", "ms to the mask", "spread", "M parameters", "G multiply-adds", "peak MiB", title]]
    for row in sorted((row for row in rows if row["times"]), key=lambda row: float(row["times"]["median"])):
        times, network = row["times"], BY_NAME.get(row["name"])
        spread = (times["high"] - times["low"]) / times["median"]
        cited = getattr(network, accuracy) if network else None
        lines.append(
            [
                f"**{row['name']}**" if network and network.form == "deployed" else row["name"],
                report.number(times["median"]),
                f"{spread:.0%}",
                f"{row['parameters'] / 1e6:.1f}",
                f"{row['multiply_adds'] / 1e9:.1f}",
                "-" if row["peak_mib"] is None else f"{row['peak_mib']:.0f}",
                _value(cited),
            ]
        )
    return report.aligned(lines)


def _claim(claim: Claim, rows: Sequence[dict[str, Any]]) -> str:
    """Return one comparison of the paper beside what was measured; empty if nothing of it was."""
    here = {row["name"]: row for row in rows if row["size"] == claim.size and row["times"]}
    words = [
        f"{name} {row['parameters'] / 1e6:.1f} M, {row['multiply_adds'] / 1e9:.1f} G, "
        f"{report.number(row['times']['median'])} ms ({1e3 / row['times']['median']:.2f} frames/s)"
        for name in claim.rows
        if (row := here.get(name))
    ]
    if not words:
        return ""
    return f"- Paper ({claim.source}): {claim.says}.\n  Here, at {claim.size}: {'; '.join(words)}."


def published(networks: Sequence[Network] = NETWORKS) -> str:
    """Return every row's package and published numbers, and below them their sources."""
    lines = [
        ["network", "built by", "M parameters", "G at 512x512", "G at 1024x2048", "ADE20K", "Cityscapes"]
    ]
    lines[0] += ["sources", "note"]
    sources: dict[str, int] = {}
    for network in _one_per_network(networks):
        cited = network.published()
        marks = [sources.setdefault(number.source, len(sources) + 1) for number in cited.values()]
        lines.append(
            [
                network.name.removesuffix(f" {network.form}"),
                network.package if network.runs else f"not measured ({network.package})",
                *(
                    _value(cited.get(name))
                    for name in ("parameters", "gmacs", "city_gmacs", "ade20k", "cityscapes")
                ),
                " ".join(f"[{mark}]" for mark in sorted(set(marks))) or "-",
                network.note or "-",
            ]
        )
    found = "\n".join(f"- [{mark}] {source}" for source, mark in sources.items())
    installs = "\n".join(f"- {name}: `{package.install}`" for name, package in PACKAGES.items())
    return f"{report.aligned(lines)}\n\nSources:\n\n{found}\n\nPackages:\n\n{installs}"


def _one_per_network(networks: Sequence[Network]) -> list[Network]:
    """Return the rows without the further forms of ours, whose published numbers are the same."""
    seen: dict[str, Network] = {}
    for network in networks:
        seen.setdefault(network.name.removesuffix(f" {network.form}"), network)
    return list(seen.values())


def _value(cited: Cited | None) -> str:
    return "-" if cited is None else f"{cited.value:g}"


def _rounds(content: dict[str, Any]) -> str:
    """Return the fewest and the most rounds of a row: "3" or "2 to 5"."""
    numbers = sorted({row["times"]["rounds"] for row in content["rows"] if row["times"]})
    return " to ".join(str(number) for number in dict.fromkeys((*numbers[:1], *numbers[-1:]))) or "no"


def _link(path: Path) -> str:
    """Return a link from a document in docs/."""
    return f"../{path.relative_to(ROOT).as_posix()}"
