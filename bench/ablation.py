"""Trains the variants that the paper ablates, in the small: `python -m bench.ablation RUNS --data CAMVID`.

The paper's table 6 trains the MSCA without one of its parts on ImageNet and ADE20K. Here each variant of SegNeXt-T
trains from random weights on CamVid at half size, with the same seed, steps and settings, by `segnext train`, in a
process of its own. The network as published is trained with several seeds: how far these lie apart is the noise, below
which a difference between variants means nothing. A run that was interrupted goes on when it is called again; runs that
are complete are not repeated. At the end, or for the runs that are complete with ``--collect``, it writes a JSON and a
PNG under bench/results/<machine>/ablation/.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from bench import machine
from bench.report import OTHER_COLOUR, OURS_COLOUR, aligned
from bench.results import FOLDER
from segnext.data.shipped import SETS

SHORT_SIDE, CROP, BATCH = 180, 160, 8  # CamVid's images are 480x360
STEPS, WARMUP, LEARNING_RATE = 1500, 150, 1e-3
EVERY = 50  # steps of which a row of the log is the mean


@dataclass(frozen=True)
class Variant:
    """One row of the paper's table 6.

    Attributes:
        model: its name in `segnext.list_models(variants=True)`.
        title: what it is.
        paper: its mIoU on ADE20K.
        seeds: of its trainings here.
    """

    model: str
    title: str
    paper: float
    seeds: tuple[int, ...] = (0,)


VARIANTS = (
    Variant("segnext_t", "as published", 41.1, (0, 1, 2)),
    Variant("segnext_t_nomix", "without the 1x1 convolution", 39.1),
    Variant("segnext_t_nogate", "without the product", 40.5),
    Variant("segnext_t_strip7", "strips of 7 alone", 39.6),
    Variant("segnext_t_strip11", "strips of 11 alone", 39.7),
    Variant("segnext_t_strip21", "strips of 21 alone", 40.0),
)


def trainings() -> list[tuple[Variant, int]]:
    """Return every training, first one of each variant and then the other seeds."""
    return sorted(
        ((variant, seed) for variant in VARIANTS for seed in variant.seeds), key=lambda pair: pair[1]
    )


def folder_of(runs: Path, variant: Variant, seed: int) -> Path:
    """Return the folder of one training."""
    return runs / f"{variant.model}-seed{seed}"


def half_size(runs: Path) -> Path:
    """Write CamVid's data file with the short side of this ablation."""
    data = yaml.safe_load((SETS / "camvid.yaml").read_text())
    path = runs / "camvid.yaml"
    path.write_text(yaml.safe_dump({**data, "short_side": SHORT_SIDE}, sort_keys=False))
    return path


