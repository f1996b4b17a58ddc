"""iSAID: tiles of 896x896 that cover each image, with the names that mmsegmentation gives them."""

import numpy as np
import pytest
from PIL import Image

from segnext.data.prepare.isaid import PALETTE, TILE, windows
from tests.data.prepare.files import counts, prepare, read_ids, write_png


def write_split(root, split, name, height, width, seed=0):
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 256, (height, width, 3), np.uint8)
    ids = random.integers(0, 16, (height, width), np.uint8)
    write_png(root / split / f"images/images/{name}.png", pixels)
    mask = np.asarray(PALETTE, np.uint8)[ids]
    write_png(root / split / f"Semantic_masks/images/{name}_instance_color_RGB.png", mask)
    return pixels, ids


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (896, 896, [(0, 0)]),
        (500, 897, [(0, 0), (0, 1)]),
        (1500, 100, [(0, 0), (512, 0), (604, 0)]),
        (1408, 896, [(0, 0), (512, 0)]),
    ],
    ids=str,
)
def test_windows(height, width, expected):
    assert windows(height, width) == expected


def test_tiles(tmp_path):
    pixels, ids = write_split(tmp_path, "train", "P0001", 900, 1000)
    small, small_ids = write_split(tmp_path, "val", "P0002", 30, 20, seed=1)
    assert counts(prepare("isaid", tmp_path, tmp_path / "out")) == (10, 0, 0)
    out = tmp_path / "out"
    assert sorted(path.name for path in (out / "img_dir/train").iterdir()) == [
        f"P0001_{top}_{top + TILE}_{left}_{left + TILE}.png" for top in (0, 4) for left in (0, 104)
    ]
    with Image.open(out / "img_dir/train/P0001_4_900_104_1000.png") as tile:
        assert (np.asarray(tile) == pixels[4:, 104:]).all()
    name = "P0001_4_900_104_1000_instance_color_RGB.png"
    assert read_ids(out / f"ann_dir/train/{name}") == ids[4:, 104:].tolist()
    padded = np.full((TILE, TILE), 255)
    padded[:30, :20] = small_ids
    assert read_ids(out / "ann_dir/val/P0002_0_896_0_896_instance_color_RGB.png") == padded.tolist()
    with Image.open(out / "img_dir/val/P0002_0_896_0_896.png") as tile:
        found = np.asarray(tile)
        assert (found[:30, :20] == small).all() and found.sum() == small.sum()


def test_only_missing_tiles_are_made_again(tmp_path):
    write_split(tmp_path, "train", "P0001", 900, 1000)
    write_split(tmp_path, "val", "P0002", 3, 2)
    prepare("isaid", tmp_path)
    gone = tmp_path / "ann_dir/train/P0001_4_900_104_1000_instance_color_RGB.png"
    before = gone.read_bytes()
    gone.unlink()
    assert counts(prepare("isaid", tmp_path)) == (1, 9, 0)
    assert gone.read_bytes() == before


def test_faults_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"train/images/\*\.png is missing; unpack images\.zip"):
        prepare("isaid", tmp_path)
    write_split(tmp_path, "train", "P0001", 3, 2)
    write_split(tmp_path, "val", "P0002", 3, 2)
    write_png(tmp_path / "val/Semantic_masks/images/P0002_instance_color_RGB.png", [[[1, 2, 3]]])
    summary = prepare("isaid", tmp_path)
    assert counts(summary) == (3, 0, 1) and "iSAID's 16, got [1, 2, 3]" in summary.failures[0]
    write_png(tmp_path / "train/images/images/P0003.png", np.zeros((3, 2, 3)))
    with pytest.raises(ValueError, match=r"got 1 without a partner \(P0003\)"):
        prepare("isaid", tmp_path)
