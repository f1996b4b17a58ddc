"""Tests sliding windows: where they begin, and the bands of averaged logits that they give."""

import pytest
import torch
import torch.nn.functional as F

from segnext.predict.windows import sliding_logits, window_starts


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
    images = torch.rand(2, 3, height, width)
    bands = list(sliding_logits(lambda windows: 2 * windows, images, crop=9, stride=4, batch=batch))
    assert len(bands) == len(window_starts(height, 9, 4))
    torch.testing.assert_close(torch.cat(bands, dim=2), 2 * images)


def test_logits_are_resized_to_the_window():
    def half_size(windows: torch.Tensor) -> torch.Tensor:
        sizes.append(tuple(windows.shape[2:]))
        return F.avg_pool2d(windows, 2)

    sizes: list[tuple[int, ...]] = []
    bands = list(sliding_logits(half_size, torch.ones(1, 2, 30, 8), crop=12, stride=6, batch=1))
    assert set(sizes) == {(12, 8)}
    torch.testing.assert_close(torch.cat(bands, dim=2), torch.ones(1, 2, 30, 8))
