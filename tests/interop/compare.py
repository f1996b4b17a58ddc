"""Compares segnext's outputs with those of the code that wrote a file, and sends the weights back."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from segnext.create import build_from_weights
from segnext.models import SegNeXt, dialects
from segnext.weights.peers import save_for
from tests.interop.environments import ENVIRONMENTS, RUNNERS, Environment
from tests.interop.runners import common

# Both sides compute in float32, in another order.
ALLOWED = 1e-5


@dataclass(frozen=True)
class Case:
    """One model of one peer.

    Attributes:
        environment: a key of ``ENVIRONMENTS``.
        name: of the case, for the table.
        size: of the model.
        changes: to the peer's own configuration, as its runner understands them.
        to: the naming in which the weights go back; "" if there is none.
        fields: of segnext's configuration that the file must give.
    """

    environment: str
    name: str
    size: str
    changes: dict[str, Any]
    to: str
    fields: dict[str, Any]


@dataclass(frozen=True)
class Result:
    """What was found: relative errors over all images, and the share of pixels with another class.

    Attributes:
        case: what ran.
        logits: largest difference at H/8, relative to the largest logit.
        full: the same at the images' size.
        mask: share of pixels whose class differs.
        back: the same as ``full`` after the peer read segnext's file; None if it takes none.
        problems: what is wrong, in words.
    """

    case: Case
    logits: float
    full: float
    mask: float
    back: float | None
    problems: list[str]


def relative_error(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Return the largest difference, relative to the largest value of the peer's.

    Raises:
        AssertionError: a side is not finite, or the shapes differ.
    """
    assert ours.shape == theirs.shape, f"shapes are {ours.shape} and {theirs.shape}"
    assert np.isfinite(ours).all() and np.isfinite(theirs).all(), "a side is not finite"
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def mask_difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Return the share of pixels whose largest logit belongs to another class; one logit is judged by its sign."""
    classes = [full.argmax(1) if full.shape[1] > 1 else full > 0 for full in (ours, theirs)]
    return float((classes[0] != classes[1]).mean())


def run(case: Case, environments: Path, folder: Path) -> Result:
    """Let the peer write a file, read it here, compare, write it back and let the peer read it."""
    environment = ENVIRONMENTS[case.environment]
    folder.mkdir(parents=True)
    (folder / "task.json").write_text(json.dumps({"size": case.size, "changes": case.changes}))
    _call(environment, environments, "write", folder)
    (path,) = (p for p in folder.glob("peer.*") if p.suffix != ".npz")
    model, report = build_from_weights(path)
    model.eval()
    assert isinstance(model, SegNeXt)
    problems = [
        f"{name} must be {value}, got {getattr(model.config, name)}"
        for name, value in case.fields.items()
        if getattr(model.config, name) != value
    ]
    if any(name.endswith(dialects.BASES) for name in report.missing):  # Geti keeps its bases in the file
        bases = common.bases(model.config.decoder_channels, model.config.rank)
        model.decoder.hamburger.bases.copy_(torch.from_numpy(bases))
    ours, theirs = _outputs(model), _stored(folder / "peer.npz")
    logits = max(relative_error(a[0], b[0]) for a, b in zip(ours, theirs, strict=True))
    full = max(relative_error(a[1], b[1]) for a, b in zip(ours, theirs, strict=True))
    mask = max(mask_difference(a[1], b[1]) for a, b in zip(ours, theirs, strict=True))
    back = None
    if case.to:
        save_for(model, folder / f"back{environment.suffix}", case.to)
        _call(environment, environments, "read", folder)
        returned = _stored(folder / "back.npz")
        back = max(relative_error(a[1], b[1]) for a, b in zip(returned, theirs, strict=True))
    for name, error in (("logits", logits), ("full", full), ("back", back or 0.0)):
        if error > ALLOWED:
            problems.append(f"{name} differ by {error:.1e}, above {ALLOWED:.0e}")
    return Result(case, logits, full, mask, back, problems)


def _outputs(model: SegNeXt) -> list[tuple[np.ndarray, np.ndarray]]:
    with torch.no_grad():
        return [
            (model.forward_logits(image).numpy(), model(image).numpy())
            for image in map(torch.from_numpy, common.images(model.config.in_channels))
        ]


def _stored(path: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    arrays = np.load(path)
    return [(arrays[f"small{index}"], arrays[f"full{index}"]) for index in range(len(common.SIZES))]


def _call(environment: Environment, environments: Path, action: str, folder: Path) -> None:
    python = environments / environment.name / "bin" / "python"
    done = subprocess.run(
        [python, RUNNERS / f"{environment.runner}.py", action, folder], capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"{environment.name}: {action} failed: {done.stderr[-2000:]}")
