"""The walk through a data set's folders follows links, ends in loops, and names what it cannot follow."""

import os
from pathlib import Path

import pytest

from segnext.data.pairing import MOST_LINKS, find_pairs


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    """Make two folders with two pairs; their names have extensions of any case."""
    return touch(tmp_path / "images", "a.JPG", "b.png"), touch(tmp_path / "labels", "a.PNG", "b.png")


def names(pairs: list[tuple[Path, Path]], folder: Path) -> list[str]:
    return [image.relative_to(folder).as_posix() for image, _ in pairs]


def test_links_to_folders_and_files_are_followed(places, tmp_path):
    disk = touch(tmp_path / "disk", "images/deep/c.jpg", "labels/deep/c.png", "d.jpg", "d.png")
    for place, kind, extension in zip(places, ("images", "labels"), ("jpg", "png"), strict=True):
        (place / "more").symlink_to(disk / kind)
        (place / f"d.{extension}").symlink_to(disk / f"d.{extension}")
    assert names(find_pairs(*places), places[0]) == ["a.JPG", "b.png", "d.jpg", "more/deep/c.jpg"]


def test_loops_end(places):
    for place in places:
        touch(place, "below/c.png")
        (place / "below" / "up").symlink_to(place)
        (place / "below" / "self").symlink_to(place / "below")
        (place / "below" / "round.png").symlink_to("round.png")
    images = places[0]
    assert names(find_pairs(*places), images) == ["a.JPG", "b.png", "below/c.png", "below/round.png"]


def test_two_links_to_one_folder_are_two_folders(places, tmp_path):
    for place, kind in zip(places, ("images", "labels"), strict=True):
        touch(tmp_path / "other" / kind, "c.png")
        for name in ("first", "second"):
            (place / name).symlink_to(tmp_path / "other" / kind)
    assert names(find_pairs(*places), places[0])[2:] == ["first/c.png", "second/c.png"]


def test_folders_that_all_link_to_each_other_are_refused(places):
    images, _ = places
    folders = [touch(images / f"f{index}", "x.png") for index in range(9)]
    for folder in folders:
        for other in folders:
            (folder / f"to_{other.name}").symlink_to(other)
    with pytest.raises(
        ValueError, match=rf"must follow at most {MOST_LINKS} links, got .*to_f\d; remove one"
    ):
        find_pairs(*places)


@pytest.mark.parametrize("target", ["unplugged", "round"])
def test_a_link_that_leads_nowhere_is_named(places, target):
    for place in places:
        (place / "round").symlink_to(target)
    with pytest.raises(
        ValueError, match=rf"must lead somewhere, got .*images/round to {target}; mount its disk or remove"
    ):
        find_pairs(*places)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
def test_a_folder_without_permission_is_named(places):
    locked = touch(places[0] / "locked", "c.png").resolve()
    locked.chmod(0)
    try:
        with pytest.raises(
            ValueError, match=r"locked must be a folder that can be read, got permission denied"
        ):
            find_pairs(*places)
    finally:
        locked.chmod(0o700)


def test_hidden_folders_are_left_out(places):
    touch(places[0], ".ipynb_checkpoints/a-checkpoint.png", ".thumbs/x/a.png")
    touch(places[0], "folder.png/notes.txt")
    assert len(find_pairs(*places)) == 2


def test_labels_of_a_lossy_format_are_named(places, tmp_path):
    labels = touch(tmp_path / "lossy", "a.jpg", "b.jpg", "a.json")
    with pytest.raises(
        FileNotFoundError,
        match=r"must hold labels \(.*\), got none, but 2 \.jpg, 1 \.json; labels must be lossless",
    ):
        find_pairs(places[0], labels)


def test_a_list_with_a_byte_order_mark(places, tmp_path):
    (tmp_path / "list.txt").write_text("a\r\nb\r\n", encoding="utf-8-sig")
    assert len(find_pairs(*places, names=tmp_path / "list.txt")) == 2


def test_an_image_is_not_its_own_label(places):
    with pytest.raises(ValueError, match=r"must be two files, got .*images/b\.png for both; tell them apart"):
        find_pairs(places[0], places[0])
