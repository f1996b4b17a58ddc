"""Tests the comparison itself; ``make interop`` runs it on the peers' real packages."""

from __future__ import annotations

import numpy as np
import pytest

from tests.interop.__main__ import merged, row
from tests.interop.cases import cases
from tests.interop.compare import ALLOWED, Case, Result, mask_difference, relative_error
from tests.interop.environments import ENVIRONMENTS, RUNNERS
from tests.interop.runners import common


def test_the_largest_difference_counts() -> None:
    theirs = np.array([[1.0, -4.0], [2.0, 0.0]])
    assert relative_error(theirs, theirs) == 0
    assert relative_error(theirs + [[0.0, 0.0], [0.0, 0.5]], theirs) == pytest.approx(0.125)
    for value in (np.nan, np.inf):
        with pytest.raises(AssertionError, match="not finite"):
            relative_error(np.full_like(theirs, value), np.full_like(theirs, value))
    with pytest.raises(AssertionError, match="shapes"):
        relative_error(theirs[0], theirs)


def test_masks() -> None:
    theirs = np.zeros((1, 3, 2, 2))
    theirs[:, 1] = 1
    ours = theirs.copy()
    ours[0, 2, 0, 0] = 2
    assert mask_difference(ours, theirs) == 0.25
    assert mask_difference(np.array([[[[-1.0, 1.0]]]]), np.array([[[[-1.0, -0.1]]]])) == 0.5


def test_values_have_unit_gain_and_bases_unit_length() -> None:
    shapes = {
        "a.weight": (64, 32, 3, 3),
        "b.layer_scale_1": (200,),
        "norm.weight": (500,),
        "norm.bias": (500,),
    }
    drawn = common.values(shapes)
    assert (drawn["a.weight"] ** 2).sum((1, 2, 3)).mean() == pytest.approx(1, rel=0.1)
    assert drawn["b.layer_scale_1"].min() >= 0.1 and drawn["b.layer_scale_1"].max() <= 0.3
    assert drawn["norm.weight"].mean() == pytest.approx(1, abs=0.05) and drawn["norm.bias"].std() > 0.05
    bases = common.bases(32, 8)
    assert bases.shape == (1, 32, 8) and np.allclose((bases**2).sum(1), 1) and bases.min() >= 0


def test_every_case_has_a_peer_and_every_peer_a_runner() -> None:
    listed = cases(list("tsbl"))
    assert {case.environment for case in listed} == set(ENVIRONMENTS)
    assert len({(case.environment, case.size, case.name) for case in listed}) == len(listed)
    for environment in ENVIRONMENTS.values():
        assert (RUNNERS / f"{environment.runner}.py").is_file()


def test_new_rows_take_the_place_of_old_ones() -> None:
    case = Case("geti", "published", "t", {}, "", {})
    line = row(Result(case, 1.234e-6, 2e-6, 0.0, None, []))
    assert line == {
        "peer": "otx 2.6.0", "model": "T, published", "logits": 1.2e-6, "full": 2e-6, "mask": 0.0, "back": None,
    }  # fmt: skip
    other = {**line, "peer": ENVIRONMENTS["mmsegmentation"].title, "full": ALLOWED}
    gone = {**line, "peer": "otx 1.0"}
    assert merged([{**line, "full": 1.0}, gone], [other, line]) == [other, line]
