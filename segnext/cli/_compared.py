"""Compares two models on many photographs, and says what came out: a table, and comparison.json."""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

import segnext
from segnext.atomic import replace_bytes
from segnext.cli._batch import line_about
from segnext.drawing.encoding import encoded
from segnext.drawing.pair import draw_pair
from segnext.evaluation.comparison import Comparison, Pair, segment_pair
from segnext.export.network import ExportedNetwork
from segnext.predict.predictor import Predictor
from segnext.weights.digest import digest

Models = tuple[Predictor, Predictor]


def compare_all(
    models: Models,
    comparison: Comparison,
    files: Mapping[Path, Path | None],
    titles: tuple[str, str],
    is_over: Callable[[], bool],
    console: Console,
) -> tuple[list[dict[str, Any]], list[str]]:
    """Compare photographs; what goes wrong with one ends none of the others.

    Args:
        models: the first and the second one.
        comparison: counts what was compared.
        files: for each photograph the file of its picture, or None.
        titles: names of the models.
        is_over: the next photograph is not begun when this is true.
        console: shows the progress, if it is a terminal.

    Returns:
        A record per photograph, and a line per photograph that failed.
    """
    records: list[dict[str, Any]] = []
    failures: list[str] = []
    for file in track(files, "", console=console, transient=True, disable=not console.is_terminal):
        if is_over():
            break
        try:
            if not records:  # the first call of a model plans its memory, and is no measure of its time
                segment_pair(*models, file, comparison.classes)
            pair = segment_pair(*models, file, comparison.classes)
            picture = files[file]
            if picture is not None:
                replace_bytes(picture, _picture(pair, comparison, titles))
            comparison.add(pair)
            records.append(_record(file, picture, pair))
        except Exception as error:
            failures.append(line_about(file, error))
    return records, failures


def _picture(pair: Pair, comparison: Comparison, titles: tuple[str, str]) -> bytes:
    classes = comparison.classes
    drawn = draw_pair(
        pair.image,
        pair.masks,
        pair.differences(),
        classes.names,
        classes.palette,
        titles,
        pair.confidence is not None,
    )
    return encoded(drawn, format="JPEG", quality=90, subsampling=0)


def _record(file: Path, picture: Path | None, pair: Pair) -> dict[str, Any]:
    height, width = pair.image.shape[:2]
    record: dict[str, Any] = {"image": str(file), "width": width, "height": height}
    record["agreement"] = pair.agreement
    if pair.confidence is not None:
        differences = pair.differences()
        record["a_surer"], record["b_surer"] = (float((differences == which).mean()) for which in (1, 2))
        record["confidence"] = [round(float(one.mean(dtype=np.float64)), 6) for one in pair.confidence]
    record["seconds"] = [round(seconds, 4) for seconds in pair.seconds]
    return record if picture is None else record | {"picture": picture.name}


def summary_of(
    weights: tuple[str, str],
    models: Models,
    comparison: Comparison,
    records: list[dict[str, Any]],
    failures: list[str],
) -> str:
    """Return the text of comparison.json; a number that does not exist is null."""
    summary = {
        "segnext": segnext.__version__,
        "a": _facts(weights[0], models[0]),
        "b": _facts(weights[1], models[1]),
        **_totals(comparison, records),
        "classes": _rows(comparison),
        "images": records,
        "failures": failures,
    }
    return json.dumps(_without_nan(summary), indent=1)


def _facts(weights: str, predictor: Predictor) -> dict[str, Any]:
    model = predictor.model
    return {
        "weights": weights,
        "weights_digest": model.digest if isinstance(model, ExportedNetwork) else digest(model),
        "architecture": model.config.architecture,
        "device": str(predictor.device),
        "dtype": str(predictor.dtype).removeprefix("torch."),
        "inference": dataclasses.asdict(predictor.inference),
    }


def _totals(comparison: Comparison, records: list[dict[str, Any]]) -> dict[str, Any]:
    pixels = int(comparison.confusion.counts.sum())
    has = comparison.has_confidence
    surer = [int(count) / pixels if has else math.nan for count in comparison.surer]
    return {
        "pixels": pixels,
        "agreement": comparison.agreement,
        "miou": comparison.confusion.miou,
        "a_surer": surer[0],
        "b_surer": surer[1],
        "seconds": [statistics.median(record["seconds"][which] for record in records) for which in (0, 1)],
    }


def _rows(comparison: Comparison) -> list[dict[str, Any]]:
    """Return what is known of each class, also of absent ones."""
    columns: dict[str, Any] = {
        "share_a": comparison.shares(0),
        "share_b": comparison.shares(1),
        "kept": comparison.confusion.accuracy,
        "iou": comparison.confusion.iou,
        "confidence_a": comparison.confidence(0),
        "confidence_b": comparison.confidence(1),
    }
    return [
        {"name": name, **{key: float(values[index]) for key, values in columns.items()}}
        for index, name in enumerate(comparison.classes.names)
    ]


def print_comparison(console: Console, comparison: Comparison, records: list[dict[str, Any]]) -> None:
    """Print the classes that occur, what is the same, which model is surer elsewhere, and the times."""
    totals = _totals(comparison, records)
    headings = {"share_a": "a %", "share_b": "b %", "kept": "kept %", "iou": "IoU %"}
    if comparison.has_confidence:
        headings |= {"confidence_a": "a is sure %", "confidence_b": "b is sure %"}
    count = "1 photograph" if len(records) == 1 else f"{len(records)} photographs"
    table = Table("class", title=count)
    for heading in headings.values():
        table.add_column(heading, justify="right")
    rows = [row for row in _rows(comparison) if row["share_a"] or row["share_b"]]
    for row in sorted(rows, key=lambda row: -row["share_a"] - row["share_b"]):
        table.add_row(escape(row["name"]), *(_percent(row[key]) for key in headings))
    console.print(table)
    differing = totals["pixels"] - int(comparison.confusion.counts.trace())
    console.print(
        f"same class {100 * totals['agreement']:.3f} % of the pixels, mIoU {totals['miou']:.4f}; "
        f"{differing:,} of {totals['pixels']:,} differ"
    )
    if comparison.has_confidence and differing:
        of_them = (f"{which} is surer in {100 * totals[f'{which}_surer']:.3f} %" for which in "ab")
        console.print(f"of all pixels, those that differ: {', '.join(of_them)}")
    worst = min(records, key=lambda record: record["agreement"])
    if len(records) > 1:
        console.print(f"least alike: {worst['image']}, {100 * worst['agreement']:.3f} %", markup=False)
    console.print("a {:.3f} s, b {:.3f} s per photograph (median)".format(*totals["seconds"]))


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.2f}"


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_without_nan(one) for one in value]
    return None if isinstance(value, float) and math.isnan(value) else value
