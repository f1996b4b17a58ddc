"""Makes one warm call for a profiler: `python -m bench.campaign.one_call OP DIRECTION BACKEND SHAPE DEVICE`."""

from __future__ import annotations

import sys

import torch

from bench.campaign.cases import Case, Kernel


def main(op: str, direction: str, backend: str, shape: str, place: str) -> None:
    """Entry point."""
    device = torch.device(place)
    is_gpu = device.type == "cuda"
    case = Case.of(Kernel(op, direction, backend), shape, torch.bfloat16 if is_gpu else torch.float32, device)
    case.ours()
    if is_gpu:
        torch.cuda.synchronize()
        torch.cuda.cudart().cudaProfilerStart()
    case.ours()
    if is_gpu:
        torch.cuda.synchronize()
        torch.cuda.cudart().cudaProfilerStop()


if __name__ == "__main__":
    main(*sys.argv[1:])
