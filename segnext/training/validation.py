"""The evaluation of a run's averaged weights: each process has its share of the images, and each image is seen once."""

from __future__ import annotations

import threading
from contextlib import suppress
from dataclasses import replace

import torch

from segnext.data.dataset import SegmentationFolder
from segnext.data.preprocessing import Preprocessing
from segnext.evaluation.evaluate import Evaluation, evaluate
from segnext.models import SegNeXt
from segnext.models.finite import NonFiniteError
from segnext.predict.inference import Inference
from segnext.training.ranks import Ranks

_GO_ON, _STOP, _FAILED = 0, 1, 2  # what a process says after an image; the largest counts


class _FailedElsewhere(Exception):
    """Another process cannot go on with the evaluation."""


def evaluate_together(
    model: SegNeXt,
    dataset: SegmentationFolder,
    preprocessing: Preprocessing,
    inference: Inference,
    device: torch.device,
    dtype: torch.dtype,
    ranks: Ranks,
    stop: threading.Event,
) -> tuple[Evaluation | None, str | None]:
    """Evaluate a model that is the same in all processes.

    Args:
        model: in evaluation mode, on `device`.
        dataset: the whole data set, the same in all processes.
        preprocessing: mean, std and image size.
        inference: how an image goes through the network.
        device: where this process computes.
        dtype: float32, or the type of autocast.
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
        evaluation = evaluate(
            model,
            share,
            device=device,
            dtype=dtype,
            inference=inference,
            preprocessing=preprocessing,
            after_image=agree,
        )
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
    ranks.summed(evaluation.confusion.counts)
    return replace(evaluation, images=len(dataset)), None
