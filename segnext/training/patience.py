"""Ends a run early: after some evaluations without a better measure."""

from __future__ import annotations

from collections.abc import Mapping

from segnext.training.settings import Reporting, TrainSettings


def expect_evaluations(settings: TrainSettings, reporting: Reporting, has_val: bool) -> None:
    """Raise a one-line error if a run would wait for evaluations that it does not make.

    Raises:
        ValueError: there is patience, but no `val` split, or only the last step is evaluated.
    """
    if not settings.patience:
        return
    if not has_val:
        raise ValueError(
            f"train: patience needs a val split, got {settings.patience} without one; leave out --patience"
        )
    if not reporting.eval_every:
        raise ValueError(
            f"train: eval_every must be above 0 for patience {settings.patience}, got 0; name an --eval-every"
        )


def exhausted(measures: Mapping[int, float], patience: int, name: str) -> str | None:
    """Return in words why a run ends now; None if it goes on.

    Args:
        measures: the first measure of each evaluation, by its step. They are those of results.csv with its five digits,
            so that a resumed run decides as one that was never stopped.
        patience: evaluations without a better measure; 0: a run never ends early.
        name: of the measure.
    """
    best_step, best, since = 0, -1.0, 0
    for step in sorted(measures):
        if measures[step] > best:
            best_step, best, since = step, measures[step], 0
        else:
            since += 1
    if not patience or since < patience:
        return None
    count = "1 evaluation" if since == 1 else f"{since} evaluations"
    return f"no better {name} than {best:.5f} of step {best_step} in {count}"
