"""Tests sliding windows: where they begin, and the bands of averaged logits that they give."""

import pytest
import torch
import torch.nn.functional as F

from segnext.data.preprocessing import Preprocessing
from segnext.predict import windows
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
    torch.testing.assert_close(torch.cat(bands, dim=2), 2 * images.float())


@pytest.mark.parametrize("align_corners", [False, True], ids=["centres", "corners"])
@pytest.mark.parametrize(
    ("height", "width", "crop", "stride"),
    [(70, 90, 48, 36), (61, 45, 21, 5), (20, 90, 48, 48), (50, 3, 9, 7)],
)
@pytest.mark.parametrize("numbers", [1, 1000, 1 << 23], ids=["rows", "few-rows", "whole"])
def test_equals_the_definition(monkeypatch, height, width, crop, stride, align_corners, numbers):
    """Each window is resized whole, the windows are added up and divided by their number."""

    def network(windows: torch.Tensor) -> torch.Tensor:
        pooled = F.avg_pool2d(windows, 3, ceil_mode=True)
        return torch.cat([pooled, pooled.flip(1) ** 2], 1) / 255

    monkeypatch.setattr(windows, "_BAND", numbers)
    images = noise(2, height, width)
    view = View(images, (height, width), AS_IT_IS)
    rows, columns = min(crop, height), min(crop, width)
    sums, counts = torch.zeros(2, 6, height, width), torch.zeros(height, width)
    for top in window_starts(height, crop, stride):
        for left in window_starts(width, crop, stride):
            part = (slice(top, top + rows), slice(left, left + columns))
            logits = network(images[(..., *part)].float())
            sums[(..., *part)] += F.interpolate(
                logits, (rows, columns), mode="bilinear", align_corners=align_corners
            )
            counts[part] += 1
    bands = [band.clone() for band in sliding_logits(network, view, crop, stride, 2, align_corners)]
    assert max(band.shape[2] for band in bands) <= max(1, numbers // (2 * 6 * width))
    torch.testing.assert_close(torch.cat(bands, dim=2), sums / counts, rtol=1e-4, atol=1e-4)


def test_rows_and_columns_that_the_pixels_lack_are_left_out():
    images = noise(1, 20, 21)
    view = View(images, (32, 32), AS_IT_IS)
    bands = [band.clone() for band in sliding_logits(lambda windows: windows, view, 9, 5, 1)]
    torch.testing.assert_close(torch.cat(bands, dim=2), images.float())


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
