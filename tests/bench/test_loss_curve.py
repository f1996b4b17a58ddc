"""Tests the loss curves: same start, same batches, gaps judged against the noise."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bench import loss_curve
from bench.results import OURS


def test_gap_is_told_in_units_of_the_noise() -> None:
    curves = {OURS: [3.0, 2.0, 1.5], "eager": [3.0, 2.2, 1.5], "eager, other threads": [3.0, 2.1, 1.1]}
    found = loss_curve.summary(curves)
    assert found["largest_gap"] == pytest.approx(0.2)
    assert found["largest_noise"] == pytest.approx(0.4)
    assert found["gap_of_noise"] == pytest.approx(0.5)
    assert found["last_losses"][OURS] == pytest.approx(6.5 / 3)
    curves["eager, other threads"] = curves["eager"]
    assert loss_curve.summary(curves)["gap_of_noise"] is None


def test_a_run_from_the_command_line(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the plot needs matplotlib: pip install .[bench]")
    generator = np.random.default_rng(0)
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (tmp_path / kind / split).mkdir(parents=True)
        for index in range(2):
            pixels = generator.integers(0, 256, (48, 64, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / f"images/{split}/{index}.png")
            Image.fromarray(pixels[..., 0] % 11).save(tmp_path / f"labels/{split}/{index}.png")
    threads = torch.get_num_threads()
    options = ["--data", str(tmp_path), "--steps", "2", "--batch", "2", "--crop", "32"]
    loss_curve.main([*options, "--results", str(tmp_path / "results")])
    (path,) = tmp_path.glob("results/*/loss_curve/*.json")
    stored = json.loads(path.read_text())
    curves = stored["losses"]
    assert list(curves) == [OURS, "eager", "eager, other threads"]
    assert all(
        len(curve) == 2 and curve[0] == pytest.approx(curves["eager"][0], rel=1e-4)
        for curve in curves.values()
    )
    assert stored["settings"] == {"steps": 2, "batch": 2, "crop": 32}
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert torch.get_num_threads() == threads
