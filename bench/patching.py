"""Measures `segnext.patch` on networks that other projects build: `python -m bench.patching`.

Each network is patched with a comparison of outputs and gradients before and after. Then the patched one, the one as it
was (in both memory formats) and, for SegNeXt, our own model of that size take turns: without gradients, and in a
training step, whose peak memory is measured in processes of their own. It writes a JSON under
bench/results/<machine>/patching/; `make readme` makes docs/patching.md of it.

The networks follow the public code (`oracle.foreign_models`). mmsegmentation's are the real ones, where the package is
installed (docs/rivals.md has the environment); without it, these rows are left out.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from bench import fresh_process, machine, report, results, roofline
from bench.peers import Run
from bench.results import OURS, Row, Timing
from oracle import foreign_models
from segnext import create_model, patch
from segnext.measure.timing import interleaved, turn
from segnext.models import SegNeXt

EAGER, CHANNELS_LAST, OWN = "eager", "eager channels_last", "segnext's own model"
INFERENCE, TRAINING = "patched, without gradients", "patched, training step"
CLASSES = 150
IGNORED = 255
TRAINED_ON = (4, 256)  # images, side


@dataclass(frozen=True)
class Subject:
    """A network that is patched.

    Attributes:
        name: as in the tables.
        build: makes it, with random weights.
        shape: images and side of the inference.
        step: gets the network, images and labels (N, H, W), and returns the loss.
        own: the size of our model that computes the same.
        package: which must be installed.
    """

    name: str
    build: Callable[[], nn.Module]
    shape: tuple[int, int]
    step: Callable[[nn.Module, Tensor, Tensor], Tensor]
    own: str | None = None
    package: str | None = None

    def is_there(self) -> bool:
        """Whether its package is installed."""
        return self.package is None or importlib.util.find_spec(self.package) is not None


def segmentation_loss(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy at the labels' size, as training loops write it in PyTorch."""
    logits = F.interpolate(model(images), labels.shape[1:], mode="bilinear")
    return F.cross_entropy(logits, labels, ignore_index=IGNORED)