def train(runs: Path, data: Path, root: Path, variant: Variant, seed: int, steps: int) -> None:
    """Train one variant, or go on with it."""
    folder = folder_of(runs, variant, seed)
    settings: dict[str, Any] = {
        "steps": steps,
        "batch-size": BATCH,
        "crop": CROP,
        "lr": LEARNING_RATE,
        "warmup": min(WARMUP, steps // 4),
        "ema": 0.99,
        "seed": seed,
        "log-every": min(EVERY, steps),
        "eval-every": max(steps // 3, 1),
        "checkpoint-every": 100,
        "dtype": "bfloat16",
        "threads": 1,
        "workers": 1,
    }
    options = [text for name, value in settings.items() for text in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "segnext", "train", str(data), "--root", str(root), "-o", str(folder)]
    resume = ["--resume" if (folder / "checkpoint.safetensors").exists() else "--overwrite"]
    subprocess.run([*command, "-m", variant.model, *options, *resume], check=True)


def read(folder: Path) -> dict[str, Any] | None:
    """Return losses and measures of a training; None unless it is complete."""
    if not (folder / "final.safetensors").exists():
        return None
    rows = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    losses = {row["step"]: row["loss"] for row in rows if "loss" in row}  # a step done again counts once
    measures = {row["step"]: row["val"] for row in rows if "val" in row}
    last = measures[max(measures)]
    return {
        "losses": sorted(losses.items()),
        "miou": sorted((step, one["miou"]) for step, one in measures.items()),
        "class_iou": last["class_iou"],
        "pixel_accuracy": last["pixel_accuracy"],
    }


def collect(runs: Path) -> list[dict[str, Any]]:
    """Return a row for each training that is complete."""
    rows = []
    for variant, seed in sorted(trainings(), key=lambda pair: VARIANTS.index(pair[0])):
        found = read(folder_of(runs, variant, seed))
        if found is not None:
            rows.append({**asdict(variant), "seed": seed, **found})
    return rows


def noise(rows: Sequence[dict[str, Any]]) -> float | None:
    """Return the distance between the best and the worst final mIoU of the network as published; None below two."""
    last = [row["miou"][-1][1] for row in rows if row["model"] == VARIANTS[0].model]
    return max(last) - min(last) if len(last) > 1 else None


def steps_of(rows: Sequence[dict[str, Any]]) -> int:
    """Return how many steps all trainings took.

    Raises:
        ValueError: they took different numbers of steps, so that they cannot be compared.
    """
    steps = {row["miou"][-1][0] for row in rows}
    if len(steps) != 1:
        raise ValueError(
            f"ablation: trainings must have equal steps, got {sorted(steps)}; use another folder"
        )
    return int(steps.pop())


def plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw the losses on the left and each variant's mIoU on the right, into a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.5), layout="constrained")
    titles = [variant.title for variant in VARIANTS if any(row["title"] == variant.title for row in rows)]
    colours = {title: OURS_COLOUR if not index else f"C{index}" for index, title in enumerate(titles)}
    for row in rows:
        steps, losses = zip(*row["losses"], strict=True)
        label = row["title"] if row["seed"] == 0 else None
        left.plot(steps, losses, color=colours[row["title"]], label=label, linewidth=1, alpha=0.8)
        place = titles.index(row["title"])
        right.plot(row["miou"][-1][1], place, "o", color=colours[row["title"]], markersize=7)
    published = [row["miou"][-1][1] for row in rows if row["model"] == VARIANTS[0].model]
    if len(published) > 1:
        right.axvspan(min(published), max(published), color=OTHER_COLOUR, alpha=0.25, label="between seeds")
    left.set_xlabel("step")
    left.set_ylabel(f"loss, mean of {EVERY} steps")
    left.set_yscale("log")
    right.set_yticks(range(len(titles)), titles)
    right.invert_yaxis()
    right.set_xlabel("mIoU on CamVid val")
    right.locator_params(axis="x", nbins=5)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def write(rows: Sequence[dict[str, Any]], results: Path) -> Path:
    """Write rows, settings, noise and plot; return the JSON's path."""
    host = machine.describe()
    folder = results / host["slug"] / "ablation"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{host['date'][:10]}-{host['commit'].rstrip('+')}.json"
    settings = {
        "steps": steps_of(rows),
        "batch": BATCH,
        "crop": CROP,
        "short_side": SHORT_SIDE,
        "learning_rate": LEARNING_RATE,
    }
    found = {"machine": host, "settings": settings, "noise": noise(rows), "rows": list(rows)}
    path.write_text(json.dumps(found) + "\n")
    plot(rows, path.with_suffix(".png"))
    return path


def section(path: Path, link: Callable[[Path], str]) -> str:
    """Return a result file as a section of docs/variants.md."""
    found = json.loads(path.read_text())
    settings, host = found["settings"], found["machine"]
    lines = [
        [
            "SegNeXt-T",
            "seed",
            "loss at the end",
            "mIoU on CamVid",
            "to the first row",
            "mIoU in the paper, ADE20K",
        ]
    ]
    first = found["rows"][0]["miou"][-1][1]
    for row in found["rows"]:
        miou = row["miou"][-1][1]
        cells = [row["title"], str(row["seed"]), f"{row['losses'][-1][1]:.4f}", f"{miou:.1%}"]
        lines.append([*cells, f"{100 * (miou - first):+.1f}", str(row["paper"])])
    return (
        f"{settings['steps']} steps each, batches of {settings['batch']}, crops of {settings['crop']} at a short side "
        f"of {settings['short_side']}, bfloat16, on one core of {host['device']}, commit {host['commit']} "
        f"([numbers]({link(path)})).\n\n{aligned(lines)}\n\n"
        f"{_of_noise(found['noise'])}\n\n"
        f"![losses and mIoU of the variants]({link(path.with_suffix('.png'))})"
    )


def _of_noise(distance: float | None) -> str:
    if distance is None:
        return "The noise is not known yet: the published network was trained with one seed."
    return (
        f"**Noise**: the published network's mIoU differs by {100 * distance:.1f} points between seeds. A smaller "
        "difference between two rows means nothing."
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `python -m bench.ablation`."""
    parser = argparse.ArgumentParser(prog="python -m bench.ablation", description=__doc__)
    parser.add_argument("runs", type=Path, help="folder of the trainings; called again, it goes on there")
    parser.add_argument(
        "--data", type=Path, required=True, help="folder of CamVid: images/train, labels/train"
    )
    parser.add_argument("--steps", type=int, default=STEPS, help="of each training (default: %(default)s)")
    parser.add_argument("--collect", action="store_true", help="train nothing: write what is complete")
    parser.add_argument("--results", type=Path, default=FOLDER, help="folder of the machines' results")
    options = parser.parse_args(arguments)
    options.runs.mkdir(parents=True, exist_ok=True)
    data = half_size(options.runs)
    for number, (variant, seed) in enumerate(trainings() if not options.collect else [], start=1):
        if read(folder_of(options.runs, variant, seed)) is None:
            print(f"{number} of {len(trainings())}: {variant.model}, seed {seed}", flush=True)
            train(options.runs, data, options.data, variant, seed, options.steps)
    rows = collect(options.runs)
    if not rows:
        parser.exit(1, f"ablation: no training in {options.runs} is complete\n")
    path = write(rows, options.results)
    for row in rows:
        print(f"{row['title']}, seed {row['seed']}: mIoU {row['miou'][-1][1]:.4f}")
    print(f"noise between seeds: {noise(rows)}\nwrote {path}")


if __name__ == "__main__":
    main()
