"""Gradients of the ops for PyTorch's autograd and for torch.func: grad, vjp, jacrev, vmap over any of them.

`torch.library.register_autograd` makes a kind of autograd.Function that torch.func refuses. The dispatcher calls a
kernel at the key Autograd once per level of torch.func's transforms, with the tensors of that level, and what is called
below autograd goes on to the next level. So a Function that records one level is enough, as in PyTorch's own operators.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch._functorch.utils import enable_single_level_autograd_function
from torch.autograd import forward_ad
from torch.autograd.function import _SingleLevelFunction

Setup = Callable[[Any, tuple[Any, ...], Any], None]
Backward = Callable[..., Any]

_AS_IT_IS = contextlib.nullcontext()


def register(library: torch.library.Library, op: Any, setup: Setup, backward: Backward) -> None:
    """Record ``op`` for the backward wherever an argument requires a gradient.

    Forward-mode derivatives (`torch.func.jvp`, `torch.autograd.forward_ad`) raise NotImplementedError.

    Args:
        library: which the kernel is registered in.
        op: an overload without keyword arguments.
        setup: ``setup(ctx, inputs, output)`` saves what the backward needs.
        backward: ``backward(ctx, *grads)``, a tuple of a gradient per input, or that of the only input: a tensor or
            None, and a list of them for a list.
    """
    name = str(op._schema.name).partition("::")[2]
    lists = [index for index, a in enumerate(op._schema.arguments) if str(a.type) == "List[Tensor]"]
    returns_list = any(str(a.type) == "List[Tensor]" for a in op._schema.returns)

    def below(keyset: Any, args: Sequence[Any]) -> Any:
        with torch._C._AutoDispatchBelowAutograd():
            return op.redispatch(keyset & torch._C._after_autograd_keyset, *args)

    def forward(ctx: Any, keyset: Any, lengths: Sequence[int], *flat: Any) -> Any:
        args = _nested(flat, lists, lengths)
        with _recording_further_levels():
            output = below(keyset, args)
        setup(ctx, args, output)
        return tuple(output) if returns_list else output

    def differentiate(ctx: Any, *grads: Any) -> Any:
        gradients = backward(ctx, *grads)
        return None, None, *_flat(gradients if isinstance(gradients, tuple) else (gradients,), lists)

    methods = {"forward": staticmethod(forward), "backward": staticmethod(differentiate)}
    recorded = type(name, (_SingleLevelFunction,), methods)

    def run(keyset: Any, *args: Any) -> Any:
        if forward_ad._current_level >= 0 and _has_tangent(args):
            return _without_tangent(name, below(keyset, args))
        if torch.is_grad_enabled() and torch._C._any_requires_grad(*args):
            lengths = [len(args[index]) for index in lists]
            output = _apply(recorded, keyset, lengths, *_flat(args, lists))
            return list(output) if returns_list else output
        return below(keyset, args)

    library.impl(name, run, "Autograd", with_keyset=True)


def _apply(function: Any, *args: Any) -> Any:
    """``function.apply``, which PyTorch allows inside torch.func's transforms only if it is told so."""
    if not torch._C._are_functorch_transforms_active():
        return function.apply(*args)
    with enable_single_level_autograd_function():
        return function.apply(*args)


def _recording_further_levels() -> contextlib.AbstractContextManager[None]:
    """A Function's forward runs without gradients; without them the next of torch.func's levels would get zeros."""
    if not torch._C._are_functorch_transforms_active():
        return _AS_IT_IS
    return _recording()


@contextlib.contextmanager
def _recording() -> Iterator[None]:
    with torch.enable_grad(), forward_ad._set_fwd_grad_enabled(True):
        yield


def _flat(values: Sequence[Any], lists: Sequence[int]) -> Sequence[Any]:
    """The values, with the elements of a list in its place: a Function sees only tensors among its own arguments."""
    if not lists:
        return values
    return [v for index, value in enumerate(values) for v in (value if index in lists else (value,))]


def _nested(flat: Sequence[Any], lists: Sequence[int], lengths: Sequence[int]) -> tuple[Any, ...]:
    """The inverse of `_flat`, for lists of these lengths."""
    args = list(flat)
    for index, length in zip(lists, lengths, strict=True):
        args[index : index + length] = [args[index : index + length]]
    return tuple(args)


def _has_tangent(args: Sequence[Any]) -> bool:
    if not torch._C._is_fwd_grad_enabled():
        return False
    tensors = (t for a in args for t in (a if isinstance(a, (list, tuple)) else (a,)))
    return any(forward_ad.unpack_dual(t).tangent is not None for t in tensors if isinstance(t, torch.Tensor))


def _without_tangent(name: str, output: Any) -> Any:
    """The result if it is integers. Of floats, PyTorch would silently take the derivative for zero."""
    if any(t.is_floating_point() for t in ([output] if isinstance(output, torch.Tensor) else output)):
        definition = name.removesuffix("_backward")
        raise NotImplementedError(
            f"{name}: no forward-mode derivative is offered; take torch.func.vjp or jacrev,"
            f" or call segnext_kernels.ops.{definition}.reference.{definition}, the same in plain PyTorch"
        )
    return output
