"""Folders of images and labels become pairs, and each mistake in them gives one clear line."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segnext.data.config import load_data_config
from segnext.data.dataset import SegmentationFolder
from segnext.data.images import ImageError
from tests.data.synthetic import scene, write_data_set, write_pair

CAMVID = Path(os.environ.get("SEGNEXT_CAMVID", Path(__file__).parents[3] / "shared" / "camvid"))


@pytest.fixture
def houses(tmp_path: Path) -> Path:
    return write_data_set(tmp_path / "houses")


def folders(houses: Path) -> tuple[Path, Path]:
    return houses.parent / "images" / "train", houses.parent / "labels" / "train"


def test_subfolders_suffixes_and_hidden_files(houses):
    images, labels = folders(houses)
    image, label = scene(77)
    write_pair(houses.parent, "train", "deep/er/scene.v2", image, label)
    (images / "deep" / "er" / "scene.v2.png").unlink()
    Image.fromarray(image).save(images / "deep" / "er" / "scene.v2.JPG", quality=95)
    (images / ".hidden.png").write_bytes(b"")
    (labels / "notes.txt").write_text("not a label")
    dataset = SegmentationFolder(images, labels, 3)
    assert len(dataset) == 6
    assert dataset.pairs[0][0].name == "scene.v2.JPG" and dataset.pairs[0][1].name == "scene.v2.png"
    np.testing.assert_array_equal(dataset[0][1], label)


def test_missing_and_empty_folders(houses, tmp_path):
    images, labels = folders(houses)
    with pytest.raises(
        FileNotFoundError, match=r"images must be a folder, got .*gone, which does not exist.*root"
    ):
        SegmentationFolder(tmp_path / "gone", labels, 3)
    with pytest.raises(FileNotFoundError, match=r"labels must be a folder, got .*gone"):
        SegmentationFolder(images, tmp_path / "gone", 3)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"empty must hold labels \(.*\.png.*\), got none"):
        SegmentationFolder(images, tmp_path / "empty", 3)


def test_unpaired_files_are_named_and_counted(houses):
    images, labels = folders(houses)
    for index in (0, 2):
        (labels / f"scene0{index}.png").unlink()
    with pytest.raises(
        ValueError,
        match=r"every image must have its partner in .*labels/train, got 2 of 5 without "
        r"\(scene00\.png, scene02\.png\)",
    ):
        SegmentationFolder(images, labels, 3)
    for index in range(5):
        (images / f"scene0{index}.png").unlink()
    for index in (1, 3, 4):
        (images / f"other{index}.png").write_bytes(b"")
    (images / "scene01.png").write_bytes(b"")
    for index in (5, 6, 7):
        (labels / f"other{index - 4}.png").write_bytes(b"")
    (labels / "other4.png").write_bytes(b"")
    with pytest.raises(
        ValueError, match=r"every label must .*, got 3 of 7 without \(other2\.png, .*, scene04\.png\)"
    ):
        SegmentationFolder(images, labels, 3)


def test_equal_stems_in_one_folder(houses):
    images, labels = folders(houses)
    (images / "scene01.jpg").write_bytes(b"")
    with pytest.raises(
        ValueError, match=r"must differ in more than the suffix, got scene01\.jpg and scene01\.png"
    ):
        SegmentationFolder(images, labels, 3)


def test_a_label_of_another_size(houses):
    images, labels = folders(houses)
    Image.fromarray(np.zeros((40, 47), np.uint8)).save(labels / "scene01.png")
    dataset = SegmentationFolder(images, labels, 3)
    with pytest.raises(ValueError, match=r"scene01\.png must be as large as its image, 48x40, got 47x40"):
        dataset[1]


def test_ids_that_are_no_class(houses):
    images, labels = folders(houses)
    label = np.zeros((40, 48), np.uint8)
    label[:10], label[10], label[11] = 3, 200, 255
    Image.fromarray(label).save(labels / "scene01.png")
    message = r"ids in .*scene01\.png must be 0\.\.2, or 255 to be ignored, got 3, 200 in 28 % of its pixels"
    with pytest.raises(ValueError, match=message):
        SegmentationFolder(images, labels, 3)[1]
    with pytest.raises(ValueError, match=r"or 200 to be ignored, got 3, 255 in"):
        SegmentationFolder(images, labels, 3, ignore_index=200)[1]
    label[:11] = 2
    Image.fromarray(label).save(labels / "scene01.png")
    np.testing.assert_array_equal(SegmentationFolder(images, labels, 3)[1][1], label)


def test_a_broken_image_is_named(houses):
    images, labels = folders(houses)
    (images / "scene04.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(ImageError, match=re.escape(str(images / "scene04.png"))):
        SegmentationFolder(images, labels, 3)[4]


def test_images_are_decoded_once_within_the_cache(houses):
    images, labels = folders(houses)
    one = 40 * 48 * 4
    dataset = SegmentationFolder(images, labels, 3, cache_bytes=2 * one)
    first = [dataset[index] for index in range(5)]
    for index in range(5):
        (images / f"scene0{index}.png").unlink()
    for index in (0, 1):
        assert dataset[index][0] is first[index][0]
    with pytest.raises(ImageError):
        dataset[2]


@pytest.mark.skipif(not CAMVID.is_dir(), reason=f"CamVid is not at {CAMVID}")
def test_camvid():
    config = load_data_config("camvid", CAMVID)
    train, val = config.open("train"), config.open("val")
    assert (len(train), len(val), len(config.classes)) == (367, 101, 11)
    image, label = val[50]
    assert image.shape == (360, 480, 3) and label.shape == (360, 480)
    # A car's camera sees road at the bottom, and sky is brighter than everything else.
    assert config.classes[np.bincount(label[-40:].ravel()).argmax()] == "road"
    assert image[label == config.classes.index("sky")].mean() > image[label != 0].mean()
