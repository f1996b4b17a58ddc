"""Each defect of a data set is one finding with its file, number and cure; a YAML that takes the cure is sound."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from segnext.data.config import DataConfig, load_data_config
from segnext.data.findings import Finding, judge
from segnext.data.inspection import SplitReport, inspect_split
from tests.data.test_fingerprints import landscape
from tests.data.test_images import png

GROUND_ROOF = np.array([[0, 0, 0], [1, 1, 255]], np.uint8)
COLOURS = np.array([[10, 20, 30], [200, 100, 0]], np.uint8)


def exif(number: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = number
    return tags


class Set:
    """A data set on disk; by default four sound pairs of 3x2 pixels in each split."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.keys: dict[str, Any] = {"classes": ["ground", "roof"]}
        for split in ("train", "val"):
            for index in range(4):
                self.image(split, index)
                self.label(GROUND_ROOF, split, index)

    def path(self, kind: str, split: str = "train", index: int = 0) -> Path:
        path = self.folder / kind / split / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def image(
        self, split: str = "train", index: int = 0, size: tuple[int, int] = (3, 2), turn: int = 1
    ) -> None:
        Image.new("RGB", size).save(self.path("images", split, index), exif=exif(turn))

    def label(
        self, ids: np.ndarray, split: str = "train", index: int = 0, turn: int = 1, **options: Any
    ) -> None:
        Image.fromarray(ids).save(self.path("labels", split, index), **({"exif": exif(turn)} | options))

    def labels(self, ids: np.ndarray) -> None:
        for split in ("train", "val"):
            for index in range(4):
                self.label(ids, split, index)

    def config(self, **keys: Any) -> DataConfig:
        places = {
            split: {kind: f"{kind}/{split}" for kind in ("images", "labels")} for split in ("train", "val")
        }
        (self.folder / "data.yaml").write_text(yaml.safe_dump({"path": ".", **places, **self.keys, **keys}))
        return load_data_config(self.folder / "data.yaml")

    def report(self, split: str = "train", **keys: Any) -> SplitReport:
        return inspect_split(self.config(**keys), split)

    def findings(self, split: str = "train", **keys: Any) -> list[Finding]:
        other = {"train": "val", "val": "train"}[split]
        return judge(self.report(split, **keys), [self.report(other, **keys)])

    def only(self, level: str, split: str = "train", **keys: Any) -> str:
        """Return the text of the only finding, which has this level."""
        (finding,) = self.findings(split, **keys)
        assert finding.level == level and "\n" not in finding.text
        return finding.text


@pytest.fixture
def data(tmp_path: Path) -> Set:
    return Set(tmp_path)


def cure(text: str, before: str) -> dict[str, Any]:
    """Return the line of YAML that stands behind `before` in a finding, up to a semicolon."""
    given = yaml.safe_load(text.partition(before)[2].partition(";")[0])
    assert isinstance(given, dict), text
    return given


def test_a_sound_set(data):
    assert data.findings("train") == data.findings("val") == []
    report = data.report()
    assert (report.total, report.inspected, report.sizes) == (4, 4, {(2, 3): 4})
    assert report.pixels[[0, 1, 255]].tolist() == [12, 8, 4] and report.images[[0, 1, 255]].tolist() == [
        4,
        4,
        4,
    ]
    assert report.class_pixels.tolist() == [12, 8]


def test_masks_of_0_and_255(data):
    data.labels(np.where(GROUND_ROOF == 1, 255, 0).astype(np.uint8))
    for split in ("train", "val"):
        text = data.only("error", split)
        assert text.startswith(
            f"{data.path('labels', split)}: ids {{0, 255}} look binary, but 255 is ignored"
        )
        assert "roof never occurs; 4 of 4 labels hold 255" in text
        assert data.findings(split, **cure(text, "add to the data YAML: ")) == []
    assert "name two classes and add" in data.only("error", classes=["ground", "roof", "door"])


