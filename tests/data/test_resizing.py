"""8-bit images are resized as OpenCV does it: by its definition in integers, and by OpenCV where it is installed."""

import math

import numpy as np
import pytest
import torch

from segnext.data import resizing
from segnext.data.resizing import resize

# height and width before and after: larger, smaller, one side only, one pixel, halved and almost halved
SIZES = [
    ((7, 9), (20, 31)),
    ((40, 61), (17, 23)),
    ((13, 40), (13, 22)),
    ((1, 1), (5, 3)),
    ((1, 50), (9, 20)),
    ((30, 44), (15, 22)),
    ((30, 44), (15, 23)),
    ((45, 60), (15, 20)),
    ((90, 120), (64, 86)),
]


def noise(height: int, width: int, count: int = 1) -> torch.Tensor:
    pixels = np.random.default_rng(height * width).integers(0, 256, (count, height, width, 3), np.uint8)
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def by_definition(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize (H, W) pixel by pixel, in Python's integers."""
    sides = image.shape
    if sides == (2 * size[0], 2 * size[1]):
        return np.array(
            [
                [(int(image[2 * y : 2 * y + 2, 2 * x : 2 * x + 2].sum()) + 2) >> 2 for x in range(size[1])]
                for y in range(size[0])
            ]
        )
    result = np.zeros(size, int)
    for y in range(size[0]):
        row, share_y = place(y, sides[0], size[0])
        for x in range(size[1]):
            column, share_x = place(x, sides[1], size[1])
            if not 0 <= column < sides[1] - 1:
                column, share_x = min(max(column, 0), sides[1] - 1), np.float32(0)
            sums = []
            for line in (row, row + 1):
                pixels = image[min(max(line, 0), sides[0] - 1)]
                after = int(pixels[min(column + 1, sides[1] - 1)])
                sums.append((int(pixels[column]) * weight(1 - share_x) + after * weight(share_x)) >> 4)
            both = ((weight(1 - share_y) * sums[0]) >> 16) + ((weight(share_y) * sums[1]) >> 16)
            result[y, x] = (both + 2) >> 2
    return result


def place(index: int, before: int, after: int) -> tuple[int, np.float32]:
    position = np.float32((index + 0.5) * (1 / (after / before)) - 0.5)
    return math.floor(position), position - np.float32(math.floor(position))


def weight(share: np.float32) -> int:
    return int(np.rint(share * np.float32(2048)))


@pytest.mark.parametrize(("before", "after"), SIZES, ids=str)
def test_equals_the_definition_in_integers(before, after):
    images = noise(*before, count=2)
    resized = resize(images, after)
    assert resized.shape == (2, 3, *after) and resized.dtype == torch.uint8
    np.testing.assert_array_equal(resized[1, 2].numpy(), by_definition(images[1, 2].numpy(), after))


@pytest.mark.parametrize(("before", "after"), SIZES, ids=str)
def test_equals_opencv(before, after):
    cv2 = pytest.importorskip("cv2")
    images = noise(*before)
    expected = cv2.resize(images[0].permute(1, 2, 0).numpy(), after[::-1], interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(
        resize(images, after)[0].permute(1, 2, 0).numpy(), expected.reshape(*after, 3)
    )


@pytest.mark.parametrize(("before", "after"), [((40, 61), (57, 83)), ((40, 60), (20, 30))], ids=str)
def test_bands_of_rows_make_no_difference(monkeypatch, before, after):
    whole = resize(noise(*before), after)
    monkeypatch.setattr(resizing, "_CHUNK", 1000)
    assert torch.equal(resize(noise(*before), after), whole)


def test_the_same_size_is_the_same_image():
    images = noise(5, 6)
    assert resize(images, (5, 6)) is images
