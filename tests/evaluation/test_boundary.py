"""Boundary IoU is compared with the paper's own steps: each class's mask is eroded again and again by 3x3."""

import math

import numpy as np
import pytest
import torch

from segnext.evaluation.boundary import BoundaryCounts, boundary_distance, boundary_region

CLASSES = 4


def region_of(mask: np.ndarray, distance: int) -> np.ndarray:
    """Return a mask without its erosion; pixels outside the image are not of the mask."""
    height, width = mask.shape
    eroded = mask
    for _ in range(distance):
        padded = np.pad(eroded, 1)
        shifts = [padded[y : y + height, x : x + width] for y in range(3) for x in range(3)]
        eroded = np.logical_and.reduce(shifts)
    return mask & ~eroded


def expected_iou(pairs: list[tuple[np.ndarray, np.ndarray]], ignore: int) -> np.ndarray:
    intersection, union = np.zeros((2, CLASSES))
    for prediction, label in pairs:
        distance = max(1, round(0.02 * math.hypot(*label.shape)))
        for index in range(CLASSES):
            true = region_of((label == index) & (label != ignore), distance)
            found = region_of((prediction == index) & (label != ignore), distance)
            intersection[index] += (true & found).sum()
            union[index] += (true | found).sum()
    with np.errstate(invalid="ignore"):
        return intersection / union


def pair(seed: int, height: int, width: int, ignore: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a label of blocks of three classes with an ignored hole, and the same a few pixels off."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 3, (height // 15 + 2, width // 15 + 2)).astype(np.uint8)
    scene = blocks.repeat(15, 0).repeat(15, 1)
    label = scene[:height, :width].copy()
    prediction = scene[2 : height + 2, 3 : width + 3].copy()
    label[20:25, 4:30] = ignore
    return prediction, label


@pytest.mark.parametrize("ignore", [255, 2])
def test_the_paper_s_definition(ignore):
    pairs = [pair(0, 120, 161, ignore), pair(1, 83, 90, ignore), pair(2, 45, 200, ignore)]
    counts = BoundaryCounts(CLASSES, ignore)
    for prediction, label in pairs:
        counts.update(torch.from_numpy(prediction), torch.from_numpy(label))
    expected = expected_iou(pairs, ignore)
    expected[ignore : ignore + 1] = math.nan
    np.testing.assert_allclose(counts.iou.numpy(), expected, rtol=1e-12)
    assert 0.1 < counts.miou < 0.9 and counts.miou == pytest.approx(np.nanmean(expected))
    assert math.isnan(counts.iou[3])  # neither occurs nor is predicted


def test_a_right_prediction_has_1_and_a_shifted_outline_little_of_a_large_object():
    label = np.zeros((200, 200), np.uint8)
    label[50:150, 50:150] = 1
    exact, shifted = BoundaryCounts(2), BoundaryCounts(2)
    exact.update(torch.from_numpy(label), torch.from_numpy(label))
    shifted.update(torch.from_numpy(np.roll(label, 6, 1)), torch.from_numpy(label))
    assert exact.iou.tolist() == [1.0, 1.0]
    assert shifted.iou[1] < 0.6 < 0.88 < 94 / 106  # the last is the IoU of the squares


@pytest.mark.parametrize(("size", "distance"), [((360, 480), 12), ((1024, 2048), 46), ((3, 4), 1)])
def test_the_distance_is_2_percent_of_the_diagonal(size, distance):
    assert boundary_distance(*size) == distance


@pytest.mark.parametrize("distance", [1, 2, 5, 9])
def test_the_region_of_all_classes_is_the_union_of_theirs(distance):
    _, label = pair(3, 37, 52, 255)
    union = np.logical_or.reduce([region_of(label == index, distance) for index in np.unique(label)])
    np.testing.assert_array_equal(boundary_region(label, distance), union)