def test_masks_of_0_and_255_whose_map_forgets_255(data):
    data.labels(np.where(GROUND_ROOF == 1, 255, 0).astype(np.uint8))
    text = data.only("error", label_map={0: 0, 1: 1})
    assert "roof never occurs" in text
    added = cure(text, "add to label_map in the data YAML: ")
    assert data.findings("train", label_map={0: 0, **added}) == []
    assert "class roof never occurs" in data.only("warning", label_map={0: 0, 1: 1, 255: "ignore"})
    assert "class ground never occurs" in data.only("warning", label_map={0: 1, 1: 0})


def test_a_map_has_to_name_an_ignored_id_of_its_own(data):
    """Id 7 is a class here that somebody forgot; only 255 is void everywhere."""
    data.labels(np.where(GROUND_ROOF == 1, 7, GROUND_ROOF))
    text = data.only("error", label_map={0: 0, 1: 1}, ignore_index=7)
    assert "add to label_map in the data YAML: 7: ignore, 255: ignore; where such an id is a class" in text


def test_a_split_of_the_first_class_alone_is_not_binary(data):
    for index in range(4):
        data.label(np.where(GROUND_ROOF == 1, 0, GROUND_ROOF), "val", index)
    text = data.only("note", "val")
    assert text == "val: class roof never occurs; no measure has it"
    assert "look binary" in judge(data.report("val"))[0].text  # without train nobody knows


def test_bilevel_masks_are_sound(data):
    for split in ("train", "val"):
        for index in range(4):
            data.label(GROUND_ROOF > 0, split, index)
    assert data.findings() == []


def test_unknown_ids(data):
    data.label(np.array([[6, 7, 8], [0, 1, 1]], np.uint8), index=2)
    text = data.only("error")
    assert text.startswith(
        f"{data.path('labels', index=2)}: ids must be 0..1, or 255 to be ignored, got 6, 7, 8 in 12 %"
    )
    assert "1 of 4 labels is like this" in text
    assert data.findings(**cure(text, "if the unknown ones are to be ignored: ")) == []
    text = data.only("error", label_map={0: 0, 1: 1, 6: 1})
    assert "ids must be in the data YAML's label_map, got 7, 8 in" in text
    assert "add to label_map in the data YAML: 7: ignore, 8: ignore; where such an id is a class" in text


@pytest.mark.parametrize(
    ("ids", "keys"),
    [
        ([0, 128, 255], {"classes": ["a", "b", "c"]}),
        ([17, 34, 255], {}),
        ([1000, 40000, 1000], {}),
        ([3, 0, 3], {}),
    ],
    ids=str,
)
def test_as_many_ids_as_classes(data, ids, keys):
    data.labels(np.resize(np.array(ids, np.uint16 if max(ids) > 255 else np.uint8), (2, 3)))
    text = data.only("error", **keys)
    assert "there are as many ids as classes; if they stand for these in order" in text
    assert data.findings(**keys, **cure(text, "add to the data YAML: ")) == []


