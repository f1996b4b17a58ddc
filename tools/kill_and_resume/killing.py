"""Runs a training in processes that are killed with SIGKILL, each of which goes on where the one before was killed."""

from __future__ import annotations

import os
import random
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open

from segnext.training.loop import CHECKPOINT
from tools.kill_and_resume.losses import Step, identity, read

ROOT = Path(__file__).parents[2]
RUN = "run"  # the name of a run's folder
BATCH = 2
TRIES = 5  # to hit a save
POLL = 0.0005  # seconds between two looks; writing a checkpoint takes a hundred times as long


@dataclass(frozen=True)
class Plan:
    """When a process is to be killed: in the step after `step`, or in the first save from `step` on."""

    step: int
    saving: bool


@dataclass(frozen=True)
class Kill:
    """What a kill hit.

    Attributes:
        step: the last step that was done.
        checkpoint: the step of the checkpoint that lies in the folder afterwards, 0 without one.
        saving: whether it was to hit a save.
        written: bytes of the half checkpoint that lies beside the whole one; 0 without one.
        whole: bytes of a whole checkpoint.
    """

    step: int
    checkpoint: int
    saving: bool
    written: int
    whole: int

    @property
    def hit(self) -> bool:
        """Whether it hit what it was to hit."""
        return 0 < self.written < self.whole if self.saving else True


def draw(randomness: random.Random, kills: int, saves: int, steps: int, every: int) -> list[Plan]:
    """Return when to kill, in order: `kills` times in a random step, `saves` times in a random save.

    The last saves are spared: a kill that comes too late is tried again at the next save.

    Raises:
        ValueError: there are not enough steps or saves.
    """
    choices = {False: (kills, range(1, steps - 1)), True: (saves, range(every, steps - every, every))}
    for saving, (count, among) in choices.items():
        if count > len(among):
            raise ValueError(
                f"kill_and_resume: {'saves' if saving else 'kills'} must be at most {len(among)} in {steps} steps "
                f"with a checkpoint per {every}, got {count}; give more --steps"
            )
    plans = [
        Plan(step, saving)
        for saving, (count, among) in choices.items()
        for step in randomness.sample(among, count)
    ]
    return sorted(plans, key=lambda plan: (plan.step, plan.saving))


def train_whole(arguments: Sequence[str], folder: Path) -> list[Step]:
    """Train in `folder`/run without a stop; return the steps."""
    _to_the_end(arguments, folder)
    return read(folder / RUN)


def train_killed(
    arguments: Sequence[str],
    folder: Path,
    plans: Sequence[Plan],
    randomness: random.Random,
    whole: Sequence[Step],
    checkpoint_bytes: int,
) -> tuple[list[list[Step]], list[Kill]]:
    """Train in `folder`/run with a kill per plan, and then to the end; return the steps of each process and the kills.

    A kill that was to hit a save and did not is one more kill, and the save after it is tried.

    Args:
        arguments: of `segnext train`.
        folder: gets the run, the exact losses and what the processes print.
        plans: when to kill.
        randomness: decides the moment in a step, and how much of a checkpoint is written.
        whole: the steps of the run without a stop.
        checkpoint_bytes: the size of its checkpoint.

    Raises:
        RuntimeError: a process ended before it was killed, no kill hit a save, or a resumed process failed.
    """
    sessions: list[list[Step]] = []
    kills: list[Kill] = []
    length = BATCH / statistics.median(step.images_per_second for step in whole)
    for plan in plans:
        for _ in range(TRIES):
            start, log, earlier = _checkpoint(folder), identity(folder / RUN), _temporary(folder)
            with _session(arguments, folder) as process:
                _wait_for_step(process, folder / RUN, log, plan.step)
                if plan.saving:
                    _wait_for_bytes(
                        process, folder, earlier, randomness.uniform(0.02, 0.8) * checkpoint_bytes
                    )
                else:
                    time.sleep(randomness.uniform(0, length))
                process.kill()
                _expect(process.wait() == -signal.SIGKILL, folder, "be alive to be killed", process)
            sessions.append(read(folder / RUN, start))
            written = _bytes(_temporary(folder) - earlier)
            kills.append(Kill(_last(sessions), _checkpoint(folder), plan.saving, written, checkpoint_bytes))
            if kills[-1].hit:
                break
        else:
            raise RuntimeError(
                f"kill_and_resume: a kill must hit a save in one of {TRIES} tries, got {kills[-1]}; "
                "is the machine busy, or does its file system not count blocks while it writes?"
            )
    start = _checkpoint(folder)
    _to_the_end(arguments, folder)
    return [*sessions, read(folder / RUN, start)], kills


@contextmanager
def _session(arguments: Sequence[str], folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Start a process that goes on with the run."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "segnext", "train", *arguments, "-o", str(folder / RUN), "--resume"]
    with (folder / "printed.txt").open("ab") as printed:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=printed,
            stderr=printed,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _to_the_end(arguments: Sequence[str], folder: Path) -> None:
    with _session(arguments, folder) as process:
        _expect(process.wait() == 0, folder, "end by itself with status 0", process)


def _wait_for_step(process: subprocess.Popen[bytes], run: Path, earlier: int | None, step: int) -> None:
    """Wait until a step is done. The rows of the process before do not count: this one writes its file anew first."""
    while process.poll() is None:
        if identity(run) != earlier and (done := read(run)) and done[-1].number >= step:
            return
        time.sleep(POLL)


def _wait_for_bytes(process: subprocess.Popen[bytes], folder: Path, earlier: set[Path], count: float) -> None:
    """Wait until so much of a checkpoint is written in its temporary folder."""
    while process.poll() is None and _bytes(_temporary(folder) - earlier) < count:
        time.sleep(POLL)


def _temporary(folder: Path) -> set[Path]:
    """Return the temporary folders in which `segnext.atomic.replace_file` writes checkpoints, or wrote half of one."""
    return set(folder.glob(f"{RUN}/.{CHECKPOINT}.*.tmp"))


def _bytes(folders: Iterable[Path]) -> int:
    """Return how much is written there. A file's length says nothing: safetensors sets it before it writes."""
    total = 0
    for folder in folders:
        for path in folder.glob("*"):
            with suppress(FileNotFoundError):  # it was complete, and was renamed in this moment
                total += path.stat().st_blocks * 512
    return total


def _checkpoint(folder: Path) -> int:
    """Return the step of the checkpoint that a killed process left; 0 without one."""
    path = folder / RUN / CHECKPOINT
    if not path.exists():
        return 0
    with safe_open(path, framework="pt") as file:
        return int(file.metadata()["step"])


def _last(sessions: Sequence[Sequence[Step]]) -> int:
    """Return the step that the last process did last; one that did none stays where the one before was."""
    return next((steps[-1].number for steps in reversed(sessions) if steps), 0)


def _expect(condition: bool, folder: Path, what: str, process: subprocess.Popen[bytes]) -> None:
    if not condition:
        raise RuntimeError(
            f"kill_and_resume: each process must {what}, got status {process.returncode}; "
            f"see {folder / 'printed.txt'}, or give more --steps"
        )
