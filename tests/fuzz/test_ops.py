"""Random problems for every op: sizes, dtypes, views, magnitudes, threads, instruction sets.

A kernel runs between canaries: whatever it allocates lies in a larger tensor, whose rest must stay as it was, and is
full of NaN before. Results and gradients follow the accuracy rule, and have the same bits with other threads.

The rule compares one sample of rounding errors with another, so in some of 10,000 problems chance alone breaks it. A
kernel that is inaccurate breaks it again with other values of the same problem; once more in three is a fault.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from oracle.accuracy import CAPS, assert_gradient_accurate, assert_output
from oracle.gradients import backward_arguments, cast, gradients_of
from oracle.inputs import DTYPES, LAYOUTS
from segnext_kernels import backend
from segnext_kernels.spec import Sample, all_specs
from tests.contract.cases import assert_bitwise, tensors
from tests.contract.test_values import VIEWS
from tests.fuzz.conftest import Fuzzer
from tests.instruction_sets import available, use_instruction_set

PROBLEMS = 2000
GUARD = 64  # elements on each side, a multiple of every alignment
Sizes = dict[str, Any]


class Canaries(TorchDispatchMode):
    """Gives every new tensor its place inside a larger one."""

    ALLOCATING = (
        torch.ops.aten.empty.memory_format,
        torch.ops.aten.new_empty.default,
        torch.ops.aten.empty_strided.default,
        torch.ops.aten.new_empty_strided.default,
    )

    def __init__(self) -> None:
        super().__init__()
        self.guarded: list[tuple[torch.Tensor, torch.Tensor]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        plain = func(*args, **(kwargs or {}))
        if func not in self.ALLOCATING or plain.numel() == 0:
            return plain
        elements = 1 + sum((size - 1) * step for size, step in zip(plain.shape, plain.stride(), strict=True))
        larger = plain.new_full((elements + 2 * GUARD,), _canary(plain.dtype))
        self.guarded.append((larger[:GUARD], larger[-GUARD:]))
        return larger.as_strided(plain.shape, plain.stride(), GUARD)

    def assert_untouched(self) -> None:
        for sides in self.guarded:
            for side in sides:
                assert_bitwise(side, torch.full_like(side, _canary(side.dtype)), "canary")


def _canary(dtype: torch.dtype) -> float:
    return torch.nan if dtype.is_floating_point else 93


def image(rng: np.random.Generator, most: int = 14) -> Sizes:
    return dict(n=int(rng.integers(1, 4)), h=int(rng.integers(1, most)), w=int(rng.integers(1, most)))


def width(rng: np.random.Generator, most: int = 80) -> int:
    """Often a multiple of 8 or 16, as in a network; else anything."""
    c = int(rng.integers(1, most))
    return c if rng.random() < 0.5 else -(-c // 16) * 16


def flag(rng: np.random.Generator) -> bool:
    return bool(rng.random() < 0.5)


def odd(rng: np.random.Generator, most: int) -> int:
    return 2 * int(rng.integers(0, (most + 1) // 2)) + 1


def matrices(rng: np.random.Generator) -> Sizes:
    return dict(b=int(rng.integers(1, 4)), d=width(rng), n=int(rng.integers(1, 150)), r=int(rng.integers(1, 24)),
                steps=int(rng.integers(0, 5)), shared=flag(rng), inner_rows=flag(rng), positive=True)  # fmt: skip


def divided(rng: np.random.Generator) -> Sizes:
    groups = int(rng.integers(1, 9))
    return dict(groups=groups, c=groups * int(rng.integers(1, 9)))


def output(rng: np.random.Generator, most: int = 40) -> tuple[int, int]:
    return int(rng.integers(1, most)), int(rng.integers(1, most))


def convolution(rng: np.random.Generator) -> Sizes:
    kernel = (int(rng.integers(1, 5)), int(rng.integers(1, 5)))
    padding = int(rng.integers(0, 3))
    least = max(kernel) - 2 * padding
    h, w = (max(size, least) for size in output(rng, 14))
    return dict(n=int(rng.integers(1, 3)), ci=width(rng, 40), co=width(rng), h=h, w=w, kernel=kernel,
                stride=int(rng.integers(1, 4)), padding=padding, bias=flag(rng), channels_last=flag(rng),
                act=str(rng.choice(["none", "relu", "gelu"])), image=flag(rng), float32_out=flag(rng))  # fmt: skip


def strips(rng: np.random.Generator) -> tuple[int, ...]:
    return tuple(odd(rng, 33) for _ in range(int(rng.integers(0, 4))))


def chain(rng: np.random.Generator) -> list[tuple[int, int, int, int]]:
    """Draw depthwise kernels, each with its height, width and dilations."""
    return [
        (odd(rng, 13), odd(rng, 13), int(rng.integers(1, 4)), int(rng.integers(1, 4)))
        for _ in range(int(rng.integers(0, 4)))
    ]


def chains(rng: np.random.Generator) -> Sizes:
    branches = [chain(rng) for _ in range(int(rng.integers(1, 5)))]
    combine = str(rng.choice(["sum", "cat"] + ["split"] * (sum(not branch for branch in branches) <= 1)))
    widths = [int(rng.integers(1, 20)) for _ in branches] if combine == "split" else []
    c = sum(widths) or width(rng, 50)
    return dict(c=c, root=chain(rng)[:2], branches=branches, combine=combine, bias=flag(rng), widths=widths)


BENDING = ("conv_ffn", "dwconv_gelu", "msca_block", "upsample_cross_entropy")
# op -> sizes for the `_build` of its specification
SIZES: dict[str, Callable[[np.random.Generator], Sizes]] = {
    "channel_norm": lambda rng: dict(**image(rng), c=width(rng), wide_affine=flag(rng)),
    "conv2d_act": convolution,
    "conv_ffn": lambda rng: dict(**image(rng), c=(c := width(rng)), e=width(rng, 200), **(
        dict(co=c, residual=True) if flag(rng) else dict(co=width(rng)))),
    "depthwise_sum": lambda rng: dict(**image(rng, 24), **chains(rng)),
    "dwconv_gelu": lambda rng: dict(**image(rng, 30), c=width(rng), bias=flag(rng)),
    "pointwise": lambda rng: dict(**image(rng, 24), ci=width(rng), co=width(rng), bias=flag(rng)),
    "gated_pointwise": lambda rng: dict(**image(rng, 24), ci=width(rng), co=width(rng), bias=flag(rng)),
    "group_norm_act": lambda rng: dict(**image(rng), **divided(rng), residual=flag(rng), wide_affine=flag(rng),
                                       act=str(rng.choice(["relu", "none"]))),
    "msca_block": lambda rng: dict(**image(rng), c=width(rng), strips=strips(rng), bias=flag(rng)),
    "msca_conv": lambda rng: dict(**image(rng, 30), c=width(rng, 50), root=odd(rng, 8), strips=strips(rng),
                                  root_bias=flag(rng), row_biases=flag(rng), column_biases=flag(rng)),
    "nmf2d": lambda rng: dict(**matrices(rng), wide_bases=flag(rng), grad=str(rng.choice(["unrolled", "one_step"]))),
    "nmf2d_projected": lambda rng: dict(**matrices(rng), wide=flag(rng), p=width(rng)),
    "resize_sum": lambda rng: dict(**image(rng), c=width(rng), others=tuple(
        output(rng, 14) for _ in range(int(rng.integers(0, 5))))),
    "upsample_argmax": lambda rng: dict(**image(rng), k=int(rng.integers(1, 40)), size=output(rng), smooth=flag(rng)),
    "upsample_cross_entropy": lambda rng: dict(
        **image(rng), k=int(rng.integers(1, 40)), size=output(rng), ignored=float(rng.random() / 2),
        weighted=flag(rng), smoothing=float(rng.choice([0, 0.1])), reduction=str(rng.choice(["mean", "mean_all"]))),
}  # fmt: skip


class Problem:
    """One op, its arguments, and how it is run."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.spec = all_specs()[str(rng.choice(list(SIZES)))]
        self.sizes = SIZES[self.spec.name](rng)
        dtype, layout = str(rng.choice(list(DTYPES))), str(rng.choice(list(LAYOUTS)))
        self.dtype, self.layout = DTYPES[dtype], LAYOUTS[layout]
        self.seed = int(rng.integers(2**31))
        self.magnitude = _magnitude(rng, self.dtype, self.bends)
        args = self.values()
        self.views = [str(rng.choice([*VIEWS, *["as it is"] * 8])) for _ in tensors(args)]
        self.args = self.viewed(args)
        self.grad_magnitude = _magnitude(rng, self.dtype, False)
        names = [
            name
            for name, k in backend.KERNELS[self.spec.name].items()
            if k.reason_against(*self.args) is None
        ]
        self.backend = str(
            rng.choice([n for n in names if n in ("cpu", "reference")], p=_mostly_first(names))
        )
        self.isa = int(rng.choice(available() or [0]))
        self.threads = [int(count) for count in rng.choice([1, 2, 3, 4], 2, replace=False)]
        self.text = f"{self.spec.name} {dtype} {layout} {self.backend} {self.sizes} x {self.magnitude:.1e}"
        self.text += (
            f" grad x {self.grad_magnitude:.1e} views {self.views} isa {self.isa} threads {self.threads}"
        )

    def values(self) -> tuple[Any, ...]:
        """Return the op's arguments, as its specification makes them from `seed`."""
        self.generator = torch.Generator().manual_seed(self.seed)
        sample = Sample("random", self.spec.samples[0].build, self.sizes)
        args = sample.make(self.dtype, layout=self.layout, generator=self.generator)
        if self.spec.name in ("nmf2d", "nmf2d_projected"):
            return args
        return (args[0] * self.magnitude, *args[1:])

    def viewed(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        views = iter(self.views)
        return tree_map_only(torch.Tensor, lambda t: _viewed(t, next(views)), args)

    @property
    def bends(self) -> bool:
        """Whether there is a GELU or a softmax."""
        return self.spec.name in BENDING or self.sizes.get("act") == "gelu"

    def grad_of(self, out: torch.Tensor) -> torch.Tensor:
        values = torch.randn(out.shape, generator=self.generator.clone_state(), dtype=torch.float64)
        return (values * self.grad_magnitude).to(out.dtype)

    def check(self) -> None:
        """Try it; what the accuracy rule refuses is tried three times more with other values."""
        try:
            self.run()
        except Inaccurate:
            for _ in range(3):
                self.seed += 1
                self.args = self.viewed(self.values())
                self.run()

    def run(self) -> None:
        """Run it twice with different numbers of threads, forward and backward."""
        out, *_ = self.same_for_any_threads(self.spec.name, self.args)
        with inaccurate():
            assert_output(self.spec, out, self.args)
        if not self.spec.differentiable or f"{self.spec.name}_backward" not in backend.KERNELS:
            return
        with backend.use_backend(self.backend):
            arguments = backward_arguments(self.spec, self.args, self.grad_of)
        grads = self.same_for_any_threads(f"{self.spec.name}_backward", arguments)
        if self.backend == "reference":  # PyTorch itself, whose error is the measure
            return
        grad = self.grad_of(out)
        versions = (cast(self.args, torch.float64), self.args, cast(self.args, torch.float32))
        expected = [gradients_of(self.spec.reference, self.spec, version, grad) for version in versions]
        for index, (actual, oracle, eager, wide) in enumerate(zip(grads, *expected, strict=True)):
            if _can_be_judged(oracle, eager):
                with inaccurate():
                    assert_gradient_accurate(actual, oracle, eager, wide, what=f"gradient {index}")

    def same_for_any_threads(self, op: str, args: tuple[Any, ...]) -> list[torch.Tensor]:
        kernel, results = backend.KERNELS[op][self.backend], []
        for count in self.threads:
            torch.set_num_threads(count)
            # a definition is PyTorch's, whose sums may depend on the number of threads
            with Canaries() as canaries, backend.use_backend(self.backend):
                results.append(tensors(kernel.run(*args)))
            canaries.assert_untouched()
        if self.backend == "cpu":
            assert_bitwise(results[1], results[0], "with other threads, result")
        return results[0]


class Inaccurate(AssertionError):
    """The accuracy rule is broken, by a fault or by chance."""


@contextmanager
def inaccurate() -> Iterator[None]:
    try:
        yield
    except AssertionError as error:
        raise Inaccurate(str(error)) from error


def _can_be_judged(oracle: torch.Tensor, eager: torch.Tensor) -> bool:
    """Return whether PyTorch's own error is below the rule's cap: it is not where nearly all of a gradient cancels."""
    finite = oracle.isfinite() & eager.isfinite()
    if not finite.any():
        return True
    error = (eager.double() - oracle)[finite].abs().max()
    return bool(error <= CAPS[eager.dtype] * oracle[finite].abs().max())


def _magnitude(rng: np.random.Generator, dtype: torch.dtype, bends: bool) -> float:
    """Mostly 1, else a power of two, which rounds nothing.

    It is small in 16 bits, because float16 overflows, and where there is a GELU or a softmax: a rounding of large
    values moves its argument across the bend, so that the error of one computation says nothing about that of another.
    `tests/kernels/cpu/test_gelu.py` has GELU and its derivative up to the largest numbers.
    """
    most = 3 if bends or dtype in (torch.float16, torch.bfloat16) else 17
    return float(2.0 ** rng.integers(-most, most + 1)) if rng.random() < 0.2 else 1.0


def _mostly_first(names: list[str]) -> list[float]:
    known = [n for n in names if n in ("cpu", "reference")]
    return [1.0] if len(known) == 1 else [0.9, 0.1]


def _viewed(t: torch.Tensor, view: str) -> torch.Tensor:
    return VIEWS[view](t) if view in VIEWS else t


@pytest.mark.usefixtures("threads")
def test_random_problems(fuzzer: Fuzzer, monkeypatch: pytest.MonkeyPatch) -> None:
    for case, rng in fuzzer.cases("problems of ops", PROBLEMS):

        def run(rng: np.random.Generator = rng) -> str | None:
            problem = Problem(rng)
            use_instruction_set(problem.isa, monkeypatch)
            try:
                problem.check()
            except Exception as error:
                return f"{problem.text}: {type(error).__name__}: {str(error)[:300]}"
            return None

        fuzzer.check(case, run)
