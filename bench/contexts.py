"""The decoder's global contexts in other ways that PyTorch has for them, which `bench.variants` times beside ours.

Each way computes the same as ours without its 1x1 convolutions. They are written as the public code of each paper
writes them, on contiguous tensors and on channels_last ones, or by a fused function of PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.peers import Run
from bench.results import OURS, Row, Timing
from oracle.inputs import in_layout
from segnext.models.contexts.concepts import RIDGE, concept_decomposition
from segnext.models.contexts.criss_cross import criss_cross
from segnext.models.contexts.em import STAGES, em_attention
from segnext.models.contexts.non_local import non_local
from segnext.models.contexts.quantisation import SHARPNESS, soft_k_means
from segnext.models.ham import EVAL_STEPS
from segnext_kernels import nmf2d
from segnext_kernels.ops.nmf2d import reference

Way = Callable[..., Tensor]
SIDE = 64  # of the features at 512x512
SIZES = {"T": (256, 16), "B": (512, 64)}  # decoder width and rank
EPS = 1e-6
TOLERANCE = 2e-4  # of the largest value, between two ways in float32


def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Non-local attention as its authors and mmsegmentation write it, with two batched products."""
    n, inner, height, width = query.shape
    q, k, v = query.flatten(2).permute(0, 2, 1), key.flatten(2), value.flatten(2).permute(0, 2, 1)
    weights = torch.softmax(torch.matmul(q, k) / inner**0.5, dim=-1)
    return torch.matmul(weights, v).permute(0, 2, 1).reshape(n, inner, height, width)


def fused_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Non-local attention by PyTorch's fused function, on matrices that are contiguous."""
    q, k, v = (x.flatten(2).mT.contiguous()[:, None] for x in (query, key, value))
    out = F.scaled_dot_product_attention(q, k, v)[:, 0]
    return out.mT.unflatten(2, query.shape[2:])


