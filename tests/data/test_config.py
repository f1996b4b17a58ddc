"""A data YAML gives what it says, and each mistake in it gives one clear line."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segnext.data.config import load_classes, load_data_config
from segnext.data.shipped import list_sets
from tests.data.synthetic import CLASSES, COLOURS, scene, write_data_set, write_yaml
from tests.data.test_depth import deep_png


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


def test_a_range_of_values_reaches_the_pixels(houses):
    deep_png(houses.parent / "images" / "val" / "scene00.png", np.full((40, 48, 3), 1023, np.uint16))
    image, _ = load_data_config(write_yaml(houses, value_range=[0, 2046])).open("val")[0]
    assert (image == 128).all()


def test_folders_are_relative_to_the_yaml_or_to_root(houses, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert len(load_data_config("houses/houses.yaml").open("val")) == 2
    elsewhere = write_yaml(tmp_path / "other.yaml", path="/nowhere")
    assert len(load_data_config(elsewhere, root=houses.parent).open("val")) == 2
    rootless = write_yaml(tmp_path / "rootless.yaml", path=None)
    assert len(load_data_config(rootless, houses.parent).open("val")) == 2
    with pytest.raises(
        ValueError, match=r"rootless must be told its folder; add --root DIR .*, or the line path: \. to"
    ):
        load_data_config(rootless)
    with pytest.raises(ValueError, match=r"add --root DIR \(the data set lies in DIR\)$"):
        load_data_config("camvid")


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
        (
            {"classes": {0: "road", 1: "car"}},
            r"got \{0: 'road', 1: 'car'\}; name them in the order of their ids",
        ),
        ({"path": ["a"]}, r"path in .* must be a path, got \['a'\]; quote"),
        (
            {"path": "~nobody-has-this-name/a"},
            r"path in .* must be a path, got .*, a home that is not known; name the",
        ),
        ({"name": True}, r"name in .* must be text, got True; quote"),
        (
            {"train": {"images": None, "labels": "b"}},
            r"images of train in .* must be a path, got None; quote",
        ),
        (
            {"val": {"images": "a", "labels": ["b"]}},
            r"labels of val in .* must be a path, got \['b'\]; quote",
        ),
        (
            {"val": {"images": "a", "labels": "b", "list": None}},
            r"list of val in .* must be a path, got None; quote",
        ),
        ({"ignore_index": True}, r"ignore_index in .* must be 0\.\.255, got True; leave it out for 255"),
        ({"palette": [[1, 2, 3], [1, 2, 3], [1, 2, True]]}, r"must be 3 lists"),
        ({"classes": ["thing"]}, r"got \['thing'\]; a single class needs a second one"),
        (
            {"classes": [f"c{i}" for i in range(256)]},
            r"must be a list of 2 to 255 names, got \['c0'.{50,60}\.\.\.;",
        ),
        ({"classes": ["ground", True, "door"]}, r"each there once, got True; quote"),
        ({"classes": ["ground", "door", "door"]}, r"each there once, got 'door'"),
        (
            {"classes": ["ground", "d" * 201]},
            r"must be names of at most 200 letters, each there once, got 'ddd",
        ),
        ({"palette": [[1, 2, 3]] * 2}, r"palette in .* must be 3 lists .*, got 2 entries"),
        ({"palette": [[1, 2, 3], [1, 2, 3], [1, 2]]}, r"must be 3 lists \[red, green, blue\] of 0\.\.255"),
        ({"palette": [[1, 2, 3], [1, 2, 3], [1, 2, 256]]}, r"must be 3 lists"),
        ({"palette": 5}, r"must be 3 lists .*, got 5; leave it out"),
        ({"short_side": 0}, r"short_side in .* must be 1 to 8192 pixels, got 0"),
        ({"short_side": True}, r"short_side in .* must be 1 to 8192 pixels, got True"),
        ({"short_side": 10**30}, r"short_side in .* must be 1 to 8192 pixels, got 1000"),
        ({"value_range": 4095}, r"value_range in .* must be two numbers such as \[0, 4095\], got 4095"),
        (
            {"value_range": [0, True]},
            r"value_range in .* must be two numbers such as \[0, 4095\], got \[0, True",
        ),
        ({"value_range": [5, 5]}, r"houses\.yaml: value_range must be two finite numbers, .*, got \(5, 5\)"),
        ({"ignore_index": 300}, r"ignore_index in .* must be 0\.\.255, got 300"),
        ({"ignore_index": "none"}, r"ignore_index in .* must be 0\.\.255, got 'none'"),
        ({"image_suffix": 5}, r"image_suffix in .* must be the end of a file name, .*, got 5"),
        ({"label_suffix": "a/b"}, r"label_suffix in .* must be the end of a file name, .*, got 'a/b'"),
        ({"label_map": []}, r"label_map in .* must map ids to class ids, such as \{0: ignore, .*, got \[\]"),
        ({"label_map": {"road": 0}}, r"must map an id 0\.\.65535 or a range such as 1-150 .*, got 'road': 0"),
        ({"label_map": {70000: 0}}, r"must map an id 0\.\.65535 or a range .*, got 70000: 0"),
        ({"label_map": {"5-2": 0}}, r"must map an id 0\.\.65535 or a range .*, got '5-2': 0"),
        ({"label_map": {1: "road"}}, r"to a class id or to ignore, got 1: 'road'"),
        ({"label_map": {1: True}}, r"to a class id or to ignore, got 1: True"),
        ({"label_map": {"1-4": 0}}, r"must map to classes 0\.\.2 or to ignore, got 4: 3; name all classes"),
        ({"label_map": {1: -1}}, r"must map to classes 0\.\.2 or to ignore, got 1: -1"),
        ({"label_map": {"0-4": "ignore", 2: 1}}, r"must name each id once, got 2 twice; remove one"),
        (
            {"label_map": {"1-2": 0}, "ignore_index": 0},
            r"must not map to a class that is ignored, got 1: 0 and ignore_index 0; write ignore",
        ),
        ({"color_labels": "yes"}, r"color_labels in .* must be true or false, got 'yes'"),
        ({"color_labels": True, "label_map": {0: 0}}, r"must say label_map or color_labels, got both"),
        (
            {"color_labels": True, "palette": None},
            r"palette in .* must say the colour of each class .*, got none",
        ),
        (
            {"color_labels": True, "palette": [[0, 0, 0], [1, 1, 1], [0, 0, 0]]},
            r"colours of the palette in .* must differ, got \[0, 0, 0\] twice",
        ),
        ({"ignore_colors": [[0, 0, 0]]}, r"must stand beside color_labels: true, got \[\[0, 0, 0\]\] alone"),
        ({"color_labels": True, "ignore_colors": [0]}, r"ignore_colors in .* must be lists .*, got \[0\]"),
        (
            {"color_labels": True, "ignore_colors": [COLOURS.tolist()[1]]},
            r"must be no class's colour, got \[200, 60, 40\]",
        ),
        ({"source": ["a"]}, r"source in .* must be text that says where the files come from, got \['a'\]"),
        ({"layouts": []}, r"layouts in .* must be a list of mappings such as .*, got \[\]"),
        ({"layouts": ["VOC2012"]}, r"layouts in .* must be a list of mappings such as .*, got \['VOC2012'\]"),
        (
            {"layouts": [{"classes": []}]},
            r"keys of a layout in .* among path, train, .*, got 'classes'; move",
        ),
        ({"layouts": [{"path": ["a"]}]}, r"path of a layout in .* must be a path, got \['a'\]"),
        # A layout that does not lie on disk is checked too.
        ({"layouts": [{}, {"label_suffix": 5}]}, r"label_suffix in .* must be the end of a file name"),
        ({"exif": "turn"}, r"exif in .* must be apply .* or ignore, got 'turn'"),
        ({"exif": []}, r"exif in .* must be apply .* or ignore, got \[\]"),
        ({"pallete": []}, r"keys in .* must be among name, path, train, .*, got 'pallete'"),
        ({"train": None, "val": None}, r"must name the folders of train or val or test, got none"),
        ({"train": "images"}, r"train in .* must be \{images: DIR, labels: DIR\}, got 'images'"),
        ({"val": {"images": "a"}}, r"val in .* must be \{images: DIR, labels: DIR\}, got \{'images': 'a'\}"),
        ({"val": {"images": "a", "labels": "b", "lists": "c"}}, r"val in .* must be \{images: DIR, labels"),
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
        (
            b"path: ~\nclasses: [a, b]\ntrain: {images: a, labels: b}\n",
            r"path in .*broken\.yaml must be a path, got None; quote what YAML reads as something else",
        ),
        (b"", r"broken\.yaml must be a YAML mapping .*, got None"),
    ],
)
def test_files_that_are_no_data_yaml(tmp_path, content, message):
    path = tmp_path / "broken.yaml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        load_data_config(path)
    assert "\n" not in str(error.value)


def test_folders_of_the_home_and_of_numbers(houses, monkeypatch):
    monkeypatch.setenv("HOME", str(houses.parent))
    (houses.parent / "2007").symlink_to("images/train")
    train = {"images": 2007, "labels": "~/labels/train"}
    assert len(load_data_config(write_yaml(houses, train=train)).open("train")) == 5


@pytest.mark.parametrize(
    ("key", "place", "found"),
    [
        (
            "images",
            "images/train/scene00.png",
            "images must be a folder, got .*scene00.png, which is a file;",
        ),
        ("labels", "nowhere", "labels must be a folder, got .*nowhere, which does not exist;"),
        ("labels", "link", "labels must be a folder, got .*link, which is a link to nothing;"),
        ("list", "images", "list must be a text file .*, got .*images, which is a folder;"),
    ],
)
def test_a_place_that_is_something_else(houses, key, place, found):
    (houses.parent / "link").symlink_to("nowhere")
    train = {"images": "images/train", "labels": "labels/train", key: place}
    with pytest.raises(FileNotFoundError, match=found):
        load_data_config(write_yaml(houses, train=train)).open("train")


def test_an_unknown_name_lists_the_shipped_ones(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"a YAML file or one of .*camvid.*, got camvi; no such file"):
        load_data_config("camvi")
    with pytest.raises(FileNotFoundError, match="it is a folder, a pipe or a device"):
        load_data_config(tmp_path)


@pytest.mark.parametrize("name", list_sets())
def test_shipped_sets_have_a_colour_per_class(name):
    """Some official palettes have a colour twice, which only `color_labels` would forbid."""
    classes, palette = load_classes(name)
    assert len(palette) == len(classes) == len(set(classes))


def test_a_label_map_in_short_and_in_full(houses):
    def label_map(**changes: object) -> dict[int, int] | None:
        return load_data_config(write_yaml(houses, **changes)).label_map

    full = {0: 255, 5: 0, 6: 1, 7: 2, 8: 255, 9: 255}
    assert label_map() is None
    assert label_map(label_map=full) == full
    assert label_map(label_map={0: "ignore", "5-7": 0, "8 - 9": 255}) == full
    assert label_map(label_map={0: "ignore", "1-2": 1}, ignore_index=0) == {0: 0, 1: 1, 2: 2}
    assert label_map(label_map={0: 0, 255: 1, 40000: 2}) == {0: 0, 255: 1, 40000: 2}


def test_labels_of_colours(houses):
    """The palette's colours are the classes, whatever the file format; one colour is ignored."""
    for split in ("train", "val"):
        for path in (houses.parent / "labels" / split).iterdir():
            ids = np.array(Image.open(path))
            colours = np.concatenate([COLOURS, np.zeros((253, 3), np.uint8)])
            Image.fromarray(colours[ids]).save(path)
    config = load_data_config(write_yaml(houses, color_labels=True, ignore_colors=[[0, 0, 0]]))
    np.testing.assert_array_equal(config.open("train")[3][1], scene(3)[1])
    with pytest.raises(
        ValueError, match=r"must be in the data YAML's palette or ignore_colors, got \[0, 0, 0\]"
    ):
        load_data_config(write_yaml(houses, color_labels=True)).open("train")[3]
    with pytest.raises(ValueError, match="got colours; if they are the palette's, say color_labels: true"):
        load_data_config(write_yaml(houses)).open("train")[3]


@pytest.mark.parametrize("exif", [None, "apply", "ignore"])
def test_exif_turns_images_and_labels_alike(houses, exif):
    """Each file is turned by its own orientation, or none is; a label without one stays as it is."""
    image, label = scene(0)
    turn = Image.Exif()
    turn[0x0112] = 6  # shown turned by 90 degrees to the right
    Image.fromarray(np.rot90(image)).save(houses.parent / "images" / "train" / "scene00.png", exif=turn)
    config = load_data_config(write_yaml(houses, exif=exif))
    assert config.exif == exif
    if exif == "ignore":
        with pytest.raises(ValueError, match="must be as large as its image, 40x48, got 48x40"):
            config.open("train")[0]
        expected_image, expected_label = np.rot90(image), np.rot90(label)
    else:
        np.testing.assert_array_equal(config.open("train")[0][0], image)
        expected_image, expected_label = image, label
    Image.fromarray(np.rot90(label)).save(houses.parent / "labels" / "train" / "scene00.png", exif=turn)
    found_image, found_label = config.open("train")[0]
    np.testing.assert_array_equal(found_image, expected_image)
    np.testing.assert_array_equal(found_label, expected_label)
