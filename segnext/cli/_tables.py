"""Prints what `segnext train` and `segnext val` have in common: a note before, and the table at the end."""

from __future__ import annotations

import math

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from segnext.evaluation.evaluate import Evaluation
from segnext.export.network import ExportedNetwork
from segnext.models import MSCAN, SegNeXt

Named = SegNeXt | MSCAN | ExportedNetwork


def note_other_names(console: Console, classes: tuple[str, ...], model: Named, effect: str) -> None:
    """Tell of classes that are called otherwise in the weights, and what that means for ids."""
    names = zip(classes, model.metadata.get("classes", classes), strict=False)
    renamed = [f"{ours} / {theirs}" for ours, theirs in names if ours != theirs]
    if renamed:
        text = f"note: {len(renamed)} classes have another name in the weights ({', '.join(renamed[:3])})"
        console.print(f"{text}; {effect}", markup=False, highlight=False, soft_wrap=True)


def print_evaluation(console: Console, evaluation: Evaluation, classes: tuple[str, ...]) -> None:
    """Print IoU, accuracy and Dice of each class, boundary IoU if it was counted, and the means, in percent."""
    confusion, boundary = evaluation.confusion, evaluation.boundary
    measures = {"IoU %": confusion.iou, "accuracy %": confusion.accuracy, "Dice %": confusion.dice}
    if boundary is not None:
        measures["boundary IoU %"] = boundary.iou
    table = Table("class", title=f"{evaluation.images} images, {evaluation.seconds:.0f} s")
    for heading in (*measures, "share of pixels %"):
        table.add_column(heading, justify="right")
    shares = confusion.counts.sum(1) / confusion.counts.sum()
    columns = torch.stack((*measures.values(), shares.double()), dim=1)
    for name, values in zip(classes, columns.tolist(), strict=True):
        table.add_row(escape(name), *map(_percent, values))
    table.add_section()
    table.add_row("mean", *(_percent(float(values.nanmean())) for values in measures.values()))
    # by the classes' shares of the pixels
    table.add_row("weighted mean", _percent(confusion.frequency_weighted_iou))
    table.add_row("all pixels", "", _percent(confusion.pixel_accuracy))
    console.print(table)
    console.print(f"mIoU {confusion.miou:.4f}", highlight=False)


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.2f}"
