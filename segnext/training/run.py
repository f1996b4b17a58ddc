"""The steps of a run, whatever is trained: they are taken, saved, evaluated and finished here."""

from __future__ import annotations

import math
import platform
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from typing import Any, Generic

import torch
from rich.console import Console

from segnext.data.batches import Batch
from segnext.evaluation.measures import Result
from segnext.evaluation.together import Images, evaluate_together
from segnext.ranks import Ranks
from segnext.signals import StoppedAtOnce, stop_signals
from segnext.training.checkpoint import NotFinite
from segnext.training.divergence import Diverged, Watch
from segnext.training.folder import NotSaved, RunFolder
from segnext.training.log import RunLog
from segnext.training.optimiser import set_learning_rate
from segnext.training.samples import SAMPLES
from segnext.training.settings import Reporting
from segnext.training.start import Start
from segnext.training.task import Task
from segnext.weights.saving import save

STOPPING = "stopping after this step, with a checkpoint; once more stops at once, without it"


class Run(Generic[Images, Result]):
    """One session of a run.

    Args:
        task: what is trained.
        start: what the run starts with.
        folder: the run's files.
        reporting: it does not change the result.
        ranks: the processes of the run.
        console: prints the progress.

    Attributes:
        state: model, optimiser and progress.
        in_step: whether a step is under way, so that model and random numbers are between two states.
    """

    def __init__(
        self,
        task: Task[Images, Result],
        start: Start[Images],
        folder: RunFolder,
        reporting: Reporting,
        ranks: Ranks,
        console: Console,
    ) -> None:
        self.task, self.folder, self.reporting = task, folder, reporting
        self.ranks, self.console = ranks, console
        self.settings, self.state = task.settings, start.state
        self.batches, self.validation_set = start.batches, start.validation_set
        self.gradients, self.recipe = start.gradients, start.recipe
        self.watch = Watch(start.state, folder)
        self.in_step = False

    def resume(self) -> None:
        """Go on from the folder's checkpoint, if there is one."""
        self.folder.saved = self.ranks.of_first(self._restored)

    def _restored(self) -> int | None:
        for note in self.folder.restore(self.state):
            self.console.print(note, markup=False, highlight=False, soft_wrap=True)
        self.console.print(f"resuming at step {self.state.step} of {self.settings.steps}", highlight=False)
        return self.folder.saved

    def steps(self) -> Result | None:
        """Take all steps that are left; return the last evaluation, None if no step is left or without a `val` split.

        What is done is saved before what may fail: a step's checkpoint comes before its evaluation, and so do the
        weights of the last step.

        Raises:
            KeyboardInterrupt: after a signal, once a checkpoint is written.
        """
        state, settings = self.state, self.settings
        with self._log() as log, stop_signals(STOPPING) as stop, self._saved_at_the_end(log):
            evaluation = self._made_up(log, stop)
            if self._ends_early(log):
                return evaluation
            clock = time.perf_counter()
            for batch in self.batches.iterate(state.step, settings.steps, self.reporting.workers):
                self._take(batch, log, clock)
                last = state.step == settings.steps
                if last or _due(state.step, self.reporting.checkpoint_every):
                    self._save(log)
                if last:
                    self._save_weights(None)
                if self._is_evaluated(state.step):
                    evaluation = self._evaluate(log, stop)
                    last = last or self._ends_early(log)
                is_stopped = not last and self.ranks.largest(int(stop.is_set())) > 0
                if last or is_stopped:
                    self._list_skipped(log)
                if is_stopped:
                    raise KeyboardInterrupt
                if last:
                    break
                clock = time.perf_counter()
        return evaluation

    def finish(self, evaluation: Result | None) -> Result | None:
        """Write the averaged weights with the measures of the last step's evaluation, and return it."""
        evaluation = evaluation or self._validate()  # None if the run was resumed after its last step
        self._save_weights(evaluation)
        return evaluation

    def _log(self) -> RunLog:
        return RunLog(
            self.folder.path,
            self.settings.steps,
            self.state.step,
            self.reporting,
            self.state.losses,
            self.console,
            hold=self.folder.replaces,
            measured=self.task.measured,
            device=self.state.device,
            has_val=self.validation_set is not None,
        )

    def _made_up(self, log: RunLog, stop: threading.Event) -> Result | None:
        """Make up for what the session before did not get to: it may have ended right after its checkpoint."""
        step = self.state.step
        if step == self.settings.steps and not self.folder.final.exists():
            self._save_weights(None)
        if self._is_evaluated(step) and not self.ranks.of_first(lambda: log.evaluated(step)):
            return self._evaluate(log, stop)
        return None

    def _ends_early(self, log: RunLog) -> bool:
        """Whether the evaluations so far end the run before its last step; then the checkpoint says so."""
        state, settings = self.state, self.settings
        if not settings.patience or state.step == settings.steps:
            return False
        why = self.ranks.of_first(lambda: state.ended or log.exhausted(settings.patience))
        if why and not state.ended:
            state.ended = why
            self._save(log)
        if why:
            log.note(f"ended at step {state.step} of {settings.steps}: {why}")
        return bool(why)

    def _take(self, batch: Batch, log: RunLog, clock: float) -> None:
        """Take one step and record it; the loop waits for its batch since `clock`."""
        state, settings = self.state, self.settings
        waited = time.perf_counter() - clock
        factor = self.task.factor(state.step)
        set_learning_rate(state.optimiser.param_groups, factor)
        loss = self._step(batch)
        seconds = time.perf_counter() - clock
        state.seconds += seconds
        log.training(state.step, loss, settings.lr * factor, settings.batch_size, seconds, waited)

    def _step(self, batch: Batch) -> float:
        """Take one optimiser step; return its loss, or NaN for a batch in which, by chance, every pixel is ignored."""
        loss = math.nan
        # The first word with the other processes: if one of them is gone, this one is still between two steps.
        weight = self.gradients.weight(batch)
        self.in_step = True
        if weight:
            loss, norm = self.gradients(batch, weight)
            if not self.watch.overflows(loss, norm):
                self.watch.expect_usable(loss, norm, batch)
                self._update(batch)
            if self.state.scaler.is_enabled():
                self.state.scaler.update()
        self.state.step += 1
        self.in_step = False
        return loss

    def _update(self, batch: Batch) -> None:
        """Change the weights and their average by the gradients in the model."""
        self.state.optimiser.step()
        # The running statistics of batch norms are those of the first process.
        self.ranks.take_from_first([b for b in self.state.model.buffers() if b.is_floating_point()])
        self.state.average.update(self.state.model, self.state.step)
        self.watch.updated_by = batch.files

    def _save(self, log: RunLog) -> None:
        if not self.ranks.is_first:
            self.folder.saved = self.state.step
            return
        try:
            self.folder.save(self.state, log)
        except NotFinite as error:
            raise self.watch.of_weights(error) from None

    def _save_weights(self, evaluation: Result | None) -> None:
        """Write the averaged weights with their metadata, in the first process."""
        if not self.ranks.is_first:
            return
        ended: dict[str, Any] = {"seconds": round(self.state.seconds), "finished": _today()}
        if self.state.ended:
            ended["ended"] = f"at step {self.state.step}: {self.state.ended}"
        ended |= _versions(self.state.device)
        metadata = {
            **self.task.names(),
            "preprocessing": self.task.preprocessing.as_json(),
            "recipe": self.recipe | ended,
            "metrics": evaluation.summary(self.task.data.classes) if evaluation else {},
        }
        save(self.state.average.model, self.folder.final, metadata)

    def _is_evaluated(self, step: int) -> bool:
        return self.validation_set is not None and (
            step == self.settings.steps or (step > 0 and _due(step, self.reporting.eval_every))
        )

    def _evaluate(self, log: RunLog, stop: threading.Event) -> Result | None:
        """Evaluate and record it; a signal ends the evaluation early, since a resumed run makes it again."""
        evaluation = self._validate(stop)
        if evaluation is not None:
            summary = evaluation.summary(self.task.data.classes)
            log.evaluation(self.state.step, evaluation.headline, evaluation.seconds, summary)
            log.draw(SAMPLES, self.task.samples)
        return evaluation

    def _validate(self, stop: threading.Event | None = None) -> Result | None:
        if self.validation_set is None:
            return None
        evaluation, failure = evaluate_together(
            lambda images, after_images: self.task.evaluated(self.state, images, after_images),
            self.validation_set,
            self.ranks,
            stop or threading.Event(),
        )
        if evaluation is None:
            if self.state.step == self.settings.steps and self.ranks.is_first:
                self.folder.final.unlink(missing_ok=True)  # finite weights, but of no use
            raise self.watch.of_logits(failure)
        return evaluation

    def _list_skipped(self, log: RunLog) -> None:
        """Say which files were skipped in this session, in the run's folder and on the terminal."""
        skipped = {
            file: why
            for found in self.ranks.gathered(dict(self.batches.skipped))
            for file, why in found.items()
        }
        if not skipped or not self.ranks.is_first:
            return
        if not self.folder.replaces:
            self.folder.list_skipped(skipped)
        log.note(f"{len(skipped)} training images were skipped, for each of which the next one was taken:")
        for why in skipped.values():
            log.note(f"  {why}")

    @contextmanager
    def _saved_at_the_end(self, log: RunLog) -> Iterator[None]:
        """Write a checkpoint before an error or a signal ends the session, and say where to go on.

        Not after a second signal, and not in the middle of a step, which cannot be taken up there.
        """
        try:
            yield
        except BaseException as error:
            is_lost = isinstance(error, Diverged | NotSaved | StoppedAtOnce) or self.in_step
            if is_lost or not self.ranks.is_first:
                raise
            try:
                if self.state.step > (self.folder.saved or 0):
                    self._save(log)
            except (NotSaved, Diverged) as second:
                print(second, file=sys.stderr)
                raise error from None
            if self.state.step:
                said = f"stopped at step {self.state.step}; go on with --resume"
                with suppress(BaseException):  # the terminal, or what stands behind a pipe, may be gone
                    log.note(said) if isinstance(error, KeyboardInterrupt) else print(said, file=sys.stderr)
            raise


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _today() -> str:
    return datetime.now(timezone.utc).date().isoformat()


def _versions(device: torch.device) -> dict[str, Any]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": name,
        "threads": torch.get_num_threads(),
    }
