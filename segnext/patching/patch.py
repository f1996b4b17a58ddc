"""Speeds up a model that one already has: finds the parts that the kernels compute, and lets them do it.

A part is found by its structure: which layers it has, of which geometry. What it computes with them is not guessed from
names. Each part's own forward and the fused one run on one small input in float64, in evaluation and in training, and
must agree in results, gradients and buffers.
"""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from segnext.one_line import one_line
from segnext.patching import agreement
from segnext.patching.attention import ChainAttention, ProjectedAttention, SelectiveKernel, StripAttention
from segnext.patching.blocks import Block, FeedForward
from segnext.patching.convolutions import Convolutions
from segnext.patching.hamburger import Factorisation, Hamburger
from segnext.patching.layers import InTheWay
from segnext.patching.losses import HeadLossOfLabels, HeadLossOfSamples
from segnext.patching.plan import Plan
from segnext.patching.report import Agreement, Part, PatchReport
from segnext.patching.strides import BatchNorm, all_batch_norms
from segnext.patching.swap import is_patched, plan_of, put, take_out

PLANS: tuple[type[Plan], ...] = (
    *(StripAttention, ChainAttention, SelectiveKernel, FeedForward, Factorisation, HeadLossOfSamples),
    *(HeadLossOfLabels, Hamburger, ProjectedAttention, Block, Convolutions, BatchNorm),
)
OURS = ("segnext.", "segnext_kernels.")
MODES = {"evaluation": False, "training": True}
# Of `verify`, relative, for results and gradients. In float32 sums in another order change results by 1e-6 to 1e-4; a
# ReLU whose input is zero but for rounding lets a gradient jump by a percent.
LIMITS = {torch.float64: (1e-6, 1e-6), torch.float32: (1e-3, 3e-2)}
LIMITS_OF_16_BITS = (0.1, 0.3)
FLOOR = 0.05  # see `agreement.difference`; rounding of float32 is a millionth of the largest gradient
INTERNAL = frozenset(vars(nn.Module()))  # attributes that each module has, among them its mode
logger = logging.getLogger("segnext")


def patch(model: nn.Module, verify: Any = None) -> PatchReport:
    """Let the kernels compute the parts of a model that they know. The model is changed in place.

    Modules, parameters, names in the state dict, buffers and hooks stay. Of a patched module only the class changes, to
    a subclass with another ``forward``: it may be trained, copied, pickled, saved, wrapped (DDP, ``fully_shard``) and
    compiled afterwards. A layer that later gets hooks, an adapter or another geometry is called again, not passed by.
    Results keep their values up to rounding; features become channels_last, for which ``view`` may raise where
    ``reshape`` does not.

    Args:
        model: any module, for example mmsegmentation's ``EncoderDecoder``, or a network with SegNeXt's or VAN's
            attention or the Hamburger.
        verify: arguments for ``model(*verify)``, a tensor or a tuple. The model runs on them before and after, in both
            modes; it is left as it was if results differ by more than 0.1 % or gradients by 3 % (float32).

    Returns:
        What was patched, and what was left alone, with the reason. It says "nothing to patch" where that is so.

    Raises:
        TypeError: no module, or a compiled or scripted one.
        ValueError: on the meta device or sharded (patch it first); the model does not run on ``verify``, or it found a
            difference.

    Example:
        >>> print(segnext.patch(model))
    """
    _expect_usable(model)
    found, parts = _search(model)
    try:
        with all_batch_norms(model):  # whose gradients of one image are wrong on a CPU
            before = None if verify is None else _outcomes(model, verify)
    except Exception as error:
        raise ValueError(
            f"patch: the model must run on verify's arguments, got {type(error).__name__}: {one_line(error)}"
        ) from None
    for mode, run in (before or {}).items():
        if not _only(run, "result").tensors:
            raise ValueError(
                f"patch: the model must return tensors for verify, got none in {mode}; verify a part that does"
            )
    try:
        for module, plan in found:
            put(module, plan)
        agreements = () if before is None else _compared(before, _after(model, verify))
    except BaseException:
        for module, _ in found:
            if is_patched(module):
                take_out(module)
        raise
    report = PatchReport(parts, agreements, ours=any(_is_ours(module) for module in model.modules()))
    if not report.patched:
        logger.warning("patch: %s", report)
    return report


