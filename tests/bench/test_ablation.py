"""The ablation reads what trainings leave, knows its noise, and goes on where it was interrupted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import ablation
from tests.data.synthetic import write_data_set


def leave(folder: Path, miou: float, complete: bool = True) -> None:
    """Write what a training leaves in its folder."""
    folder.mkdir(parents=True)
    rows = [
        {"step": 50, "loss": 2.0},
        {"step": 100, "loss": 1.5},
        {"step": 100, "val": {"miou": miou / 2, "pixel_accuracy": 0.5, "class_iou": {"sky": miou / 2}}},
        {"step": 100, "loss": 1.0},  # the step was done again after an interruption
        {"step": 100, "val": {"miou": miou, "pixel_accuracy": 0.6, "class_iou": {"sky": miou}}},
    ]
    (folder / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if complete:
        (folder / "final.safetensors").touch()


def test_results_become_a_section_and_a_plot(tmp_path: Path) -> None:
    published, nomix = ablation.VARIANTS[0], ablation.VARIANTS[1]
    for seed, miou in enumerate((0.40, 0.42, 0.41)):
        leave(ablation.folder_of(tmp_path, published, seed), miou)
    leave(ablation.folder_of(tmp_path, nomix, 0), 0.38)
    leave(ablation.folder_of(tmp_path, ablation.VARIANTS[2], 0), 0.9, complete=False)
    rows = ablation.collect(tmp_path)
    assert [(row["model"], row["seed"]) for row in rows] == [
        *((published.model, seed) for seed in published.seeds),
        (nomix.model, 0),
    ]
    assert rows[0]["losses"] == [(50, 2.0), (100, 1.0)]
    assert ablation.noise(rows) == pytest.approx(0.02)
    path = ablation.write(rows, tmp_path / "results")
    assert path.with_suffix(".png").stat().st_size > 10_000
    text = ablation.section(path, lambda linked: linked.name)
    assert "100 steps each" in text
    assert "2.0 points between seeds" in text
    assert "without the 1x1 convolution | " in text and "38.0%" in text and "-2.0" in text


def test_without_a_second_seed_the_noise_is_not_known(tmp_path: Path) -> None:
    leave(ablation.folder_of(tmp_path, ablation.VARIANTS[0], 0), 0.4)
    rows = ablation.collect(tmp_path)
    assert ablation.noise(rows) is None
    path = ablation.write(rows, tmp_path / "results")
    assert "The noise is not known yet" in ablation.section(path, lambda linked: linked.name)
    rows.append({**rows[0], "miou": [(200, 0.5)]})
    with pytest.raises(ValueError, match=r"trainings must have equal steps, got \[100, 200\]"):
        ablation.write(rows, tmp_path / "results")


def test_each_variant_is_trained_before_the_seeds_are_repeated() -> None:
    order = [seed for _, seed in ablation.trainings()]
    assert order == sorted(order)
    assert len(order) == sum(len(variant.seeds) for variant in ablation.VARIANTS)


def test_a_training_of_two_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_data_set(tmp_path / "houses")
    monkeypatch.setattr(ablation, "CROP", 32)
    monkeypatch.setattr(ablation, "BATCH", 2)
    variant = ablation.VARIANTS[2]
    ablation.train(tmp_path, data, data.parent, variant, 0, 4)
    found = ablation.read(ablation.folder_of(tmp_path, variant, 0))
    assert found is not None
    assert len(found["losses"]) == 1 and found["miou"][-1][0] == 4
