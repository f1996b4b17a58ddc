"""What is to be prepared: a request of the user, and the plan of jobs that it becomes."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from segnext.data.prepare import KINDS
from segnext.data.prepare.masks import png_bytes
from segnext.one_line import one_line


@dataclass(frozen=True)
class Request:
    """What the user asks for.

    Attributes:
        kind: a name in `KINDS`.
        root: folder of what was downloaded.
        out: folder that gets the results.
        overwrite: write again what is there.
        background: id of pixels without an object, 0 or 255, for `coco_json` and `labelme`; None: 0.
        classes: names in the order of their ids, for `labelme`; None: those that occur, sorted.
    """

    kind: str
    root: Path
    out: Path
    overwrite: bool = False
    background: int | None = None
    classes: tuple[str, ...] | None = None


class Job(ABC):
    """Makes the files that come from one file; it runs in another process, so that it must be picklable.

    Attributes:
        source: the file that a failure names.
    """

    source: Path

    @abstractmethod
    def outputs(self) -> list[Path]:
        """Return the files that it makes, all of them PNG."""

    @abstractmethod
    def contents(self, wanted: Collection[Path]) -> Iterator[tuple[Path, bytes]]:
        """Yield each wanted file and its bytes."""


@dataclass(frozen=True)
class MaskJob(Job):
    """Makes one label map from one file.

    Attributes:
        source: the file that is read.
        target: the label map.
    """

    source: Path
    target: Path

    def outputs(self) -> list[Path]:
        return [self.target]

    def contents(self, wanted: Collection[Path]) -> Iterator[tuple[Path, bytes]]:
        yield self.target, png_bytes(self.mask())

    @abstractmethod
    def mask(self) -> np.ndarray:
        """Return the ids, (H, W) uint8."""


@dataclass(frozen=True)
class Plan:
    """Everything that is to be done.

    Attributes:
        jobs: the work, in any order.
        texts: lists of names and data YAMLs; they are written before the jobs run.
        check: what follows `segnext doctor` to check the result.
        images: folders below the request's root that must also be below its `out`.
        notes: lines about parts that are not there.
    """

    jobs: Sequence[Job]
    texts: Mapping[Path, str] = field(default_factory=dict)
    check: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def plan(request: Request) -> Plan:
    """Look at the folders and return what is to be done.

    Raises:
        ValueError: the kind is unknown, an option does not belong to it, or the annotations contradict each other.
        FileNotFoundError: something was not downloaded or not unpacked.
        ImportError: a package is missing.
    """
    if request.kind not in KINDS:
        raise ValueError(
            f"data prepare: NAME must be one of {', '.join(KINDS)}, got {one_line(request.kind)}; folders of images "
            "and of PNG label maps, as ADE20K has, need nothing"
        )
    if not request.root.is_dir():
        raise FileNotFoundError(
            f"data prepare: root must be the folder of the data set, got {one_line(request.root)}, which is none"
        )
    if request.background is not None and request.kind not in ("coco_json", "labelme"):
        raise ValueError(
            f"data prepare: background belongs to coco_json and labelme, got it for {request.kind}"
        )
    if request.classes is not None and request.kind != "labelme":
        raise ValueError(f"data prepare: classes belong to labelme, got them for {request.kind}")
    made: Plan = importlib.import_module(f"segnext.data.prepare.{request.kind}").plan(request)
    return made


def names_in(file: Path, step: str) -> list[str]:
    """Return the first word of each line of a list of names.

    Raises:
        FileNotFoundError: there is no such list; `step` says how one gets it.
    """
    if not file.is_file():
        raise missing(file, step)
    return [line.split()[0] for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]


def missing(path: Path, step: str) -> FileNotFoundError:
    """Return the error that tells of a file or folder that is not there, and of the step that makes it."""
    return FileNotFoundError(f"data prepare: {one_line(path, 240)} is missing; {step}")
