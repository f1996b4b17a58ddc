"""The rows of a run: results.csv for people and spreadsheets, results.jsonl for programs, with all digits and classes.

Both files get a row per some steps and one per evaluation. A session drops the rows of later steps than its checkpoint,
and a last line that was not written whole: a power cut or a full disk can leave a part of one.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from segnext.atomic import append_text, replace_text, whole_lines

RESULTS, ROWS = "results.csv", "results.jsonl"
COLUMNS = ("step", "loss", "learning_rate", "images_per_second")


class Trained(NamedTuple):
    """What a row says of the steps since the row before.

    Attributes:
        loss: their mean; NaN if no step had a labelled pixel.
        learning_rate: of the last one.
        images_per_second: over all processes.
        data_wait: the share of their time in which the loop waited for a batch.
        memory: bytes at the peak of the process so far, see `peak_memory`.
    """

    loss: float
    learning_rate: float
    images_per_second: float
    data_wait: float
    memory: int


class Records:
    """Writes results.csv and results.jsonl.

    Args:
        folder: the run's folder.
        measures: the columns of the two measures of an evaluation.
        first_step: steps that are done.
        hold: keep the rows in memory and an earlier run's files as they are, until `begin` is called.

    Attributes:
        measured: the first measure of each evaluation by its step, with the five digits of results.csv.
        evaluation_seconds: what the last evaluation took; 0 without one.
    """

    def __init__(self, folder: Path, measures: tuple[str, str], first_step: int, hold: bool) -> None:
        self.folder = folder
        self.columns = (*COLUMNS, *measures)
        rows = [] if hold else [row for row in self.rows() if int(row["step"]) <= first_step]
        objects = [] if hold else [row for row in self.objects() if row["step"] <= first_step]
        self.measured = {int(row["step"]): _number(row[measures[0]]) for row in rows if row.get(measures[0])}
        # A row of results.csv is written last: without it, the evaluation is made again.
        objects = [row for row in objects if "val" not in row or row["step"] in self.measured]
        seconds = [row["seconds"] for row in objects if isinstance(row.get("seconds"), float)]
        self.evaluation_seconds: float = seconds[-1] if seconds else 0.0
        self._held: dict[str, list[str]] | None = {
            RESULTS: [
                _csv(self.columns),
                *(_csv([row.get(name) or "" for name in self.columns]) for row in rows),
            ],
            ROWS: [_json(row) for row in objects],
        }
        if not hold:
            self.begin({})

    @property
    def is_held(self) -> bool:
        """Whether the rows are still in memory alone."""
        return self._held is not None

    def begin(self, names: Mapping[str, str]) -> None:
        """Write the rows that were held back; from now on rows go to the files.

        Args:
            names: other names of the files, while theirs are an earlier run's; whoever gave them renames the files
                before the next row.
        """
        if self._held is None:
            return
        for name, lines in self._held.items():
            replace_text(self.folder / names.get(name, name), "".join(lines))
        self._held = None

    def trained(self, step: int, row: Trained) -> dict[str, Any]:
        """Record some steps, of which `step` is the last; return the row of results.jsonl."""
        values = (f"{row.loss:.5f}", f"{row.learning_rate:.4g}", f"{row.images_per_second:.2f}")
        return self._append({"step": step, **row._asdict()}, (step, *values, "", ""))

    def evaluated(
        self, step: int, headline: tuple[float, float], seconds: float, summary: Mapping[str, object]
    ) -> dict[str, Any]:
        """Record an evaluation: its two measures, its time and all its measures; return the row of results.jsonl."""
        first, second = (f"{measure:.5f}" for measure in headline)
        found = self._append(
            {"step": step, "seconds": seconds, "val": dict(summary)}, (step, "", "", "", first, second)
        )
        self.measured[step] = float(first)
        return found

    def rows(self) -> list[dict[str, str]]:
        """Return the rows of results.csv that were written whole."""
        lines = [line for line in _lines(self.folder / RESULTS) if "\0" not in line]
        return [row for row in csv.DictReader(lines) if (row.get("step") or "").isdecimal()]

    def objects(self) -> list[dict[str, Any]]:
        """Return the rows of results.jsonl that were written whole."""
        found = [_parsed(line) for line in _lines(self.folder / ROWS)]
        return [row for row in found if isinstance(row, dict) and type(row.get("step")) is int]

    def _append(self, row: dict[str, Any], values: Sequence[object]) -> dict[str, Any]:
        row = {key: None if value != value else value for key, value in row.items()}  # JSON has no NaN
        for name, line in ((ROWS, _json(row)), (RESULTS, _csv(values))):
            if self._held is not None:
                self._held[name].append(line)
            else:
                append_text(self.folder / name, line)
        return row


def column(rows: Sequence[Mapping[str, str]], name: str) -> tuple[list[int], list[float]]:
    """Return the steps and the values of a column of results.csv, where there are any."""
    filled = [(int(row["step"]), _number(row.get(name))) for row in rows]
    finite = [(step, value) for step, value in filled if math.isfinite(value)]
    return [step for step, _ in finite], [value for _, value in finite]


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:  # somebody changed the file
        return math.nan


def _csv(values: Iterable[object]) -> str:
    text = io.StringIO()
    csv.writer(text).writerow(values)
    return text.getvalue()


def _json(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _lines(path: Path) -> list[str]:
    return whole_lines(path) if path.is_file() else []
