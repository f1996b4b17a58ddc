"""Writes the data YAML of annotations whose classes only their files know."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from segnext.data.labels import VOID
from segnext.data.prepare.plan import Request
from segnext.one_line import is_class_name, one_line
from segnext.safe_yaml import read_yaml

BACKGROUND = "background"


@dataclass(frozen=True)
class Ids:
    """Which id each name gets.

    Attributes:
        names: as the annotations call them, in the order of their ids.
        background: id of pixels without an object: 0, a class of its own before the others, or 255, ignored.
    """

    names: tuple[str, ...]
    background: int

    @property
    def classes(self) -> tuple[str, ...]:
        """All classes in the order of their ids."""
        return self.names if self.background else (BACKGROUND, *self.names)

    def of(self, name: str) -> int:
        """Return the id of a name; raises `ValueError` if it has none."""
        if name not in self.names:
            raise ValueError(f"labels must be among {', '.join(self.names)}, got {one_line(name)}")
        return self.classes.index(name, 0 if self.background else 1)


def choose_ids(names: Sequence[str], background: int | None, where: Path) -> Ids:
    """Return the ids of these names.

    Args:
        names: in the order of their ids; ``background`` is left out where pixels without an object are 0.
        background: 0 or 255; None: 0.
        where: the file or folder that an error names.

    Raises:
        ValueError: there are no names, too many, or two that are equal.
    """
    value = background or 0
    kept = tuple(name for name in names if value or name.lower() not in (BACKGROUND, "_background_"))
    wrong = next((name for name in kept if not is_class_name(name) or kept.count(name) > 1), None)
    if wrong is not None:
        raise ValueError(
            f"data prepare: names in {where} must differ and have one line, got {one_line(repr(wrong))}"
        )
    ids = Ids(kept, value)
    if not 2 <= len(ids.classes) <= VOID:
        raise ValueError(
            f"data prepare: {where} must have 2 to {VOID} classes, the background among them if it is 0, got "
            f"{len(ids.classes)}"
        )
    return ids


def data_yaml(request: Request, ids: Ids, splits: Mapping[str, Mapping[str, Path]]) -> dict[Path, str]:
    """Return the path and text of the data YAML.

    Args:
        request: its `out` gets the file.
        ids: the classes.
        splits: "images", "labels" and "list" of each split.

    Raises:
        ValueError: the file is there already, with other classes: masks of then would have other ids.
    """
    path = request.out / "data.yaml"
    if path.is_file() and not request.overwrite:
        before = read_yaml(path)
        classes = before.get("classes") if isinstance(before, dict) else None
        if classes != list(ids.classes):
            raise ValueError(
                f"data prepare: classes must be those of {path} from an earlier call, got others; make all masks "
                "again with --overwrite, or choose another folder with -o"
            )
    content = {
        "name": request.root.resolve().name or "data",
        "path": ".",
        **{
            split: {key: os.path.relpath(place, request.out) for key, place in places.items()}
            for split, places in splits.items()
        },
        "classes": list(ids.classes),
        "ignore_index": VOID,
    }
    return {path: yaml.safe_dump(content, sort_keys=False, allow_unicode=True)}
