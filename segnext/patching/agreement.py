"""Compares a module's own forward with a plan's, in float64: results, gradients and buffers, in both modes."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map_only

from segnext.one_line import one_line
from segnext.patching.plan import Plan
from segnext.patching.swap import ATTRIBUTE, put

SEED = 0
FLOOR = 1e-3  # see `difference`
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
TOLERANCE = 1e-7  # relative, in float64: multiplicative updates in another order differ by 1e-12


class Unusable(Exception):
    """The module cannot be run by itself."""


@dataclass(frozen=True)
class Outcome:
    """What one run gave.

    Attributes:
        shape: of the result: its nesting, and what in it is no tensor; of objects only the class.
        tensors: by name: results, gradients and buffers.
    """

    shape: Any
    tensors: dict[str, Tensor]


def first_difference(module: nn.Module, plan: Plan) -> str | None:
    """Say where the plan gives something else than the module itself; None if it agrees.

    The module is copied; its random numbers are the same in both.

    Raises:
        Unusable: the module's own method fails on the example.
    """
    # A module draws in the default dtype, which has to be that of its parameters. Without gradients half is unchecked.
    with _float64_by_default(), torch.inference_mode(False):
        return _first_difference(module, plan)


def _first_difference(module: nn.Module, plan: Plan) -> str | None:
    generator = torch.Generator().manual_seed(SEED)
    try:
        original = _copied(module, plan.called)
        planned = copy.deepcopy(original)
        _fill(original, planned, generator)
    except Exception as error:
        raise Unusable(f"it cannot be copied for the check: {one_line(error)}") from None
    for copied in (original, planned):
        _drop_half(copied, plan.dropping)
    try:
        put(planned, plan)
    except Exception as error:
        raise Unusable(f"its class takes no subclass: {one_line(error)}") from None
    device = next((t.device for t in module.parameters()), torch.device("cpu"))
    example = tree_map_only(Tensor, lambda t: t.to(device), plan.example(generator))
    if not plan.takes(planned, *example):
        return "does not take its own example"
    for training in (False, True):
        mode = "training" if training else "evaluation"
        try:
            expected = outcome(original.train(training), plan.method, example)
        except Exception as error:
            raise Unusable(f"its own {plan.method} fails in {mode}: {one_line(error)}") from None
        try:
            got = outcome(planned.train(training), plan.method, example)
        except Exception as error:
            return f"fails in {mode}: {one_line(error)}"
        where, by = difference(expected, got, FLOOR)
        if by > TOLERANCE:
            return f"{where} in {mode}, by {by:.1g}"
        if (names := _kept(original) ^ _kept(planned)) != set():
            return f"it keeps {min(names)[0]} when it runs"
    return None


def _kept(module: nn.Module) -> set[tuple[str, Any]]:
    """The attributes of all modules: their numbers and flags, and the classes of other things."""
    return {
        (
            f"{path}.{name}" if path else name,
            value if isinstance(value, bool | int | float | str) else type(value),
        )
        for path, child in module.named_modules()
        for name, value in vars(child).items()
        if name not in (ATTRIBUTE, "training")
    }


@contextmanager
def _float64_by_default() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


class _StandIn(nn.Module):
    """Takes the place of a child that both sides call, at a fraction of the time.

    Each element is weighted by its place, so that another argument, shape or order of axes is seen.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed

    def forward(self, x: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed)
        return x.tanh() * torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x)


def _copied(module: nn.Module, called: tuple[str, ...]) -> nn.Module:
    """A copy in float64 without hooks: the user's must not see the check. Stand-ins are in the places of `called`."""
    memo = {id(getattr(module, name)): _StandIn(seed) for seed, name in enumerate(called, start=1)}
    with torch.no_grad():
        copied = copy.deepcopy(module, memo).double().requires_grad_(True)
    for part in copied.modules():
        for hooks in HOOKS:
            getattr(part, hooks).clear()
    return copied


def _drop_half(module: nn.Module, names: tuple[str, ...]) -> None:
    """Set the rates of children to a half."""
    for name in names:
        child = module.get_submodule(name)
        for attribute, value in vars(child).items():
            if type(value) in (int, float) and 0 <= value < 1:
                setattr(child, attribute, 0.5)


