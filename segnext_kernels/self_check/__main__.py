"""The child: `python -m segnext_kernels.self_check DEVICE "OP BACKEND DTYPE" ...`."""

from __future__ import annotations

import os
import sys
from functools import partial

import torch

from segnext_kernels import isolation
from segnext_kernels.self_check.agreement import verdict_on
from segnext_kernels.self_check.verdicts import Subject


def main(device: str, *subjects: str) -> None:
    """Check each of ``subjects`` on ``device`` and report its verdict."""
    place = torch.device(device)
    torch.backends.cuda.matmul.allow_tf32 = False
    # cuDNN loads and plans for each shape anew, and a user waits; PyTorch's own convolutions begin at once
    torch.backends.cudnn.enabled = False
    # torch.empty gives NaN, so an element that a kernel leaves unwritten is detected
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True  # type: ignore[attr-defined]
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.ones(1, device=place).sum().item()  # a device that cannot be used is not a kernel's fault
    isolation.report((text, partial(_verdict, text, place)) for text in subjects)


def _verdict(text: str, device: torch.device) -> dict[str, object]:
    return vars(verdict_on(Subject.of(text), device))


if __name__ == "__main__":
    main(*sys.argv[1:])
