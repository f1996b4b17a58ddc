"""Calls every op once on small inputs, forward and backward, for a memory checker to watch.

`python -m bench.campaign.checked_calls cuda|triton|cpu [OP ...]` runs under compute-sanitizer, for instance.
"""

from __future__ import annotations

import sys

import torch

from oracle.gradients import with_gradient
from oracle.inputs import in_layout
from segnext_kernels import backend, use_backend
from segnext_kernels.spec import Spec, all_specs

SAMPLES = 3  # the first samples of each op: an ordinary one, one with odd sizes, one more


def call(spec: Spec, name: str, device: str, dtype: torch.dtype) -> int:
    """Call forward and backward by one backend; return the number of inputs that the backend takes."""
    taken = 0
    for sample in spec.samples[:SAMPLES]:
        for layout in (torch.contiguous_format, torch.channels_last):
            args = in_layout(sample.make(dtype, device), layout)
            kernel = backend.KERNELS[spec.name].get(name)
            if kernel is None or kernel.reason_against(*args) is not None:
                continue
            fresh, leaves = with_gradient(spec, args)
            with use_backend(name):
                out = spec.call(*fresh)
                if leaves and name in backend.KERNELS[f"{spec.name}_backward"]:
                    torch.autograd.grad(out, leaves, torch.ones_like(out))
            taken += 1
    return taken


def main(name: str, *ops: str) -> None:
    """Call the named ops, or all if none is named."""
    device = "cpu" if name in ("cpu", "reference") else "cuda"
    for spec in (spec for op, spec in all_specs().items() if not ops or op in ops):
        for dtype in (torch.float32, torch.bfloat16):
            taken = call(spec, name, device, dtype)
            if device == "cuda":
                torch.cuda.synchronize()
            print(f"{spec.name}, {dtype}: {taken} inputs", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
