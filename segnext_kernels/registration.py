"""How an op becomes a torch operator: schema, kernels, fake, autograd, autocast, vmap, FLOPs.

Every op of the library goes through `define_op`; its `op.py` says only what is particular to it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import register_flop_formula

from segnext_kernels import autograd, backend
from segnext_kernels.kernel import AUTOCAST, Kernel

NAMESPACE = "segnext_kernels"
LIBRARY = torch.library.Library(NAMESPACE, "DEF")


def define_op(
    name: str,
    schema: str,
    *,
    reference: Callable[..., Any],
    fake: Callable[..., Any],
    kernels: dict[str, Kernel] | None = None,
    flops: Callable[..., int] | None = None,
) -> Any:
    """Register ``segnext_kernels::name`` and return it.

    Args:
        name: the op's one name.
        schema: arguments and returns, as ``(Tensor x) -> Tensor``.
        reference: plain PyTorch; takes every device and dtype, the last choice under "auto".
        fake: output shapes, dtypes and strides from fake tensors.
        kernels: backend name -> kernel, for the backends other than the reference.
        flops: floating-point operations from argument *shapes* (as torch.utils.flop_counter passes them).
    """
    known = {**(kernels or {}), "reference": Kernel(reference)}
    backend.KERNELS[name] = {key: known[key] for key in backend.BACKENDS if key in known}
    LIBRARY.define(f"{name}{schema}", tags=(torch.Tag.pt2_compliant_tag,))

    # The choice is made here, on real tensors: a traced graph holds the op itself and never branches.
    def run(*args: Any) -> Any:
        return backend.select(name, args).run(*args)

    LIBRARY.impl(name, run, "CompositeExplicitAutograd")
    torch.library.register_fake(f"{NAMESPACE}::{name}", fake, lib=LIBRARY)
    op = getattr(getattr(torch.ops, NAMESPACE), name)
    if flops is not None:
        register_flop_formula(op)(flops)
    return op.default


def define_autograd(
    name: str,
    *,
    save: Callable[..., tuple[tuple[torch.Tensor | None, ...], Any]],
    backward: Callable[..., Any],
) -> None:
    """Attach a gradient to a defined op.

    Args:
        name: the op.
        save: ``save(inputs, output) -> (tensors, other)``: what the backward needs.
        backward: ``backward(tensors, other, *grads) -> one gradient per input`` (a list for a list).
    """

    def setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        tensors, ctx.other = save(inputs, output)
        ctx.save_for_backward(*tensors)
        # The engine may run the backward in another thread, where use_backend's setting is unknown.
        ctx.setting = backend.current_backend()

    def run(ctx: Any, *grads: Any) -> Any:
        with backend.use_backend(ctx.setting):
            return backward(ctx.saved_tensors, ctx.other, *grads)

    autograd.register(LIBRARY, getattr(getattr(torch.ops, NAMESPACE), name).default, setup, run)


def forbid_gradient(name: str, remedy: str) -> None:
    """Make differentiating an op an error that says so, instead of a silently missing gradient."""

    def refuse(ctx: Any, *grads: Any) -> Any:
        raise NotImplementedError(f"{name}: no gradient is offered; {remedy}")

    op = getattr(getattr(torch.ops, NAMESPACE), name).default
    autograd.register(LIBRARY, op, lambda ctx, inputs, output: None, refuse)


def forbid_double_backward(name: str) -> None:
    """Say of the op ``name`` that its backward cannot be differentiated again, and what to call instead."""
    forbid_gradient(
        f"{name}_backward",
        f"for second derivatives call segnext_kernels.ops.{name}.reference.{name}, the same in plain PyTorch",
    )


def define_autocast(name: str, *low: str) -> None:
    """Attach the op's own autocast rule: which arguments go to the low precision, and no others.

    `torch.library.register_autocast` casts every floating tensor, which is wrong for statistics and NMF state.

    Args:
        name: the op.
        low: names of the arguments, tensors or lists of them; without names all of them. float64 stays as it is.
    """
    op = getattr(getattr(torch.ops, NAMESPACE), name).default
    arguments = op._schema.arguments
    names = [argument.name for argument in arguments]
    low = low or tuple(argument.name for argument in arguments if "Tensor" in str(argument.type))
    positions = {names.index(argument) for argument in low}
    AUTOCAST[name] = low
    for device_type, key in (("cpu", "AutocastCPU"), ("cuda", "AutocastCUDA")):
        excluded = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, key))

        def run(*args: Any, _device_type: str = device_type, _excluded: Any = excluded) -> Any:
            dtype = torch.get_autocast_dtype(_device_type)
            cast = (_to(dtype, value) if i in positions else value for i, value in enumerate(args))
            with torch._C._ExcludeDispatchKeyGuard(_excluded):
                return op(*cast)

        LIBRARY.impl(name, run, key)


def _to(dtype: torch.dtype, value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_to(dtype, item) for item in value]
    if isinstance(value, torch.Tensor) and value.is_floating_point() and value.dtype != torch.float64:
        return value.to(dtype)
    return value


def define_vmap(name: str) -> None:
    """Let ``torch.func.vmap`` run the op and its backward slice by slice: correct for any argument, fused for none."""
    for known in (name, f"{name}_backward"):
        if known in backend.KERNELS:
            op = getattr(getattr(torch.ops, NAMESPACE), known).default
            torch.library.register_vmap(f"{NAMESPACE}::{known}", _slice_by_slice(op), lib=LIBRARY)


def _slice_by_slice(op: Any) -> Callable[..., tuple[Any, int]]:
    def slice_of(value: Any, dim: Any, index: int) -> Any:
        if isinstance(value, (list, tuple)):
            dims = dim if isinstance(dim, (list, tuple)) else [dim] * len(value)
            return [slice_of(v, d, index) for v, d in zip(value, dims, strict=True)]
        return value if dim is None else value.select(dim, index)

    def rule(info: Any, in_dims: Any, *args: Any) -> tuple[Any, int]:
        results = [
            op(*(slice_of(a, d, index) for a, d in zip(args, in_dims, strict=True)))
            for index in range(info.batch_size)
        ]
        if isinstance(results[0], torch.Tensor):
            return torch.stack(results), 0
        return type(results[0])(torch.stack(parts) for parts in zip(*results, strict=True)), 0

    return rule