@pytest.mark.parametrize("ids", [[0, 85, 170, 255], [0, 17, 51], [256, 768, 0]], ids=str)
def test_ids_that_were_scaled(data, ids):
    """Gray of two or four bits, and 16 bits in the wrong order of bytes."""
    names = [f"c{index}" for index in range(5)]
    data.labels(np.resize(np.array(ids, np.uint16 if max(ids) > 255 else np.uint8), (2, 3)))
    text = next(finding.text for finding in data.findings(classes=names) if finding.level == "error")
    factor = ids[0] or ids[1]
    assert f"all ids are multiples of {factor}; if that is how they were stored" in text
    given = cure(text, "add to the data YAML: ")
    assert all(given["label_map"][label] == label // factor for label in ids if label != 255)
    assert all(finding.level == "warning" for finding in data.findings(classes=names, **given))


def test_indexed_images_with_a_palette_of_their_own(data):
    """An editor that numbers the colours of each file anew makes ids that mean nothing."""
    for index, order in ((0, [0, 1]), (1, [0, 1]), (2, [1, 0])):
        image = Image.fromarray(GROUND_ROOF & 1)
        image.putpalette(COLOURS[order].tobytes())
        image.save(data.path("labels", index=index))
    text = data.only("warning")
    assert text.startswith(
        f"{data.path('labels', index=2)}: id 0 has another colour in the palette than in other"
    )
    assert "where it is [10, 20, 30]; 1 of 4 labels is like this" in text
    assert "id 0 has another colour" in data.only("note", color_labels=False)
    rest = Image.fromarray(COLOURS[GROUND_ROOF & 1])
    for split, indices in (("train", [3]), ("val", range(4))):
        for index in indices:
            rest.save(data.path("labels", split, index))
    assert data.findings(color_labels=True, palette=COLOURS.tolist()) == []


def test_an_ignored_id_that_may_be_the_missing_class(data):
    text = data.only("warning", classes=["ground", "roof", "door"])
    assert text.startswith(
        "train: class door never occurs, so that the network cannot learn it; take such names out"
    )
    given = cure(text, "add to the data YAML: ")
    assert given == {"label_map": {0: 0, 1: 1, 255: 2}}
    assert data.findings(classes=["ground", "roof", "door"], **given) == []


def test_instances_and_pictures(data):
    data.label(np.arange(1000, 1006, dtype=np.uint16).reshape(2, 3) * 7)
    assert "must be 0..1, or 255 to be ignored, got 7000, 7007, 7014" in data.only("error")
    data.image(size=(30, 2))
    data.label(np.arange(1000, 1060, dtype=np.uint16).reshape(2, 30))
    text = data.only("error")
    assert "... (60 in all)" in text and "60 ids up to 1059 look like instances" in text


@pytest.mark.parametrize("ignored", [0, 1])
def test_an_ignored_id_beside_as_many_others_as_classes(data, ignored):
    """Two classes and an id that is none: it takes the place of a class only as long as ignore_index says so."""
    data.labels(np.array([[0, 0, 1], [1, 2, 2]], np.uint8))
    found = data.findings(ignore_index=ignored)
    text = next(finding.text for finding in found if finding.level == "error")
    given = cure(text.replace(" instead of ignore_index", ""), "add to the data YAML: ")
    assert [f"{label}: {target}" for label, target in given["label_map"].items() if target == "ignore"] == [
        f"{ignored}: ignore"
    ]
    assert data.findings(**given) == []


def test_an_ignored_id_inside_the_classes(data):
    text = next(finding.text for finding in data.findings(ignore_index=0) if finding.level == "warning")
    assert text.endswith("choose an ignore_index that is no class, such as 255")  # one class alone is none
    text = data.only("warning", "val", ignore_index=0, label_map={0: "ignore", 1: 1, 255: "ignore"})
    assert "val: class 0 (ground, 67 % of the pixels) is ignore_index too" in text
    assert text.endswith("choose an ignore_index that is no class, such as 255")
    data.labels(np.array([[0, 1, 2], [0, 1, 2]], np.uint8))
    for ignored in range(3):
        names = ["a", "b", "c"]
        text = data.only("warning", classes=names, ignore_index=ignored)
        names.pop(ignored)
        given = cure(text.replace(" instead of ignore_index", ""), "take its name out of classes and say ")
        assert data.findings(classes=names, **given) == []
    report = data.report(classes=["a", "b", "c"], ignore_index=0)
    assert report.class_pixels.tolist() == [0, 8, 8]


def test_absent_classes(data):
    names = ["ground", "roof", *(f"c{index}" for index in range(20))]
    text = data.only("warning", classes=names)
    assert text.startswith(
        "train: 20 of 22 classes never occur: c0, c1, c2, c3, c4, c5, c6, c7, ..., so that"
    )
    assert "no measure has them" in data.only("note", "val", classes=names)
    (finding,) = judge(inspect_split(data.config(classes=names), "train", limit=2))
    assert finding.level == "note"  # nobody looked at the other labels


def test_labels_without_a_class(data):
    empty = np.full((2, 3), 255, np.uint8)
    data.label(empty, index=1)
    data.label(empty, index=3)
    text = data.only("warning")
    assert text.startswith(
        f"{data.path('labels', index=1)}: all pixels of the label are ignored; 2 of 4 labels are"
    )
    data.labels(empty)
    for split in ("train", "val"):
        assert f"no pixel of {split} has a class that counts, its labels hold only 255" in data.only(
            "error", split
        )


def test_colour_masks(data):
    data.labels(COLOURS[GROUND_ROOF & 1])
    text = data.only("error")
    assert (
        "got colours; if they are the palette's, say color_labels: true" in text
        and "(4 files are like this)" in text
    )
    keys: dict[str, Any] = {"color_labels": True, "palette": COLOURS.tolist()}
    assert data.findings(**keys) == []
    mask = COLOURS[GROUND_ROOF & 1]
    mask[0, 0] = 0
    data.label(mask, index=2)
    text = data.only("error", **keys)
    assert "colours must be in the data YAML's palette or ignore_colors, got [0, 0, 0] in 4.2 %" in text
    assert data.findings(**keys, **cure(text, "say in the data YAML: ")) == []
    data.image(size=(50, 1))
    data.label(np.arange(150, dtype=np.uint8).reshape(1, 50, 3))
    assert "50 colours look like a picture" in data.only("error", **keys, ignore_colors=[[0, 0, 0]])


def test_labels_are_inspected_as_they_are_read(data):
    """Finding a file's turn decodes it, after which nobody knows how many bits its numbers had."""
    row = (GROUND_ROOF & 3).astype(np.uint8)  # 0 0 0, 1 1 3
    rows = b"".join(bytes([0, line[0] << 6 | line[1] << 4 | line[2] << 2]) for line in row)
    path = png(data.path("labels", "train", 2), 3, 2, depth=2, colour=0, rows=rows)
    assert data.only("error").startswith(f"{path}: ids must be 0..1, or 255 to be ignored, got 3 in 4.2 %")
    deep = np.zeros((2, 3, 3), ">u2")
    png(path, 3, 2, depth=16, colour=2, rows=b"".join(b"\0" + line.tobytes() for line in deep))
    assert "must have 8 bits per channel, got 16" in data.only("error")


def test_three_equal_channels(data):
    data.label(np.repeat(GROUND_ROOF[:, :, None], 3, axis=2), index=1)
    assert "1.png: the label has three equal channels, which are read as ids; 1 of 4 labels is" in data.only(
        "note"
    )


@pytest.mark.parametrize("turn", [2, 3, 4])
def test_a_turn_that_no_size_shows(data, turn):
    data.image(index=2, turn=turn)
    text = data.only("error")
    assert text.startswith(
        f"{data.path('images', index=2)}: EXIF turns the image (orientation {turn}) and not its label"
    )
    assert "1 of 4 pairs is like this; say in the data YAML how labels were drawn: exif: apply" in text
    for setting in ("apply", "ignore"):
        assert f"exif: {setting} in the data YAML decides" in data.only("note", exif=setting)
    data.label(GROUND_ROOF, index=2, turn=turn)  # both are turned
    assert data.findings() == []
    data.image(index=2)
    assert f"EXIF turns the label (orientation {turn}) and not its image" in data.only("error")


def test_a_turn_that_sizes_show(data):
    data.image(index=1, turn=6, size=(2, 3))  # shown as 3x2
    assert "1.png: EXIF turns the image (orientation 6) and not its label" in data.only("note")
    data.image(index=1, turn=6, size=(3, 2))  # stored as 3x2
    text = data.only("error")
    assert "1.png: the label must be 2x3 as its image, got 3x2; 1 of 4 pairs is like this" in text
    assert "decides" in data.only("note", **cure(text, "say in the data YAML: "))
    data.image(index=1, turn=6, size=(2, 3))
    text = data.only("error", exif="ignore")
    assert "decides" in data.only("note", **cure(text, "say in the data YAML: "))


def test_other_sizes(data):
    data.image(index=0, size=(5, 5))
    data.image(index=1, size=(2, 3))
    data.image(index=2, size=(2, 3))
    first, second = (finding.text for finding in data.findings())
    assert (
        "0.png: the label must be 5x5 as its image, got 3x2; 1 of 4 pairs is like this; labels are never"
        in first
    )
    assert (
        "1.png: the label must be 2x3 as its image, got 3x2; 2 of 4 pairs are like this; height and" in second
    )


def test_files_that_cannot_be_read(data):
    for index in (1, 2):
        content = data.path("images", index=index).read_bytes()
        data.path("images", index=index).write_bytes(content[: 40 + index])
    data.path("labels", index=3).write_bytes(b"")
    first, second = data.findings()
    assert first.text.startswith(
        f"{data.path('images', index=1)}: cannot be decoded, it is damaged or truncated"
    )
    assert "(2 files are like this); mend such a file, or remove it with its partner" in first.text
    assert [file.name for file in first.files] == ["1.png", "2.png"]
    assert "3.png: the file is empty (0 bytes); mend" in second.text
    assert data.report().inspected == 4 and data.report().values == {0: 9, 1: 6, 255: 3}


def test_a_line_break_in_a_name_makes_no_second_line(data):
    for kind in ("images", "labels"):
        (data.folder / kind / "train" / "a\nb.png").touch()
    findings = data.findings()
    assert len(findings) == 1 and "\n" not in findings[0].text
    assert r"a\nb.png: the file is empty (0 bytes) (2 files are like this); mend" in findings[0].text


def test_class_weights_balance_by_median_frequency(data):
    report = data.report(classes=["a", "b", "c", "d"])
    report = dataclasses.replace(report, pixels=np.array([16, 4, 1, *[0] * 252, 11]))
    expected = torch.tensor([4 / 16, 4 / 4, 4 / 1, 1])  # the median of 16, 4, 1; d never occurs
    torch.testing.assert_close(report.class_weights(1.0), expected)
    torch.testing.assert_close(report.class_weights(0.5), expected.sqrt())
    config = dataclasses.replace(report.config, ignore_index=0)
    weights = dataclasses.replace(report, config=config).class_weights(1.0)
    torch.testing.assert_close(weights, torch.tensor([1, 2.5 / 4, 2.5 / 1, 1]))  # the median of 4 and 1


class TestNearDuplicates:
    def test_a_copy_in_val_is_a_warning_with_both_names(self, data):
        for index in range(4):
            for split, seed in (("train", index), ("val", 10 + index)):
                landscape(seed, 48, 32).save(data.path("images", split, index))
                data.label(np.arange(32 * 48).reshape(32, 48).astype(np.uint8) % 2, split, index)
        assert data.findings("val") == []
        landscape(2, 48, 32).save(data.path("images", "val", 1))
        landscape(0, 48, 32).save(data.path("images", "val", 3))
        text = data.only("warning", "val")
        assert text.startswith(f"{data.path('images', 'val', 1)}: almost the same image as ")
        assert f"{data.path('images', 'train', 2)}, which is in train; 2 of 4 images of val" in text
        assert "(3.png and 0.png)" in text
        assert data.findings("train") == []

    def test_plain_images_are_not_compared(self, data):
        assert data.findings("val") == []  # all are black


def test_kinds_of_images_are_counted(data):
    Image.new("L", (3, 2)).save(data.path("images", "train", 1))
    assert data.report().kinds == {"8-bit RGB": 3, "8-bit gray": 1}
