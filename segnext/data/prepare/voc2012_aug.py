"""Pascal VOC 2012 with the labels of SBD (Hariharan et al. 2011): SegmentationClassAug and trainaug.txt.

SBD draws 11,355 images of VOC 2012's training and validation photographs; where VOC has a label of its own, that one
is taken. The training list is VOC's and SBD's images without those of VOC's validation: 10,582.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segnext.data.labels import read_label
from segnext.data.prepare.matlab import read_matlab, require_scipy
from segnext.data.prepare.plan import MaskJob, Plan, Request, missing, names_in

CLASSES = 21
_VOC = "unpack VOCtrainval_11-May-2012.tar and give its folder VOCdevkit/VOC2012 with --root"
_SBD = "unpack SBD's benchmark.tgz there (folder benchmark_RELEASE), or beside it"
_PLACES = ("benchmark_RELEASE", "VOCaug", "sbd")


@dataclass(frozen=True)
class SbdMask(MaskJob):
    """Takes the label of SBD."""

    def mask(self) -> np.ndarray:
        ids = read_matlab(self.source, "GTcls", "Segmentation")
        if not ((ids >= 0) & (ids < CLASSES)).all():
            raise ValueError(f"ids must be 0..{CLASSES - 1}, got {ids.min()}..{ids.max()}")
        return ids.astype(np.uint8)


@dataclass(frozen=True)
class VocMask(MaskJob):
    """Copies the label of VOC, with its palette."""

    def contents(self, wanted: Collection[Path]) -> Iterator[tuple[Path, bytes]]:
        self.mask()  # a damaged file is not copied
        yield self.target, self.source.read_bytes()

    def mask(self) -> np.ndarray:
        return read_label(self.source)


def plan(request: Request) -> Plan:
    """Return a job for every label of SBD and of VOC; see `segnext.data.prepare.plan.plan`."""
    require_scipy("voc2012_aug")
    root, lists = request.root, request.root / "ImageSets" / "Segmentation"
    voc = {path.stem: path for path in sorted((root / "SegmentationClass").glob("*.png"))}
    if not voc:
        raise missing(root / "SegmentationClass/*.png", _VOC)
    train, val = (names_in(lists / f"{split}.txt", _VOC) for split in ("train", "val"))
    dataset = _sbd(root)
    sbd = {path.stem: path for path in sorted((dataset / "cls").glob("*.mat"))}
    if not sbd:
        raise missing(dataset / "cls/*.mat", _SBD)
    listed = {name for split in ("train", "val") for name in names_in(dataset / f"{split}.txt", _SBD)}
    target = request.out / "SegmentationClassAug"
    augmented = sorted((listed | set(train)) - set(val))
    return Plan(
        [
            *(VocMask(path, target / f"{name}.png") for name, path in voc.items()),
            *(SbdMask(path, target / f"{name}.png") for name, path in sbd.items() if name not in voc),
        ],
        {
            request.out / "ImageSets/Segmentation/trainaug.txt": "".join(f"{name}\n" for name in augmented),
            **_copied_lists(request, train, val),
        },
        check=("voc2012_aug", "--root", str(request.out)),
        images=("JPEGImages", "SegmentationClass"),
    )


def _copied_lists(request: Request, train: list[str], val: list[str]) -> dict[Path, str]:
    """Return VOC's own lists for another folder than the data set's."""
    if request.out.resolve() == request.root.resolve():
        return {}
    folder = request.out / "ImageSets/Segmentation"
    return {
        folder / f"{split}.txt": "".join(f"{name}\n" for name in names)
        for split, names in (("train", train), ("val", val))
    }


def _sbd(root: Path) -> Path:
    """Return SBD's folder `dataset`, in VOC2012, in VOCdevkit or beside it."""
    root = root.resolve()
    for above in (root, *list(root.parents)[:2]):
        for name in _PLACES:
            if (above / name / "dataset").is_dir():
                return above / name / "dataset"
    raise missing(root / "benchmark_RELEASE/dataset", _SBD)
