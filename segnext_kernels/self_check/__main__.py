"""The child: `python -m segnext_kernels.self_check DEVICE RESULTS "OP BACKEND DTYPE" ...`.

Writes a line when a kernel begins and one with its verdict, so that the parent knows which one ended this process.
"""

from __future__ import annotations

import json
import os
import sys

import torch

from segnext_kernels.self_check.agreement import verdict_on
from segnext_kernels.self_check.verdicts import Subject


def main(device: str, results: str, *subjects: str) -> None:
    """Check each of ``subjects`` on ``device``; lines of JSON go to the file ``results``."""
    place = torch.device(device)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    # torch.empty gives NaN: an element that a kernel leaves unwritten is seen
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True  # type: ignore[attr-defined]
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.ones(1, device=place).sum().item()  # a device that cannot be used is no kernel's fault
    with open(results, "a") as file:

        def tell(text: str, verdict: dict[str, object] | None) -> None:
            file.write(json.dumps([text, verdict]) + "\n")
            file.flush()

        for text in subjects:
            tell(text, None)
            tell(text, vars(verdict_on(Subject.of(text), place)))


if __name__ == "__main__":
    main(*sys.argv[1:])
