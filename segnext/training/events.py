"""Writes the rows of a run for TensorBoard, if its package is installed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

EVENTS = "events.out.tfevents.*.segnext"
"""The names of these files; each session adds one."""


def expect_tensorboard() -> None:
    """Raise unless TensorBoard is installed.

    Raises:
        ImportError: it is not; the message names the extra to install.
    """
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError:
        raise ImportError(
            "train: --tensorboard needs tensorboard, which is not installed; pip install 'segnext[tensorboard]'"
        ) from None


class Events:
    """The event files of a run, in its folder.

    Args:
        folder: the run's folder.
        first_step: steps that are done; TensorBoard forgets what earlier sessions wrote of later ones.
        earlier: gives all rows of results.jsonl, for a run whose earlier sessions wrote no events.
    """

    def __init__(
        self, folder: Path, first_step: int, earlier: Callable[[], Iterable[Mapping[str, Any]]]
    ) -> None:
        self.folder, self.first_step, self.earlier = folder, first_step, earlier
        self._writer: SummaryWriter | None = None

    def write(self, row: Mapping[str, Any]) -> None:
        """Write a row of results.jsonl, which is there already."""
        if self._writer is not None:
            self._add(self._writer, row)
            return
        from torch.utils.tensorboard import SummaryWriter

        rows = [row] if any(self.folder.glob(EVENTS)) else self.earlier()
        self._writer = SummaryWriter(
            str(self.folder), purge_step=self.first_step + 1, filename_suffix=".segnext"
        )
        for each in rows:
            self._add(self._writer, each)

    def close(self) -> None:
        """End the session's file."""
        if self._writer is not None:
            self._writer.close()

    def _add(self, writer: SummaryWriter, row: Mapping[str, Any]) -> None:
        for name, value in scalars(row).items():
            writer.add_scalar(name, value, row["step"])
        writer.flush()  # rows are rare, and a process that is killed should not take them along


def scalars(row: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a row of results.jsonl under TensorBoard's names, such as val/class_iou/road."""
    if "val" not in row:
        return _flat("train", {name: value for name, value in row.items() if name != "step"})
    return _flat("val", {**row["val"], "seconds": row["seconds"]})


def _flat(name: str, value: Any) -> dict[str, float]:
    if isinstance(value, Mapping):
        return {
            key: number for part, of in value.items() for key, number in _flat(f"{name}/{part}", of).items()
        }
    return {name: value} if isinstance(value, int | float) else {}  # null: a measure that is 0 / 0
