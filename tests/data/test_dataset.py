"""Data YAMLs and folders: what they give, and one clear line for each mistake in them."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from segnext.data.dataset import SegmentationFolder, list_recipes, load_data_config
from segnext.data.images import ImageError
from tests.data.synthetic import CLASSES, COLOURS, scene, write_data_set, write_pair, write_yaml

CAMVID = Path(os.environ.get("SEGNEXT_CAMVID", Path(__file__).parents[3] / "shared" / "camvid"))


@pytest.fixture
def houses(tmp_path: Path) -> Path:
    return write_data_set(tmp_path / "houses")


def test_a_yaml_gives_classes_colours_and_folders(houses):
    config = load_data_config(houses)
    assert (config.name, config.classes, config.ignore_index) == ("houses", tuple(CLASSES), 255)
    assert config.palette == tuple(map(tuple, COLOURS.tolist()))
    assert set(config.splits) == {"train", "val"}
    train = config.open("train")
    assert len(train) == 5 and [label.name for _, label in train.pairs] == [
        f"scene0{i}.png" for i in range(5)
    ]
    assert all(image.parent.name == "train" and image.stem == label.stem for image, label in train.pairs)
    image, label = train[3]
    expected_image, expected_label = scene(3)
    np.testing.assert_array_equal(image, expected_image)
    np.testing.assert_array_equal(label, expected_label)


def test_folders_are_relative_to_the_yaml_or_to_root(houses, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert len(load_data_config("houses/houses.yaml").open("val")) == 2
    elsewhere = write_yaml(tmp_path / "other.yaml", path="/nowhere")
    assert len(load_data_config(elsewhere, root=houses.parent).open("val")) == 2
    rootless = write_yaml(tmp_path / "rootless.yaml", path=None)
    assert len(load_data_config(rootless, houses.parent).open("val")) == 2
    with pytest.raises(ValueError, match=r"data: rootless must be told its folder; add --root DIR"):
        load_data_config(rootless)


def test_defaults(houses):
    config = load_data_config(write_yaml(houses, palette=None, name=None, val=None))
    assert config.name == "houses" and set(config.splits) == {"train"}
    assert len(set(config.palette)) == 3
    with pytest.raises(ValueError, match=r"split must be one of train for houses, got val"):
        config.open("val")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": None}, r"classes in .*houses\.yaml must be a list of 2 to 255 names, got None"),
        ({"classes": "road"}, r"must be a list of 2 to 255 names, got 'road'"),
        ({"classes": ["thing"]}, r"got \['thing'\]; a single class needs a second one"),
        (
            {"classes": [f"c{i}" for i in range(256)]},
            r"must be a list of 2 to 255 names, got \['c0'.{50,60}\.\.\.;",
        ),
        ({"classes": ["ground", True, "door"]}, r"must be names, each there once, got True; quote"),
        ({"classes": ["ground", "door", "door"]}, r"must be names, each there once, got 'door'"),
        ({"palette": [[1, 2, 3]] * 2}, r"palette in .* must be 3 lists .*, got 2 entries"),
        ({"palette": [[1, 2, 3], [1, 2, 3], [1, 2]]}, r"must be 3 lists \[red, green, blue\] of 0\.\.255"),
        ({"palette": [[1, 2, 3], [1, 2, 3], [1, 2, 256]]}, r"must be 3 lists"),
        ({"palette": 5}, r"must be 3 lists .*, got 5; leave it out"),
        ({"short_side": 0}, r"short_side in .* must be at least 1 pixel, got 0"),
        ({"short_side": True}, r"short_side in .* must be at least 1 pixel, got True"),
        ({"ignore_index": 300}, r"ignore_index in .* must be 0\.\.255, got 300"),
        ({"ignore_index": "none"}, r"ignore_index in .* must be 0\.\.255, got 'none'"),
        ({"pallete": []}, r"keys in .* must be among name, path, train, .*, got 'pallete'"),
        ({"train": None, "val": None}, r"must name the folders of train or val or test, got none"),
        ({"train": "images"}, r"train in .* must be \{images: DIR, labels: DIR\}, got 'images'"),
        ({"val": {"images": "a"}}, r"val in .* must be \{images: DIR, labels: DIR\}, got \{'images': 'a'\}"),
        ({"val": {"images": "a", "labels": "b", "list": "c"}}, r"val in .* must be \{images: DIR, labels"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_mistakes_in_a_yaml(houses, changes, message):
    with pytest.raises(ValueError, match=message) as error:
        load_data_config(write_yaml(houses, **changes))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"classes: [a, b", r"broken\.yaml must be YAML; while parsing"),
        (b"\xff\xfe\x00", r"broken\.yaml must be YAML; "),
        (b"- a\n- b\n", r"broken\.yaml must be a YAML mapping .*, got \['a', 'b'\]"),
        (b"", r"broken\.yaml must be a YAML mapping .*, got None"),
    ],
)
def test_files_that_are_no_data_yaml(tmp_path, content, message):
    path = tmp_path / "broken.yaml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        load_data_config(path)
    assert "\n" not in str(error.value)


def test_an_unknown_name_lists_the_shipped_ones(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"a YAML file or one of .*camvid.*, got camvi; no such file"):
        load_data_config("camvi")
    with pytest.raises(FileNotFoundError, match="no such file"):
        load_data_config(tmp_path)


@pytest.mark.parametrize("name", list_recipes())
def test_shipped_recipes_are_valid(name, tmp_path):
    config = load_data_config(name, root=tmp_path)
    assert config.name == name and len(config.palette) == len(config.classes) == len(set(config.palette))
    assert all(folder.is_relative_to(tmp_path) for split in config.splits.values() for folder in split)


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
    # Road is what a car's camera sees at the bottom, sky is brighter than everything else.
    assert config.classes[np.bincount(label[-40:].ravel()).argmax()] == "road"
    assert image[label == config.classes.index("sky")].mean() > image[label != 0].mean()


def test_class_weights_balance_by_median_frequency(tmp_path):
    ids = np.array([[0] * 16, [1] * 4 + [2] * 1 + [255] * 11], np.uint8)
    write_pair(tmp_path, "train", "a", np.zeros((2, 16, 3), np.uint8), ids)
    split = SegmentationFolder(tmp_path / "images" / "train", tmp_path / "labels" / "train", 4)
    expected = torch.tensor([4 / 16, 4 / 4, 4 / 1, 1])  # the median of 16, 4, 1; class 3 never occurs
    torch.testing.assert_close(split.class_weights(1.0), expected)
    torch.testing.assert_close(split.class_weights(0.5), expected.sqrt())
