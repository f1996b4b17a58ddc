"""Runs one model in a thread of its own: images wait in order, and those of one size may run together."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from segnext.predict.prediction import Prediction
from segnext.predict.predictor import Predictor

_SMOOTHING = 0.2  # weight of the newest batch in the mean time of an image


@dataclass(eq=False)
class _Job:
    pixels: np.ndarray
    answer: asyncio.Future[Prediction]


class Worker:
    """A predictor in a thread.

    Nobody waits for others to come: the thread takes the oldest image as soon as it is free, and with it those of the
    same size that are waiting at that moment.

    Args:
        predictor: runs in this thread alone.
        max_batch: images that run together.
        observe: called in the thread after each batch, with its number of images and its seconds.

    Attributes:
        seconds_per_image: a mean of the last batches.
    """

    def __init__(self, predictor: Predictor, max_batch: int, observe: Callable[[int, float], None]) -> None:
        self.predictor, self.max_batch, self._observe = predictor, max_batch, observe
        self.seconds_per_image = 0.0
        self._waiting: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._is_open = True
        # A daemon: a second signal ends the process while the model runs.
        self._thread = threading.Thread(target=self._work, name="segnext model", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread once nothing waits, and wait for its end."""
        with self._changed:
            self._is_open = False
            self._changed.notify()
        self._thread.join()

    async def segment(self, pixels: np.ndarray) -> Prediction:
        """Return the prediction of an array (H, W, 3) uint8 RGB; if this is cancelled, the image leaves the queue.

        Raises:
            What `Predictor` raises.
        """
        job = _Job(pixels, asyncio.get_running_loop().create_future())
        with self._changed:
            self._waiting.append(job)
            self._changed.notify()
        try:
            return await job.answer
        finally:
            if job.answer.cancelled():
                with self._changed:
                    if job in self._waiting:
                        self._waiting.remove(job)

    def _work(self) -> None:
        while self._run(self._next()):
            pass

    def _run(self, jobs: list[_Job]) -> bool:
        """Segment images together and give their answers; return whether there were any."""
        if not jobs:
            return False
        start = time.perf_counter()
        try:
            predictions = self.predictor.predict_batch([job.pixels for job in jobs])
        except Exception as error:
            if len(jobs) > 1:  # one image, or the memory for all, is the reason: the others shall not suffer
                return all([self._run([job]) for job in jobs])
            _tell(jobs[0], None, error)
            return True
        seconds = time.perf_counter() - start
        for job, prediction in zip(jobs, predictions, strict=True):
            _tell(job, prediction, None)
        share = seconds / len(jobs)
        before = self.seconds_per_image or share
        self.seconds_per_image = before + _SMOOTHING * (share - before)
        self._observe(len(jobs), seconds)
        return True

    def _next(self) -> list[_Job]:
        """Wait for images, and return those that run together; none: it is the end."""
        with self._changed:
            while not self._waiting and self._is_open:
                self._changed.wait()
            if not self._waiting:
                return []
            shape = self._waiting[0].pixels.shape
            jobs = [job for job in self._waiting if job.pixels.shape == shape][: self.max_batch]
            for job in jobs:
                self._waiting.remove(job)
            return jobs


def _tell(job: _Job, prediction: Prediction | None, error: Exception | None) -> None:
    """Give a job's answer to its event loop, which may have ended."""

    def settle() -> None:
        if job.answer.done():  # nobody waits any more
            return
        if error is not None:
            job.answer.set_exception(error)
        else:
            assert prediction is not None
            job.answer.set_result(prediction)

    loop = job.answer.get_loop()
    if not loop.is_closed():
        loop.call_soon_threadsafe(settle)
