"""The training loop: one device per process; each step is a function of the seed and the step's number."""

from __future__ import annotations

import math
import platform
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
import yaml
from rich.console import Console

from segnext.atomic import at_home
from segnext.data.batches import Batch, Batches, TrainingBatches
from segnext.data.check import require_sound
from segnext.data.config import DataConfig
from segnext.data.dataset import SegmentationFolder
from segnext.data.preprocessing import Preprocessing
from segnext.data.transforms import Augmentation
from segnext.device import choose_device
from segnext.evaluation.evaluate import Evaluation, evaluate
from segnext.evaluation.measures import Measures
from segnext.evaluation.together import evaluate_together
from segnext.models import MSCAN, SegNeXt
from segnext.models.finite import first_non_finite
from segnext.predict.inference import Inference
from segnext.ranks import Ranks, joined_ranks
from segnext.signals import StoppedAtOnce, stop_signals
from segnext.training.checkpoint import NotFinite, TrainingState
from segnext.training.folder import CHECKPOINT as CHECKPOINT
from segnext.training.folder import FINAL as FINAL
from segnext.training.folder import NotSaved, RunFolder, expect_free, run_folder
from segnext.training.log import SEGMENTATION, Measured, RunLog
from segnext.training.optimiser import learning_rate_factor, parameter_groups, set_learning_rate
from segnext.training.parts import expect_parts
from segnext.training.settings import Reporting, TrainSettings
from segnext.training.start import starting_state
from segnext.training.step import StepGradients
from segnext.training.trainable import expect_trainable
from segnext.weights.configuration import as_json
from segnext.weights.saving import save

HUNG = "the last checkpoint stays, go on with --resume"  # what to do when a process hangs
STOPPING = "stopping after this step, with a checkpoint; once more stops at once, without it"

REMEDY = "try a lower --lr, a longer --warmup or --dtype float32"


class Diverged(RuntimeError):
    """The loss, its gradient or the weights are not finite, or the loss is zero."""


def train(
    model: SegNeXt,
    data: DataConfig,
    output: str | Path,
    settings: TrainSettings,
    reporting: Reporting = Reporting(),  # noqa: B008 (frozen)
    *,
    inference: Inference | None = None,
    device: torch.device | str = "cpu",
    resume: bool = False,
    overwrite: bool = False,
    console: Console | None = None,
    kind: type[Run] | None = None,
) -> Evaluation | None:
    """Train `model` on the `train` split and write the averaged weights to `output`/final.safetensors.

    The folder also gets checkpoint.safetensors (the whole training state), results.csv and curves.png (if
    matplotlib is installed). On SIGINT, SIGTERM and SIGHUP a checkpoint is written before `KeyboardInterrupt`, and
    so it is before an error that is not about a step itself: an image that cannot be read, a closed terminal.

    Under `torchrun` each process takes its share of every batch and of every evaluation, and the first one writes and
    prints; a signal to one of them stops all after the same step.

    Args:
        model: a model with fresh or pretrained weights and `len(data.classes)` classes.
        data: the data set; its `val` split, if it has one, is evaluated.
        output: the run's folder.
        settings: they determine the result.
        reporting: it does not change the result.
        inference: how images are evaluated; whole, at the data's short side, by default.
        device: the device to train on; "cuda" and "auto" are each process's own GPU.
        resume: go on from the folder's checkpoint (from the start if it has none yet). The result is bit-identical
            to a run that was never interrupted, on the same machine and number of threads and processes.
        overwrite: replace a run that lies in the folder; it stays until the new one has its first checkpoint.
        console: prints the progress; by default on the terminal.
        kind: what is trained; a segmentation by default, see `segnext.training.classification` for the other.

    Returns:
        The final evaluation; None without a `val` split.

    Raises:
        Diverged: the loss is not finite or is 0, or the weights are not finite; the message says whether the last
            checkpoint is good.
        FileExistsError: another run is at work in the folder, or it holds one, and neither resume nor overwrite is
            set.
        OSError: a file cannot be written; the checkpoint is the last that could.
        RankFailed: another process of the run has failed.
        ValueError: data, settings and model do not fit together; an image or a label is damaged or wrong, see
            `segnext.data.check`; the checkpoint is damaged or of another run.
    """
    console = console or Console()
    if resume and overwrite:
        raise ValueError("train: resume and overwrite must not both be set, got both; choose one")
    kind = kind or Run
    expect_trainable(model, kind.network)
    device = choose_device(device)
    if model.config.num_classes != len(data.classes):
        raise ValueError(
            f"train: num_classes of the model must be {len(data.classes)} for {data.name}, "
            f"got {model.config.num_classes}"
        )
    names = kind.names(data)
    as_json(names, model.config.num_classes, model.config.in_channels, "save")  # raises what `save` would
    output = at_home(output)
    with joined_ranks("train", device, HUNG) as (ranks, device):
        expect_parts(settings.batch_size, settings.crop, settings.accumulate, ranks.count)
        if ranks.is_first:
            expect_free(output, resume, overwrite)  # before the data are read, which can take long
        else:
            console = Console(quiet=True)
        run = kind.prepare(model, data, settings, device, ranks)
        run.inference = inference or Inference()
        run.batches.skips = reporting.on_error == "skip"
        class_weight = ranks.of_first(lambda: run.checked(console))
        run.gradients.class_weight = None if class_weight is None else class_weight.to(device)
        # Other processes write nothing: their rows are held back for ever.
        use = (
            run_folder(output, resume, overwrite) if ranks.is_first else nullcontext(RunFolder(output, True))
        )
        with use as folder:
            if resume:
                folder.saved = ranks.of_first(lambda: run.resume(folder, console))
            run.state.take_from_first(ranks)
            folder.recipe = yaml.safe_dump(run.described(), sort_keys=False, default_flow_style=None)
            evaluation = run.steps(folder, reporting, console)
            return cast(Evaluation | None, run.finish(folder, evaluation))


