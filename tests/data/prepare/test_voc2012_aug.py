"""VOC 2012 with SBD: the labels of both, VOC's where there are two, and the list for training."""

from pathlib import Path

import numpy as np
import pytest

from tests.data.prepare.files import counts, prepare, read_ids, write_png, write_text

scipy_io = pytest.importorskip("scipy.io")


def write_sbd(path: Path, ids: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    structure = {"Segmentation": np.asarray(ids, np.uint8), "Boundaries": np.zeros((20, 1))}
    scipy_io.savemat(path, {"GTcls": structure}, do_compression=True)


@pytest.fixture
def voc(tmp_path) -> Path:
    """VOC has a (training) and b (validation); SBD draws b, c and d, and lists b, c for training, d for validation."""
    root = tmp_path / "VOC2012"
    for name, ids in (("a", [[1, 255]]), ("b", [[2, 255]])):
        write_png(root / f"SegmentationClass/{name}.png", ids)
    lists = {"ImageSets/Segmentation/train": "a", "ImageSets/Segmentation/val": "b"}
    sbd = {"benchmark_RELEASE/dataset/train": "b\nc", "benchmark_RELEASE/dataset/val": "d"}
    for name, text in {**lists, **sbd}.items():
        write_text(root / f"{name}.txt", f"{text}\n")
    for name, ids in (("b", [[9, 9]]), ("c", [[0, 20], [3, 4]]), ("d", [[5, 6, 7]])):
        write_sbd(root / f"benchmark_RELEASE/dataset/cls/{name}.mat", ids)
    return root


def test_labels_and_list(voc):
    assert counts(prepare("voc2012_aug", voc)) == (4, 0, 0)
    made = {path.stem: read_ids(path) for path in (voc / "SegmentationClassAug").iterdir()}
    assert made == {"a": [[1, 255]], "b": [[2, 255]], "c": [[0, 20], [3, 4]], "d": [[5, 6, 7]]}
    assert (voc / "ImageSets/Segmentation/trainaug.txt").read_text() == "a\nc\nd\n"


def test_the_labels_of_voc_are_copied_to_the_byte(voc):
    prepare("voc2012_aug", voc)
    copied, source = (voc / f"{folder}/a.png" for folder in ("SegmentationClassAug", "SegmentationClass"))
    assert copied.read_bytes() == source.read_bytes()


def test_sbd_may_lie_beside_the_devkit_and_the_results_elsewhere(voc, tmp_path):
    (voc / "benchmark_RELEASE").rename(tmp_path / "VOCaug")
    assert counts(prepare("voc2012_aug", voc, tmp_path / "out")) == (4, 0, 0)
    lists = {path.name: path.read_text() for path in (tmp_path / "out/ImageSets/Segmentation").iterdir()}
    assert lists == {"train.txt": "a\n", "val.txt": "b\n", "trainaug.txt": "a\nc\nd\n"}
    assert not (voc / "SegmentationClassAug").exists()


def test_damaged_files_fail_alone(voc):
    folder = voc / "benchmark_RELEASE/dataset/cls"
    content = (folder / "c.mat").read_bytes()
    (folder / "c.mat").write_bytes(content[: len(content) // 2])
    write_sbd(folder / "d.mat", [[21]])
    (voc / "SegmentationClass/a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    summary = prepare("voc2012_aug", voc)
    assert counts(summary) == (1, 0, 3)
    for line, words in zip(summary.failures, ("a.png: ", "c.mat: ", "d.mat: ids must be 0..20"), strict=True):
        assert words in line
    assert [path.name for path in (voc / "SegmentationClassAug").iterdir()] == ["b.png"]


@pytest.mark.parametrize(
    ("gone", "words"),
    [
        ("SegmentationClass/a.png SegmentationClass/b.png", "VOCtrainval_11-May-2012.tar"),
        ("ImageSets/Segmentation/val.txt", "VOCtrainval_11-May-2012.tar"),
        ("benchmark_RELEASE/dataset/val.txt", "benchmark.tgz"),
        ("benchmark_RELEASE/dataset/cls/*.mat", "benchmark.tgz"),
    ],
)
def test_what_is_missing_is_named(voc, gone, words):
    for pattern in gone.split():
        for path in voc.glob(pattern):
            path.unlink()
    with pytest.raises(FileNotFoundError, match=words):
        prepare("voc2012_aug", voc)


def test_without_sbd(voc):
    (voc / "benchmark_RELEASE").rename(voc / "elsewhere")
    with pytest.raises(
        FileNotFoundError, match=r"benchmark_RELEASE/dataset is missing; unpack SBD's benchmark\.tgz"
    ):
        prepare("voc2012_aug", voc)
