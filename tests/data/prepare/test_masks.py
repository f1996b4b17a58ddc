"""Run lengths are decoded as COCO's own tools encode them; wrong ones are refused."""

import numpy as np
import pytest

from segnext.data.prepare.masks import checked_size, decode_rle, is_complete, png_bytes, points_of

MASK = [[0, 0, 1], [1, 0, 1], [1, 1, 0], [0, 1, 0]]


@pytest.mark.parametrize("counts", [[1, 2, 3, 4, 2], "1232O"], ids=["list", "text-of-pycocotools"])
def test_rle(counts):
    assert decode_rle({"size": [4, 3], "counts": counts}).astype(int).tolist() == MASK


def test_long_runs_have_several_letters():
    """1,000 is 8 + 31 * 32: two letters, and a third without bits, for 31 alone would be negative."""
    text = chr(48 + 8 + 32) + chr(48 + 31 + 32) + chr(48) + chr(48 + 8)
    mask = decode_rle({"size": [2, 504], "counts": text})
    assert mask.T.ravel().tolist() == [False] * 1000 + [True] * 8


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ([1, 2], "fill its 4x3"),
        ([-1, 13], "fill"),
        ([True, 11], "fill"),
        (None, "fill"),
        ("~", "letters"),
        ("1", "fill"),
        ("o", "fill"),
    ],
    ids=str,
)
def test_wrong_runs(counts, words):
    with pytest.raises(ValueError, match=words):
        decode_rle({"size": [4, 3], "counts": counts})


@pytest.mark.parametrize("size", [(0, 4), (4, 10**9), ("4", 4), (None, None), (True, 3)], ids=str)
def test_wrong_sizes(size):
    with pytest.raises(ValueError, match="pixels"):
        checked_size(*size)


@pytest.mark.parametrize(
    "points", [[[0, 0], [1, 1]], [[0, 0, 0]] * 3, [[0, "1"]] * 3, None, [[0, 1e10]] * 3], ids=str
)
def test_wrong_outlines(points):
    with pytest.raises(ValueError, match="outline"):
        points_of(points)


def test_a_png_that_was_cut_off_is_not_complete(tmp_path):
    file, content = tmp_path / "a.png", png_bytes(np.zeros((5, 4), np.uint8))
    assert not is_complete(file)
    file.write_bytes(content)
    assert is_complete(file)
    for length in (0, 12, len(content) - 1):
        file.write_bytes(content[:length])
        assert not is_complete(file)
