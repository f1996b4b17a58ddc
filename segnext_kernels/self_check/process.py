"""Checks kernels in a separate process: a kernel that ends the process fails the check."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence

from segnext_kernels import isolation
from segnext_kernels.self_check.verdicts import Subject, Verdict

SECONDS = 120  # per kernel: Triton compiles it in every form that its inputs require
CHILD = (sys.executable, "-m", "segnext_kernels.self_check")
NotChecked = isolation.NotStarted  # the check itself did not run, which says nothing about any kernel


def verdicts_of(
    device: str,
    subjects: Sequence[Subject],
    command: Sequence[str] = CHILD,
    environment: Mapping[str, str] | None = None,
    seconds: float = SECONDS,
) -> Iterator[tuple[Subject, Verdict]]:
    """Yield the verdict on each kernel as soon as it is known.

    Args:
        device: such as "cuda:0".
        command: starts the child; it gets the device and the kernels as arguments.
        environment: of the child; default: this process's.
        seconds: the time limit per kernel.

    Raises:
        NotChecked: the child does not start, or ends before its first kernel.
    """
    names = [str(subject) for subject in subjects]
    own = {**(environment or os.environ), "SEGNEXT_SELF_CHECK": "0"}
    for name, result in isolation.outcomes([*command, device], names, seconds=seconds, environment=own):
        ended = isinstance(result, isolation.Ended)
        yield Subject.of(name), Verdict(False, result.reason) if ended else Verdict(**result)
