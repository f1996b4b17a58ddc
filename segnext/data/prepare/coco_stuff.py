"""COCO-Stuff 164k (Caesar et al. 2018): the 182 ids of stuffthingmaps to the 171 that occur."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segnext.data.labels import VOID, read_label
from segnext.data.prepare.plan import MaskJob, Plan, Request, missing

UNUSED = (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90)
"""Ids of COCO's categories that were named and never drawn, which are ignored; the files count from 0."""
RAW_IDS = 182
SPLITS = ("train2017", "val2017")
_SUFFIX = "_labelTrainIds"
_STEP = "unpack stuffthingmaps_trainval2017.zip into the folder stuffthingmaps of --root"


def class_of_each() -> dict[int, int]:
    """Return the class, 0 to 170, of each of the 171 ids in use."""
    used = [raw for raw in range(RAW_IDS) if raw not in UNUSED]
    return {raw: index for index, raw in enumerate(used)}


@dataclass(frozen=True)
class StuffMask(MaskJob):
    """Maps the ids of one file."""

    def mask(self) -> np.ndarray:
        table = np.full(1 << 16, -1, np.int16)
        table[[VOID, *UNUSED]] = VOID
        for raw, index in class_of_each().items():
            table[raw] = index
        ids = read_label(self.source)
        mapped = table[ids]
        if (mapped < 0).any():
            raise ValueError(
                f"ids must be 0..{RAW_IDS - 1}, or 255, got {int(ids[mapped < 0][0])}; unpack the file again"
            )
        return mapped.astype(np.uint8)


def plan(request: Request) -> Plan:
    """Return a job for every file of stuffthingmaps; see `segnext.data.prepare.plan.plan`."""
    jobs, notes = [], []
    for split in SPLITS:
        files = _files(request.root, split)
        if not files:
            notes.append(f"stuffthingmaps/{split} is not there: it is left out")
        target = request.out / "annotations" / split
        jobs += [StuffMask(path, target / f"{path.stem}{_SUFFIX}.png") for path in files]
    if not jobs:
        raise missing(request.root / "stuffthingmaps/train2017/*.png", _STEP)
    return Plan(
        jobs,
        check=("coco_stuff", "--root", str(request.out)),
        images=("images",),
        notes=tuple(notes),
    )


def _files(root: Path, split: str) -> list[Path]:
    """Return the raw files, which some unpack into `annotations`."""
    for folder in (root / "stuffthingmaps" / split, root / "annotations" / split):
        files = [path for path in sorted(folder.glob("*.png")) if not path.stem.endswith(_SUFFIX)]
        if files:
            return files
    return []
