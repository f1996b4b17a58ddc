"""The record of a `segnext predict`: one line per image as it goes, one JSON file at the end.

Each process of a run appends to a file of its own, since some network file systems lose lines that several processes
append to one. The first one's begins with what all of them say about the run; the others' lie beside it, hold nothing
but records, and count only as long as it is there. The next run takes them over before it begins, so that it may have
another number of processes.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from segnext.atomic import append_text, replace_text, whole_lines
from segnext.cli._paths import real_path
from segnext.cli._show import KINDS as SHOWN
from segnext.one_line import one_line

SUMMARY, JOURNAL = "predictions.json", "predictions.jsonl"

KINDS = ("mask", "overlay", *SHOWN)  # results of an image: a record has the names of their files

# Results of other settings than these would be other results.
_DETERMINING = ("weights_digest", "dtype", "matmul_precision", "inference", "preprocessing", "overlay")


class Part:
    """Keeps the records of another process than the first, in `output`/predictions.RANK.jsonl.

    Args:
        output: the folder of the results.
        rank: number of the process, from 1.

    Attributes:
        begun: real paths of the images that this process has begun.
        records: one per finished image of this process, by the file's real path.
    """

    def __init__(self, output: Path, rank: int) -> None:
        self.output = output
        self.begun: list[str] = []
        self.records: dict[str, dict[str, Any]] = {}
        self._file = output / f"predictions.{rank}.jsonl"

    def begin(self, image: Path) -> dict[str, Any]:
        """Return how the record of an image's new results begins."""
        self.begun.append(real_path(image))
        return {"image": str(image), **_stamp(image)}

    def add(self, record: dict[str, Any]) -> None:
        """Write the record of an image whose results are written.

        Raises:
            OSError: the disk is full; the record does not count.
        """
        append_text(self._file, f"{json.dumps(record)}\n")
        self.records[record["file"]] = record


class Journal:
    """Keeps the records of finished images in `output`/predictions.jsonl, whose first line says how they were made.

    A line is on the disk before the next image begins, so that a process that is killed loses no record. `finish`
    writes predictions.json and removes the journal.

    Args:
        output: the folder of the results; it exists.
        run: what the summary says about the run, in the form in which JSON gives it back.
        resume: take over the records of an earlier run whose files are there; else they are not counted.
        is_shared: other processes are going to write parts beside it.

    Attributes:
        records: one per finished image, by the file's real path.

    Raises:
        ValueError: the records to resume from are damaged, or of other settings.
    """

    def __init__(
        self, output: Path, run: Mapping[str, Any], *, resume: bool, is_shared: bool = False
    ) -> None:
        self.output = output
        self.run = run
        self.records: dict[str, dict[str, Any]] = {}
        if resume:
            records = (_in_its_place(r) for r in _earlier(output, run) if _is_complete(output, r))
            self.records = {record["file"]: record for record in records}
        self._begun = False
        parts = _parts(output)
        if not resume:
            _remove(parts)  # first, since they would count as parts of a new journal
            parts = []
        # Records of an earlier run stay as they are until there is a new one; parts need a journal beside them.
        has_records = any(os.path.lexists(output / name) for name in (JOURNAL, SUMMARY))
        if is_shared or parts or not has_records:
            self._write([])
        _remove(parts)

    def left(self, results: Mapping[Path, Mapping[str, Path]]) -> list[Path]:
        """Return the images that are not done; `results` are for each image the files by kind."""
        return [image for image, files in results.items() if not self.is_done(image, files)]

    def is_done(self, image: Path, results: Mapping[str, Path]) -> bool:
        """Return whether there is a record of an image, as it is now, with results of these names."""
        record = self.records.get(real_path(image), {})
        is_same = record.items() >= _stamp(image).items()
        return is_same and all(
            Path(record.get(kind, "")).stem == path.stem for kind, path in results.items()
        )  # an overlay may have become a PNG

    def expect_own(self, results: Mapping[Path, Mapping[str, Path]]) -> None:
        """Refuse results that would replace those of another image: names depend on all images of a call.

        Args:
            results: for each image the files of its results by kind.

        Raises:
            ValueError: a record of another image names one of the files.
        """
        owners = {
            Path(record[kind]).stem: file
            for file, record in self.records.items()
            for kind in KINDS
            if kind in record
        }
        for image, files in results.items():
            file = real_path(image)
            for path in files.values():
                owner = owners.get(path.stem, file)
                if owner != file:
                    raise ValueError(
                        f"predict: results of {one_line(image)} must have names of their own, got {path.name} in "
                        f"{one_line(self.output)}, which is of {one_line(owner)}; choose another folder with -o, "
                        "name the same photographs as before, or begin anew with --overwrite"
                    )

    def begin(self, image: Path) -> dict[str, Any]:
        """Forget what is known of an image, and return how the record of its new results begins."""
        self.records.pop(real_path(image), None)
        return {"image": str(image), **_stamp(image)}

    def add(self, record: dict[str, Any]) -> None:
        """Write the record of an image whose results are written.

        Raises:
            OSError: the disk is full; the record does not count.
        """
        self._write([record])
        self.records[record["file"]] = record

    def take_over(self, parts: Iterable[Part], images: Iterable[Path]) -> None:
        """Make the records of the other processes its own, once these have ended their work.

        Args:
            parts: of the other processes.
            images: those of the run, in the order in which the summary is to list them, after all others.
        """
        for part in parts:
            for file in part.begun:
                self.records.pop(file, None)
            self.records |= part.records
        for file in map(real_path, images):
            if file in self.records:
                self.records[file] = self.records.pop(file)

    def _write(self, records: list[dict[str, Any]]) -> None:
        """Append records; the first time, replace the file by all that is known."""
        lines = [*records] if self._begun else [self.run, *self.records.values(), *records]
        text = "".join(f"{json.dumps(line)}\n" for line in lines)
        if self._begun:
            append_text(self.output / JOURNAL, text)
        else:
            replace_text(self.output / JOURNAL, text)
        self._begun = True

    def finish(self, failures: list[str]) -> str:
        """Write the summary, remove the journal, and return the summary's text."""
        content = {**self.run, "images": list(self.records.values()), "failures": failures}
        text = json.dumps(content, indent=1)
        replace_text(self.output / SUMMARY, text)
        _remove([self.output / JOURNAL, *_parts(self.output)])
        return text


