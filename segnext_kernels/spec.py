"""An op's promises as data: sample and bad inputs, real shapes, bytes and FLOPs.

Every `ops/<op>/spec.py` fills one `Spec`; the contract tests, the benchmarks and the self-check read them.
"""

from __future__ import annotations

import functools
import importlib
import math
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.flop_counter import flop_registry

from segnext_kernels import ops
from segnext_kernels.kernel import AUTOCAST

# SegNeXt-T and -B at 512x512: stage -> (channels, side of the feature map, FFN expansion).
STAGES: dict[str, tuple[int, int, int]] = {
    "t1": (32, 128, 8), "t2": (64, 64, 8), "t3": (160, 32, 4), "t4": (256, 16, 4),
    "b1": (64, 128, 8), "b2": (128, 64, 8), "b3": (320, 32, 4), "b4": (512, 16, 4),
}  # fmt: skip
STRIPS = (7, 11, 21)


@dataclass(frozen=True)
class Draw:
    """Random arguments in one dtype, device and memory format; the values depend on the generator alone."""

    dtype: torch.dtype
    device: torch.device
    layout: torch.memory_format
    generator: torch.Generator

    def wide_normal(self, *shape: int) -> torch.Tensor:
        """Gaussian in float64, on the generator's device: one on the CPU serves all."""
        return torch.randn(shape, generator=self.generator, dtype=torch.float64, device=self.generator.device)

    def normal(self, *shape: int, scale: float = 1.0) -> torch.Tensor:
        """Gaussian of deviation ``scale``."""
        return (self.wide_normal(*shape) * scale).to(self.device, self.dtype)

    def image(self, n: int, c: int, h: int, w: int) -> torch.Tensor:
        """Gaussian (N, C, H, W) in the memory format."""
        return self.normal(n, c, h, w).contiguous(memory_format=self.layout)

    def weight(self, *shape: int) -> torch.Tensor:
        """A convolution's weight with unit gain: deviation 1 / sqrt(fan in)."""
        return self.normal(*shape, scale=math.prod(shape[1:]) ** -0.5)

    def optional(self, wanted: bool, *shape: int) -> torch.Tensor | None:
        """`normal`, or None if it is not wanted."""
        return self.normal(*shape) if wanted else None

    def uniform(self, *shape: int) -> torch.Tensor:
        """Uniform in [0, 1)."""
        values = torch.rand(
            shape, generator=self.generator, dtype=torch.float64, device=self.generator.device
        )
        return values.to(self.device, self.dtype)

    def integers(self, high: int, *shape: int) -> torch.Tensor:
        """Uniform int64 in [0, high)."""
        return torch.randint(high, shape, generator=self.generator, device=self.generator.device).to(
            self.device
        )

    def strips(self, c: int, kernels: Sequence[int]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Rows (C, 1, 1, K) and columns (C, 1, K, 1), one of each for each K."""
        return [self.weight(c, 1, 1, k) for k in kernels], [self.weight(c, 1, k, 1) for k in kernels]


@dataclass(frozen=True, eq=False)
class Sample:
    """One set of arguments, under a readable name such as c20-h31w17."""

    name: str
    build: Callable[..., tuple[Any, ...]]
    sizes: Mapping[str, Any]

    def make(
        self,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        layout: torch.memory_format = torch.contiguous_format,
        generator: torch.Generator | None = None,
        **changed: Any,
    ) -> tuple[Any, ...]:
        """The arguments in schema order. Without a generator every call returns the same values.

        Args:
            changed: sizes that replace the sample's, such as ``h=12``.
        """
        draw = Draw(dtype, torch.device(device), layout, generator or torch.Generator().manual_seed(0))
        return self.build(draw, **{**self.sizes, **changed})

    def resized(self, **changed: Any) -> Sample:
        """The same with some sizes replaced, which its name tells: ``t1-c32-h128w128-n=32``."""
        words = (f"{size}={value}" for size, value in changed.items())
        return Sample("-".join((self.name, *words)), self.build, {**self.sizes, **changed})


def samples(build: Callable[..., tuple[Any, ...]], **named: Mapping[str, Any]) -> tuple[Sample, ...]:
    """Samples of one builder; an underscore in a name becomes a hyphen."""
    return tuple(Sample(name.replace("_", "-"), build, sizes) for name, sizes in named.items())


@dataclass(frozen=True)
class BadInput:
    """Arguments of the first sample, some of them replaced by name, and the error that must follow."""

    name: str
    replaced: Mapping[str, Any]
    error: type[Exception]
    message: str  # regular expression


def first_elements(*args: Any) -> int:
    """Elements of the first argument."""
    return int(args[0].numel())


@dataclass(frozen=True, eq=False)
class Spec:
    """Everything that is particular to one op. Tests, benchmarks and the self-check read it here and name no op.

    Attributes:
        name: the op's one name.
        public: the public function; takes the schema's arguments in order, without ``internal``.
        reference: plain PyTorch in schema order; autograd through it gives the oracle's gradients.
        differentiable: names of the arguments that get a gradient; empty for inference ops.
        samples: small inputs with every kind of edge case; the first is an ordinary one.
        model_shapes: those of SegNeXt-T and -B at 512x512, batch 1.
        target_shapes: larger ones for which a speed is promised on a GPU.
        modelled_shapes: further shapes whose instructions the issue model counts.
        bad_inputs: what must be refused, and how.
        resized: sizes that give the first sample another H and W.
        internal: trailing schema arguments that the public function sets itself.
        calls: ops that its Triton code calls; these may run CUDA kernels of their own.
        saving: the sizes with which the forward saves what its backward needs.
        without_derivative: samples whose gradient is by design not the derivative of the output.
        backward_of_products: whether the backward on a GPU is PyTorch's matrix products around another op.
        matrix_products: whether it is mostly matrix products: in 16 bits a GPU's tensor cores are then its floor.
        program_per_pixel: whether its Triton kernels start a program for each pixel.
        tiles_by_programs: whether the tiles of its Triton kernels depend on how many programs there are.
        tiled: memory format -> sizes that make several tiles along every axis in most configurations of its Triton
            kernels; empty where other tests go through the configurations.
        cuda_edges: samples that only the CUDA kernels need, of several tiles, strips and slices of their grids.
        elements: from the arguments, the number of outputs of the costliest part, which instructions are counted per.
    """

    name: str
    public: Callable[..., torch.Tensor]
    reference: Callable[..., torch.Tensor]
    differentiable: tuple[str, ...]
    samples: tuple[Sample, ...]
    model_shapes: tuple[Sample, ...]
    bad_inputs: tuple[BadInput, ...]
    target_shapes: tuple[Sample, ...] = ()
    resized: Mapping[str, Any] = field(default_factory=lambda: {"h": 12, "w": 5})
    internal: tuple[str, ...] = ()
    calls: tuple[str, ...] = ()
    modelled_shapes: tuple[Sample, ...] = ()
    saving: Mapping[str, Any] = field(default_factory=dict)
    without_derivative: tuple[str, ...] = ()
    backward_of_products: bool = False
    matrix_products: bool = False
    program_per_pixel: bool = False
    tiles_by_programs: bool = False
    tiled: Mapping[torch.memory_format, Mapping[str, Any]] = field(default_factory=dict)
    cuda_edges: tuple[Sample, ...] = ()
    elements: Callable[..., int] = first_elements

    @property
    def op(self) -> Any:
        """The registered operator, which takes all of the schema's arguments."""
        return getattr(torch.ops.segnext_kernels, self.name).default

    @property
    def low_precision(self) -> tuple[str, ...]:
        """Names of the arguments that autocast converts to the low precision."""
        return AUTOCAST.get(self.name, ())

    @property
    def argument_names(self) -> tuple[str, ...]:
        """Names of the arguments, in schema order."""
        return tuple(argument.name for argument in self.op._schema.arguments)

    @property
    def has_image(self) -> bool:
        """Whether an argument has a memory format; nmf2d's matrices have none."""
        leaves = tree_leaves(self.samples[0].make(device="meta"))
        return any(isinstance(t, torch.Tensor) and t.ndim == 4 for t in leaves)

    def call(self, *args: Any) -> torch.Tensor:
        """The public function on arguments in schema order."""
        return self.public(*args[: len(args) - len(self.internal)])

    def flops(self, args: Sequence[Any]) -> int:
        """Floating-point operations: the op's registered formula on these arguments."""
        return int(
            flop_registry[self.op.overloadpacket](
                *tree_map_only(torch.Tensor, lambda t: t.shape, tuple(args))
            )
        )

    def bytes_moved(self, args: Sequence[Any], out: Any) -> int:
        """The algorithmic minimum: every input and weight read once, every output written once."""
        return sum(
            t.numel() * t.element_size() for t in tree_leaves((args, out)) if isinstance(t, torch.Tensor)
        )


@functools.cache
def all_specs() -> dict[str, Spec]:
    """Op name -> its `Spec`, for every folder of `segnext_kernels.ops`."""
    folders = [module.name for module in pkgutil.iter_modules(ops.__path__) if module.ispkg]
    return {name: importlib.import_module(f"{ops.__name__}.{name}.spec").SPEC for name in sorted(folders)}
