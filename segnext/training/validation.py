"""The evaluation of a run's averaged weights: each process has its share of the images, and each image is seen once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol, TypeVar

from segnext.evaluation.measures import Result
from segnext.models.finite import NonFiniteError
from segnext.training.ranks import Ranks

Images = TypeVar("Images", bound="Shared")

_GO_ON, _STOP, _FAILED = 0, 1, 2  # what a process says after an image; the largest counts


class _FailedElsewhere(Exception):
    """Another process cannot go on with the evaluation."""


class Shared(Protocol):
    """A data set of which each process evaluates a share."""

    def __len__(self) -> int:
        """Number of images."""

    def share(self: Images, rank: int, ranks: int, /) -> Images:
        """Return every `ranks`-th image, from number `rank`, as a data set of the same kind."""


def evaluate_together(
    evaluated: Callable[[Images, Callable[[], None]], Result],
    dataset: Images,
    ranks: Ranks,
    stop: threading.Event,
) -> tuple[Result | None, str | None]:
    """Evaluate a model that is the same in all processes.

    Args:
        evaluated: evaluates images, and calls a function once per image.
        dataset: the whole data set, the same in all processes.
        ranks: the processes.
        stop: set when a signal has reached this process.

    Returns:
        The evaluation of all images, or None and why there is none: logits that are not finite.

    Raises:
        KeyboardInterrupt: a signal has reached one of the processes.
    """
    share = dataset.share(ranks.rank, ranks.count)

    def agree(failed: bool = False) -> None:
        answer = ranks.largest(_FAILED if failed else _STOP if stop.is_set() else _GO_ON)
        if answer != _GO_ON:
            raise KeyboardInterrupt if answer == _STOP else _FailedElsewhere

    evaluation, failure = None, None
    try:
        evaluation = evaluated(share, agree)
        if len(share) * ranks.count < len(dataset):  # this process has an image less than others
            agree()
    except NonFiniteError as error:
        failure = str(error)
        with suppress(_FailedElsewhere):
            agree(failed=True)
    except _FailedElsewhere:
        pass
    failures = [found for found in ranks.gathered(failure) if found is not None]
    if failures or evaluation is None:
        return None, next(iter(failures), None)
    return evaluation.of_all(ranks.summed, len(dataset)), None
