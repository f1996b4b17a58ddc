"""Judges the losses and the weights of a run: whether it can go on, and what its last checkpoint is worth if not."""

from __future__ import annotations

import math
from pathlib import Path

from segnext.data.batches import Batch
from segnext.models.finite import first_non_finite
from segnext.training.checkpoint import NotFinite, TrainingState
from segnext.training.folder import RunFolder

REMEDY = "try a lower --lr, a longer --warmup or --dtype float32"


class Diverged(RuntimeError):
    """The loss, its gradient or the weights are not finite, or the loss is zero."""


class Watch:
    """Watches the steps of a run.

    Args:
        state: the run's model and progress.
        folder: the run's files, of which the messages name the checkpoint.

    Attributes:
        updated_by: files of the batch that changed the weights last.
    """

    def __init__(self, state: TrainingState, folder: RunFolder) -> None:
        self.state, self.folder = state, folder
        self.updated_by: tuple[Path, ...] = ()

    def overflows(self, loss: float, norm: float) -> bool:
        """Whether the gradients of a good loss are too large for float16; then the loss gets a smaller scale.

        A scale of 1 is not to blame.
        """
        scaler = self.state.scaler
        is_only_norm = math.isfinite(loss) and loss != 0 and not math.isfinite(norm)
        return scaler.is_enabled() and is_only_norm and scaler.get_scale() > 1

    def expect_usable(self, loss: float, norm: float, batch: Batch) -> None:
        """Raise `Diverged` unless a batch's loss and the norm of its gradient can be used."""
        if math.isfinite(loss) and math.isfinite(norm) and loss != 0:
            return
        cause = ""
        if first_non_finite(dict(self.state.model.named_parameters())) is not None:
            cause = f"; the weights are not finite since the step before, with {_names(self.updated_by)}"
        raise Diverged(
            f"train: the loss must be finite and not 0, got {loss} (gradient norm {norm}) at step "
            f"{self.state.step} with {_names(batch.files)}{cause}; {self._checkpoint()}; {REMEDY}"
        )

    def of_weights(self, error: NotFinite) -> Diverged:
        """Return what to raise for weights that cannot be saved."""
        return Diverged(
            f"train: the weights must be finite, got {error} after step {self.state.step - 1} with "
            f"{_names(self.updated_by)}; {self._checkpoint()}; {REMEDY}"
        )

    def of_logits(self, failure: str | None) -> Diverged:
        """Return what to raise for averaged weights that cannot be evaluated, and why they cannot."""
        return Diverged(
            f"train: the averaged weights must give finite logits, got others on the val split after step "
            f"{self.state.step - 1} with {_names(self.updated_by)} ({failure}); {self._checkpoint()}; {REMEDY}"
        )

    def _checkpoint(self) -> str:
        """Say in words what the last checkpoint is worth after a bad step."""
        folder = self.folder
        if folder.saved is None:
            return "there is no checkpoint yet"
        if folder.saved == self.state.step:
            return f"{folder.checkpoint} holds the weights that gave it"
        return f"the last good checkpoint is {folder.checkpoint}, of step {folder.saved}"


def _names(files: tuple[Path, ...]) -> str:
    return ", ".join(map(str, files)) or "the files of an earlier session"
