"""Compares the losses of training with our kernels and in plain PyTorch.

`python -m bench.loss_curve --data camvid/` trains SegNeXt-T from the same weights on the same batches with the same
random bases, three times: with our kernels, in plain PyTorch, and in plain PyTorch with another number of threads.
Training amplifies rounding, so the last two drift apart too: their gap is the noise against which ours is judged. It
writes a JSON and a PNG under bench/results/<machine>/loss_curve/.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from bench import machine
from bench.models.training import Loss, Training, model_loss, plain_loss
from bench.report import OTHER_COLOUR, OURS_COLOUR, PEER_COLOURS
from bench.results import FOLDER, OURS
from oracle.inputs import in_layout
from segnext import create_model
from segnext.data.batches import TrainingBatches
from segnext.data.config import load_data_config
from segnext.data.preprocessing import Preprocessing
from segnext.data.transforms import Augmentation
from segnext.models import SegNeXt, dialects

EAGER, NOISE = "eager", "eager, other threads"
TAIL = 20  # the mean loss is reported for this many last steps
LEARNING_RATE = 3e-4  # it is constant, and small enough from the first step on


def build(classes: int) -> SegNeXt:
    """Build T without dropout and drop path, for which the two sides would draw different random numbers."""
    torch.manual_seed(0)
    overrides = {"num_classes": classes, "drop_path": 0.0, "decoder_dropout": 0.0}
    return cast(SegNeXt, create_model("segnext_t", **overrides))


def ours(classes: int) -> tuple[dict[str, Tensor], Loss]:
    """Return parameters and loss of our model."""
    return model_loss(build(classes).to(memory_format=torch.channels_last))  # type: ignore[call-overload]


def plain(classes: int) -> tuple[dict[str, Tensor], Loss]:
    """Return the same weights in plain PyTorch, channels_last."""
    model = build(classes)
    return plain_loss(in_layout(dialects.to_official(model.state_dict()), torch.channels_last), model)


def losses(
    name: str, made: tuple[dict[str, Tensor], Loss], batches: Iterator[tuple[Tensor, Tensor]], steps: int
) -> list[float]:
    """Return the loss of each step."""
    parameters, loss = made
    training = Training(parameters, lambda: loss(*next(batches)), LEARNING_RATE)
    start = time.perf_counter()
    for step in range(1, steps + 1):
        training.step()
        if step % 10 == 0 or step == steps:
            seconds = (time.perf_counter() - start) / step
            print(f"{name}: step {step} of {steps}, loss {training.losses[-1]:.4f}, {seconds:.2f} s a step")
    return training.losses


def run(batch: Callable[[int], tuple[Tensor, Tensor]], classes: int, steps: int) -> dict[str, list[float]]:
    """Return the loss curves of the three runs.

    Args:
        batch: gives images and labels of a step, the same at every call.
        classes: number of classes in the labels.
        steps: number of steps per run.
    """
    threads = torch.get_num_threads()
    curves = {}
    try:
        for name, make in ((OURS, ours), (EAGER, plain), (NOISE, plain)):
            torch.set_num_threads(threads if name != NOISE else threads - 1 or 2)
            curves[name] = losses(name, make(classes), map(batch, range(steps)), steps)
    finally:
        torch.set_num_threads(threads)
    return curves


def gap(curve: Sequence[float], other: Sequence[float]) -> float:
    """Return the largest difference of two curves at the same step."""
    return max(abs(a - b) for a, b in zip(curve, other, strict=True))


def summary(curves: dict[str, list[float]]) -> dict[str, Any]:
    """Return the gap of ours to eager, the noise, their ratio (None without noise), the mean loss of the last steps."""
    ours_gap, noise = gap(curves[OURS], curves[EAGER]), gap(curves[NOISE], curves[EAGER])
    return {
        "largest_gap": ours_gap,
        "largest_noise": noise,
        "gap_of_noise": ours_gap / noise if noise else None,
        "last_losses": {name: statistics.fmean(curve[-TAIL:]) for name, curve in curves.items()},
    }


def plot(curves: dict[str, list[float]], path: Path) -> None:
    """Draw the curves above and their distance to eager below, into a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    colours = {OURS: OURS_COLOUR, EAGER: PEER_COLOURS[EAGER], NOISE: OTHER_COLOUR}
    figure, (above, below) = plt.subplots(2, sharex=True, figsize=(9, 6), layout="constrained")
    for name, curve in curves.items():
        steps = range(1, len(curve) + 1)
        above.plot(steps, curve, label=name, color=colours[name], linewidth=1)
        if name != EAGER:
            distance = [abs(a - b) for a, b in zip(curve, curves[EAGER], strict=True)]
            below.plot(steps, distance, label=f"{name} - eager", color=colours[name], linewidth=1)
    above.set_ylabel("loss")
    below.set_ylabel("distance of the losses")
    below.set_yscale("log")
    below.set_xlabel("step")
    for axes in (above, below):
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `python -m bench.loss_curve`."""
    parser = argparse.ArgumentParser(prog="python -m bench.loss_curve", description=__doc__)
    parser.add_argument(
        "--data", type=Path, required=True, help="folder of CamVid: images/train, labels/train"
    )
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=6)
    parser.add_argument("--crop", type=int, default=224)
    parser.add_argument("--results", type=Path, default=FOLDER, help="folder of the machines' results")
    options = parser.parse_args(arguments)
    data = load_data_config("camvid", options.data)
    augmentation = Augmentation(options.crop, ignore_index=data.ignore_index)
    source = TrainingBatches(data.open("train"), augmentation, options.batch, seed=0)

    def batch(step: int) -> tuple[Tensor, Tensor]:
        drawn = source.batch(step)
        return drawn.normalised(Preprocessing()), drawn.labels.long()

    curves = run(batch, len(data.classes), options.steps)
    found = summary(curves)
    host = machine.describe()
    folder = options.results / host["slug"] / "loss_curve"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{host['date'][:10]}-{host['commit'].rstrip('+')}.json"
    settings = {key: getattr(options, key) for key in ("steps", "batch", "crop")}
    path.write_text(json.dumps({"machine": host, "settings": settings, **found, "losses": curves}) + "\n")
    plot(curves, path.with_suffix(".png"))
    ratio = "" if found["gap_of_noise"] is None else f", {found['gap_of_noise']:.2f} of it"
    print(f"largest gap to eager {found['largest_gap']:.2e}, noise {found['largest_noise']:.2e}{ratio}")
    print(f"mean loss of the last {TAIL} steps: {found['last_losses']}")
    print(f"wrote {path} and {path.with_suffix('.png').name}")


if __name__ == "__main__":
    main()
