"""Compares our masks with those of the published pipelines: ``python -m tests.interop.protocols CAMVID --python ENV``.

The pipelines are mmsegmentation 1.2.2's own code (`peer_protocols`), which runs in an environment of its own; both
sides have the shipped weights. The numbers of pixels that differ go to bench/results/protocols.json, from which
`make readme` makes a table of docs/model.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from segnext import create_model
from segnext.atomic import replace_file
from segnext.data.preprocessing import Preprocessing
from segnext.models import SegNeXt
from segnext.predict.inference import Inference
from segnext.predict.predictor import Predictor

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "bench" / "results" / "protocols.json"
WEIGHTS = "camvid"
LIMIT = 0.002  # share of the pixels
SHORT_SIDES = (256, 512, 720)
PHOTOGRAPHS, PHOTOGRAPHS_OF_SEVERAL_VIEWS = 20, 4
SEVERAL = {"scales": (0.5, 0.75, 1.25), "flip": True}


def cases(photographs: Sequence[Path]) -> list[dict[str, Any]]:
    """Return what is compared: each protocol at each size, and several views."""
    chosen = [str(path) for path in photographs]
    found: list[dict[str, Any]] = []
    for protocol in ("official", "mmseg1"):
        one = [
            {"short_side": side, "scales": (1.0,), "flip": False, "photographs": chosen}
            for side in SHORT_SIDES
        ]
        # mmsegmentation 1.x scales the photograph itself.
        side = 512 if protocol == "official" else 0
        few = {"short_side": side, **SEVERAL, "photographs": chosen[:PHOTOGRAPHS_OF_SEVERAL_VIEWS]}
        found += [{"protocol": protocol, **case} for case in (*one, few)]
    return found


def peer_masks(model: SegNeXt, jobs: Sequence[dict[str, Any]], python: str) -> dict[str, np.ndarray]:
    """Run the pipelines in their environment; return the mask of each "case:photograph"."""
    preprocessing = Preprocessing.of(model.metadata)
    options = dataclasses.asdict(model.config)
    job = {
        "architecture": options.pop("architecture"),
        "options": options,
        "mean": preprocessing.mean,
        "std": preprocessing.std,
        "cases": jobs,
    }
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "job.json").write_text(json.dumps(job))
        torch.save(model.state_dict(), Path(folder, "weights.pt"))
        subprocess.run(
            [python, str(ROOT / "tests/interop/peer_protocols.py"), folder],
            check=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        with np.load(Path(folder, "masks.npz")) as masks:
            return dict(masks)


def compare(photographs: Sequence[Path], python: str) -> list[dict[str, Any]]:
    """Return one row per case: its settings, and how many pixels have another class."""
    model = create_model(weights=WEIGHTS).eval()
    assert isinstance(model, SegNeXt)
    jobs = cases(photographs)
    theirs = peer_masks(model, jobs, python)
    rows = []
    for index, case in enumerate(jobs):
        settings = {name: case[name] for name in ("protocol", "short_side", "scales", "flip")}
        predictor = Predictor(model, device="cpu", inference=Inference(**settings))
        differing = pixels = 0
        for photograph in case["photographs"]:
            mask, expected = predictor(photograph).mask, theirs[f"{index}:{photograph}"]
            differing += int((mask != expected).sum())
            pixels += mask.size
        found = {"photographs": len(case["photographs"]), "pixels": pixels, "differing": differing}
        rows.append(settings | found)
        print(rows[-1], flush=True)
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point; the exit status is 1 if any share is above the limit."""
    parser = argparse.ArgumentParser(prog="python -m tests.interop.protocols", description=__doc__)
    parser.add_argument("camvid", type=Path, help="folder with images/val")
    parser.add_argument("--python", required=True, help="Python of an environment with mmsegmentation 1.2.2")
    options = parser.parse_args(arguments)
    files = sorted((options.camvid / "images" / "val").iterdir())
    rows = compare(files[:: max(1, len(files) // PHOTOGRAPHS)][:PHOTOGRAPHS], options.python)
    text = json.dumps({"weights": WEIGHTS, "limit": LIMIT, "rows": rows}, indent=1) + "\n"
    replace_file(RESULTS, lambda path: path.write_text(text, encoding="utf-8"))
    sys.exit(max(row["differing"] / row["pixels"] for row in rows) > LIMIT)


if __name__ == "__main__":
    main()
