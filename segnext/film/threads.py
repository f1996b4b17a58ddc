"""Decoding ahead of the model and encoding behind it, in threads, with bounded queues."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

T = TypeVar("T")

_END: Any = object()
_LOOK = 0.1  # seconds after which a thread that waits looks whether it should end
_PATIENCE = 5.0  # seconds for a source to give its next item, which ends its thread


@contextmanager
def ahead(items: Iterable[T], most: int, stop: threading.Event | None = None) -> Iterator[Iterator[T]]:
    """Yield an iterator over `items`, which a thread takes from their source up to `most` ahead.

    An error of the source is raised where its item would be. At the end of the block the thread ends, even if items
    are left. A source that gives nothing any more, such as a camera that was unplugged, holds nobody: the iterator ends
    once `stop` is set, and the block ends `_PATIENCE` seconds later without the thread.
    """
    waiting: queue.Queue[Any] = queue.Queue(most)
    stopped = threading.Event()

    def offer(item: Any) -> bool:
        while not stopped.is_set():
            try:
                waiting.put(item, timeout=_LOOK)
                return True
            except queue.Full:
                continue
        return False

    def run() -> None:
        try:
            for item in items:
                if not offer((item, None)):
                    return
            offer((_END, None))
        except BaseException as error:  # raised again in the thread that takes the items
            offer((_END, error))

    def taken() -> Iterator[T]:
        while True:
            try:
                item, error = waiting.get(timeout=_LOOK)
            except queue.Empty:
                if stop is not None and stop.is_set():
                    return
                continue
            if error is not None:
                raise error
            if item is _END:
                return
            yield item

    thread = threading.Thread(target=run, name="segnext decode", daemon=True)
    thread.start()
    try:
        yield taken()
    finally:
        stopped.set()
        thread.join(_PATIENCE)


class Behind(Generic[T]):
    """Calls a function with each item, in order, in a thread; `put` waits while `most` items wait.

    An error of the function is raised by the next `put`, or at the end of the block.
    """

    def __init__(self, function: Callable[[T], None], most: int) -> None:
        self._function = function
        self._waiting: queue.Queue[Any] = queue.Queue(most)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="segnext encode", daemon=True)

    def __enter__(self) -> Behind[T]:
        self._thread.start()
        return self

    def put(self, item: T) -> None:
        """Hand over an item."""
        self._raise()
        self._waiting.put(item)

    def __exit__(self, kind: object, *_: object) -> None:
        self._waiting.put(_END)
        self._thread.join()
        if kind is None:
            self._raise()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        while (item := self._waiting.get()) is not _END:
            if (
                self._error is None
            ):  # afterwards, items are only taken out, so that `put` never waits for ever
                try:
                    self._function(item)
                except BaseException as error:
                    self._error = error
