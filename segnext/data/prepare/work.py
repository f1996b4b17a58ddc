"""Runs the jobs of a plan in several processes; a bad file ends none of the others, and a second call goes on."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from segnext.atomic import remove_leftovers, replace_bytes, replace_text
from segnext.data.prepare.masks import is_complete
from segnext.data.prepare.plan import Job, Plan
from segnext.one_line import one_line

# Jobs that wait for each process: enough that none idles, few enough that their annotations need little memory.
_WAITING = 4


@dataclass
class Summary:
    """What became of the jobs.

    Attributes:
        written: files that were written.
        skipped: files that were complete already.
        failures: one line per job that failed; it begins with the name of its file.
    """

    written: int = 0
    skipped: int = 0
    failures: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Outcome:
    """What became of one job: its files, how many of them were there already, and why it failed."""

    files: tuple[Path, ...] = ()
    written: int = 0
    failure: str | None = None


def available_cores() -> int:
    """Return how many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run(
    plan: Plan,
    *,
    workers: int = 1,
    overwrite: bool = False,
    stop: threading.Event | None = None,
    advance: Callable[[], None] = lambda: None,
) -> Summary:
    """Write the lists of a plan, then run its jobs.

    Args:
        plan: what is to be done.
        workers: processes; with 1, the jobs run in this one.
        overwrite: make files again that are complete.
        stop: ends the work; jobs that have begun are finished.
        advance: called after each job.

    Raises:
        OSError: a list cannot be written.
        RuntimeError: the system ended one of the processes.
    """
    for path, text in plan.texts.items():
        replace_text(path, text)
    stop = stop or threading.Event()
    summary, folders = Summary(), defaultdict(list)
    outcomes = _here if workers == 1 else _in_processes
    for outcome in outcomes(plan.jobs, min(workers, max(len(plan.jobs), 1)), overwrite, stop):
        if outcome.failure:
            summary.failures.append(outcome.failure)
        summary.written += outcome.written
        summary.skipped += 0 if outcome.failure else len(outcome.files) - outcome.written
        for file in outcome.files:
            folders[file.parent].append(file.name)
        advance()
    for folder, names in folders.items():
        if folder.is_dir():
            remove_leftovers(folder, names)
    if summary.written and hasattr(os, "sync"):  # Windows has none
        os.sync()
    summary.failures.sort()
    return summary


def _here(jobs: Sequence[Job], workers: int, overwrite: bool, stop: threading.Event) -> Iterator[Outcome]:
    for job in jobs:
        if stop.is_set():
            return
        yield _outcome(job, overwrite)


def _in_processes(
    jobs: Sequence[Job], workers: int, overwrite: bool, stop: threading.Event
) -> Iterator[Outcome]:
    # New interpreters: a copy of this process would have its threads' locks, but not the threads.
    context = multiprocessing.get_context("spawn")
    waiting = iter(jobs)
    try:
        with ProcessPoolExecutor(workers, mp_context=context, initializer=_ignore_signals) as pool:
            running: set[Future[Outcome]] = set()
            while True:
                free = 0 if stop.is_set() else _WAITING * workers - len(running)
                running |= {pool.submit(_outcome, job, overwrite) for job in islice(waiting, free)}
                if not running:
                    return
                done, running = wait(running, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
    except BrokenProcessPool:
        raise RuntimeError(
            "data prepare: the system ended one of the processes, perhaps for lack of memory; files that are written "
            "stay, so run the same command again with fewer --workers"
        ) from None


def _ignore_signals() -> None:
    """Let the parent decide what Ctrl-C in the terminal means; the terminal sends it to all of them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _outcome(job: Job, overwrite: bool) -> Outcome:
    files: tuple[Path, ...] = ()
    written = 0
    try:
        files = tuple(job.outputs())
        wanted = [path for path in files if overwrite or not is_complete(path)]
        if wanted:
            for path, content in job.contents(wanted):
                # `is_complete` sees what a power cut leaves; `run` waits for the disk once, at its end.
                replace_bytes(path, content, sync=False)
                written += 1
    except Exception as error:  # a parser can raise any error on damaged data
        return Outcome(files, written, _line(job.source, error))
    return Outcome(files, written)


def _line(source: Path, error: Exception) -> str:
    """Return one line that begins with the name of the source and says which file could not be written."""
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.strerror and error.filename:
        text = f"{error.filename}: {error.strerror}"
    elif not isinstance(error, ValueError | OSError) or not text:
        text = f"{type(error).__name__} {text}".rstrip()
    name = str(source)
    return one_line(text if text.startswith(f"{name}: ") else f"{name}: {text}", 500)
