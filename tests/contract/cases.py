"""Lists the cases of the contract suite: ops x samples x dtypes x layouts x devices x backends that take them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves, tree_map_only

from oracle.gradients import random_grad, with_gradient
from oracle.inputs import DTYPES, LAYOUTS
from segnext_kernels import backend
from segnext_kernels.spec import Sample, Spec, all_specs

DEVICES = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
SPECS = tuple(all_specs().values())
DIFFERENTIABLE = tuple(spec for spec in SPECS if spec.differentiable)
INFERENCE_ONLY = tuple(spec for spec in SPECS if not spec.differentiable)


@dataclass(frozen=True)
class Case:
    """Holds one op, one input and the backend that runs it."""

    spec: Spec
    sample: Sample
    dtype: torch.dtype
    layout: torch.memory_format
    device: str
    backend: str
    name: str

    def args(self, **changed: Any) -> tuple[Any, ...]:
        return self.sample.make(self.dtype, self.device, self.layout, **changed)

    def run(self, *args: Any) -> torch.Tensor:
        """Call the public function on this case's backend; skip if the backend does not take these inputs."""
        require(self.spec.name, self.backend, args)
        with backend.use_backend(self.backend):
            return self.spec.call(*args)

    def backward(self, args: tuple[Any, ...], grad: torch.Tensor | None = None) -> list[torch.Tensor]:
        """Return gradients of the differentiable tensors of ``args`` on this backend, for an incoming ``grad``.

        Without ``grad``, every call takes the same random one.
        """
        args, leaves = self.with_gradient(args)
        out = self.run(*args)
        return backward_of(out, leaves, random_grad(out) if grad is None else grad)

    def with_gradient(self, args: tuple[Any, ...]) -> tuple[tuple[Any, ...], list[torch.Tensor]]:
        """Return detached arguments, of which the differentiable ones require a gradient, and a list of these."""
        return with_gradient(self.spec, args)


def backward_of(out: torch.Tensor, leaves: list[torch.Tensor], grad: torch.Tensor) -> list[torch.Tensor]:
    """Return the gradients of ``leaves``; skip if a named backend lacks the backward."""
    try:
        return list(torch.autograd.grad(out, leaves, grad))
    except NotImplementedError as error:
        if "_backward: no backend takes" not in str(error):
            raise
        pytest.skip(str(error))


def strides(t: torch.Tensor) -> list[int]:
    """Return the strides that say where elements are; the stride of an axis of size 1 is arbitrary."""
    return [stride for stride, size in zip(t.stride(), t.shape, strict=True) if size > 1]


def tensors(value: Any) -> list[torch.Tensor]:
    """List all tensors of nested arguments or results."""
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, torch.Tensor)]


def assert_as_fake(op: Any, args: tuple[Any, ...], real: list[torch.Tensor]) -> None:
    """Assert that an operator's results have the shapes, dtypes, devices and strides that it gives for fake tensors."""
    with FakeTensorMode() as mode:
        fake = tensors(op(*tree_map_only(torch.Tensor, mode.from_tensor, args)))
    assert len(real) == len(fake)
    for r, f in zip(real, fake, strict=True):
        assert (r.shape, r.dtype, r.device) == (f.shape, f.dtype, f.device)
        assert not r.numel() or strides(r) == strides(f), f"strides {r.stride()}, by the fake {f.stride()}"


def require(op: str, name: str, args: tuple[Any, ...]) -> None:
    """Skip with the backend's own words if it does not take these inputs."""
    if name != "auto" and (reason := backend.KERNELS[op][name].reason_against(*args)):
        pytest.skip(f"{op}: {name} {reason}")


@functools.cache
def _takes(
    spec: Spec, sample: Sample, dtype: torch.dtype, layout: torch.memory_format, device: str
) -> tuple[str, ...]:
    args = sample.make(dtype, device, layout)
    return tuple(
        name for name, kernel in backend.KERNELS[spec.name].items() if kernel.reason_against(*args) is None
    )


def _cases(
    specs: Iterable[Spec], dtypes: tuple[str, ...], layouts: tuple[str, ...], first_only: bool, backward: bool
) -> Iterator[Case]:
    for spec in specs:
        for sample in spec.samples[:1] if first_only else spec.samples:
            for device in DEVICES:
                for dtype in dtypes:
                    for layout in layouts if spec.has_image else layouts[:1]:
                        key = (spec, sample, DTYPES[dtype], LAYOUTS[layout], device)
                        names = _takes(*key)
                        for name in _backward_backends(spec, names) if backward else names:
                            words = [spec.name, sample.name, dtype, layout, name]
                            yield Case(*key, name, "-".join(words + ([device] if device != "cpu" else [])))


def _backward_backends(spec: Spec, forward: tuple[str, ...]) -> tuple[str, ...]:
    """Return the backends that have a backward too, and "auto" if forward and backward may run on different ones."""
    known = backend.KERNELS[f"{spec.name}_backward"]
    both = tuple(name for name in forward if name in known)
    return both if known.keys() == backend.KERNELS[spec.name].keys() else (*both, "auto")


def over(
    specs: Iterable[Spec] = SPECS,
    dtypes: tuple[str, ...] = ("fp32",),
    layouts: tuple[str, ...] = ("nchw", "nhwc"),
    first_only: bool = False,
    backward: bool = False,
    where: Callable[[Case], bool] = lambda case: True,
) -> Callable[[Any], Any]:
    """Parametrise a test's ``case``.

    Args:
        first_only: take only each op's first sample.
        backward: take only backends that run the backward.
        where: keep only the cases for which it is true.
    """
    cases = [case for case in _cases(specs, dtypes, layouts, first_only, backward) if where(case)]
    return pytest.mark.parametrize("case", cases, ids=lambda case: case.name)


def over_specs(specs: Iterable[Spec] = SPECS) -> Callable[[Any], Any]:
    """Parametrise a test's ``spec``."""
    return pytest.mark.parametrize("spec", [pytest.param(spec, id=spec.name) for spec in specs])


def assert_bitwise(actual: Any, expected: Any, what: str = "result") -> None:
    """Assert that tensors are equal to the last bit, NaN included."""
    pairs = list(zip(tensors(actual), tensors(expected), strict=True))
    for index, (a, e) in enumerate(pairs):
        assert a.shape == e.shape and a.dtype == e.dtype, (
            f"{what} {index}: {a.shape} {a.dtype}, not {e.shape} {e.dtype}"
        )
        same = (a == e) | (a.isnan() & e.isnan()) if a.is_floating_point() else a == e
        assert same.all(), f"{what} {index}: {int((~same).sum())} of {same.numel()} elements differ"
