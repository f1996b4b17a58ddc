"""Plans what a call launches on an H200, kernel by kernel: our ops by CUDA or Triton kernels, PyTorch's by itself.

Tensors have no data (device "meta"). A CUDA launcher needs addresses, so its op gets CPU tensors of the same sizes.
With CPU tensors as arguments, and all blocks of each launch, results are what the machine code computes from them.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.flop_counter import flop_registry

from bench.issue_model import costs
from bench.issue_model.model import BLOCKS, Result, modelled
from bench.issue_model.record import Launch, Recorder
from bench.issue_model.triton_launches import FIRST_ADDRESS, launch_of
from segnext_kernels import backend, native
from segnext_kernels.triton import launch, tuning

NAMESPACE = "segnext_kernels"
# PyTorch's functions that return unwritten memory
UNFILLED = {"empty", "empty_strided", "empty_like", "new_empty", "new_empty_strided"}
FREE = UNFILLED | {"detach", "alias", "_unsafe_view"}  # those that start nothing on a device
CONVOLUTIONS = ("conv2d", "convolution")
DRAWN = 1 << 20  # numbers that are drawn once; larger tensors repeat them


@dataclass(frozen=True)
class Foreign:
    """Stands for a kernel of PyTorch or cuDNN, which is not modelled but priced by its bytes and its products."""

    label: str
    launches: int
    bytes_moved: int
    flops: int

    @property
    def seconds(self) -> float:
        """Return the lower bound: memory or tensor cores."""
        return max(self.bytes_moved / costs.MEMORY_BYTES, self.flops / costs.TENSOR_FLOPS)


@dataclass(frozen=True)
class Step:
    """Holds one launch, or one function of PyTorch."""

    op: str
    what: Result | Foreign


class Plan(TorchDispatchMode):
    """Plans every call under it, and models each at once.

    Attributes:
        steps: in the order of their launches.
    """

    def __init__(
        self,
        recorder: Callable[[], Recorder],
        blocks: int = BLOCKS,
        every_config: bool = False,
        data: dict[str, Callable[[Any], Any]] | None = None,
        backends: Sequence[str] = ("cuda", "triton"),
    ) -> None:
        """Make an empty plan.

        Args:
            backends: those that ops inside ops choose from, as "auto" does.
            data: maps an op to a function that gives its arguments the numbers on which its control flow depends.
        """
        super().__init__()
        self.steps: list[Step] = []
        self._recorder = recorder
        self._blocks = blocks
        self._every_config = every_config
        self._op = ""
        self._kept: list[torch.Tensor] = []
        self._data = data or {}
        self._backends = backends
        self._results: dict[Any, Result] = {}

    def run(self, op: str, backend_name: str, args: Sequence[Any]) -> Any:
        """Run one op by one backend's kernel; ops that it calls choose as "auto" does."""
        with self._patched(), self:
            return self._run(op, backend_name, args)

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call a function of tensors without data."""
        with self._patched(), self:
            return function(*args)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == NAMESPACE:
            with self._patched(), self:
                return self._chosen(func, args)
        out = func(*args, **(kwargs or {}))
        if _name(func) in CONVOLUTIONS:
            out = _as_cudnn(out, *args[:2])
        leaves = [leaf for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)]
        with_data = [leaf for leaf in leaves if leaf.device.type == "cpu"]
        self._kept += with_data
        if _name(func) in UNFILLED:
            # a block may read what blocks that do not run would write: let it be the same numbers every time
            for tensor in with_data:
                tensor.zero_()
        if not _is_free(func, args, leaves):
            self.steps.append(Step(self._op or "torch", _foreign(func, args, kwargs or {}, out)))
        return out

    def _chosen(self, func: Any, args: Sequence[Any]) -> Any:
        op = func.name().removeprefix(f"{NAMESPACE}::").partition(".")[0]
        for name in self._backends:
            kernel = backend.KERNELS[op].get(name)
            if (
                kernel is not None
                and kernel.reason_against(*args) is None
                and kernel.reason_to_pass(*args) is None
            ):
                return self._run(op, name, args)
        return self._run(op, "reference", args)

    def _run(self, op: str, name: str, args: Sequence[Any]) -> Any:
        kernel = backend.KERNELS[op][name]
        outer, self._op = self._op, f"{self._op}/{op}".lstrip("/")
        try:
            return self._run_cuda(op, kernel, args) if name == "cuda" else kernel.run(*args)
        finally:
            self._op = outer

    def _run_cuda(self, op: str, kernel: backend.Kernel, args: Sequence[Any]) -> Any:
        tensors = [leaf for leaf in tree_leaves(args) if isinstance(leaf, torch.Tensor)]
        is_meta = any(tensor.device.type == "meta" for tensor in tensors)
        if is_meta:
            with _no_modes():
                args = self._data[op](args) if op in self._data else args
                args = tree_map_only(torch.Tensor, _with_data, tuple(args))
        recorder, first, kept = self._recorder(), len(self._recorder().noted), len(self._kept)
        memsets = recorder.memsets
        out = kernel.run(*args)
        inputs = [leaf for leaf in tree_leaves((args, out)) if isinstance(leaf, torch.Tensor)]
        for noted in recorder.taken(first, [*inputs, *self._kept]):
            self._add(noted, again=not is_meta)
        for _ in range(recorder.memsets - memsets):
            self.steps.append(Step(self._op, Foreign("cudaMemsetAsync", 1, 0, 0)))
        del self._kept[kept:]
        if is_meta:
            with _no_modes():
                return tree_map_only(torch.Tensor, _without_data, out)
        return out

    def _add(self, launch: Launch, again: bool) -> None:
        """Note a launch; one that issues what an earlier launch did runs only if ``again``, for its results."""
        key = _key(launch)
        if again or key not in self._results:
            with _no_modes():
                self._results[key] = modelled(launch, self._blocks)
        self.steps.append(Step(self._op, self._results[key]))

    @contextlib.contextmanager
    def _patched(self) -> Iterator[None]:
        """Make the library look as on an H200 with everything built."""

        def start(function: Any, grid: Any, *args: Any, config: tuning.Config, **constants: Any) -> None:
            with _no_modes():
                launched = launch_of(function, grid, args, config, constants)
            self._add(launched, again=not launched.start.fake_memory)

        def tuned(space: tuning.Space, key: str, x: torch.Tensor, run: Callable[[tuning.Config], Any]) -> Any:
            results = [run(config) for config in (space.configs if self._every_config else space.configs[:1])]
            return results[0]

        def on_cuda(x: torch.Tensor, device: str, dtypes: tuple[torch.dtype, ...]) -> str | None:
            return None if device == "cuda" and x.dtype in dtypes else f"takes no {x.dtype} on {device}"

        def on_triton(x: torch.Tensor, dtypes: tuple[torch.dtype, ...] = launch.DTYPES) -> str | None:
            return None if x.dtype in dtypes else f"takes no {x.dtype}"

        before = launch.start, tuning.tuned, native.reason_against, launch.reason_against, native._C
        launch.start, tuning.tuned, native.reason_against, launch.reason_against = (
            start,
            tuned,
            on_cuda,
            on_triton,
        )
        if not isinstance(before[4], _Native):
            native._C = _Native(self._recorder, before[4])
        try:
            yield
        finally:
            launch.start, tuning.tuned, native.reason_against, launch.reason_against, native._C = before


class _Native:
    """Stands for `native._C` with the recorder's launchers; they are built when the first one is asked for."""

    def __init__(self, recorder: Callable[[], Recorder], compiled: Any) -> None:
        self._recorder, self._compiled = recorder, compiled

    def __getattr__(self, name: str) -> Any:
        if "cuda" in name.lower() or not hasattr(self._compiled, name):
            module = self._recorder().module
            if hasattr(module, name):
                return getattr(module, name)
        return getattr(self._compiled, name)


