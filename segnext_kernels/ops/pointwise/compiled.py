"""pointwise: how gated_pointwise's CPU kernel is called without its gate."""

from __future__ import annotations

import torch

from segnext_kernels import native
from segnext_kernels.ops.pointwise.reference import empty_gradients, empty_out


def _forward(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return _run(x, weight, bias, empty_out(x, weight, bias))


def to_channels_last(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """As `convolutions.pointwise`: the result is channels_last."""
    n, _, h, w = x.shape
    return _run(x, weight, bias, x.new_empty((n, h, w, weight.shape[0])).movedim(-1, 1))


def _run(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, out: torch.Tensor) -> torch.Tensor:
    native.call_cpu("gated_pointwise", x, x.dtype, x, None, weight, bias, out)
    return out


def _backward(
    grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> list[torch.Tensor]:
    grads = empty_gradients(grad, x, weight, bias)
    gradients = (grads[0], None, grads[1], None if bias is None else grads[2])
    native.call_cpu("gated_pointwise_backward", x, x.dtype, x, None, weight, bias, grad, *gradients)
    return grads


def backward(
    grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """As `convolutions.pointwise_backward`."""
    grad_x, *grad_params = _backward(grad, x, weight, bias)
    return grad_x, grad_params


CHUNK, CHUNKS = 128, 32  # pixels that a thread takes at least, and parts at most, in the kernel's backward


def _slower(x: torch.Tensor, *_: object) -> str | None:
    """Why "auto" leaves inputs to PyTorch: in bfloat16 its products are as fast forward, and faster backward.

    That was measured with AVX512-BF16. That threads without a part cost more than MKL's arithmetic is expected: no
    machine with so many cores was at hand.
    """
    if x.dtype == torch.bfloat16:
        return "PyTorch's products are as fast in bfloat16"
    parts = min(-(-x.shape[0] * x.shape[2] * x.shape[3] // CHUNK), CHUNKS)
    if torch.get_num_threads() > max(parts, 1):
        return f"{parts} of its parts of {CHUNK} pixels leave threads idle, PyTorch divides the channels too"
    return None


FORWARD = {"cpu": native.cpu(_forward, slower=_slower)}
BACKWARD = {"cpu": native.cpu(_backward, position=1, slower=_slower)}
