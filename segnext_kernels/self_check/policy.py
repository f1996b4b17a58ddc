"""Decides which kernels are checked and when, and which of them `auto` may use."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch

from segnext_kernels.kernel import KERNELS
from segnext_kernels.self_check import process, verdicts
from segnext_kernels.self_check.verdicts import Subject, Verdict

VARIABLE = "SEGNEXT_SELF_CHECK"
GPU_BACKENDS = ("cuda", "triton")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)

# (device's index, op, backend, dtype) -> why this process does not use the kernel, or None if it may
_known: dict[tuple[int, str, str, torch.dtype], str | None] = {}
_warned: set[int] = set()


def is_wanted() -> bool:
    """Whether `auto` waits for the self-check: unless SEGNEXT_SELF_CHECK is 0."""
    value = os.environ.get(VARIABLE) or "1"
    if value not in ("0", "1"):
        raise ValueError(f"{VARIABLE} must be 0 or 1, got {value!r}")
    return value == "1"


def distrusted(op: str, backend: str, args: tuple[Any, ...]) -> str | None:
    """Why `auto` must not use this kernel for these arguments; None if it may.

    The first call that wants a CUDA kernel checks those of its dtype and direction together, since starting a process
    takes longer than comparing a kernel. Prediction thus waits for no backward, and nobody for dtypes that they do not
    use. Triton's kernels must be compiled for the check: those that stand beside a CUDA kernel, which is mostly taken,
    are checked one by one when they are first wanted. Of the others those for inference alone are checked together:
    a deployed model wants all of them.
    """
    if backend not in GPU_BACKENDS:
        return None
    x = next((a for a in args if isinstance(a, torch.Tensor)), None)
    if x is None or x.device.type != "cuda":
        return None
    key = (x.get_device(), op, backend, x.dtype)
    if key not in _known:
        _known[key] = _reason(x.get_device(), Subject(op, backend, x.dtype)) if is_wanted() else None
    return _known[key]


def subjects(backends: Iterable[str] = GPU_BACKENDS) -> list[Subject]:
    """Every kernel for a GPU, in each of `DTYPES` that it takes."""
    from segnext_kernels.spec import all_specs  # importing it takes 5 ms, and few processes need it

    ops = [op for name in all_specs() for op in (name, f"{name}_backward") if op in KERNELS]
    return [
        Subject(op, backend, dtype)
        for backend in backends
        for op in ops
        if backend in KERNELS[op]
        for dtype in DTYPES
        if dtype in (KERNELS[op][backend].dtypes or DTYPES)
    ]


def remembered(device: int) -> dict[Subject, Verdict]:
    """The known verdicts on this device's kernels."""
    return verdicts.read(verdicts.path_of(device))


def check_device(
    device: int,
    again: bool = False,
    advance: Callable[[int, Subject, Verdict], None] = lambda total, subject, verdict: None,
) -> dict[Subject, Verdict]:
    """Check the kernels without a verdict on one device, or all if ``again``; return all verdicts.

    Args:
        advance: called after each kernel with the number of kernels to check, this kernel and its verdict.

    Raises:
        process.NotChecked: no process could be started, or it cannot use the device.
    """
    with verdicts.lock(verdicts.path_of(device)):
        known = {} if again else remembered(device)
        found = _found(device, [subject for subject in subjects() if subject not in known], advance)
    _known.clear()
    return {**known, **found}


def _reason(device: int, subject: Subject) -> str | None:
    path = verdicts.path_of(device)
    verdict = verdicts.read(path).get(subject)
    if verdict is None:
        with verdicts.lock(path):  # if there are several processes, one checks and the others read
            known = verdicts.read(path)
            verdict = known.get(subject)
            if verdict is None:
                wanted = [other for other in _together(subject) if other not in known]
                print(
                    f"segnext: comparing {subject}{f' and {len(wanted) - 1} more kernels' if wanted[1:] else ''} with "
                    f"the definition on GPU {device}, once for this driver and build ({VARIABLE}=0 skips it)",
                    file=sys.stderr,
                )
                try:
                    verdict = _found(device, wanted).get(subject)
                except process.NotChecked as error:
                    return _not_checked(device, error)
    if verdict is None:
        return "was not among the kernels of the self-check"
    return None if verdict.agrees else f"failed the self-check on this machine: {verdict.reason}"


def _together(subject: Subject) -> list[Subject]:
    """The kernels that are checked in one process when this one is wanted; it comes first."""

    def kind(each: Subject) -> tuple[Any, ...]:
        has_cuda = "cuda" in KERNELS[each.op]
        is_trained = each.is_backward or f"{each.op}_backward" in KERNELS
        return each.dtype, each.is_backward, has_cuda, is_trained and not has_cuda

    is_spare = subject.backend == "triton" and "cuda" in KERNELS[subject.op]
    others = [] if is_spare else subjects([subject.backend])
    return [subject, *(other for other in others if kind(other) == kind(subject) and other != subject)]


def _found(
    device: int,
    wanted: list[Subject],
    advance: Callable[[int, Subject, Verdict], None] = lambda total, subject, verdict: None,
) -> dict[Subject, Verdict]:
    """Check these kernels. Each verdict is kept as it comes, so a check that is killed halfway loses nothing."""
    path = verdicts.path_of(device)
    found = {}
    for subject, verdict in process.verdicts_of(f"cuda:{device}", wanted):
        found[subject] = verdict
        verdicts.add(path, subject, verdict)
        advance(len(wanted), subject, verdict)
    return found


def _not_checked(device: int, error: process.NotChecked) -> str:
    reason = f"could not be checked on this machine: {error}; {VARIABLE}=0 trusts the kernels unchecked"
    if device not in _warned:
        _warned.add(device)
        warnings.warn(f"segnext: GPU kernels are not used: {reason}", RuntimeWarning, stacklevel=2)
    return reason
