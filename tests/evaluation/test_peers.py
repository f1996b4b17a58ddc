"""Our measures are those of mmsegmentation and of torchmetrics on the same predictions."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from segnext.evaluation.metrics import ConfusionMatrix
from tests.interop.mmsegmentation import PYTHON, needs_mmsegmentation

CLASSES = 7
SCRIPT = Path(__file__).with_name("mmseg_measures.py")

Pairs = list[tuple[np.ndarray, np.ndarray]]


def scenes(seed: int = 0) -> Pairs:
    """Return predictions and labels of several sizes; class 5 is never predicted, class 6 never occurs at all."""
    rng = np.random.default_rng(seed)
    pairs = []
    for height, width in ((31, 47), (64, 33), (20, 20)):
        label = rng.choice([0, 1, 2, 3, 4, 5, 255], (height, width), p=[0.4, 0.2, 0.1, 0.1, 0.05, 0.05, 0.1])
        guess = rng.integers(0, 5, label.shape)
        prediction = np.where((rng.random(label.shape) < 0.7) & (label < 5), label, guess)
        pairs.append((prediction.astype(np.uint8), label.astype(np.uint8)))
    return pairs


@pytest.fixture
def pairs() -> Pairs:
    return scenes()


def counted(pairs: Pairs) -> ConfusionMatrix:
    confusion = ConfusionMatrix(CLASSES)
    for prediction, label in pairs:
        confusion.update(torch.from_numpy(prediction), torch.from_numpy(label))
    return confusion


@needs_mmsegmentation
def test_mmsegmentation(pairs, tmp_path):
    maps = {f"prediction{index}": prediction for index, (prediction, _) in enumerate(pairs)}
    maps |= {f"label{index}": label for index, (_, label) in enumerate(pairs)}
    np.savez(tmp_path / "maps.npz", **maps)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [str(PYTHON), str(SCRIPT), str(tmp_path / "maps.npz"), str(CLASSES), "255"]
    run = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr
    (line,) = [line for line in run.stdout.splitlines() if line.startswith("measures ")]
    theirs = json.loads(line.removeprefix("measures "))

    ours = counted(pairs)
    by_class = {"IoU": ours.iou, "Acc": ours.accuracy, "Dice": ours.dice, "Precision": ours.precision}
    for name, values in by_class.items():  # they divide in float32
        np.testing.assert_allclose(values.numpy(), theirs["by_class"][name], rtol=1e-6, err_msg=name)
    assert ours.pixel_accuracy == pytest.approx(theirs["by_class"]["aAcc"], rel=1e-6)
    # Of a class that is never predicted their Fscore is 0 / 0, and their Dice 0, as ours is.
    their_f1 = np.array(theirs["by_class"]["Fscore"])
    assert ours.dice[5] == 0 and np.isnan(their_f1[5]) and ours.dice[6].isnan() and np.isnan(their_f1[6])
    np.testing.assert_allclose(ours.dice[:5].numpy(), their_f1[:5], rtol=1e-6)
    means = {"mIoU": ours.miou, "mAcc": ours.accuracy.nanmean(), "mDice": ours.dice.nanmean()}
    means |= {"aAcc": ours.pixel_accuracy, "mFscore": ours.dice[:5].mean()}
    for name, value in means.items():  # in percent, rounded to two digits
        assert 100 * float(value) == pytest.approx(theirs["rounded"][name], abs=0.00501), name


def test_torchmetrics(pairs):
    """Its means count an absent class as 0, so that classes are compared one by one."""
    pytest.importorskip("torchmetrics")
    from torchmetrics.classification import (
        MulticlassAccuracy,
        MulticlassF1Score,
        MulticlassJaccardIndex,
        MulticlassPrecision,
    )

    prediction = torch.cat([torch.from_numpy(prediction).flatten() for prediction, _ in pairs]).long()
    label = torch.cat([torch.from_numpy(label).flatten() for _, label in pairs]).long()
    ours = counted(pairs)
    measures = {
        MulticlassJaccardIndex: ours.iou,
        MulticlassAccuracy: ours.accuracy,
        MulticlassPrecision: ours.precision,
        MulticlassF1Score: ours.dice,
    }
    for kind, values in measures.items():
        theirs = kind(num_classes=CLASSES, average=None, ignore_index=255)(prediction, label)
        np.testing.assert_allclose(np.nan_to_num(values.numpy()), theirs.numpy(), rtol=1e-6)
    options = {"num_classes": CLASSES, "ignore_index": 255}
    micro = MulticlassAccuracy(**options, average="micro")(prediction, label)
    assert ours.pixel_accuracy == pytest.approx(float(micro), rel=1e-6)
    weighted = MulticlassJaccardIndex(**options, average="weighted")(prediction, label)
    assert ours.frequency_weighted_iou == pytest.approx(float(weighted), rel=1e-6)
