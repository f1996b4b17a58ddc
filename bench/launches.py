"""Lists what a GPU would launch, without a GPU: the kernels in order, found from their arguments' shapes.

    python -m bench.launches [--size t] [--height 768] [--width 1536] [--dtype bf16]

Functions run on tensors without data (device "meta"). Each op of the library runs the backend that "auto" would take on
a GPU with both Triton and the CUDA library. Triton's launches and the calls of the CUDA library are noted instead of
made. PyTorch's own operators count as one launch each, but views and empty tensors as none.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from segnext.create import create_model
from segnext.deployment.folding import fold
from segnext.deployment.model import DeployedSegNeXt
from segnext.deployment.modules import FoldedNetwork
from segnext.models import SegNeXt
from segnext_kernels import backend, native
from segnext_kernels.triton import launch

KERNELS_OF = {"group_norm_act_cuda": 2}  # launches per call of the CUDA library; 1 by default
EMPTY = ("empty", "new_empty", "detach")


@dataclass(frozen=True)
class Launch:
    """Describes one launch.

    Attributes:
        name: the Triton kernel's, the library function's, or the PyTorch operator's.
        backend: "triton", "cuda" or "torch".
        op: the op of the library that started it, or the operator itself.
        grid: the grid of a Triton kernel.
        args: as they are passed: tensors without data, numbers, and for "cuda" views (address, sizes, strides).
        config: the configuration of a Triton kernel, and its other constants.
    """

    name: str
    backend: str
    op: str
    grid: tuple[int, ...] = ()
    args: tuple[Any, ...] = ()
    config: dict[str, Any] = field(default_factory=dict)


class Recorder(TorchDispatchMode):
    """Notes the launches on tensors of device "meta" inside a ``with`` block."""

    def __init__(self) -> None:
        super().__init__()
        self.launches: list[Launch] = []
        self._ops: list[str] = []
        self._patches = contextlib.ExitStack()

    def __enter__(self) -> Recorder:
        if not self._ops:  # not again inside of an op
            library = mock.patch.object(native, "_C", _Library(self, native._C))
            for patch in (
                library,
                mock.patch.object(native, "reason_against", _on_cuda),
                mock.patch.object(launch, "reason_against", _on_triton),
                mock.patch.object(launch, "start", self._note_triton),
            ):
                self._patches.enter_context(patch)
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        if not self._ops:
            self._patches.close()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        namespace, name = func._schema.name.split("::")
        if namespace != "segnext_kernels":
            if not name.startswith(EMPTY) and not _is_view(func):
                self.launches.append(Launch(name, "torch", name, args=tuple(args)))
            return func(*args, **(kwargs or {}))
        self._ops.append(name)
        try:
            with self:  # look inside
                return backend.select(name, args).run(*args)
        finally:
            self._ops.pop()

    def note_cuda(self, name: str, args: tuple[Any, ...]) -> int:
        """Note a call of the CUDA library; return its status."""
        launch = Launch(name, "cuda", self._ops[-1], args=args)
        self.launches += [launch] * KERNELS_OF.get(name, 1)
        return 0

    def _note_triton(self, function: Any, grid: Any, *args: Any, config: Any, **constants: Any) -> None:
        name = getattr(function, "__name__", None) or function.fn.__name__
        self.launches.append(
            Launch(name, "triton", self._ops[-1], tuple(grid), args, {**config.as_json(), **constants})
        )


class _Library:
    """Stands for the compiled library; its CUDA functions only report that they were called."""

    HAS_CUDA = True

    def __init__(self, recorder: Recorder, real: Any) -> None:
        self._recorder, self._real = recorder, real

    def __getattr__(self, name: str) -> Any:
        if name.endswith("_cuda"):
            return lambda *args: self._recorder.note_cuda(name, args)
        if name.endswith("_cuda_fits"):
            return lambda *args: True
        if name.endswith("_CUDA"):  # a limit, which a library built without CUDA lacks
            return getattr(self._real, name, sys.maxsize)
        return getattr(self._real, name)


def _on_cuda(x: torch.Tensor, device: str, dtypes: tuple[torch.dtype, ...]) -> str | None:
    return None if device == "cuda" and x.dtype in dtypes else f"takes no {x.dtype} on {device}"


def _on_triton(x: torch.Tensor, dtypes: tuple[torch.dtype, ...] = launch.DTYPES) -> str | None:
    return None if x.dtype in dtypes else f"takes no {x.dtype}"


def _is_view(func: Any) -> bool:
    returned = [result.alias_info for result in func._schema.returns]
    return any(alias is not None and not alias.is_write for alias in returned)


def launches(function: Callable[[], Any]) -> list[Launch]:
    """Return the launches of one call on tensors without data."""
    with Recorder() as recorder:
        function()
    return recorder.launches


def on_meta(model: SegNeXt, dtype: torch.dtype = torch.bfloat16) -> DeployedSegNeXt:
    """Return the deployed model as it runs on a GPU, without data."""
    fast = DeployedSegNeXt(model.config, fold(model), dtype, device="meta")
    assert isinstance(fast._network, FoldedNetwork)
    return fast


def deployed_launches(fast: DeployedSegNeXt, images: torch.Tensor) -> list[Launch]:
    """Return the launches of `predict`, between a copy and clones as in a replay of `deployment.graphs`."""

    def call() -> None:
        own = torch.empty_like(images)
        own.copy_(images)
        for result in fast.labels_and_sum(own, (images.shape[2], images.shape[3])):
            result.clone()

    return launches(call)


def table(found: list[Launch]) -> Iterator[str]:
    """Yield the lines of a table: launches by op, backend and kernel, in the order of the first of each."""
    counts = Counter((launch.op, launch.backend, launch.name) for launch in found)
    yield f"{len(found)} launches"
    for (op, name, kernel), count in counts.items():
        yield f"{count:5}  {op:<18}{name:<8}{kernel}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="t", choices=tuple("tsbl"))
    parser.add_argument("--height", type=int, default=768)
    parser.add_argument("--width", type=int, default=1536)
    parser.add_argument("--dtype", default="bf16", choices=("bf16", "fp32"))
    options = parser.parse_args()
    model = create_model(f"segnext_{options.size}", num_classes=19)
    assert isinstance(model, SegNeXt)
    dtype = torch.bfloat16 if options.dtype == "bf16" else torch.float32
    images = torch.empty(1, 3, options.height, options.width, device="meta")
    print("\n".join(table(deployed_launches(on_meta(model, dtype), images))))


if __name__ == "__main__":
    main()