def _parts(output: Path) -> list[Path]:
    """Return the files of other processes than the first."""
    return sorted(path for path in output.iterdir() if re.fullmatch(r"predictions\.\d+\.jsonl", path.name))


def _remove(files: Iterable[Path]) -> None:
    for file in files:
        file.unlink(missing_ok=True)


def _stamp(image: Path) -> dict[str, Any]:
    """Return which file an image is, and what changes when another takes its name."""
    try:
        status = image.stat()
        size, modified = status.st_size, status.st_mtime_ns
    except (OSError, ValueError):  # missing, or a name with a null character
        size = modified = -1
    return {"file": real_path(image), "bytes": size, "modified_ns": modified}


def _in_its_place(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record with its image's real path; a folder above it may have been moved since."""
    now = _stamp(Path(record["image"]))
    was_moved = (
        not os.path.lexists(record["file"]) and record.items() >= {**now, "file": record["file"]}.items()
    )
    return record | now if was_moved else record


def _is_record(record: Mapping[str, Any]) -> bool:
    """Return whether what the summary shows of an image is there, each of its kind."""
    texts = [record["image"], record["file"], record["mask"], *(record.get(kind, "") for kind in KINDS)]
    numbers = [record[name] for name in ("bytes", "modified_ns", "width", "height", "seconds")]
    numbers += record["statistics"].values()
    return all(isinstance(text, str) for text in texts) and all(
        isinstance(number, int | float) for number in numbers
    )


def _is_complete(output: Path, record: Mapping[str, Any]) -> bool:
    return all(os.path.isfile(output / record[kind]) for kind in KINDS if kind in record)


def _earlier(output: Path, run: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the records of the run that lies in the folder: a journal's, since it is newer, or a summary's."""
    file = output / JOURNAL
    try:
        if os.path.lexists(file):
            _expect_regular(file)
            lines = whole_lines(file)
            found, records = json.loads(lines[0]), [json.loads(line) for line in lines[1:]]
            for file in _parts(output):
                _expect_regular(file)
                records += [json.loads(line) for line in whole_lines(file)]
        elif os.path.lexists(file := output / SUMMARY):
            _expect_regular(file)
            found = json.loads(file.read_text(encoding="utf-8"))
            records = found["images"]
        else:
            return []
        then, now = _settings(found), _settings(run)
        differing = sorted(key for key in then.keys() | now.keys() if then.get(key) != now.get(key))
        complete = isinstance(records, list) and all(map(_is_record, records))
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        complete, then, now, differing = False, {}, {}, []
    if not complete:
        raise ValueError(
            f"predict: {file} must hold the records of a run, got a damaged file; begin anew with --overwrite"
        )
    if differing:
        changes = ", ".join(
            f"{one_line(key)} {one_line(then.get(key))} -> {one_line(now.get(key))}" for key in differing[:8]
        )
        raise ValueError(
            f"predict: settings to resume with must be those of the results in {output}, got {changes}; repeat the "
            "original options, or choose another folder with -o"
        )
    return records


def _expect_regular(file: Path) -> None:
    """Raise unless it is a file that ends: a pipe would be read for ever."""
    if not file.is_file():
        raise FileExistsError(
            f"predict: {file} must be the records of a run, got something that is no file; remove it, or choose "
            "another folder with -o"
        )


def _settings(run: Mapping[str, Any]) -> dict[str, Any]:
    """Return what determines a run's results, in one level: ``inference.flip``."""
    settings: dict[str, Any] = {}
    for key in _DETERMINING:
        value = run.get(key)
        settings |= (
            {f"{key}.{name}": part for name, part in value.items()}
            if isinstance(value, dict)
            else {key: value}
        )
    return settings
