"""Times a kernel after a check: ours and eager PyTorch take turns as CUDA graphs, so the device runs without Python."""

from __future__ import annotations

from typing import Any

import torch

from bench.campaign import modelled
from bench.campaign.cases import Case, Kernel, agreement
from bench.campaign.record import as_json
from bench.clock import Clock
from bench.results import OURS, Row, Timing

SECONDS = 0.15  # of rounds, per workload
EAGER = "eager channels_last"


def times(job: str, dry_run: bool, seconds: float) -> dict[str, Any]:
    """Time one kernel on one input in bfloat16; the job names the kernel and the input."""
    *words, shape = job.split()
    kernel = Kernel(*words)
    device, dtype = (
        (torch.device("cpu"), torch.float32) if dry_run else (torch.device("cuda"), torch.bfloat16)
    )
    case = Case.of(kernel, shape, dtype, device)
    is_good, errors = agreement(case)
    if not is_good:
        return {"ok": False, "says": f"no time: {errors}"[:300]}
    clock = Clock(device)
    measured = clock.in_graphs({OURS: case.ours, EAGER: case.eager}, 0 if dry_run else SECONDS)
    timings = {name: Timing.of(values) for name, values in measured.items()}
    spec, outputs = kernel.spec, case.eager()
    notes: dict[str, Any] = {"backend": kernel.backend, **modelled.of_kernel(kernel, shape)}
    if clock.without_graph:
        notes["without a graph"] = clock.without_graph
    row = Row(
        kernel.table,
        f"{kernel.op} {shape} {str(dtype).removeprefix('torch.')}, {kernel.backend}",
        timings,
        flops=spec.flops(case.args) * (1 if case.grad is None else 3),
        bytes_moved=spec.bytes_moved((case.args, case.grad), outputs),
        notes=notes,
        tensor_cores=not dry_run and spec.matrix_products,
    )
    says = f"{1e3 * timings[OURS].median:.1f} us, eager {1e3 * timings[EAGER].median:.1f} us"
    if clock.without_graph:
        says += f"; called from Python: {clock.without_graph}"
    return {"ok": True, "says": says, "rows": [as_json(row)]}
