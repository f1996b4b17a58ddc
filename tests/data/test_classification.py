"""Class folders are found, named and read; what does not fit is refused with a cure."""

import numpy as np
import pytest
from PIL import Image

from segnext.data.classification import centre_crop, open_class_folders
from tests.data.class_folders import COLOURS, FOLDERS, write_class_folders


@pytest.fixture
def root(tmp_path):
    return write_class_folders(tmp_path / "imagenet", train=3, val=2)


def test_ids_are_the_places_of_the_sorted_folders(root):
    data = open_class_folders(root)
    assert data.folders == data.classes == FOLDERS
    images = data.open("train")
    assert len(images) == 9 and images.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    image, label = images[4]
    assert label == 1 and images.file(4).parent.name == FOLDERS[1]
    assert np.abs(image.mean((0, 1)) - COLOURS[1]).max() < 8


def test_orientation_is_ignored_as_in_the_published_protocol(root):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    Image.new("RGB", (30, 20)).save(root / "val" / FOLDERS[0] / "a.jpg", exif=exif)
    data = open_class_folders(root).open("val")
    assert data.file(0).name == "a.jpg" and data[0][0].shape == (20, 30, 3)


def test_names_in_words(root):
    lines = [f"{FOLDERS[2]} great white shark", FOLDERS[1], f"{FOLDERS[0]} tench, Tinca tinca"]
    (root / "classes.txt").write_text("\n".join(lines))
    data = open_class_folders(root)
    assert data.classes == ("tench, Tinca tinca", FOLDERS[1], "great white shark")
    (root / "classes.txt").write_text(lines[0])
    with pytest.raises(ValueError, match=rf"a line for each of the 3 .* none for {FOLDERS[0]}; write"):
        open_class_folders(root)


def test_a_class_without_validation_images_keeps_the_ids(root):
    for file in (root / "val" / FOLDERS[0]).iterdir():
        file.unlink()
    (root / "val" / FOLDERS[0]).rmdir()
    assert open_class_folders(root).open("val").labels.tolist() == [1, 1, 2, 2]


def test_refused(root, tmp_path):
    with pytest.raises(ValueError, match="got none; name it with --root"):
        open_class_folders(None)
    with pytest.raises(FileNotFoundError, match="name the folder above train and val"):
        open_class_folders(root / "train")
    (root / "val" / "n99").mkdir()
    with pytest.raises(ValueError, match="among those of .*train, got n99; add its training images"):
        open_class_folders(root)
    flat = tmp_path / "flat" / "val"
    flat.mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(flat / "ILSVRC2012_val_00000001.JPEG")
    with pytest.raises(ValueError, match="got 0 beside 1 images; move each image into the folder of its"):
        open_class_folders(flat.parent)
    for name in FOLDERS:
        (flat / name).mkdir()
    with pytest.raises(FileNotFoundError, match="must hold images in its class folders, got none"):
        open_class_folders(flat.parent).open("val")
    with pytest.raises(ValueError, match="split must be one of val for imagenet, got train"):
        open_class_folders(flat.parent).open("train")


@pytest.mark.parametrize("height, width", [(375, 500), (500, 333), (300, 300), (20, 700)])
def test_the_centre_of_a_resized_image(height, width):
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    cut = centre_crop(image, 224)
    assert cut.shape == (224, 224, 3)
    # 248 pixels of the short side: what timm's transform resizes to for a crop of 90 %.
    factor = 248 / min(height, width)
    size = (int(width * factor + 1e-9), int(height * factor + 1e-9))
    whole = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
    top, left = round((size[1] - 224) / 2), round((size[0] - 224) / 2)
    np.testing.assert_array_equal(cut, whole[top : top + 224, left : left + 224])
