"""Every message that docs/own_data.md quotes: the mistake is made, and the message is the one of the page."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli.commands import ended
from tests.docs.blocks import ROOT, blocks_of

PAGE = ROOT / "docs" / "own_data.md"
BLOCKS = blocks_of(PAGE)
SECTION = PAGE.read_text(encoding="utf-8").partition("\n## 7.")[2]
QUOTED = [
    line
    for block in BLOCKS
    if block.language == "text" and block.code in SECTION
    for line in block.code.splitlines()
]
TRAIN = (
    "train boxes/data.yaml --weights camvid --head reinit --warmup 0 --batch-size 2 --crop 64 --device cpu"
)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data set that the page draws, and a run of it."""
    folder = tmp_path_factory.mktemp("drawn")
    (draw,) = [block.code for block in BLOCKS if block.language == "python"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        exec(compile(draw, str(PAGE), "exec"), {})
        assert ended(*TRAIN.split(), "-o", "runs/boxes", "--steps", "1") == 0
    return folder


@pytest.fixture
def boxes(drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the data set, without the run, in the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "1000")
    yield Path(shutil.copytree(drawn / "boxes", "boxes"))


def each_label(boxes: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    for file in boxes.glob("labels/*/*.png"):
        Image.fromarray(change(np.array(Image.open(file)))).save(file)


def add(boxes: Path, lines: str) -> None:
    with (boxes / "data.yaml").open("a") as file:
        file.write(lines)


def binary(boxes: Path) -> None:
    each_label(boxes, lambda ids: ids * 255)


def from_one(boxes: Path) -> None:
    each_label(boxes, lambda ids: ids + 1)


def colours(boxes: Path) -> None:
    palette = np.array([[0, 0, 0], [255, 0, 0]], np.uint8)
    each_label(boxes, lambda ids: palette[ids])


def colours_of_no_class(boxes: Path) -> None:
    colours(boxes)
    add(boxes, "palette: [[0, 0, 0], [0, 255, 0]]\ncolor_labels: true\n")


def jpeg_labels(boxes: Path) -> None:
    for file in boxes.glob("labels/*/*.png"):
        Image.open(file).save(file.with_suffix(".jpg"))
        file.unlink()


def other_names(boxes: Path) -> None:
    for file in boxes.glob("labels/*/*.png"):
        file.rename(file.with_name(f"{file.stem}_mask.png"))


def smaller(boxes: Path) -> None:
    each_label(boxes, lambda ids: ids[::2, ::2])


def in_both_splits(boxes: Path) -> None:
    for kind, suffix in (("images", "jpg"), ("labels", "png")):
        shutil.copy(boxes / kind / f"train/00.{suffix}", boxes / kind / f"val/99.{suffix}")


def a_class_too_many(boxes: Path) -> None:
    file = boxes / "data.yaml"
    file.write_text(file.read_text().replace("[floor, box]", "[floor, box, cat]"))


def damaged(boxes: Path) -> None:
    file = boxes / "images/train/02.jpg"
    file.write_bytes(file.read_bytes()[:900])


def misspelt(boxes: Path) -> None:
    add(boxes, "color_label: true\n")


def no_path(boxes: Path) -> None:
    file = boxes / "data.yaml"
    file.write_text(file.read_text().replace("path: .\n", ""))


def nothing(boxes: Path) -> None:
    """Leave the data set as it is."""


DOCTOR = "doctor boxes/data.yaml"
MISTAKES = [  # in the order of the page
    (binary, DOCTOR),
    (from_one, DOCTOR),
    (colours, DOCTOR),
    (colours_of_no_class, DOCTOR),
    (jpeg_labels, DOCTOR),
    (other_names, DOCTOR),
    (smaller, DOCTOR),
    (in_both_splits, DOCTOR),
    (a_class_too_many, DOCTOR),
    (damaged, DOCTOR),
    (misspelt, DOCTOR),
    (no_path, DOCTOR),
    (nothing, "train boxes/data.yaml -o runs/other --weights camvid"),
    (nothing, "val boxes/data.yaml -w camvid"),
    (nothing, "train boxes/data.yaml -o runs/other --steps 50"),
    (nothing, "train boxes/data.yaml -o {run}"),
    (nothing, f"{TRAIN} -o {{run}} --steps 80 --resume"),
]


def as_quoted(line: str) -> str:
    """Leave out folders, as the page does, and numbers that the test has otherwise: steps, what a decoder has left."""
    line = re.sub(r"\d+ bytes not processed", "N bytes not processed", line)
    line = re.sub(
        r"(?<![\w.])[\w./-]*/(?=(labels|images)/|runs/boxes|[\w.]+\.(yaml|safetensors)\b)", "", line.strip()
    )
    return re.sub(r"steps \d+ ->", "steps N ->", line.replace("runs/boxes/checkpoint", "checkpoint"))


@pytest.mark.parametrize(("number", "make", "command"), [(i, *mistake) for i, mistake in enumerate(MISTAKES)])
def test_the_message_is_the_page_s(
    number: int,
    make: Callable[[Path], None],
    command: str,
    drawn: Path,
    boxes: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make(boxes)
    run = drawn / "runs" / "boxes"
    assert ended(*command.format(run=run).split()) == 1
    printed = capsys.readouterr()
    said = {as_quoted(line) for line in (printed.out + printed.err).splitlines()}
    assert as_quoted(QUOTED[number]) in said


def test_every_quoted_message_has_its_mistake() -> None:
    assert len(QUOTED) == len(MISTAKES)
