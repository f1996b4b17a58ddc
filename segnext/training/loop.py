"""The training loop: one process, one device; each step is a function of the seed and the step's number."""

from __future__ import annotations

import math
import os
import platform
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from segnext.atomic import remove_leftovers
from segnext.data.batches import Batch, TrainingBatches
from segnext.data.check import require_sound
from segnext.data.config import DataConfig
from segnext.data.dataset import SegmentationFolder
from segnext.data.preprocessing import Preprocessing
from segnext.data.transforms import Augmentation
from segnext.evaluation.evaluate import Evaluation, evaluate
from segnext.models import SegNeXt
from segnext.training.checkpoint import TrainingState
from segnext.training.ema import AveragedModel
from segnext.training.log import CURVES, RESULTS, RunLog
from segnext.training.optimiser import learning_rate_factor, parameter_groups, set_learning_rate
from segnext.training.settings import Reporting, TrainSettings
from segnext.weights.saving import save

CHECKPOINT, FINAL = "checkpoint.safetensors", "final.safetensors"


class Diverged(RuntimeError):
    """The loss or its gradient is not finite, or the loss is zero."""


def train(
    model: SegNeXt,
    data: DataConfig,
    output: str | Path,
    settings: TrainSettings,
    reporting: Reporting = Reporting(),  # noqa: B008 (frozen)
    *,
    device: torch.device | str = "cpu",
    resume: bool = False,
    overwrite: bool = False,
    console: Console | None = None,
) -> Evaluation | None:
    """Train `model` on the `train` split and write the averaged weights to `output`/final.safetensors.

    The folder also gets checkpoint.safetensors (the whole training state), results.csv and curves.png (if
    matplotlib is installed). On SIGINT and SIGTERM a checkpoint is written before `KeyboardInterrupt`.

    Args:
        model: a model with fresh or pretrained weights and `len(data.classes)` classes.
        data: the data set; its `val` split, if it has one, is evaluated.
        output: the run's folder.
        settings: they determine the result.
        reporting: it does not change the result.
        device: the device to train on.
        resume: go on from the folder's checkpoint (from the start if it has none yet). The result is bit-identical
            to a run that was never interrupted, on the same machine and number of threads.
        overwrite: replace a run that lies in the folder.
        console: prints the progress; by default on the terminal.

    Returns:
        The final evaluation; None without a `val` split.

    Raises:
        Diverged: the loss is not finite or is 0; the last checkpoint is good.
        FileExistsError: the folder holds a run, and neither resume nor overwrite is set.
        ValueError: data, settings and model do not fit together; an image or a label is damaged or wrong, see
            `segnext.data.check`; the checkpoint is of another run.
    """
    console = console or Console()
    if resume and overwrite:
        raise ValueError("train: resume and overwrite must not both be set, got both; choose one")
    if model.config.num_classes != len(data.classes):
        raise ValueError(
            f"train: num_classes of the model must be {len(data.classes)} for {data.name}, "
            f"got {model.config.num_classes}"
        )
    run = _Run.prepare(model, data, settings, torch.device(device))
    reports = require_sound(data, [split for split in ("train", "val") if split in data.splits], console)
    if settings.balance:
        run.class_weight = reports["train"].class_weights(settings.balance).to(device)
    folder = _claim(Path(output), resume, overwrite)
    if resume:
        if (folder / CHECKPOINT).exists():
            run.state.restore(folder / CHECKPOINT)
        console.print(f"resuming at step {run.state.step} of {settings.steps}", highlight=False)
    evaluation = run.steps(folder, reporting, console)
    return run.finish(folder, evaluation)