def _fill(original: nn.Module, planned: nn.Module, generator: torch.Generator) -> None:
    """Give both the same random parameters, since zeros (biases at the beginning) would hide what they do."""
    with torch.no_grad():
        for parameter, other in zip(original.parameters(), planned.parameters(), strict=True):
            fan_in = math.prod(parameter.shape[1:])
            values = torch.randn(parameter.shape, generator=generator, dtype=torch.float64) / math.sqrt(
                fan_in
            )
            parameter.copy_(values)
            other.copy_(values)


def outcome(module: nn.Module, method: str, arguments: Sequence[Any], seed: int = SEED) -> Outcome:
    """Run a method, and its backward from fixed gradients of all results that have one."""
    arguments = tree_map_only(Tensor, _leaf, arguments)
    module.zero_grad(set_to_none=True)
    devices = [device for device in {t.device for t in module.parameters()} if device.type == "cuda"]
    with torch.random.fork_rng(devices=devices), torch.enable_grad(), _DropoutInOrder():
        torch.manual_seed(seed)
        results, shape = tree_flatten(getattr(module, method)(*arguments))
    tensors = {f"result {i}": t.detach() for i, t in enumerate(results) if isinstance(t, Tensor)}
    others = [item if isinstance(item, bool | int | float | str) else type(item) for item in results]
    scored = [t for t in results if isinstance(t, Tensor) and t.requires_grad]
    if scored:
        torch.autograd.backward(scored, [_fixed(t) for t in scored])
    for i, argument in enumerate(arguments):
        if isinstance(argument, Tensor) and argument.grad is not None:
            tensors[f"gradient of argument {i}"] = argument.grad
    for name, parameter in module.named_parameters():
        if parameter.grad is not None:
            tensors[f"gradient of {name}"] = parameter.grad
    tensors.update({f"buffer {name}": buffer.clone() for name, buffer in module.named_buffers()})
    module.zero_grad(set_to_none=True)
    return Outcome((shape, others), tensors)


class _DropoutInOrder(TorchFunctionMode):
    """Lets dropout draw for elements in the order of their indices: PyTorch's order is that of the memory format."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not F.dropout:
            return func(*args, **(kwargs or {}))
        return self._dropout(*args, **(kwargs or {}))

    def _dropout(self, x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        if not training or p == 0:
            return x
        kept = torch.rand(x.shape, device=x.device) >= p
        return x * kept / (1 - p) if p < 1 else x * 0


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().clone().requires_grad_(tensor.is_floating_point())


def _fixed(tensor: Tensor) -> Tensor:
    """Weights of a result that do not depend on its strides; each element has another."""
    generator = torch.Generator().manual_seed(tensor.numel())
    return torch.randn(tensor.shape, generator=generator, dtype=torch.float32).to(tensor)


def difference(expected: Outcome, got: Outcome, floor: float) -> tuple[str, float]:
    """Name what differs most, and tell by how much relative to its largest value: infinity if shapes differ.

    Of integers it is the share that differs.

    Args:
        expected, got: of two runs.
        floor: share of the largest of all results (gradients, buffers), below which a tensor's values do not count as
            its own size: some are zero but for rounding, such as the gradient of a bias in front of a BatchNorm.
    """
    if expected.shape != got.shape:
        return "the result has another structure", math.inf
    missing = expected.tensors.keys() ^ got.tensors.keys()
    if missing:
        return f"{sorted(missing)[0]} is missing", math.inf
    worst, where = 0.0, "nothing"
    for kind in ("result", "gradient", "buffer"):
        names = [name for name in expected.tensors if name.startswith(kind)]
        least = floor * max((_largest(expected.tensors[name]) for name in names), default=0.0)
        for name in names:
            mine, its = expected.tensors[name], got.tensors[name]
            if mine.shape != its.shape:
                return f"{name} has shape {tuple(its.shape)} instead of {tuple(mine.shape)}", math.inf
            if mine.is_floating_point() or mine.is_complex():
                error = _largest(mine - its) / (max(_largest(mine), least) or 1.0)
            else:  # classes, counts: another one is as far away as any
                error = (mine != its).double().mean().item() if mine.numel() else 0.0
            if not error <= worst:
                worst, where = (math.inf if math.isnan(error) else error), f"{name} differs"
    return where, worst


def _largest(tensor: Tensor) -> float:
    return tensor.abs().max().item() if tensor.numel() else 0.0
