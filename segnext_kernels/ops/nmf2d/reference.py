"""nmf2d in plain PyTorch: the definition, and functions that allocate its results."""

from __future__ import annotations

import torch

from segnext_kernels.memory_format import accumulator_dtype, as_order_of, empty_matrices_like


def _coef_terms(
    x: torch.Tensor, bases: torch.Tensor, coef: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    return x.mT @ bases, coef @ (bases.mT @ bases) + eps


def _bases_terms(
    x: torch.Tensor, bases: torch.Tensor, coef: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    return x @ coef, bases @ (coef.mT @ coef) + eps


def nmf2d(
    x: torch.Tensor, bases: torch.Tensor, steps: int, grad: str, eps: float, save: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(bases coefᵀ in x's order, bases and coef before each update); the state is float32, for float64 x float64."""
    given, x = x, x.to(accumulator_dtype(x.dtype))
    bases = bases.to(x.dtype).expand(x.shape[0], -1, -1)
    coef = torch.softmax(x.mT @ bases, dim=-1)
    states = [(bases, coef)]
    for _ in range(steps):
        numerator, denominator = _coef_terms(x, bases, coef, eps)
        coef = coef * numerator / denominator
        numerator, denominator = _bases_terms(x, bases, coef, eps)
        bases = bases * numerator / denominator
        states.append((bases, coef))
    numerator, denominator = _coef_terms(x, bases, coef, eps)
    coef = coef * numerator / denominator
    out = as_order_of((bases @ coef.mT).to(given.dtype), given)
    kept = states if save and grad == "unrolled" else states[-1:] if save else []
    saved_bases = torch.stack([b for b, _ in kept]) if kept else bases.new_empty((0, *bases.shape))
    saved_coef = torch.stack([c for _, c in kept]) if kept else coef.new_empty((0, *coef.shape))
    return out, saved_bases, saved_coef


def nmf2d_backward(
    grad_out: torch.Tensor,
    x: torch.Tensor,
    saved_bases: torch.Tensor,
    saved_coef: torch.Tensor,
    grad: str,
    eps: float,
) -> torch.Tensor:
    """Gradient of x: through the saved updates and the softmax, or (one_step) through the last update alone."""
    given = x
    # one fixed order, so that equal values give the same bits for all strides
    grad_out = as_order_of(grad_out, x).to(saved_bases.dtype)
    x = x.to(saved_bases.dtype)
    bases, coef = saved_bases[-1], saved_coef[-1]
    numerator, denominator = _coef_terms(x, bases, coef, eps)
    last_coef = coef * numerator / denominator
    grad_bases, grad_last_coef = grad_out @ last_coef, grad_out.mT @ bases
    # coef' = coef * num / den with num = Xᵀ bases, den = coef (basesᵀ bases) + eps
    grad_x, grad_coef, grad_from_coef = _coef_backward(grad_last_coef, x, bases, coef, numerator, denominator)
    if grad == "one_step":
        return as_order_of(grad_x.to(given.dtype), given)
    grad_bases = grad_bases + grad_from_coef
    for step in range(saved_bases.shape[0] - 2, -1, -1):
        bases, new_coef, coef = saved_bases[step], saved_coef[step + 1], saved_coef[step]
        numerator, denominator = _bases_terms(x, bases, new_coef, eps)
        grad_num, grad_den, grad_bases = _ratio_backward(grad_bases, bases, numerator, denominator)
        grad_x = grad_x + grad_num @ new_coef.mT
        grad_gram = bases.mT @ grad_den
        grad_coef = grad_coef + x.mT @ grad_num + new_coef @ (grad_gram + grad_gram.mT)
        grad_bases = grad_bases + grad_den @ (new_coef.mT @ new_coef)
        numerator, denominator = _coef_terms(x, bases, coef, eps)
        grad_x_step, grad_coef, grad_from_coef = _coef_backward(
            grad_coef, x, bases, coef, numerator, denominator
        )
        grad_x, grad_bases = grad_x + grad_x_step, grad_bases + grad_from_coef
    bases, coef = saved_bases[0], saved_coef[0]
    grad_logits = coef * (grad_coef - (grad_coef * coef).sum(-1, keepdim=True))
    return as_order_of((grad_x + bases @ grad_logits.mT).to(given.dtype), given)


def _ratio_backward(
    grad: torch.Tensor, factor: torch.Tensor, numerator: torch.Tensor, denominator: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of numerator, denominator and factor of factor * numerator / denominator."""
    ratio = numerator / denominator
    grad_numerator = grad * factor / denominator
    return grad_numerator, -grad_numerator * ratio, grad * ratio


def _coef_backward(
    grad: torch.Tensor,
    x: torch.Tensor,
    bases: torch.Tensor,
    coef: torch.Tensor,
    numerator: torch.Tensor,
    denominator: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of x, coef and bases of a coef update."""
    grad_num, grad_den, grad_coef = _ratio_backward(grad, coef, numerator, denominator)
    grad_gram = coef.mT @ grad_den
    grad_bases = x @ grad_num + bases @ (grad_gram + grad_gram.mT)
    return bases @ grad_num.mT, grad_coef + grad_den @ (bases.mT @ bases), grad_bases


def empty_out(
    x: torch.Tensor, bases: torch.Tensor, steps: int, grad: str, eps: float, save: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    b, d, n = x.shape
    r = bases.shape[2]
    states = 0 if not save else steps + 1 if grad == "unrolled" else 1
    state = x.new_empty((states, b, d, r), dtype=accumulator_dtype(x.dtype))
    return empty_matrices_like(x), state, state.new_empty((states, b, n, r))
