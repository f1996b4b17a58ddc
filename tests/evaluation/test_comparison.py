"""Compares the counts of `segnext.evaluation.comparison` with plain loops, and matches lists of classes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from segnext.evaluation import comparison
from segnext.evaluation.comparison import Comparison, Pair, SharedClasses, share_classes


def model(*classes: str, colour: int = 0) -> Any:
    """Return what `share_classes` reads of a Predictor."""
    palette = np.full((len(classes), 3), colour, np.uint8) + np.arange(len(classes), dtype=np.uint8)[:, None]
    return SimpleNamespace(classes=classes, palette=palette)


class TestSharedClasses:
    def test_equal_lists_match_by_id_even_if_a_name_repeats(self):
        shared = share_classes(model("a", "b", "a"), model("a", "b", "a", colour=9))
        assert shared.names == ("a", "b", "a") and shared.of_one == ()
        assert shared.first.tolist() == shared.second.tolist() == [0, 1, 2]
        assert shared.palette[0, 0] == 0

    def test_others_match_by_name(self):
        shared = share_classes(model("road", "sky", "tree"), model("sky", "car", "road", colour=100))
        assert shared.names == ("road", "sky", "tree", "car") and shared.of_one == ("tree", "car")
        assert shared.first.tolist() == [0, 1, 2] and shared.second.tolist() == [1, 3, 0]
        assert shared.palette[:, 0].tolist() == [0, 1, 2, 101]

    @pytest.mark.parametrize("turned", [False, True])
    def test_a_model_without_names_matches_by_id(self, turned):
        models = [model("road", "sky", colour=5), model("class 0", "class 1")]
        shared = share_classes(*reversed(models)) if turned else share_classes(*models)
        assert shared.names == ("road", "sky") and shared.palette[0, 0] == 5 and shared.of_one == ()
        assert shared.second.tolist() == [0, 1]

    @pytest.mark.parametrize("others", [("wall", "floor"), ("class 0", "class 1", "class 2")])
    def test_nothing_in_common(self, others):
        with pytest.raises(
            ValueError, match="compare: the models must have classes in common, got road, sky and "
        ):
            share_classes(model("road", "sky"), model(*others))


def shared(count: int) -> SharedClasses:
    ids = np.arange(count)
    return SharedClasses(tuple(map(str, ids)), np.zeros((count, 3), np.uint8), ids, ids)


def pair(seed: int, height: int = 13, width: int = 17, sure: bool = True) -> Pair:
    random = np.random.default_rng(seed)
    one = random.integers(0, 3, (height, width), dtype=np.uint8)
    other = np.where(random.random((height, width)) < 0.7, one, random.integers(0, 4, one.shape)).astype(
        np.uint8
    )
    confidence = (random.random(one.shape, np.float32), random.random(one.shape, np.float32))
    return Pair(
        np.zeros((height, width, 3), np.uint8), (one, other), confidence if sure else None, (1.0, 2.0)
    )


@pytest.mark.parametrize("strip", [1, 1 << 20], ids=["a-row-at-a-time", "whole"])
def test_counts(strip, monkeypatch):
    monkeypatch.setattr(comparison, "_STRIP", strip)
    pairs = [pair(0), pair(1, 8, 5)]
    counted = Comparison(shared(5))
    for one in pairs:
        counted.add(one)
    a, b = (np.concatenate([one.masks[which].ravel() for one in pairs]) for which in (0, 1))
    sure_a, sure_b = (np.concatenate([one.confidence[which].ravel() for one in pairs]) for which in (0, 1))
    assert counted.agreement == pytest.approx((a == b).mean())
    differ = a != b
    assert counted.surer.tolist() == [(differ & (sure_a >= sure_b)).sum(), (differ & (sure_a < sure_b)).sum()]
    for index in range(5):
        assert counted.shares(0)[index] == pytest.approx((a == index).mean())
        assert counted.shares(1)[index] == pytest.approx((b == index).mean())
        either = ((a == index) | (b == index)).sum()
        expected = {
            "iou": (
                counted.confusion.iou,
                ((a == index) & (b == index)).sum() / either if either else np.nan,
            ),
            "kept": (counted.confusion.accuracy, np.mean(b[a == index] == index) if index < 3 else np.nan),
            "sure_a": (counted.confidence(0), sure_a[a == index].mean() if index < 3 else np.nan),
            "sure_b": (counted.confidence(1), sure_b[b == index].mean() if index < 4 else np.nan),
        }
        for name, (found, value) in expected.items():
            assert float(found[index]) == pytest.approx(value, rel=1e-6, nan_ok=True), name


def test_a_pair_without_confidences():
    counted, one = Comparison(shared(4)), pair(0, sure=False)
    counted.add(one)
    counted.add(pair(1))
    assert not counted.has_confidence and np.isnan(counted.confidence(0)).all()
    assert set(np.unique(one.differences())) == {0, 1}
    assert one.agreement == (one.differences() == 0).mean()
