"""Jobs run in processes, skip what is complete, fail alone, and stop in order."""

import os
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from segnext.data.prepare import KINDS
from segnext.data.prepare.plan import MaskJob, Plan, Request, plan
from segnext.data.prepare.work import run
from tests.data.prepare.files import counts, prepare, read_ids, write_png


@pytest.fixture
def coco(tmp_path) -> Path:
    for index in range(8):
        write_png(tmp_path / f"stuffthingmaps/val2017/{index}.png", np.full((4, 5), index))
    return tmp_path


def results(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (root / "annotations/val2017").iterdir()}


def test_processes_make_the_same_files(coco):
    request = Request("coco_stuff", coco, coco)
    assert counts(run(plan(request), workers=2)) == (8, 0, 0)
    made = results(coco)
    assert counts(prepare("coco_stuff", coco, overwrite=True)) == (8, 0, 0)
    assert made == results(coco) and len(made) == 8


def test_a_killed_run_goes_on(coco):
    """Half of the files are missing, one was cut off, and a temporary folder was left."""
    prepare("coco_stuff", coco)
    expected, folder = results(coco), coco / "annotations/val2017"
    for index in range(4):
        (folder / f"{index}_labelTrainIds.png").unlink()
    (folder / "5_labelTrainIds.png").write_bytes(expected["5_labelTrainIds.png"][:-3])
    (folder / ".1_labelTrainIds.png.abcd1234.tmp").mkdir()
    assert counts(prepare("coco_stuff", coco)) == (5, 3, 0)
    assert results(coco) == expected


def test_what_a_power_cut_leaves_is_made_again(coco):
    """Files are renamed before they are on the disk: then some are empty, cut off, or end in zeros."""
    prepare("coco_stuff", coco)
    expected, folder = results(coco), coco / "annotations/val2017"
    for index, length in enumerate((0, 1, 40)):
        name = f"{index}_labelTrainIds.png"
        for end in (b"", b"\0" * (len(expected[name]) - length)):
            (folder / name).write_bytes(expected[name][:length] + end)
            assert counts(prepare("coco_stuff", coco)) == (1, 7, 0)
            assert results(coco) == expected


def test_it_waits_for_the_disk_once(coco, monkeypatch):
    waited = []
    for name in ("fsync", "sync"):
        original = getattr(os, name)
        monkeypatch.setattr(
            os, name, lambda *a, name=name, original=original: waited.append(name) or original(*a)
        )
    for expected in (["sync"], []):  # the second time, nothing is to be done
        waited.clear()
        run(plan(Request("coco_stuff", coco, coco)))
        assert waited == expected


def test_damaged_files_in_the_middle(coco):
    raw = coco / "stuffthingmaps/val2017"
    content = (raw / "3.png").read_bytes()
    (raw / "3.png").write_bytes(content[: len(content) // 2])
    (raw / "5.png").write_bytes(b"")
    for workers, expected in ((1, (6, 0, 2)), (2, (0, 6, 2))):
        summary = run(plan(Request("coco_stuff", coco, coco)), workers=workers)
        assert counts(summary) == expected
        for line, name in zip(summary.failures, ("3.png", "5.png"), strict=True):
            assert line.startswith(str(raw / name)) and line.count(str(raw / name)) == 1
    (raw / "3.png").write_bytes(content)
    assert counts(prepare("coco_stuff", coco)) == (1, 6, 1)
    assert read_ids(coco / "annotations/val2017/3_labelTrainIds.png") == [[3] * 5] * 4


def test_a_result_that_cannot_be_written_is_named(coco):
    place = coco / "annotations/val2017/2_labelTrainIds.png"
    place.mkdir(parents=True)
    summary = prepare("coco_stuff", coco)
    assert counts(summary) == (7, 0, 1) and str(place) in summary.failures[0]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_stop_ends_the_work(coco, workers):
    stop = threading.Event()
    stop.set()
    assert counts(run(plan(Request("coco_stuff", coco, coco)), workers=workers, stop=stop)) == (0, 0, 0)


@dataclass(frozen=True)
class Deadly(MaskJob):
    """Ends its process, as the system does for lack of memory."""

    def mask(self) -> np.ndarray:
        os._exit(9)


def test_a_process_that_dies_is_told(tmp_path):
    jobs = [Deadly(tmp_path / "a", tmp_path / "a.png"), Deadly(tmp_path / "b", tmp_path / "b.png")]
    with pytest.raises(RuntimeError, match="again with fewer --workers"):
        run(Plan(jobs), workers=2)


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        ("ade20k", {}, "must be one of voc2012_aug, .* got ade20k; folders of images"),
        ("isaid", {"background": 0}, "background belongs to"),
        ("coco_json", {"classes": ("a", "b")}, "classes belong to"),
    ],
)
def test_wrong_requests(tmp_path, kind, options, words):
    with pytest.raises(ValueError, match=words):
        prepare(kind, tmp_path, **options)


@pytest.mark.parametrize("kind", KINDS)
def test_a_root_that_is_not_there(tmp_path, kind):
    with pytest.raises(FileNotFoundError, match="must be the folder of the data set"):
        prepare(kind, tmp_path / "none")
