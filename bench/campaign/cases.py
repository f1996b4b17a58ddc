"""Names what is compared and timed: an op's kernel in one direction on one input, in words for a command line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from oracle.accuracy import assert_labels
from oracle.gradients import cast, gradients_of
from oracle.inputs import in_layout
from segnext_kernels import use_backend
from segnext_kernels.backend import KERNELS
from segnext_kernels.spec import Sample, Spec, all_specs

GPU_BACKENDS = ("cuda", "triton")
LARGE_BATCH = 32
DRY_OPS = ("dwconv_gelu", "upsample_argmax")  # a dry run takes one op with a backward and one without
Function = Callable[..., Tensor]


@dataclass(frozen=True)
class Kernel:
    """Stands for an op's forward, or its forward and backward, by one backend."""

    op: str
    direction: str  # "forward" or "backward"
    backend: str

    def __str__(self) -> str:
        return f"{self.op} {self.direction} {self.backend}"

    @property
    def spec(self) -> Spec:
        """Return the op's specification."""
        return all_specs()[self.op]

    @property
    def table(self) -> str:
        """Name the table of its times."""
        return "ops, forward" if self.direction == "forward" else "ops, forward + backward"


def kernels(dry_run: bool) -> list[Kernel]:
    """List every kernel for a GPU: CUDA's before Triton's, and "auto" if an op runs on kernels of both."""
    found = []
    for backend in (*GPU_BACKENDS, "auto"):
        for op, spec in all_specs().items():
            if dry_run and op not in DRY_OPS:
                continue
            for direction in ("forward", "backward") if spec.differentiable else ("forward",):
                known = KERNELS.get(op if direction == "forward" else f"{op}_backward", {})
                is_mixed = ("cuda" not in KERNELS[op] or bool(spec.calls)) and direction == "forward"
                if is_mixed if backend == "auto" else backend in known:
                    found.append(Kernel(op, direction, backend))
    return found


def shapes(spec: Spec, dry_run: bool) -> list[str]:
    """Name the inputs to time, in order: the first, targets, the first at batch 32, then the rest without b2 to b4."""
    if dry_run:
        return [spec.samples[0].name]
    names = [sample.name for sample in spec.model_shapes]
    first, later = names[:1], [name for name in names[1:] if not name.startswith(("b2", "b3", "b4"))]
    targets = [sample.name for sample in spec.target_shapes]
    return [*first, *targets, f"{first[0]}*{LARGE_BATCH}", *later]


def sample_of(spec: Spec, name: str) -> tuple[Sample, dict[str, int]]:
    """Return a named input, and the sizes that its name changes."""
    name, _, batch = name.partition("*")
    known = {sample.name: sample for sample in (*spec.samples, *spec.model_shapes, *spec.target_shapes)}
    axis = "b" if "b" in known[name].sizes else "n"
    return known[name], {axis: int(batch)} if batch else {}


@dataclass
class Case:
    """Holds a kernel and one input; values are drawn on the device, once."""

    kernel: Kernel
    args: tuple[Any, ...]
    grad: Tensor | None

    @classmethod
    def of(cls, kernel: Kernel, shape: str, dtype: torch.dtype, device: torch.device) -> Case:
        """Draw the named input in channels_last."""
        sample, changed = sample_of(kernel.spec, shape)
        if kernel.direction == "backward":
            changed = {**changed, **kernel.spec.saving}
        generator = torch.Generator(device).manual_seed(0)
        args = in_layout(sample.make(dtype, device, generator=generator, **changed), torch.channels_last)
        if kernel.direction == "forward":
            return cls(kernel, args, None)
        with torch.no_grad():
            out = _first(kernel.spec.reference(*args))
        grad = torch.randn(out.shape, generator=generator, device=device).to(out.dtype)
        return cls(kernel, args, in_layout(grad, torch.channels_last))

    def results(self, function: Function, args: tuple[Any, ...] | None = None) -> list[Tensor]:
        """Return the output of ``function``, or all its gradients."""
        args = self.args if args is None else args
        if self.grad is None:
            with torch.inference_mode():
                return [_first(function(*args))]
        return gradients_of(lambda *fresh: _first(function(*fresh)), self.kernel.spec, args, self.grad)

    def ours(self) -> list[Tensor]:
        """Compute by the kernel; on a CPU, in a dry run, by whatever runs there."""
        on_gpu = self.args[0].device.type == "cuda"
        with use_backend(self.kernel.backend if on_gpu else "auto"):
            return self.results(self.kernel.spec.call)

    def eager(self) -> list[Tensor]:
        """Compute by plain PyTorch in the same dtype."""
        return self.results(self.kernel.spec.reference)

    def oracle(self) -> list[Tensor]:
        """Compute by plain PyTorch in float64."""
        return self.results(self.kernel.spec.reference, cast(self.args, torch.float64))


def _first(out: Any) -> Any:
    return out[0] if isinstance(out, tuple) else out


def agreement(case: Case) -> tuple[bool, dict[str, str]]:
    """Check that the kernel's error is at most 2.2 times eager PyTorch's plus 4 eps, and that it repeats to the bit.

    An error is the norm of a whole tensor's difference to float64, over the oracle's norm. Both errors of each output
    are returned too, so that a near miss can be recognised.
    """
    outs, again = case.ours(), case.ours()
    if not outs[0].is_floating_point():
        assert_labels(outs[0], case.args[0], (outs[0].shape[1], outs[0].shape[2]))
        return torch.equal(outs[0], again[0]), {"labels": "those of PyTorch"}
    found, is_good = {}, True
    for index, tensors in enumerate(zip(outs, again, case.oracle(), case.eager(), strict=True)):
        eps = torch.finfo(tensors[0].dtype).eps
        out, second, oracle, eager = (t.double() for t in tensors)
        norm = oracle.norm().item() or 1.0
        mine, theirs = ((t - oracle).norm().item() / norm for t in (out, eager))
        same = torch.equal(out, second)
        if not theirs < 1:  # eager overflows in float16
            theirs = eps
        is_good = is_good and same and mine <= 2.2 * theirs + 4 * eps  # NaN is not good
        found[f"output {index}"] = f"{mine:.1e}, eager {theirs:.1e}" + (
            "" if same else ", NOT THE SAME TWICE"
        )
    return is_good, found


def each(dry_run: bool, passed: Callable[[Kernel], bool]) -> Iterator[tuple[Kernel, str]]:
    """Yield the kernels that passed with their inputs: time may run out anywhere.

    First comes one input of each, then one more per round of those that "auto" may take before Triton's, then Triton's.
    """
    chosen = [kernel for kernel in kernels(dry_run) if passed(kernel)]
    named = {kernel: shapes(kernel.spec, dry_run) for kernel in chosen}
    pairs = [(kernel, turn) for kernel, names in named.items() for turn in range(len(names))]
    pairs.sort(key=lambda pair: (pair[1] > 0 and pair[0].backend == "triton", pair[1]))
    yield from ((kernel, named[kernel][turn]) for kernel, turn in pairs)
