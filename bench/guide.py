"""Makes the tables of the user's pages: docs/choosing.md from result files, docs/protocols.md from the recipes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from bench import report, results
from bench.campaign.models import TABLE
from bench.rivals.catalogue import NETWORKS
from segnext.data.config import load_classes
from segnext.measure.costs import count_costs
from segnext.models import build
from segnext.training.recipes import Recipe, list_recipes, load_recipe
from segnext.weights.published import list_published, load_published

SIZES = ("t", "s", "b", "l")
ON_CPU = ("512x512", "1024x2048")  # as bench.rivals names them
ON_GPU = ("1x512x512", "1x1024x2048")  # as bench.campaign names them
NO_NUMBER = "-"


def choices(folder: Path = results.FOLDER) -> str:
    """Return a row per size: costs and published accuracy; below it the newest times of each machine that has some."""
    costs = [["", "parameters", "multiply-adds, 512x512", "mIoU, ADE20K", "mIoU, Cityscapes"]]
    cited = {network.ours: network for network in NETWORKS if network.form == "deployed"}
    for size in SIZES:
        with torch.device("meta"):  # shapes suffice
            network = build(f"segnext_{size}")
        parameters = sum(parameter.numel() for parameter in network.parameters())
        multiply_adds = count_costs(network, 512, 512).multiply_adds
        accuracy = [f"{getattr(cited[size], data).value:.1f}" for data in ("ade20k", "cityscapes")]
        costs.append([size.upper(), f"{parameters / 1e6:.1f} M", f"{multiply_adds / 1e9:.1f} G", *accuracy])
    machines = [*_cpus(folder), *_gpus(folder)]
    if not machines:
        return f"{report.aligned(costs)}\n\nNo machine was measured yet."
    times = [["", *(title for titles, _, _ in machines for title in titles)]]
    times += [[size.upper(), *(cell for _, _, cells in machines for cell in cells[size])] for size in SIZES]
    notes = "\n".join(note for _, note, _ in machines)
    return "\n\n".join([report.aligned(costs), report.aligned(times), notes])


_Columns = tuple[list[str], str, dict[str, list[str]]]


def _cpus(folder: Path) -> list[_Columns]:
    """Return titles, a line about the run, and the cells of each size, for the newest rivals' run of each machine."""
    found = []
    for machine in sorted({path.parent for path in folder.glob("*/rivals/*.json")}):
        runs = [json.loads(path.read_text()) for path in machine.glob("*.json")]
        whole = [run for run in runs if not run["settings"]["dry_run"]]
        if not whole:
            continue
        run = max(whole, key=lambda one: str(one["machine"]["date"]))
        host = run["machine"]
        rows = {(row["name"], row["size"]): row for row in run["rows"] if row["times"]}
        cells = {
            size: [_cpu_cell(rows.get((f"SegNeXt-{size.upper()} deployed", of))) for of in ON_CPU]
            for size in SIZES
        }
        titles = [f"{host['device']}, fp32, {of}" for of in ON_CPU]
        note = f"{host['device']}: {host['threads']} threads, {host['date'][:10]}, commit {host['commit']}."
        found.append((titles, f"- {note}", cells))
    return found


def _cpu_cell(row: dict[str, Any] | None) -> str:
    return NO_NUMBER if row is None else f"{report.number(row['times']['median'])} ms"


def _gpus(folder: Path) -> list[_Columns]:
    """Return the same for each GPU; a cell is of the newest run that has the workload."""
    by_device: dict[str, list[results.Results]] = {}
    for path in folder.glob("*/*.json"):
        run = results.read(path)
        if any(row.table == TABLE for row in run.rows):
            by_device.setdefault(run.machine["device"], []).append(run)
    found = []
    for device, runs in sorted(by_device.items()):
        runs.sort(key=lambda run: str(run.machine["date"]))
        times = {
            row.name: report.number(row.times[results.OURS].median)
            for run in runs  # a later run replaces an earlier one
            for row in run.rows
            if row.table == TABLE
        }
        cells = {size: [_gpu_cell(times, f"{size.upper()} {of},") for of in ON_GPU] for size in SIZES}
        commits = ", ".join(run.machine["commit"] for run in runs)
        titles = [f"{device}, bf16, {of.removeprefix('1x')}" for of in ON_GPU]
        found.append((titles, f"- {device}: one image at a time, commits {commits}.", cells))
    return found


def _gpu_cell(times: dict[str, str], beginning: str) -> str:
    return next((f"{time} ms" for name, time in times.items() if name.startswith(beginning)), NO_NUMBER)


def recipes() -> str:
    """Return how each data set is trained and evaluated, a row per recipe of the paper."""
    lines = [["data set", "classes", "steps", "batch", "crop", "evaluated by `segnext val NAME`"]]
    for recipe in _published_recipes():
        settings = recipe.settings
        cells = [f"{settings[name]:,}" for name in ("steps", "batch_size", "crop")]
        lines.append([f"`{recipe.name}`", str(len(load_classes(recipe.name)[0])), *cells, _protocol(recipe)])
    return _table(lines)


def accuracies() -> str:
    """Return the published mIoU of each data set and size: the paper's, and that of the weights by name."""
    weights = [entry for entry in map(load_published, list_published()) if entry.miou]
    lines = [["data set", "numbers of", *(size.upper() for size in SIZES)]]
    for recipe in _published_recipes():
        if recipe.miou:
            cells = [_pair(recipe.miou.get(size)) for size in SIZES]
            lines.append([f"`{recipe.name}`", "the paper", *cells])
        by_size = {entry.architecture[-1]: entry for entry in weights if entry.group == recipe.name}
        if by_size:
            origin = next(iter(by_size.values())).origin
            cells = [_pair(by_size[size].miou if size in by_size else None) for size in SIZES]
            lines.append([f"`{recipe.name}`", f"the weights `{recipe.name}-t` ... of {origin}", *cells])
    return _table(lines)


def _published_recipes() -> list[Recipe]:
    every = map(load_recipe, list_recipes())
    return [recipe for recipe in every if recipe.evaluation and not recipe.is_classification]


def _protocol(recipe: Recipe) -> str:
    options = recipe.evaluation
    if options["mode"] == "slide":
        return f"windows of {options['crop']}, step {options['stride']}, at the image's own size"
    return f"whole images, short side {options['short_side']}, `{options['protocol']}`"


def _pair(miou: Sequence[float | None] | None) -> str:
    """Return mIoU at one scale and at several, as papers write them."""
    return " / ".join(str(value) for value in miou or () if value is not None) or NO_NUMBER


def _table(lines: Sequence[Sequence[str]]) -> str:
    rule = ["---"] * len(lines[0])
    return "\n".join("| " + " | ".join(line) + " |" for line in [lines[0], rule, *lines[1:]])