def loss_of_openmmlab(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """The losses of mmsegmentation's own training step."""
    samples = [SimpleNamespace(gt_sem_seg=SimpleNamespace(data=label[None])) for label in labels]
    losses = model.model.loss(images, samples)  # type: ignore[operator,union-attr]
    return sum(value for name, value in losses.items() if "loss" in name)  # type: ignore[no-any-return]


def loss_of_outputs(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """The mean of all outputs' squares, for networks whose heads are not of this comparison."""
    outputs = [t.square().mean() for t in tree_leaves(model(images)) if isinstance(t, Tensor)]
    return torch.stack(outputs).sum()


def _openmmlab(size: str) -> nn.Module:
    from bench.rivals.networks import openmmlab

    config = f"segnext/segnext_mscan-{size}_1xb16-adamw-160k_ade20k-512x512"
    return openmmlab(CLASSES, 512, 512, config)


SUBJECTS = (
    *(
        Subject(
            f"mmsegmentation, SegNeXt-{size.upper()}",
            partial(_openmmlab, size),
            (1, 512),
            loss_of_openmmlab,
            size,
            "mmseg",
        )
        for size in "tb"
    ),
    Subject(
        "official code, SegNeXt-T",
        partial(foreign_models.segnext, "t", CLASSES),
        (1, 512),
        segmentation_loss,
        "t",
    ),
    Subject("two Hamburgers on MSCAN-B (GeoCalib)", foreign_models.TwoHeads, (1, 320), loss_of_outputs),
    Subject("VAN-B0", foreign_models.van, (8, 224), loss_of_outputs),
    Subject("LSKNet-T", foreign_models.lsknet, (1, 512), loss_of_outputs),
)


def batch(images: int, side: int, layout: torch.memory_format) -> tuple[Tensor, Tensor]:
    """Draw normalised images and labels."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(images, 3, side, side, generator=generator).contiguous(memory_format=layout)
    labels = torch.randint(CLASSES, (images, side, side), generator=generator)
    labels[:, :8] = IGNORED
    return x, labels


def training_run(model: nn.Module, subject: Subject, layout: torch.memory_format) -> Run:
    """Return a training step without the optimiser."""
    images, labels = batch(*TRAINED_ON, layout)

    def run() -> None:
        model.zero_grad(set_to_none=True)
        loss = (
            model.loss(images, labels) if isinstance(model, SegNeXt) else subject.step(model, images, labels)
        )
        loss.backward()

    return run


def step_of(name: str, variant: str) -> Run:
    """Build one variant of a network, and return its training step; for a process of its own."""
    subject = next(one for one in SUBJECTS if one.name == name)
    model = create_model(f"segnext_{subject.own}") if variant == OWN else subject.build()
    layout = torch.channels_last if variant == CHANNELS_LAST else torch.contiguous_format
    if variant == OURS:
        patch(model)
    return training_run(model.to(memory_format=layout).train(), subject, layout)


def measure(subject: Subject, seconds: float) -> list[Row]:
    """Patch a network with comparison, and time it before and after."""
    torch.manual_seed(0)
    models = {EAGER: subject.build()}
    models[OURS] = copy.deepcopy(models[EAGER])
    models[CHANNELS_LAST] = copy.deepcopy(models[EAGER]).to(memory_format=torch.channels_last)
    images = batch(2, 128, torch.contiguous_format)[0]
    found = patch(models[OURS], verify=images)
    if subject.own is not None:
        models[OWN] = create_model(f"segnext_{subject.own}")
    notes: dict[str, Any] = {
        "patched": len(found.patched),
        "left": len(found.left),
        "output": max(one.output for one in found.agreements),
        "gradient": max(one.gradient for one in found.agreements),
        "gradient in float64": gradient_in_float64(models[EAGER], images[..., ::2, ::2]),
    }
    layouts = {
        name: torch.channels_last if name == CHANNELS_LAST else torch.contiguous_format for name in models
    }
    runs = {
        name: partial(_forward, model.eval(), batch(*subject.shape, layouts[name])[0])
        for name, model in models.items()
    }
    with torch.inference_mode():
        rows = [_row(INFERENCE, subject.name, runs, seconds, notes)]
    steps = {name: training_run(model.train(), subject, layouts[name]) for name, model in models.items()}
    fresh = {
        name: fresh_process.measure(step_of, subject.name, name, calls=3).as_json() for name in (OURS, EAGER)
    }
    rows.append(_row(TRAINING, subject.name, steps, seconds, {"fresh": fresh}))
    return rows


def gradient_in_float64(model: nn.Module, images: Tensor) -> float:
    """The largest relative difference of gradients in float64, which no ReLU's jump hides."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # of the bases that a Hamburger draws
    try:
        found = patch(copy.deepcopy(model).double(), verify=images.double())
    finally:
        torch.set_default_dtype(before)
    return max(one.gradient for one in found.agreements)


def _forward(model: nn.Module, images: Tensor) -> object:
    return model.forward_logits(images) if isinstance(model, SegNeXt) else model(images)


def _row(table: str, name: str, runs: dict[str, Run], seconds: float, notes: dict[str, Any]) -> Row:
    times = interleaved({variant: turn(run) for variant, run in runs.items()}, seconds, least=3)
    timings = {variant: Timing.of(taken) for variant, taken in times.items()}
    beside = {variant: timings.pop(variant) for variant in [OWN] if variant in timings}
    return Row(table, name, timings, beside, notes=notes)


def tables(run: results.Results) -> str:
    """Return what was measured as two Markdown tables: before and after, and the memory of training."""
    found = run.tables()
    lines = [
        [
            "network",
            "patched",
            "outputs",
            "gradients",
            "in float64",
            *(
                f"{kind}: {name} ms"
                for kind in ("forward", "training")
                for name in (EAGER, "nhwc", "patched")
            ),
            "faster",
            "of our own model's gain",
            "memory of training, MiB",
        ]
    ]
    for row, step in zip(found[INFERENCE], found[TRAINING], strict=True):
        notes = row.notes
        times = [one.times[name].median for one in (row, step) for name in (EAGER, CHANNELS_LAST, OURS)]
        peaks = [step.notes["fresh"][name]["peak_mib"] for name in (EAGER, OURS)]
        memory = "-" if None in peaks else f"{peaks[0]:.0f} -> {peaks[1]:.0f} ({peaks[1] / peaks[0]:.0%})"
        lines.append(
            [
                row.name,
                f"{notes['patched']} of {notes['patched'] + notes['left']}",
                f"{notes['output']:.0e}",
                f"{notes['gradient']:.0e}",
                f"{notes['gradient in float64']:.0e}",
                *(report.number(ms) for ms in times),
                " / ".join(f"{gain(one, EAGER):.2f}x" for one in (row, step)),
                " / ".join("-" if OWN not in one.beside else f"{share(one):.0%}" for one in (row, step)),
                memory,
            ]
        )
    return report.aligned(lines)


def gain(row: Row, peer: str) -> float:
    """How many times faster the patched network is than a peer."""
    return row.times[peer].median / row.times[OURS].median


def share(row: Row) -> float:
    """The speed-up of the patched network over eager PyTorch, as a share of that of our own model."""
    return row.beside[OWN].median / row.times[OURS].median


def main(arguments: Any = None) -> None:
    """Entry point of `python -m bench.patching`."""
    parser = argparse.ArgumentParser(prog="python -m bench.patching", description=__doc__)
    parser.add_argument("only", nargs="*", help="networks whose names hold one of these words; default: all")
    parser.add_argument(
        "--seconds", type=float, default=8.0, help="for each table's row (default: %(default)s)"
    )
    parser.add_argument(
        "--results", type=Path, default=results.FOLDER, help="folder of the machines' results"
    )
    options = parser.parse_args(arguments)
    wanted = [one for one in SUBJECTS if not options.only or any(word in one.name for word in options.only)]
    host, ceilings = machine.describe(), roofline.measure()
    rows, without_number = [], dict[str, str]()
    path = None
    for number, subject in enumerate(wanted, start=1):
        if not subject.is_there():
            without_number[subject.name] = f"{subject.package} is not installed"
            continue
        rows += measure(subject, options.seconds)
        run = results.Results(
            host, ceilings, sorted(rows, key=lambda row: row.table != INFERENCE), without_number
        )
        if path is None:
            path = results.write(run, options.results, "patching")
        else:
            results.save(run, path)  # after each network, so that an interruption loses one
        gains = ", ".join(f"{row.table} {gain(row, EAGER):.2f}x eager" for row in rows[-2:])
        print(f"{number} of {len(wanted)}: {subject.name}: {gains}", flush=True)
    if path is None:
        parser.exit(1, "bench.patching: no network with a number\n")
    print(tables(run))
    print(f"\nstored in {path}")


if __name__ == "__main__":
    main()
