"""Compares a training that was killed with one that was not, bit for bit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import safe_open

from segnext.training.loop import CHECKPOINT, FINAL
from tools.kill_and_resume.losses import Step


def differences(
    whole: Path, killed: Path, whole_steps: Sequence[Step], sessions: Sequence[Sequence[Step]]
) -> list[str]:
    """Return a line for whatever differs; none if losses and tensors are equal in all bits.

    Args:
        whole: folder of the run without a stop.
        killed: folder of the other.
        whole_steps: the exact losses of the former.
        sessions: the exact losses of each process of the latter, steps that were done again included.
    """
    found = _of_losses(whole_steps, sessions)
    for name in (CHECKPOINT, FINAL):
        found += [f"{name}: {key}" for key in _of_tensors(whole / name, killed / name)]
    return found


def count_tensors(folder: Path) -> int:
    """Return how many tensors the final files of a run have."""
    return sum(len(_keys(folder / name)) for name in (CHECKPOINT, FINAL))


def _of_losses(whole: Sequence[Step], sessions: Sequence[Sequence[Step]]) -> list[str]:
    expected = {step.number: step.loss.hex() for step in whole}
    done = {step.number for steps in sessions for step in steps}
    found = [f"step {number} was done by one run alone" for number in sorted(done ^ expected.keys())]
    found += [
        f"loss of step {step.number}: {step.loss!r} in process {number} instead of {expected[step.number]}"
        for number, steps in enumerate(sessions)
        for step in steps
        if step.loss.hex() != expected.get(step.number, step.loss.hex())
    ]
    return found


def _of_tensors(first: Path, second: Path) -> list[str]:
    """Return the names of tensors that differ in a bit, in shape or in type, or that one file lacks."""
    keys = _keys(first) | _keys(second)
    if _keys(first) != _keys(second):
        return sorted(key for key in keys if key not in _keys(first) or key not in _keys(second))
    with safe_open(first, framework="pt") as mine, safe_open(second, framework="pt") as theirs:
        return sorted(key for key in keys if not _same(mine.get_tensor(key), theirs.get_tensor(key)))


def _same(mine: torch.Tensor, theirs: torch.Tensor) -> bool:
    if mine.shape != theirs.shape or mine.dtype != theirs.dtype:
        return False
    # As bytes: torch.equal takes -0 for 0, and NaN for different from itself.
    return torch.equal(*(tensor.reshape(-1).view(torch.uint8) for tensor in (mine, theirs)))


def _keys(path: Path) -> set[str]:
    with safe_open(path, framework="pt") as file:
        return set(file.keys())