def crossed_by_einsum(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Criss-cross attention as mmcv writes it where it has no kernel, by einsum."""
    height = query.shape[2]
    column = torch.einsum("bchw,bciw->bwhi", query, key)
    column = column + torch.full((height,), float("-inf")).diag()
    column = column.transpose(1, 2)
    row = torch.einsum("bchw,bchj->bhwj", query, key)
    weights = torch.softmax(torch.cat([column, row], dim=-1), dim=-1)
    out = torch.einsum("bciw,bhwi->bchw", value, weights[..., :height])
    return out + torch.einsum("bchj,bhwj->bchw", value, weights[..., height:])


def crossed_by_copies(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Criss-cross attention as its authors write it in PyTorch: every row and column becomes a batch of its own."""
    n, _, height, width = query.shape

    def columns(x: Tensor) -> Tensor:
        return x.permute(0, 3, 1, 2).contiguous().view(n * width, -1, height)

    def rows(x: Tensor) -> Tensor:
        return x.permute(0, 2, 1, 3).contiguous().view(n * height, -1, width)

    itself = torch.full((height,), float("-inf")).diag()
    column = torch.bmm(columns(query).mT, columns(key)) + itself
    row = torch.bmm(rows(query).mT, rows(key))
    column = column.view(n, width, height, height).permute(0, 2, 1, 3)
    weights = torch.softmax(torch.cat([column, row.view(n, height, width, width)], 3), dim=3)
    in_column = weights[..., :height].permute(0, 2, 1, 3).contiguous().view(n * width, height, height)
    in_row = weights[..., height:].contiguous().view(n * height, width, width)
    out_column = torch.bmm(columns(value), in_column.mT).view(n, width, -1, height).permute(0, 2, 3, 1)
    return out_column + torch.bmm(rows(value), in_row.mT).view(n, height, -1, width).permute(0, 2, 1, 3)


def em_by_einsum(x: Tensor, bases: Tensor) -> Tensor:
    """EM attention as mmsegmentation writes it, by einsum."""
    with torch.no_grad():
        fitted = bases.repeat(len(x), 1, 1)
        for _ in range(STAGES):
            weights = torch.softmax(torch.einsum("bcn,bck->bnk", x, fitted), dim=2)
            fitted = F.normalize(torch.einsum("bcn,bnk->bck", x, F.normalize(weights, dim=1, p=1.0)), dim=1)
        return torch.einsum("bck,bnk->bcn", fitted, weights)


def em_by_bmm(x: Tensor, bases: Tensor) -> Tensor:
    """EM attention as its authors write it, by batched products."""
    with torch.no_grad():
        fitted, turned = bases.repeat(len(x), 1, 1), x.permute(0, 2, 1)
        for _ in range(STAGES):
            weights = torch.softmax(torch.bmm(turned, fitted), dim=2)
            fitted = torch.bmm(x, weights / (1e-6 + weights.sum(1, keepdim=True)))
            fitted = fitted / (1e-6 + fitted.norm(dim=1, keepdim=True))
        return fitted.matmul(weights.permute(0, 2, 1))


def means_by_bmm(x: Tensor, bases: Tensor) -> Tensor:
    """Soft k-means as Hamburger's authors write it."""

    def coefficients(means: Tensor) -> Tensor:
        directions = F.normalize(x, dim=1)
        return torch.softmax(SHARPNESS * torch.bmm(directions.mT, F.normalize(means, dim=1)), dim=-1)

    means = bases.repeat(len(x), 1, 1)
    for _ in range(EVAL_STEPS):
        coef = coefficients(means)
        means = torch.bmm(x, coef / (1e-6 + coef.sum(1, keepdim=True)))
    return torch.bmm(means, coefficients(means).mT)


def concepts_by_bmm(x: Tensor, bases: Tensor) -> Tensor:
    """Concept decomposition as Hamburger's authors write it, by an inverse."""
    concepts = bases.repeat(len(x), 1, 1)
    for _ in range(EVAL_STEPS):
        coef = torch.softmax(SHARPNESS * torch.bmm(F.normalize(x, dim=1).mT, concepts), dim=-1)
        concepts = F.normalize(torch.bmm(x, coef / (1e-6 + coef.sum(1, keepdim=True))), dim=1)
    gram = torch.bmm(concepts.mT, concepts) + RIDGE * torch.eye(concepts.shape[-1])
    return torch.bmm(concepts, torch.bmm(torch.bmm(x.mT, concepts), torch.inverse(gram)).mT)


@dataclass(frozen=True)
class Workload:
    """One context.

    Attributes:
        name: as in `segnext.models.config.CONTEXTS`.
        ours: from pixels (1, D, L) and bases, or from query, key and value (1, C, H, W).
        ways: other ways to the same result.
        reduction: None for pixels and bases; else what divides the channels of query and key, and of value.
        learns: whether anything is differentiated through it.
    """

    name: str
    ours: Way
    ways: Mapping[str, Way]
    reduction: tuple[int, int] | None = None
    learns: bool = True

    def arguments(self, size: str) -> tuple[Tensor, ...]:
        """Draw the inputs for a decoder of SegNeXt-T or -B at 512x512, channels_last."""
        width, rank = SIZES[size]
        generator = torch.Generator().manual_seed(3)
        if self.reduction is not None:
            inner, outer = (width // divisor for divisor in self.reduction)
            shapes = [(1, channels, SIDE, SIDE) for channels in (inner, inner, outer)]
            drawn = [torch.randn(shape, generator=generator) for shape in shapes]
            return tuple(in_layout(drawn, torch.channels_last))
        pixels = torch.rand(1, SIDE * SIDE, width, generator=generator).mT
        return pixels, F.normalize(torch.rand(1, width, rank, generator=generator), dim=1)


WORKLOADS = (
    Workload("nl", non_local, {"bmm": attention, "contiguous sdpa": fused_attention}, (2, 2)),
    Workload("cc", criss_cross, {"einsum": crossed_by_einsum, "bmm": crossed_by_copies}, (8, 1)),
    Workload(
        "em",
        lambda x, bases: em_attention(x, bases)[0],
        {"einsum": em_by_einsum, "bmm": em_by_bmm},
        learns=False,
    ),
    Workload("vq", lambda x, bases: soft_k_means(x, bases, EVAL_STEPS, "unrolled"), {"bmm": means_by_bmm}),
    Workload(
        "cd",
        lambda x, bases: concept_decomposition(x, bases, EVAL_STEPS, "unrolled"),
        {"bmm": concepts_by_bmm},
    ),
    Workload(
        "ham",
        lambda x, bases: nmf2d(x, bases, EVAL_STEPS),
        {"bmm": lambda x, bases: reference.nmf2d(x, bases, EVAL_STEPS, "unrolled", EPS, False)[0]},
    ),
)


def _gradients(way: Way, inputs: Sequence[Tensor], grad: Tensor) -> tuple[Tensor, ...]:
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    # Bases get no gradient in a model.
    wanted = leaves if len(leaves) == 3 else leaves[:1]
    return torch.autograd.grad(way(*(leaves if len(leaves) == 3 else (leaves[0], inputs[1]))), wanted, grad)


def _expect_close(found: Any, expected: Any, what: str) -> None:
    for mine, other in zip(found, expected, strict=True):
        error = ((mine - other).abs().max() / other.abs().max()).item()
        assert error <= TOLERANCE, f"{what}: {error:.1e} of the largest value apart"


def measure(
    workload: Workload,
    size: str,
    backward: bool,
    timings: Callable[[Mapping[str, Run], float], dict[str, Timing]],
    seconds: float,
) -> Row:
    """Check and time one context, in each way and in both memory formats of its inputs."""
    inputs = workload.arguments(size)
    plain = tuple(tensor.contiguous() for tensor in inputs)
    with torch.no_grad():
        like = workload.ours(*inputs)
    drawn = torch.randn(like.shape, generator=torch.Generator().manual_seed(4))
    grad = torch.empty_like(like).copy_(drawn)  # channels innermost, as a model's next layer gives it

    def run(way: Way, tensors: tuple[Tensor, ...]) -> Run:
        if backward:
            return partial(_gradients, way, tensors, grad if tensors is inputs else drawn)
        return lambda: (way(*tensors),)

    runs = {OURS: run(workload.ours, inputs)}
    for name, way in workload.ways.items():
        runs |= {name: run(way, plain), f"{name} channels_last": run(way, inputs)}
    with torch.inference_mode(not backward):
        expected = runs[OURS]()
        for name, other in runs.items():
            _expect_close(other(), expected, f"{workload.name}, {name}")
        times = timings(runs, seconds)
    table = "contexts, forward" + " + backward" * backward
    return Row(table, f"{workload.name}, {size}", times)


def workloads(
    timings: Callable[[Mapping[str, Run], float], dict[str, Timing]],
) -> list[tuple[str, Callable[[float], Row]]]:
    """Return every workload: its name, and a function that measures it for about so many seconds."""
    return [
        (
            f"context {workload.name}, {size}" + ", backward" * backward,
            partial(measure, workload, size, backward, timings),
        )
        for workload in WORKLOADS
        for size in SIZES
        for backward in ((False, True) if workload.learns else (False,))
    ]
