"""The folder of a run: which files it has, who may write into it, and when an earlier run gives way."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from segnext.atomic import remove_leftovers, replace_text, sync_folder
from segnext.locks import sole_use
from segnext.training.checkpoint import TrainingState
from segnext.training.curves import CURVES
from segnext.training.events import EVENTS
from segnext.training.log import RunLog
from segnext.training.records import RESULTS, ROWS
from segnext.training.samples import SAMPLES

CHECKPOINT, FINAL = "checkpoint.safetensors", "final.safetensors"
RECIPE, SKIPPED = "recipe.yaml", "skipped.txt"
PICTURES = (CURVES, SAMPLES)
# A run that replaces another has its first files under these names until the earlier run is removed. Once the
# checkpoint is there, the new run is the one that lies in the folder, whatever happens then.
_FIRST = {name: f".first-{name}" for name in (RESULTS, ROWS, CHECKPOINT)}


class NotSaved(OSError):
    """The checkpoint cannot be written; the message is one line."""


class RunFolder:
    """The files of one run.

    Attributes:
        path: the folder.
        replaces: whether an earlier run lies here, which stays whole until this one has its first checkpoint.
        saved: the step of this run's checkpoint; None without one.
        recipe: what is written beside the first checkpoint of a session; empty: nothing.
    """

    def __init__(self, path: Path, replaces: bool) -> None:
        self.recipe = ""
        self.path = path
        self.replaces = replaces
        self.saved: int | None = None

    @property
    def checkpoint(self) -> Path:
        return self.path / CHECKPOINT

    @property
    def final(self) -> Path:
        return self.path / FINAL

    def restore(self, state: TrainingState) -> list[str]:
        """Read the checkpoint, if there is one, into `state`; return a line for each setting that differs."""
        if not os.path.lexists(self.checkpoint):
            return []
        notes = state.restore(self.checkpoint)
        self.saved = state.step
        return notes

    def list_skipped(self, skipped: Mapping[Path, str]) -> None:
        """Write why files were skipped, one per line, beside those of earlier sessions."""
        path = self.path / SKIPPED
        earlier = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        replace_text(path, "".join(f"{line}\n" for line in sorted({*earlier, *skipped.values()})))

    def save(self, state: TrainingState, log: RunLog) -> None:
        """Write the checkpoint; the first one removes an earlier run, with the rows that `log` held back.

        Raises:
            NotSaved: the system refuses; the last checkpoint stays.
            NotFinite: the state holds numbers that are not finite; the last checkpoint stays.
        """
        try:
            if self.replaces:
                log.begin(_FIRST)
                state.save(self.path / _FIRST[CHECKPOINT])
                _replace_earlier(self.path)
                self.replaces = False
            else:
                state.save(self.checkpoint)
            if self.recipe:
                replace_text(self.path / RECIPE, self.recipe)
                self.recipe = ""
        except OSError as error:
            kept = f"that of step {self.saved} is unharmed" if self.saved is not None else "there is none yet"
            go_on = "go on with --resume"
            if self.replaces:  # --resume would go on with the earlier run
                kept, go_on = "the earlier run is unharmed", "repeat --overwrite"
            raise NotSaved(
                f"train: {self.checkpoint} must be written at step {state.step}, got {error.strerror or error}; "
                f"{kept}; make room and {go_on}"
            ) from error
        self.saved = state.step


@contextmanager
def run_folder(path: Path, resume: bool, overwrite: bool) -> Iterator[RunFolder]:
    """Make the folder and keep other processes out of it until the run ends.

    Args:
        path: the folder.
        resume: keep an earlier run in it.
        overwrite: replace an earlier run, once there is a new checkpoint.

    Raises:
        FileExistsError: the folder is in use, or holds a run, and neither resume nor overwrite is set.
    """
    expect_free(path, resume, overwrite)
    path.mkdir(parents=True, exist_ok=True)
    with sole_use("train", path):
        if resume and (path / _FIRST[CHECKPOINT]).exists():
            _replace_earlier(path)  # the process that began it was killed
        existing = expect_free(path, resume, overwrite)  # now nobody can change it any more
        for name in _FIRST.values():
            (path / name).unlink(missing_ok=True)
        remove_leftovers(
            path, (CHECKPOINT, FINAL, RESULTS, ROWS, *PICTURES, RECIPE, SKIPPED, *_FIRST.values())
        )
        yield RunFolder(path, replaces=bool(existing) and overwrite)


def expect_free(path: Path, resume: bool, overwrite: bool) -> list[str]:
    """Return the names of an earlier run's files, or refuse them."""
    if os.path.lexists(path) and not path.is_dir():
        raise FileExistsError(
            f"train: output must be a folder, got {path}, which is none; choose another --output"
        )
    names = (CHECKPOINT, FINAL, RESULTS, ROWS, *PICTURES, _FIRST[CHECKPOINT])
    existing = [name for name in names if os.path.lexists(path / name)]
    for name in existing:
        # A picture that cannot be drawn ends no run.
        if (path / name).is_dir() and (name not in PICTURES or overwrite):
            raise FileExistsError(
                f"train: {path / name} must be a file, got a folder; remove it, or choose another --output"
            )
    if existing and not resume and not overwrite:
        raise FileExistsError(
            f"train: output must not hold a run, got {path} with {', '.join(existing)}; "
            "go on with --resume, replace it with --overwrite, or choose another --output"
        )
    if resume and FINAL in existing and not {CHECKPOINT, _FIRST[CHECKPOINT]}.intersection(existing):
        raise FileExistsError(
            f"train: output to resume must hold {CHECKPOINT}, got {path} with only {FINAL}; "
            "start from its weights with --weights, in another --output"
        )
    return existing


def _replace_earlier(path: Path) -> None:
    """Let the first files of a new run take the places of an earlier run's; this can be repeated at any point."""
    for name in (FINAL, *PICTURES, RECIPE, SKIPPED):
        (path / name).unlink(missing_ok=True)
    for events in path.glob(EVENTS):
        events.unlink(missing_ok=True)
    for name, first in _FIRST.items():  # the checkpoint last: while it has its first name, this is not done
        if (path / first).exists():
            os.replace(path / first, path / name)
    sync_folder(path)