@dataclass
class Run:
    """One session of a run, which is prepared, stepped through and finished.

    It trains a segmentation; a subclass with other batches, gradients and evaluation trains something else with the
    same steps.

    Attributes:
        network: the class of the models.
        measured: what an evaluation measures.
        data: the data set.
        settings: they determine the result.
        preprocessing: mean and std of the weights that the run starts from, image size of the data set; the
            range of values is the data set's, else the weights'.
        state: model, optimiser and progress.
        batches: batches of the training split.
        validation_set: the `val` split; None without one.
        recipe: the metadata of the final weights will say this about the run.
        ranks: the processes of the run.
        inference: how images are evaluated.
        gradients: computes those of a step.
        in_step: whether a step is under way, so that model and random numbers are between two states.
        updated_by: files of the batch that changed the weights last.
    """

    network: ClassVar[type[SegNeXt | MSCAN]] = SegNeXt
    measured: ClassVar[Measured] = SEGMENTATION
    data: DataConfig
    settings: TrainSettings
    preprocessing: Preprocessing
    state: TrainingState
    batches: Batches
    validation_set: SegmentationFolder | None
    recipe: dict[str, Any]
    ranks: Ranks
    gradients: StepGradients
    inference: Inference = Inference()
    in_step: bool = False
    updated_by: tuple[Path, ...] = ()

    @classmethod
    def prepare(
        cls, model: SegNeXt, data: DataConfig, settings: TrainSettings, device: torch.device, ranks: Ranks
    ) -> Run:
        """Prepare everything up to the first step; nothing is written yet."""
        of_weights = Preprocessing.of(model.metadata)
        preprocessing = data.preprocessing(of_weights)
        if len(preprocessing.mean) != model.config.in_channels:
            raise ValueError(
                f"train: in_channels of the model must be {len(preprocessing.mean)} for {data.name}, got "
                f"{model.config.in_channels}"
            )
        data = replace(data, value_range=preprocessing.value_range, bands=preprocessing.bands)
        training_set = data.open("train")
        validation_set = data.open("val") if "val" in data.splits else None
        augmentation = Augmentation(
            settings.crop,
            settings.scale,
            flip=settings.flip,
            distort=settings.distort,
            ignore_index=data.ignore_index,
            preprocessing=preprocessing,
        )
        state, recipe = starting_state(
            model,
            data,
            settings,
            preprocessing,
            len(training_set),
            lambda: parameter_groups(model, settings.lr, settings.weight_decay, settings.head_lr_multiplier),
            device,
            ranks,
        )
        batches = TrainingBatches(
            training_set,
            augmentation,
            settings.batch_size,
            settings.seed,
            rank=ranks.rank,
            ranks=ranks.count,
        )
        gradients = StepGradients(state, settings, preprocessing, data.ignore_index, ranks)
        return cls(data, settings, preprocessing, state, batches, validation_set, recipe, ranks, gradients)

    def checked(self, console: Console) -> torch.Tensor | None:
        """Check the data set, and return the weights of the classes in the loss."""
        splits = [split for split in ("train", "val") if split in self.data.splits]
        reports = require_sound(self.data, splits, console, ("train",) if self.batches.skips else ())
        return reports["train"].class_weights(self.settings.balance) if self.settings.balance else None

    def resume(self, folder: RunFolder, console: Console) -> int | None:
        """Go on from the folder's checkpoint; return its step, None without one."""
        for note in folder.restore(self.state):
            console.print(note, markup=False, highlight=False, soft_wrap=True)
        console.print(f"resuming at step {self.state.step} of {self.settings.steps}", highlight=False)
        return folder.saved

    @staticmethod
    def names(data: DataConfig) -> dict[str, Any]:
        """Return what the final weights say about the classes."""
        return {"classes": list(data.classes), "palette": [list(colour) for colour in data.palette]}

    def factor(self, step: int) -> float:
        """Return the fraction of the learning rate at a step."""
        settings = self.settings
        return learning_rate_factor(step, settings.steps, settings.warmup, settings.schedule)

    def evaluated(self, images: SegmentationFolder, after_image: Callable[[], None]) -> Measures:
        """Evaluate the averaged weights on images of the `val` split; `after_image` may raise."""
        return evaluate(
            self.state.average.model,
            images,
            device=self.device,
            dtype=getattr(torch, self.settings.dtype),
            inference=self.inference,
            preprocessing=self.preprocessing,
            after_image=after_image,
        )

    @property
    def device(self) -> torch.device:
        """The device on which the model is."""
        return next(self.state.model.parameters()).device

    def steps(self, folder: RunFolder, reporting: Reporting, console: Console) -> Measures | None:
        """Take all steps that are left; return the last evaluation, None if no step is left or without a `val` split.

        What is done is saved before what may fail: a step's checkpoint comes before its evaluation, and so do the
        weights of the last step.

        Raises:
            KeyboardInterrupt: after a signal, once a checkpoint is written.
        """
        state, settings = self.state, self.settings
        losses, every = state.losses, reporting.log_every
        with (
            RunLog(
                folder.path,
                settings.steps,
                state.step,
                every,
                losses,
                console,
                hold=folder.replaces,
                measured=self.measured,
            ) as log,
            stop_signals(STOPPING) as stop,
            self._saved_at_the_end(folder, log),
        ):
            evaluation: Measures | None = None
            # The session before may have ended between this step's checkpoint and what follows it.
            if state.step == settings.steps and not folder.final.exists():
                self.save_weights(folder, None)
            if self._is_evaluated(state.step, reporting) and not self.ranks.of_first(
                lambda: log.evaluated(state.step)
            ):
                evaluation = self._evaluate(folder, log, stop)
            clock = time.perf_counter()
            for batch in self.batches.iterate(state.step, settings.steps, reporting.workers):
                factor = self.factor(state.step)
                set_learning_rate(state.optimiser.param_groups, factor)
                loss = self._step(batch, folder)
                seconds = time.perf_counter() - clock
                state.seconds += seconds
                log.training(state.step, loss, settings.lr * factor, settings.batch_size, seconds)
                last = state.step == settings.steps
                if last or _due(state.step, reporting.checkpoint_every):
                    self._save(folder, log)
                if last:
                    self.save_weights(folder, None)
                if self._is_evaluated(state.step, reporting):
                    evaluation = self._evaluate(folder, log, stop)
                is_stopped = not last and self.ranks.largest(int(stop.is_set())) > 0
                if last or is_stopped:
                    self._list_skipped(folder, log)
                if is_stopped:
                    raise KeyboardInterrupt
                clock = time.perf_counter()
        return evaluation

    def finish(self, folder: RunFolder, evaluation: Measures | None) -> Measures | None:
        """Write the averaged weights with the measures of the last step's evaluation, and return it."""
        evaluation = evaluation or self._validate(folder)  # None if the run was resumed after its last step
        self.save_weights(folder, evaluation)
        return evaluation

    def _list_skipped(self, folder: RunFolder, log: RunLog) -> None:
        """Say which files were skipped in this session, in the run's folder and on the terminal."""
        skipped = {
            file: why
            for found in self.ranks.gathered(dict(self.batches.skipped))
            for file, why in found.items()
        }
        if not skipped or not self.ranks.is_first:
            return
        if not folder.replaces:
            folder.list_skipped(skipped)
        log.note(f"{len(skipped)} training images were skipped, for each of which the next one was taken:")
        for why in skipped.values():
            log.note(f"  {why}")

    def save_weights(self, folder: RunFolder, evaluation: Measures | None) -> None:
        """Write the averaged weights with their metadata, in the first process."""
        if not self.ranks.is_first:
            return
        metadata = {
            **self.names(self.data),
            "preprocessing": self.preprocessing.as_json(),
            "recipe": self.described()
            | {"seconds": round(self.state.seconds), "finished": _today(), **_versions(self.device)},
            "metrics": evaluation.summary(self.data.classes) if evaluation else {},
        }
        save(self.state.average.model, folder.final, metadata)

    def described(self) -> dict[str, Any]:
        """Return settings, data, model and protocol in plain words, for the weights and for recipe.yaml."""
        protocol = self.inference.for_weights(self.preprocessing.short_side)
        return self.recipe | {"drop_path": self.state.model.config.drop_path, "evaluation": str(protocol)}

    @contextmanager
    def _saved_at_the_end(self, folder: RunFolder, log: RunLog) -> Iterator[None]:
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
                if self.state.step > (folder.saved or 0):
                    self._save(folder, log)
            except (NotSaved, Diverged) as second:
                print(second, file=sys.stderr)
                raise error from None
            if self.state.step:
                said = f"stopped at step {self.state.step}; go on with --resume"
                with suppress(BaseException):  # the terminal, or what stands behind a pipe, may be gone
                    log.note(said) if isinstance(error, KeyboardInterrupt) else print(said, file=sys.stderr)
            raise

    def _save(self, folder: RunFolder, log: RunLog) -> None:
        if not self.ranks.is_first:
            folder.saved = self.state.step
            return
        try:
            folder.save(self.state, log)
        except NotFinite as error:
            raise Diverged(
                f"train: the weights must be finite, got {error} after step {self.state.step - 1} with "
                f"{_names(self.updated_by)}; {self._checkpoint(folder)}; {REMEDY}"
            ) from None

    def _is_evaluated(self, step: int, reporting: Reporting) -> bool:
        return self.validation_set is not None and (
            step == self.settings.steps or (step > 0 and _due(step, reporting.eval_every))
        )

    def _evaluate(self, folder: RunFolder, log: RunLog, stop: threading.Event) -> Measures | None:
        """Evaluate and record it; a signal ends the evaluation early, since a resumed run makes it again."""
        evaluation = self._validate(folder, stop)
        if evaluation is not None:
            log.evaluation(self.state.step, *evaluation.headline, evaluation.seconds)
        return evaluation

    def _validate(self, folder: RunFolder, stop: threading.Event | None = None) -> Measures | None:
        if self.validation_set is None:
            return None
        evaluation, failure = evaluate_together(
            self.evaluated, self.validation_set, self.ranks, stop or threading.Event()
        )
        if evaluation is None:
            if self.state.step == self.settings.steps and self.ranks.is_first:
                folder.final.unlink(missing_ok=True)  # finite weights, but of no use
            raise Diverged(
                f"train: the averaged weights must give finite logits, got others on the val split after step "
                f"{self.state.step - 1} with {_names(self.updated_by)} ({failure}); {self._checkpoint(folder)}; "
                f"{REMEDY}"
            )
        return evaluation

    def _step(self, batch: Batch, folder: RunFolder) -> float:
        """Take one optimiser step; return its loss, or NaN for a batch in which, by chance, every pixel is ignored."""
        loss = math.nan
        # The first word with the other processes: if one of them is gone, this one is still between two steps.
        weight = self.gradients.weight(batch)
        self.in_step = True
        if weight:
            loss, norm = self.gradients(batch, weight)
            if not self._overflows(loss, norm):
                self._watch(loss, norm, batch, folder)
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
        self.updated_by = batch.files

    def _overflows(self, loss: float, norm: float) -> bool:
        """Whether the gradients of a good loss are too large for float16; then the loss gets a smaller scale.

        A scale of 1 is not to blame.
        """
        scaler = self.state.scaler
        is_only_norm = math.isfinite(loss) and loss != 0 and not math.isfinite(norm)
        return scaler.is_enabled() and is_only_norm and scaler.get_scale() > 1

    def _watch(self, loss: float, norm: float, batch: Batch, folder: RunFolder) -> None:
        """Raise `Diverged` unless the loss and its gradient can be used."""
        if math.isfinite(loss) and math.isfinite(norm) and loss != 0:
            return
        cause = ""
        if first_non_finite(dict(self.state.model.named_parameters())) is not None:
            cause = f"; the weights are not finite since the step before, with {_names(self.updated_by)}"
        raise Diverged(
            f"train: the loss must be finite and not 0, got {loss} (gradient norm {norm}) at step "
            f"{self.state.step} with {_names(batch.files)}{cause}; {self._checkpoint(folder)}; {REMEDY}"
        )

    def _checkpoint(self, folder: RunFolder) -> str:
        """Say in words what the last checkpoint is worth after a bad step."""
        if folder.saved is None:
            return "there is no checkpoint yet"
        if folder.saved == self.state.step:
            return f"{folder.checkpoint} holds the weights that gave it"
        return f"the last good checkpoint is {folder.checkpoint}, of step {folder.saved}"


def _names(files: tuple[Path, ...]) -> str:
    return ", ".join(map(str, files)) or "the files of an earlier session"


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
