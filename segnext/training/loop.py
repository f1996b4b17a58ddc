"""Trains a task: one device per process; each step is a function of the seed and the step's number."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import torch
import yaml
from rich.console import Console

from segnext.atomic import at_home
from segnext.data.config import DataConfig
from segnext.device import choose_device
from segnext.evaluation.evaluate import Evaluation
from segnext.evaluation.measures import Result
from segnext.evaluation.together import Images
from segnext.models import SegNeXt
from segnext.predict.inference import Inference
from segnext.ranks import joined_ranks
from segnext.training.divergence import Diverged as Diverged
from segnext.training.events import expect_tensorboard
from segnext.training.folder import CHECKPOINT as CHECKPOINT
from segnext.training.folder import FINAL as FINAL
from segnext.training.folder import RunFolder, expect_free, run_folder
from segnext.training.parts import expect_parts
from segnext.training.run import Run
from segnext.training.segmentation import SegmentationTask
from segnext.training.settings import Reporting, TrainSettings
from segnext.training.start import Start
from segnext.training.task import Task

HUNG = "the last checkpoint stays, go on with --resume"  # what to do when a process hangs


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
) -> Evaluation | None:
    """Train `model` on the `train` split and write the averaged weights to `output`/final.safetensors.

    The folder also gets checkpoint.safetensors (the whole training state), recipe.yaml, results.csv, results.jsonl,
    samples.png, curves.png (if matplotlib is installed) and TensorBoard's events (if asked for). On SIGINT, SIGTERM and
    SIGHUP a checkpoint is written before `KeyboardInterrupt`, and so it is before an error that is not about a step
    itself: an image that cannot be read, a closed terminal.

    Under `torchrun` each process takes its share of every batch and of every evaluation, and the first one writes and
    prints; a signal to one of them stops all after the same step.

    Args:
        model: a model with fresh or pretrained weights and `len(data.classes)` classes.
        data: the data set; its `val` split, if it has one, is evaluated.
        output: the run's folder.
        settings: they determine the result.
        reporting: it does not change the result, but that evaluations end a run early if the settings have patience.
        inference: how images are evaluated; whole, at the data's short side, by default.
        device: the device to train on; "cuda" and "auto" are each process's own GPU.
        resume: go on from the folder's checkpoint (from the start if it has none yet). The result is bit-identical
            to a run that was never interrupted, on the same machine and number of threads and processes.
        overwrite: replace a run that lies in the folder; it stays until the new one has its first checkpoint.
        console: prints the progress; by default on the terminal.

    Returns:
        The final evaluation; None without a `val` split.

    Raises:
        Diverged: the loss is not finite or is 0, or the weights are not finite; the message says whether the last
            checkpoint is good.
        ImportError: reporting asks for what is not installed.
        FileExistsError: another run is at work in the folder, or it holds one, and neither resume nor overwrite is
            set.
        OSError: a file cannot be written; the checkpoint is the last that could.
        RankFailed: another process of the run has failed.
        ValueError: data, settings and model do not fit together; an image or a label is damaged or wrong, see
            `segnext.data.check`; the checkpoint is damaged or of another run.
    """
    task = SegmentationTask(model, data, settings, inference or Inference())
    return train_task(
        task, output, reporting, device=device, resume=resume, overwrite=overwrite, console=console
    )


def train_task(
    task: Task[Images, Result],
    output: str | Path,
    reporting: Reporting,
    *,
    device: torch.device | str = "cpu",
    resume: bool = False,
    overwrite: bool = False,
    console: Console | None = None,
) -> Result | None:
    """Train whatever a task trains; arguments, files, signals and errors are those of `train`."""
    console = console or Console()
    if resume and overwrite:
        raise ValueError("train: resume and overwrite must not both be set, got both; choose one")
    if reporting.tensorboard:
        expect_tensorboard()
    settings, device, output = task.settings, choose_device(device), at_home(output)
    with joined_ranks("train", device, HUNG) as (ranks, device):
        expect_parts(settings.batch_size, settings.crop, settings.accumulate, ranks.count)
        if ranks.is_first:
            expect_free(output, resume, overwrite)  # before the data are read, which can take long
        else:
            console = Console(quiet=True)
        start = Start.of(task, reporting, device, ranks)
        start.check(task, ranks, console)
        # Other processes write nothing: their rows are held back for ever.
        use = (
            run_folder(output, resume, overwrite) if ranks.is_first else nullcontext(RunFolder(output, True))
        )
        with use as folder:
            run = Run(task, start, folder, reporting, ranks, console)
            if resume:
                run.resume()
            run.state.take_from_first(ranks)
            folder.recipe = yaml.safe_dump(start.recipe, sort_keys=False, default_flow_style=None)
            return run.finish(run.steps())
