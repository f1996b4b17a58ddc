"""Lets work that can be stopped end in order when a signal asks for it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

# Ctrl-C; what schedulers and `kill` send; a terminal that is closed.
_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class StoppedAtOnce(KeyboardInterrupt):
    """A second signal: the work ends where it is."""


@contextmanager
def stop_signals(notice: str) -> Iterator[threading.Event]:
    """Yield an event that SIGINT, SIGTERM and SIGHUP set; a second signal raises `StoppedAtOnce` wherever the work is.

    A SIGHUP that the process was told to ignore (`nohup`) stays ignored. In another thread than the main one, where
    Python allows no handlers, the event is never set.

    Args:
        notice: printed to the standard error at the first signal.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def request(number: int, frame: object) -> None:
        if stop.is_set():
            raise StoppedAtOnce
        stop.set()
        with suppress(OSError):  # the terminal may be gone
            # Unlike print, os.write may be called while the interrupted code is itself printing.
            os.write(2, f"{notice}\n".encode())

    previous = {number: signal.getsignal(number) for number in _SIGNALS}
    nohup = getattr(signal, "SIGHUP", None)
    handled = [number for number in _SIGNALS if number != nohup or previous[number] != signal.SIG_IGN]
    for number in handled:
        signal.signal(number, request)
    try:
        yield stop
    finally:
        for number in handled:
            signal.signal(number, previous[number])