@dataclass
class _Run:
    """One session of a run, which is prepared, stepped through and finished.

    Attributes:
        data: the data set.
        settings: they determine the result.
        preprocessing: mean and std of the weights that the run starts from, image size of the data set.
        state: model, optimiser and progress.
        batches: batches of the training split.
        validation_set: the `val` split; None without one.
        recipe: the metadata of the final weights will say this about the run.
        class_weight: (K,) weights of the cross-entropy; None if all classes count alike.
    """

    data: DataConfig
    settings: TrainSettings
    preprocessing: Preprocessing
    state: TrainingState
    batches: TrainingBatches
    validation_set: SegmentationFolder | None
    recipe: dict[str, Any]
    class_weight: torch.Tensor | None = None

    @classmethod
    def prepare(cls, model: SegNeXt, data: DataConfig, settings: TrainSettings, device: torch.device) -> _Run:
        """Prepare everything up to the first step; nothing is written yet."""
        training_set = data.open("train")
        validation_set = data.open("val") if "val" in data.splits else None
        preprocessing = replace(Preprocessing.of(model.metadata), short_side=data.short_side)
        augmentation = Augmentation(
            settings.crop,
            settings.scale,
            flip=settings.flip,
            distort=settings.distort,
            ignore_index=data.ignore_index,
            preprocessing=preprocessing,
        )
        torch.manual_seed(settings.seed)
        model.to(device=device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        groups = parameter_groups(model, settings.lr, settings.weight_decay, settings.head_lr_multiplier)
        optimiser = torch.optim.AdamW(groups, betas=(0.9, 0.999), fused=True)
        recipe = settings.as_json() | {
            "data": data.name,
            "images": len(training_set),
            "architecture": model.config.architecture,
        }
        determining = recipe | {"preprocessing": preprocessing.as_json()}
        state = TrainingState(model, AveragedModel(model, settings.ema), optimiser, determining)
        batches = TrainingBatches(training_set, augmentation, settings.batch_size, settings.seed)
        return cls(data, settings, preprocessing, state, batches, validation_set, recipe)

    @property
    def device(self) -> torch.device:
        """The device on which the model is."""
        return next(self.state.model.parameters()).device

    def steps(self, folder: Path, reporting: Reporting, console: Console) -> Evaluation | None:
        """Take all steps that are left; return the last evaluation, None if no step is left or without a `val` split.

        Raises:
            KeyboardInterrupt: after a signal, once a checkpoint is written.
        """
        state, settings = self.state, self.settings
        evaluation: Evaluation | None = None
        with (
            RunLog(folder, settings.steps, state.step, reporting.log_every, state.losses, console) as log,
            _stop_signals() as stop,
        ):
            clock = time.perf_counter()
            for batch in self.batches.iterate(state.step, settings.steps, reporting.workers):
                factor = learning_rate_factor(state.step, settings.steps, settings.warmup, settings.schedule)
                set_learning_rate(state.optimiser.param_groups, factor)
                loss = self._step(batch, folder / CHECKPOINT)
                seconds = time.perf_counter() - clock
                state.seconds += seconds
                log.training(state.step, loss, settings.lr * factor, settings.batch_size, seconds)
                last = state.step == settings.steps
                if last or _due(state.step, reporting.eval_every):
                    evaluation = self._validate()
                    if evaluation is not None:
                        confusion = evaluation.confusion
                        log.evaluation(
                            state.step, confusion.miou, confusion.pixel_accuracy, evaluation.seconds
                        )
                if last or stop.is_set() or _due(state.step, reporting.checkpoint_every):
                    state.save(folder / CHECKPOINT)
                if stop.is_set() and not last:
                    log.note(f"stopped at step {state.step}; go on with --resume")
                    raise KeyboardInterrupt
                clock = time.perf_counter()
        return evaluation

    def finish(self, folder: Path, evaluation: Evaluation | None) -> Evaluation | None:
        """Write the averaged weights with their metadata; return the evaluation of the last step."""
        evaluation = evaluation or self._validate()  # None if the run was resumed after its last step
        metadata = {
            "classes": list(self.data.classes),
            "palette": [list(colour) for colour in self.data.palette],
            "preprocessing": self.preprocessing.as_json(),
            "recipe": self.recipe
            | {"seconds": round(self.state.seconds), "finished": _today(), **_versions(self.device)},
            "metrics": evaluation.summary(self.data.classes) if evaluation else {},
        }
        save(self.state.average.model, folder / FINAL, metadata)
        return evaluation

    def _validate(self) -> Evaluation | None:
        if self.validation_set is None:
            return None
        return evaluate(
            self.state.average.model,
            self.validation_set,
            device=self.device,
            dtype=getattr(torch, self.settings.dtype),
            preprocessing=self.preprocessing,
        )

    def _step(self, batch: Batch, checkpoint: Path) -> float:
        """Take one optimiser step; return its loss, or NaN for a batch in which, by chance, every pixel is ignored."""
        loss = math.nan
        if bool((batch.labels != self.data.ignore_index).any()):
            loss, norm = self._gradients(batch)
            _watch(loss, norm, self.state.step, batch, checkpoint)
            self.state.optimiser.step()
            self.state.average.update(self.state.model, self.state.step)
        self.state.step += 1
        return loss

    def _gradients(self, batch: Batch) -> tuple[float, float]:
        """Leave a batch's clipped gradients in the model; return its loss and the gradient's norm before clipping."""
        model, device, dtype = self.state.model, self.device, getattr(torch, self.settings.dtype)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            loss = model(  # not model.loss: wrappers see forward alone
                self.preprocessing(batch.images, device=device),
                batch.labels.to(device),
                ignore_index=self.data.ignore_index,
                class_weight=self.class_weight,
                label_smoothing=self.settings.label_smoothing,
                reduction=self.settings.reduction,
            )
        model.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), self.settings.clip or math.inf)
        # Both are read at once, since this is the only place that waits for the device.
        loss_value, norm_value = torch.stack((loss.detach().float(), norm.float())).tolist()
        return loss_value, norm_value


def _watch(loss: float, norm: float, step: int, batch: Batch, checkpoint: Path) -> None:
    if math.isfinite(loss) and math.isfinite(norm) and loss != 0:
        return
    files = ", ".join(map(str, batch.files))
    good = (
        f"the last good checkpoint is {checkpoint}" if checkpoint.exists() else "there is no checkpoint yet"
    )
    raise Diverged(
        f"train: the loss must be finite and not 0, got {loss} (gradient norm {norm}) at step {step} with "
        f"{files}; {good}; try a lower --lr, a longer --warmup or --dtype float32"
    )


def _claim(folder: Path, resume: bool, overwrite: bool) -> Path:
    """Make the run's folder; keep (`resume`), remove (`overwrite`) or refuse an earlier run in it."""
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(
            f"train: output must be a folder, got the file {folder}; choose another --output"
        )
    existing = [folder / name for name in (CHECKPOINT, FINAL, RESULTS, CURVES) if (folder / name).exists()]
    if overwrite:
        for path in existing:
            path.unlink()
    elif existing and not resume:
        raise FileExistsError(
            f"train: output must not hold a run, got {folder} with "
            f"{', '.join(path.name for path in existing)}; "
            "go on with --resume, replace it with --overwrite, or choose another --output"
        )
    elif (folder / FINAL).exists() and not (folder / CHECKPOINT).exists():
        raise FileExistsError(
            f"train: output to resume must hold {CHECKPOINT}, got {folder} with only {FINAL}; "
            "start from its weights with --weights, in another --output"
        )
    folder.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder / CHECKPOINT)
    return folder


@contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """Yield an event that SIGINT and SIGTERM set; a second signal interrupts at once."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield stop
        return

    def request(number: int, frame: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        # Unlike print, os.write may be called while the interrupted code is itself printing.
        os.write(2, b"stopping after this step, with a checkpoint; once more stops at once, without it\n")

    previous = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


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