def _no_modes() -> Any:
    return torch.utils._python_dispatch._disable_current_modes()


@functools.cache
def _drawn() -> torch.Tensor:
    return torch.randn(DRAWN, generator=torch.Generator().manual_seed(0))


def _with_data(tensor: torch.Tensor) -> torch.Tensor:
    """Make a CPU tensor of the same sizes and strides: Gaussian numbers that repeat, or zeros of an integer type."""
    if tensor.device.type == "cpu":
        return tensor
    result = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype)
    storage = result.untyped_storage()
    count = storage.nbytes() // result.element_size()
    flat = torch.empty(0, dtype=tensor.dtype).set_(storage, 0, (count,), (1,))
    if not tensor.is_floating_point():
        return result.zero_()
    source = _drawn().to(tensor.dtype)
    for begin in range(0, flat.numel(), DRAWN):
        part = flat[begin : begin + DRAWN]
        part.copy_(source[: part.numel()])
    return result


def _without_data(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")


def _name(func: Any) -> str:
    return func.name().partition("::")[2].partition(".")[0]


def _as_cudnn(out: torch.Tensor, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Give the result the layout that a GPU gives it: without data it is always contiguous."""
    # an image of one pixel has both layouts; PyTorch takes it for contiguous
    images = [t for t in (x, weight) if t.shape[1] > 1 and t.shape[2] * t.shape[3] > 1]
    is_nhwc = any(t.is_contiguous(memory_format=torch.channels_last) for t in images)
    return out.contiguous(memory_format=torch.channels_last) if out.device.type == "meta" and is_nhwc else out


def _is_free(func: Any, args: Any, outputs: Sequence[torch.Tensor]) -> bool:
    """Return whether a function of PyTorch starts no kernel."""
    name = _name(func)
    if name in FREE or not any(tensor.numel() for tensor in outputs):
        return True
    if name.endswith("_"):
        return False
    inputs = {t.untyped_storage()._cdata for t in tree_leaves(args) if isinstance(t, torch.Tensor)}
    return all(tensor.untyped_storage()._cdata in inputs for tensor in outputs)


def _foreign(func: Any, args: Any, kwargs: dict[str, Any], out: Any) -> Foreign:
    packet = func.overloadpacket
    flops = int(flop_registry[packet](*args, **kwargs, out_val=out)) if packet in flop_registry else 0
    size = sum(
        t.numel() * t.element_size() for t in tree_leaves((args, kwargs, out)) if isinstance(t, torch.Tensor)
    )
    name = _name(func)
    has_bias = name in CONVOLUTIONS and len(args) > 2 and args[2] is not None  # added in a kernel of its own
    return Foreign(name, 2 if has_bias else 1, size, flops)


def _key(launch: Launch) -> Any:
    """Return a key that is equal for launches that issue the same: it leaves out where tensors lie."""
    start, parameters = launch.start, bytearray(launch.start.parameters)
    for at in range(0, len(parameters) - 7, 8):
        value = int.from_bytes(parameters[at : at + 8], "little")
        if value >= FIRST_ADDRESS or any(begin <= value < end for begin, end in start.ranges):
            parameters[at : at + 8] = (value % 4096 % 64).to_bytes(8, "little")
    digest = hashlib.sha256(launch.cubin).hexdigest()
    return (
        digest,
        launch.kernel,
        start.grid,
        start.block,
        start.shared,
        start.cluster,
        start.cooperative,
        bytes(parameters),
    )