def unpatch(model: nn.Module) -> int:
    """Give every patched module its own forward back; return how many there were."""
    modules = [module for module in model.modules() if is_patched(module)]
    for module in modules:
        take_out(module)
    return len(modules)


@contextmanager
def patched(model: nn.Module, verify: Any = None) -> Iterator[PatchReport]:
    """Patch a model for the time of a ``with`` block; what was patched before stays patched."""
    before = {id(module) for module in model.modules() if is_patched(module)}
    report = patch(model, verify)
    try:
        yield report
    finally:
        for module in model.modules():
            if is_patched(module) and id(module) not in before:
                take_out(module)


def _expect_usable(model: nn.Module) -> None:
    """Raise one line if no part of the model could be patched, or only half of it."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"patch: model must be an nn.Module, got {type(model).__name__}")
    for path, module in model.named_modules():
        name = path or "the model"
        if any(is_lazy(tensor) for tensor in (*module._parameters.values(), *module._buffers.values())):
            raise ValueError(
                f"patch: {name} must have its parameters, got a lazy module; run the model once first"
            )
        if isinstance(module, torch.jit.ScriptModule):
            raise TypeError(
                f"patch: {name} must not be scripted, got {type(module).__name__}; patch, then torch.jit.trace"
            )
        if isinstance(module, _kinds("torch._dynamo", "OptimizedModule")):
            raise TypeError(f"patch: {name} must not be compiled; patch the module, then torch.compile it")
        if isinstance(module, _kinds("torch.distributed.fsdp", "FullyShardedDataParallel", "FSDPModule")):
            raise ValueError(
                f"patch: {name} must not be sharded, got {type(module).__name__}; patch, then shard"
            )
    if any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers())):
        raise ValueError(
            "patch: model must have values, got tensors on the meta device; call to_empty and load first"
        )


def _kinds(home: str, *names: str) -> tuple[type, ...]:
    """Classes of a module of PyTorch that takes seconds to import; none if nobody in this process has imported it."""
    kinds = (getattr(sys.modules.get(home), name, None) for name in names)
    return tuple(kind for kind in kinds if kind is not None)


def _search(model: nn.Module) -> tuple[list[tuple[nn.Module, Plan]], tuple[Part, ...]]:
    """Find what can be patched, with a part of the report for each module that has a known structure."""
    checked: dict[Any, str | None] = {}
    parts: list[Part] = []
    plan: Plan | None
    found: list[tuple[nn.Module, Plan]] = []
    cared_for: set[nn.Module] = set()  # norms whose parent gives them the right strides
    for path, module in model.named_modules():
        if module in cared_for:
            continue
        kind = type(module).__name__
        if is_patched(module):
            plan = plan_of(module)
            cared_for.update(getattr(module, name) for name in plan.norms_called)
            parts.append(Part(path, kind, f"{_became(plan)}, patched before"))
        elif not _is_ours(module):
            try:
                plan = _plan(module, checked)
            except (InTheWay, agreement.Unusable) as reason:
                parts.append(Part(path, kind, reason=str(reason)))
                continue
            if plan is not None:
                cared_for.update(getattr(module, name) for name in plan.norms_called)
                found.append((module, plan))
                parts.append(Part(path, kind, _became(plan)))
    # A convolution with its norm gains nothing by itself, and other networks may prefer their memory format.
    if not any(plan.is_core for _, plan in found) and not any(
        is_patched(module) for module in model.modules()
    ):
        return [], tuple(part for part in parts if part.reason is not None)
    return found, tuple(parts)


def _is_ours(module: nn.Module) -> bool:
    return type(module).__module__.startswith(OURS) and not is_patched(module)


def _became(plan: Plan) -> str:
    return f"{plan.what} by {', '.join(plan.ops)}" if plan.ops else plan.what


def _plan(module: nn.Module, checked: dict[Any, str | None]) -> Plan | None:
    """The plan that agrees with the module; None if it has no known structure.

    Raises:
        InTheWay: it has one, and something in the way. Unusable: it cannot be run.
    """
    reasons = []
    for kind in PLANS:
        candidates = list(kind.candidates(module))
        if not candidates:
            continue
        if kind.method in module.__dict__:
            raise InTheWay(f"its {kind.method} was replaced")
        for plan in candidates:
            key = (type(module), plan, _settings(module, plan))
            if key not in checked:
                checked[key] = agreement.first_difference(module, plan)
            if checked[key] is None:
                return plan
            reasons.append(f"as {plan.what}, {checked[key]}")
    if reasons:
        raise InTheWay(f"it computes something else: {reasons[0]}")
    return None


def _settings(module: nn.Module, plan: Plan) -> tuple[Any, ...]:
    """What may change a forward beside the class and the layers: the attributes of all its modules.

    Rates and epsilons of PyTorch's layers are left out: a plan reads or calls those that it needs. So are the rates
    that the check sets.
    """
    return tuple(
        (path, type(child), name, _comparable(value))
        for path, child in module.named_modules()
        for name, value in vars(child).items()
        if name not in INTERNAL
        and not (
            path
            and isinstance(value, float)
            and (path in plan.dropping or type(child).__module__.startswith("torch.nn."))
        )
    )


def _comparable(value: Any) -> Any:
    """Something hashable that is equal for equal values; objects are equal only to themselves."""
    if isinstance(value, list | tuple | set | frozenset):
        return type(value), tuple(_comparable(item) for item in value)
    if isinstance(value, dict):
        return tuple((key, _comparable(item)) for key, item in value.items())
    if isinstance(value, functools.partial):
        return _comparable((value.func, value.args, value.keywords))
    if isinstance(value, bool | int | float | str | type | FunctionType | None):
        return type(value), value
    return id(value)


def _outcomes(model: nn.Module, inputs: Any) -> dict[str, agreement.Outcome]:
    """Run the model in both modes; its mode, gradients and buffers are as before afterwards."""
    arguments = tuple(inputs) if isinstance(inputs, Sequence) else (inputs,)
    modes = {module: module.training for module in model.modules()}
    gradients = {parameter: parameter.grad for parameter in model.parameters()}
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    results = {}
    try:
        for mode, training in MODES.items():
            with torch.inference_mode(False):
                results[mode] = agreement.outcome(model.train(training), "__call__", arguments)
            _restore(model, buffers)
    finally:
        for module, training in modes.items():
            module.training = training
        for parameter, gradient in gradients.items():
            parameter.grad = gradient
    return results


def _after(model: nn.Module, inputs: Any) -> dict[str, agreement.Outcome]:
    """Run the patched model.

    Raises:
        ValueError: it fails, as one does that calls ``view`` where channels_last needs ``reshape``.
    """
    try:
        return _outcomes(model, inputs)
    except Exception as error:
        cure = "; use reshape or flatten there, since features are channels_last now" * ("view" in str(error))
        raise ValueError(
            f"patch: the model must run when it is patched, got {type(error).__name__}: {one_line(error)}"
            f"; it was left as it was{cure}"
        ) from error


def _restore(model: nn.Module, buffers: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            if name in buffers:
                buffer.copy_(buffers[name])


def _compared(
    before: dict[str, agreement.Outcome], after: dict[str, agreement.Outcome]
) -> tuple[Agreement, ...]:
    """The differences of both modes.

    Raises:
        ValueError: one is above the limit.
    """
    found = []
    for mode in MODES:
        errors = {}
        dtypes = {tensor.dtype for tensor in before[mode].tensors.values() if tensor.is_floating_point()}
        limits = max(
            (LIMITS.get(dtype, LIMITS_OF_16_BITS) for dtype in dtypes), default=LIMITS[torch.float32]
        )
        for kind, limit in zip(("result", "gradient"), limits, strict=True):
            expected, got = (_only(run[mode], kind) for run in (before, after))
            where, errors[kind] = agreement.difference(expected, got, FLOOR)
            if not errors[kind] <= limit:
                raise ValueError(
                    f"patch: the model must compute the same before and after, but in {mode} {where}"
                    f" by {errors[kind]:.1g}; it was left as it was"
                )
        found.append(Agreement(mode, errors["result"], errors["gradient"]))
    return tuple(found)


def _only(run: agreement.Outcome, kind: str) -> agreement.Outcome:
    tensors = {name: tensor for name, tensor in run.tensors.items() if name.startswith(kind)}
    return agreement.Outcome(run.shape, tensors)
