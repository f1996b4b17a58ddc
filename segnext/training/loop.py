"""The training loop: one process, one device, every step a function of the seed and the step's number."""

from __future__ import annotations

import math
import os
import platform
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from segnext.data.batches import Batch, TrainingBatches
from segnext.data.dataset import DataConfig
from segnext.data.preprocessing import MEAN, STD, normalise
from segnext.data.transforms import Augmentation
from segnext.evaluation.evaluate import Evaluation, evaluate
from segnext.models import SegNeXt
from segnext.training.checkpoint import TrainingState
from segnext.training.ema import AveragedModel
from segnext.training.log import CURVES, RESULTS, RunLog
from segnext.training.optimiser import learning_rate_factor, parameter_groups, set_learning_rate
from segnext.training.settings import PRECISIONS, Reporting, TrainSettings
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

    Also written: checkpoint.safetensors (the whole training state), results.csv, curves.png (where
    matplotlib is installed). On SIGINT and SIGTERM a checkpoint is written before `KeyboardInterrupt`.

    Args:
        model: with fresh or pretrained weights and `len(data.classes)` classes.
        data: the data set; its `val` split, if it has one, is evaluated.
        output: the run's folder.
        settings: what determines the result.
        reporting: what does not.
        device: where to train.
        resume: go on from the folder's checkpoint (from the start if it has none yet): bit-identical to a
            run that was never interrupted, on the same machine and number of threads.
        overwrite: a run that lies in the folder may be replaced.
        console: where to print; by default the terminal.

    Returns:
        The final evaluation, None without a `val` split.

    Raises:
        Diverged: see there; the last checkpoint is good.
        FileExistsError: the folder holds a run, and neither resume nor overwrite is set.
        ValueError: data, settings and model do not fit together; the checkpoint is of another run.
    """
    console = console or Console()
    if resume and overwrite:
        raise ValueError("train: resume and overwrite must not both be set, got both; choose one")
    if model.config.num_classes != len(data.classes):
        raise ValueError(
            f"train: num_classes of the model must be {len(data.classes)} for {data.name}, "
            f"got {model.config.num_classes}"
        )
    training_set = data.open("train")
    validation_set = data.open("val") if "val" in data.splits else None
    augmentation = Augmentation(
        settings.crop,
        settings.scale,
        flip=settings.flip,
        distort=settings.distort,
        ignore_index=data.ignore_index,
    )
    device = torch.device(device)
    torch.manual_seed(settings.seed)
    model.to(device=device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    groups = parameter_groups(model, settings.lr, settings.weight_decay, settings.head_lr_multiplier)
    optimiser = torch.optim.AdamW(groups, betas=(0.9, 0.999), fused=True)
    recipe = settings.as_json() | {
        "data": data.name,
        "images": len(training_set),
        "architecture": model.config.architecture,
    }
    class_weight = training_set.class_weights(settings.balance).to(device) if settings.balance else None
    state = TrainingState(model, AveragedModel(model, settings.ema), optimiser, recipe)
    folder = _prepare(Path(output), resume, overwrite)
    if resume:
        if (folder / CHECKPOINT).exists():
            state.restore(folder / CHECKPOINT)
        console.print(f"resuming at step {state.step} of {settings.steps}", highlight=False)

    def validate() -> Evaluation | None:
        if validation_set is None:
            return None
        precision = PRECISIONS[settings.precision]
        return evaluate(state.average.model, validation_set, device=device, precision=precision)

    batches = TrainingBatches(training_set, augmentation, settings.batch_size, settings.seed)
    evaluation: Evaluation | None = None
    with (
        RunLog(folder, settings.steps, state.step, reporting.log_every, state.losses, console) as log,
        _stop_signals() as stop,
    ):
        clock = time.perf_counter()
        for batch in batches.iterate(state.step, settings.steps, reporting.workers):
            factor = learning_rate_factor(state.step, settings.steps, settings.warmup, settings.schedule)
            set_learning_rate(optimiser.param_groups, factor)
            loss = _step(state, batch, settings, data.ignore_index, class_weight, folder / CHECKPOINT)
            seconds = time.perf_counter() - clock
            state.seconds += seconds
            log.training(state.step, loss, settings.lr * factor, settings.batch_size, seconds)
            last = state.step == settings.steps
            if last or _due(state.step, reporting.eval_every):
                evaluation = validate()
                if evaluation is not None:
                    confusion = evaluation.confusion
                    log.evaluation(state.step, confusion.miou, confusion.pixel_accuracy, evaluation.seconds)
            if last or stop.is_set() or _due(state.step, reporting.checkpoint_every):
                state.save(folder / CHECKPOINT)
            if stop.is_set() and not last:
                log.note(f"stopped at step {state.step}; go on with --resume")
                raise KeyboardInterrupt
            clock = time.perf_counter()
    evaluation = evaluation or validate()  # resumed after the last step: nothing was left to train
    recipe = recipe | {"seconds": round(state.seconds), "finished": _today(), **_versions(device)}
    metrics = evaluation.summary(data.classes) if evaluation else {}
    save(state.average.model, folder / FINAL, _metadata(data, recipe, metrics))
    return evaluation


def _step(
    state: TrainingState,
    batch: Batch,
    settings: TrainSettings,
    ignore_index: int,
    class_weight: torch.Tensor | None,
    checkpoint: Path,
) -> float:
    """One optimiser step; its loss, or NaN for a batch that, by chance, has nothing to learn from."""
    loss = math.nan
    if bool((batch.labels != ignore_index).any()):
        loss, norm = _gradients(state.model, batch, settings, ignore_index, class_weight)
        _watch(loss, norm, state.step, batch, checkpoint)
        state.optimiser.step()
        state.average.update(state.model, state.step)
    state.step += 1
    return loss


def _gradients(
    model: SegNeXt,
    batch: Batch,
    settings: TrainSettings,
    ignore_index: int,
    class_weight: torch.Tensor | None,
) -> tuple[float, float]:
    """Leave a batch's clipped gradients in the model; its loss and the gradient's norm before clipping."""
    device = next(model.parameters()).device
    precision = PRECISIONS[settings.precision]
    with torch.autocast(device.type, precision, enabled=precision != torch.float32):
        loss = model.loss(
            normalise(batch.images, device=device),
            batch.labels.to(device),
            ignore_index=ignore_index,
            class_weight=class_weight,
            label_smoothing=settings.label_smoothing,
            reduction=settings.reduction,
        )
    model.zero_grad(set_to_none=True)
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip or math.inf)
    # Both at once: the device is waited for only here.
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
        f"{files}; {good}; try a lower --lr, a longer --warmup or --precision float32"
    )


def _prepare(folder: Path, resume: bool, overwrite: bool) -> Path:
    """Make the run's folder; what an earlier run left there is kept, removed or refused."""
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
    return folder


@contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set; a second signal interrupts at once."""
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


def _metadata(data: DataConfig, recipe: dict[str, Any], metrics: dict[str, object]) -> dict[str, Any]:
    preprocessing: dict[str, Any] = {"mean": list(MEAN), "std": list(STD)}
    if data.short_side is not None:
        preprocessing["short_side"] = data.short_side
    return {
        "classes": list(data.classes),
        "palette": [list(colour) for colour in data.palette],
        "preprocessing": preprocessing,
        "recipe": recipe,
        "metrics": metrics,
    }
