"""An evaluation by all processes of a run: each has its share of the images, and each image is seen once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol, TypeVar

from segnext.evaluation.measures import Result
from segnext.models.finite import NonFiniteError
from segnext.ranks import Ranks

Images = TypeVar("Images", bound="Shared")


class _Over(Exception):
    """A process was stopped, or cannot go on with the evaluation."""


class Shared(Protocol):
    """A data set of which each process evaluates a share."""

    def __len__(self) -> int:
        """Number of images."""

    def share(self: Images, rank: int, ranks: int, /) -> Images:
        """Return every `ranks`-th image, from number `rank`, as a data set of the same kind."""


class AfterImages(Protocol):
    """What an evaluation calls after each image, or after a batch with its number of images; it may raise."""

    def __call__(self, images: int = 1, /) -> None:
        """Count images that were evaluated."""


def evaluate_together(
    evaluated: Callable[[Images, AfterImages], Result],
    dataset: Images,
    ranks: Ranks,
    stop: threading.Event,
    look: Callable[[int], None] = lambda done: None,
) -> tuple[Result | None, str | None]:
    """Evaluate a model that is the same in all processes.

    Args:
        evaluated: evaluates images, and calls a function as it goes.
        dataset: the whole data set, the same in all processes.
        ranks: the processes.
        stop: set when a signal has reached this process.
        look: called as often, with the number that all processes have done.

    Returns:
        The evaluation of all images, or None and why there is none: logits that are not finite.

    Raises:
        KeyboardInterrupt: a signal has reached one of the processes.
        segnext.ranks.RankFailed: another process has failed in another way.
    """
    evaluation, failure = None, None
    with ranks.shared_work(stop) as work:

        def after_images(images: int = 1, /) -> None:
            look(work.done(images))
            if work.is_over():
                raise _Over

        try:
            evaluation = evaluated(dataset.share(ranks.rank, ranks.count), after_images)
        except NonFiniteError as error:
            failure = str(error)
            work.end()
        except _Over:
            pass
        work.wait(look)
    all_ended = ranks.gathered((failure, stop.is_set(), evaluation is None))
    if any(is_stopped for _, is_stopped, _ in all_ended):
        raise KeyboardInterrupt
    if any(is_missing for _, _, is_missing in all_ended) or evaluation is None:
        return None, next((found for found, _, _ in all_ended if found is not None), None)
    return evaluation.of_all(ranks.summed, len(dataset)), None
