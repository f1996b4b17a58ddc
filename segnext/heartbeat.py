"""Notices a process of a run that hangs, or whose machine is gone without closing its connections.

A message between processes waits for the slowest of them, and nothing but the end of the process interrupts it. So each
process counts up a number in a store that the first one keeps, and watches the numbers of the others.
"""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from typing import Any

BEAT = 3.0  # seconds between two signs of life; a store takes thousands per second
SILENCE = 45.0  # seconds without one: longer than Python's lock is ever held, also on a machine that swaps
GRACE = 10.0  # seconds in which a process that does not wait for a message may end in order
_LEFT = 1 << 40  # a number that no count reaches: the process has left in order
_UNANSWERED = 2  # beats after which the store counts as silent


class Heartbeat:
    """Says that this process lives, and ends it some time after another one has stopped to say so.

    Silence is counted in beats of this process, not in seconds of a clock: a pause of all processes (Ctrl-Z, a machine
    that sleeps) lets none of them seem silent. One thread talks to the store; another one counts, since the first may
    itself wait for a store that does not answer.

    Args:
        command: what the processes do; it stands in front of messages.
        remedy: what to do after a failure; it ends messages.
        store: kept by the first process; a torch.distributed.TCPStore, or what has its `add`.
        rank: number of this process, from 0.
        count: number of processes.
        beat: seconds between two signs of life.
        silence: seconds without one after which `lost` is set.
        grace: seconds from then on until the process ends, with one line and status 1.

    Attributes:
        lost: why the run cannot go on, in one line; None while all is well.
    """

    def __init__(
        self,
        command: str,
        remedy: str,
        store: Any,
        rank: int,
        count: int,
        *,
        beat: float = BEAT,
        silence: float = SILENCE,
        grace: float = GRACE,
    ) -> None:
        self.lost: str | None = None
        self._command, self._remedy = command, remedy
        self._store, self._rank = store, rank
        self._beat, self._silence, self._grace = beat, silence, grace
        self._parent = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else None
        # Beats of this process since each of the others, and the store, gave its last sign.
        self._silent = {other: 0 for other in range(count) if other != rank}
        self._unanswered = 0
        self._is_over, self._is_unwatched = threading.Event(), threading.Event()
        self._threads = [threading.Thread(target=run, daemon=True) for run in (self._live, self._watch)]
        for thread in self._threads:
            thread.start()

    def stop_watching(self) -> None:
        """Let this process end in its own time: it knows already that another one has failed."""
        self._is_unwatched.set()

    def end(self, *, in_order: bool) -> None:
        """Give no more signs of life.

        Args:
            in_order: the others need not miss this process; else they end as if it were gone.
        """
        self._is_over.set()
        for thread in self._threads:
            thread.join(timeout=1)  # the store may not answer
        if in_order and not self._threads[0].is_alive():
            with suppress(RuntimeError):  # the first process has left before, and its store with it
                self._store.add(_key(self._rank), _LEFT)

    def _live(self) -> None:
        heard: dict[int, int] = {}
        while True:
            try:
                self._store.add(_key(self._rank), 1)
                for other in self._silent:
                    number = self._store.add(_key(other), 0)
                    if number != heard.get(other) or number >= _LEFT:
                        heard[other], self._silent[other] = number, 0
            except RuntimeError:  # the first process is gone, and its store with it: `_watch` misses both
                return
            self._unanswered = 0
            if self._is_over.wait(self._beat):
                return

    def _watch(self) -> None:
        most = round(self._silence / self._beat)
        while not self._is_over.wait(self._beat):
            self._unanswered += 1
            for other in self._silent:
                self._silent[other] += 1
            silent = [other for other, beats in self._silent.items() if beats > most]
            if self._parent is not None and os.getppid() != self._parent:
                self.lost = f"{self._command}: torchrun must live as long as its processes, got its end"
            elif silent:
                first = 0 if self._unanswered > _UNANSWERED else silent[0]
                self.lost = (
                    f"{self._command}: all {len(self._silent) + 1} processes must be at work, got no sign of life from "
                    f"process {first} for {self._silence:g} s"
                )
            if self.lost is not None:
                self.lost += f"; {self._remedy}"
                break
        if self.lost is not None and not self._is_unwatched.wait(self._grace) and not self._is_over.is_set():
            with suppress(OSError):  # the terminal may be gone
                os.write(2, f"segnext: {self.lost}\n".encode())
            os._exit(1)  # the main thread waits for a message that never comes


def _key(rank: int) -> str:
    return f"beats of {rank}"
