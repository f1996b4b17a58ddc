"""Tests sliding windows: where they begin, and the bands of averaged logits that they give."""

import pytest
import torch
import torch.nn.functional as F

from segnext.data.preprocessing import Preprocessing
from segnext.predict.windows import View, sliding_logits, window_starts

AS_IT_IS = Preprocessing((0.0,) * 3, (1.0,) * 3)


def noise(count: int, height: int, width: int) -> torch.Tensor:
    return torch.randint(256, (count, 3, height, width), dtype=torch.uint8)


@pytest.mark.parametrize("length", [1, 10, 64, 65, 100, 128, 333])
@pytest.mark.parametrize(("crop", "stride"), [(64, 48), (64, 64), (10, 1), (7, 3)])
def test_windows_cover_everything_and_stay_inside(length, crop, stride):
    starts = window_starts(length, crop, stride)
    assert starts[0] == 0 and starts == sorted(set(starts))
    assert max(starts[-1] + crop, length) == max(length, crop)
    assert all(
        later - earlier <= min(stride, crop) for earlier, later in zip(starts, starts[1:], strict=False)
    )


@pytest.mark.parametrize("batch", [1, 2, 100])
@pytest.mark.parametrize(("height", "width"), [(20, 33), (5, 40), (9, 9), (1, 1)])
def test_the_average_of_what_agrees_is_itself(height, width, batch):
    """The network doubles its pixels, so every window gives a pixel the same value."""
    images = noise(2, height, width)
    view = View(images, (height, width), AS_IT_IS)
    bands = [
        band.clone()
        for band in sliding_logits(lambda windows: 2 * windows, view, crop=9, stride=4, batch=batch)
    ]
    assert len(bands) == len(window_starts(height, 9, 4))
    torch.testing.assert_close(torch.cat(bands, dim=2), 2 * images.float())


def test_logits_are_resized_to_the_window():
    def half_size(windows: torch.Tensor) -> torch.Tensor:
        sizes.append(tuple(windows.shape[2:]))
        return F.avg_pool2d(windows, 2)

    sizes: list[tuple[int, ...]] = []
    view = View(torch.ones(1, 3, 30, 8, dtype=torch.uint8), (30, 8), AS_IT_IS)
    bands = [band.clone() for band in sliding_logits(half_size, view, crop=12, stride=6, batch=1)]
    assert set(sizes) == {(12, 8)}
    torch.testing.assert_close(torch.cat(bands, dim=2), torch.ones(1, 3, 30, 8))


@pytest.mark.parametrize("place", [(0, 0, 10, 12), (3, 5, 4, 4), (8, 9, 5, 9), (10, 0, 3, 3), (0, 12, 2, 2)])
def test_a_window_is_normalised_and_padded_with_0(place):
    images, preprocessing = noise(2, 10, 12), Preprocessing((1.0, 2.0, 3.0), (4.0, 5.0, 6.0))
    padded = F.pad(preprocessing(images), (0, 8, 0, 6))
    top, left, rows, columns = place
    expected = padded[:, :, top : top + rows, left : left + columns]
    assert torch.equal(View(images, (16, 20), preprocessing).window(*place), expected)
