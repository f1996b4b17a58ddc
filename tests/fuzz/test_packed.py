"""Random problems for the packed layers of a deployed model: sizes, dtypes, strides, threads, instruction sets.

Result and workspace lie between canaries and are full of NaN before. The result follows the accuracy rule of the op
that the layer is, and has the same bits with other threads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from oracle.accuracy import assert_output
from oracle.inputs import DTYPES
from segnext_kernels import native, packed
from segnext_kernels.ops.conv2d_act.reference import empty_out
from segnext_kernels.spec import all_specs
from tests.contract.cases import assert_bitwise
from tests.contract.test_values import VIEWS
from tests.fuzz.conftest import Fuzzer
from tests.fuzz.test_ops import SIZES, Canaries, flag
from tests.instruction_sets import available, use_instruction_set

pytestmark = pytest.mark.skipif(native._C is None, reason="the compiled library is missing")
PROBLEMS = 1000
Draws = Callable[..., tuple[Any, ...]]  # takes sizes that replace the drawn ones, gives the op's arguments


@dataclass(frozen=True)
class Problem:
    """What a layer computes.

    Attributes:
        args: of the op whose result it is.
        x: the layer's input.
        place: a new tensor for the result.
        run: runs the layer on x into the result's place.
    """

    args: tuple[Any, ...]
    x: torch.Tensor
    place: Callable[[], torch.Tensor]
    run: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def rows(rng: np.random.Generator, x: torch.Tensor) -> torch.Tensor:
    """Return x, sometimes as channels of a larger image."""
    if flag(rng):
        return x
    n, c, h, w = x.shape
    larger = x.new_full((n, h, w, c + 5), torch.nan)
    larger[..., 2 : c + 2] = x.permute(0, 2, 3, 1)
    return larger[..., 2 : c + 2].permute(0, 3, 1, 2)


def conv2d(rng: np.random.Generator, draw: Draws) -> Problem:
    x, weight, bias, stride, padding, act, wide, _ = draw(image=False, channels_last=True)
    view = str(rng.choice([*VIEWS, "as it is"]))
    x = VIEWS[view](x) if view in VIEWS else x
    layer = packed.PackedConv2d(
        weight.float(), None if bias is None else bias.float(), x.dtype, stride, padding, act
    )
    args = (x, weight, bias, stride, padding, act, wide, True)
    return Problem(args, x, lambda: empty_out(x, weight, stride, padding, wide, True), layer)


def msca_block(rng: np.random.Generator, draw: Draws) -> Problem:
    x, *weights = draw()
    layer, needed = packed.PackedMscaBlock(weights), packed.workspace_elements(x.shape)
    x = rows(rng, x)
    return Problem(
        (x, *weights), x, lambda: like(x), lambda x, out: layer(x, out, torch.empty(needed, dtype=x.dtype))
    )


def conv_ffn(rng: np.random.Generator, draw: Draws) -> Problem:
    c = int(rng.integers(1, 80))
    x, *weights, _ = draw(c=c, co=c, residual=True)
    x = rows(rng, x)
    return Problem((x, *weights, True), x, lambda: like(x), packed.PackedConvFfn(weights))


def channel_norm(rng: np.random.Generator, draw: Draws) -> Problem:
    x, weight, bias, eps = draw(wide_affine=True)
    x = rows(rng, x)
    return Problem(
        (x, weight, bias, eps),
        x,
        lambda: like(x),
        lambda x, out: packed.channel_norm(x, weight, bias, eps, out),
    )


def group_norm_act(rng: np.random.Generator, draw: Draws) -> Problem:
    x, groups, weight, bias, eps, residual, act = draw(wide_affine=True, act="relu")
    x = rows(rng, x)

    def run(x: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        return packed.group_norm_act(x, groups, weight, bias, eps, residual, out)

    return Problem((x, groups, weight, bias, eps, residual, act), x, lambda: like(x), run)


def resize_sum(rng: np.random.Generator, draw: Draws) -> Problem:
    base, others, corners = draw()
    base, others = rows(rng, base), [rows(rng, other) for other in others]
    return Problem(
        (base, others, corners),
        base,
        lambda: like(base),
        lambda base, out: packed.resize_sum(base, others, out),
    )


def nmf2d(rng: np.random.Generator, draw: Draws) -> Problem:
    h, w = int(rng.integers(1, 13)), int(rng.integers(1, 13))
    matrices, bases, steps, projection, _ = draw(wide=True, shared=True, inner_rows=True, n=h * w)
    x = rows(rng, matrices.unflatten(2, (h, w)))
    return Problem(
        (x.flatten(2), bases, steps, projection, packed.EPS),
        x,
        lambda: x.new_empty((len(x), h, w, len(projection))).permute(0, 3, 1, 2),
        lambda x, out: packed.nmf2d(x, bases, steps, projection, out).flatten(2),
    )


# op -> its packed layer
LAYERS: dict[str, Callable[[np.random.Generator, Draws], Problem]] = {
    "channel_norm": channel_norm,
    "conv2d_act": conv2d,
    "conv_ffn": conv_ffn,
    "group_norm_act": group_norm_act,
    "msca_block": msca_block,
    "nmf2d_projected": nmf2d,
    "resize_sum": resize_sum,
}


def like(x: torch.Tensor) -> torch.Tensor:
    return torch.empty(x.shape, dtype=x.dtype, memory_format=torch.channels_last)


class Drawn:
    """A layer, sizes, dtype, instruction set and two numbers of threads."""

    def __init__(self, rng: np.random.Generator) -> None:
        assert native._C is not None
        self.rng, self.name = rng, str(rng.choice(list(LAYERS)))
        self.spec, self.sizes = all_specs()[self.name], SIZES[self.name](rng)
        self.dtype, self.seed = str(rng.choice(["fp32", "bf16"])), int(rng.integers(2**31))
        self.isa = int(rng.choice(available()))
        self.threads = [int(count) for count in rng.choice([1, 2, 3, 4], 2, replace=False)]

    def arguments(self, **fixed: Any) -> tuple[Any, ...]:
        generator = torch.Generator().manual_seed(self.seed)
        return self.spec.samples[0].make(
            DTYPES[self.dtype], layout=torch.channels_last, generator=generator, **{**self.sizes, **fixed}
        )

    def check(self) -> None:
        problem, results = LAYERS[self.name](self.rng, self.arguments), []
        for count in self.threads:
            torch.set_num_threads(count)
            with Canaries() as canaries:
                results.append(problem.run(problem.x, problem.place()))
            canaries.assert_untouched()
        assert_bitwise(results[1], results[0], "with other threads, result")
        assert_output(self.spec, results[0], problem.args)

    def fault(self) -> str | None:
        try:
            self.check()
        except Exception as error:
            text = f"{self.name} {self.dtype} {self.sizes} isa {self.isa} threads {self.threads}"
            return f"{text}: {type(error).__name__}: {str(error)[:300]}"
        return None


@pytest.mark.usefixtures("threads")
def test_random_problems_of_packed_layers(fuzzer: Fuzzer, monkeypatch: pytest.MonkeyPatch) -> None:
    for case, rng in fuzzer.cases("problems of packed layers", PROBLEMS):
        drawn = Drawn(rng)
        use_instruction_set(drawn.isa, monkeypatch)
        fuzzer.check(case, drawn.fault)
