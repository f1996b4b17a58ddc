"""Writes the card of every model and variant: its cost by our count and by that of the paper's tool, beside the paper.

The paper's "GFLOPs" are multiply-adds as torchprofile counts them (the official code's tools/get_flops.py). It counts,
beside products and convolutions, one for each value that is normalised, multiplied or averaged, and four for each value
that is resized, up to logits at the image's size. `count` counts the same way, so that both can be compared to the last
printed digit; `segnext.measure.costs` counts products alone, as most tools do.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from bench import paper, report
from segnext.models import MSCAN, SegNeXt, build, list_models
from segnext.models.layers import ChannelNorm
from segnext.models.msca import Attention, Block
from segnext.models.registry import split_variant

NORMS = (nn.BatchNorm2d, nn.GroupNorm, ChannelNorm)
POOLING = (nn.AdaptiveAvgPool2d,)


@dataclass(frozen=True)
class Cost:
    """What a model costs at one input size.

    Attributes:
        trained: parameters that are trained, which is what the paper counts.
        parameters: all.
        multiply_adds: of convolutions and matrix products, up to the decoder's logits.
        counted: as the paper's tool counts, see above.
    """

    trained: int
    parameters: int
    multiply_adds: int
    counted: int


class _Resizes(TorchDispatchMode):
    """Counts the values that bilinear resizing makes."""

    def __init__(self) -> None:
        super().__init__()
        self.values = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        if "upsample_bilinear2d" in str(func):
            self.values += result.numel()
        return result


@functools.cache
def cost(
    name: str, size: tuple[int, int] = paper.SIZE, classes: int = paper.CLASSES, context: str | None = "ham"
) -> Cost:
    """Count one model at one input size; an encoder has 1000 classes and no context."""
    with torch.device("meta"):  # shapes suffice
        if name.startswith("mscan"):
            model = build(name)
        else:
            model = build(name, num_classes=classes, **({} if context == "ham" else {"context": context}))
    parameters = [(p.numel(), p.requires_grad) for p in model.parameters()]
    products, others = count(model, *size)
    return Cost(
        sum(size for size, trained in parameters if trained),
        sum(size for size, _ in parameters),
        products,
        products + others,
    )


def count(model: SegNeXt | MSCAN, height: int, width: int) -> tuple[int, int]:
    """Count products, and what the paper's tool counts beside them, of one forward pass on the meta device."""
    values = 0

    def one_each(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal values
        values += output.numel()

    def two_each(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal values
        values += 2 * output.numel()  # by the two layer scales

    # A layer with a hook is called, and not passed by in a fused op, so that all layers are seen.
    hooks = [
        module.register_forward_hook(two_each if isinstance(module, Block) else one_each)
        for module in model.modules()
        if isinstance(module, (*NORMS, *POOLING, Block)) or (isinstance(module, Attention) and module.gate)
    ]
    image = torch.empty(1, model.config.in_channels, height, width, device="meta")
    counter, resizes = FlopCounterMode(display=False), _Resizes()
    try:
        with torch.no_grad(), counter, resizes:
            model.eval()(image)
    finally:
        for hook in hooks:
            hook.remove()
    return counter.get_total_flops() // 2, values + 4 * resizes.values


def difference(ours: float, theirs: float) -> str:
    """Return how far ours is from theirs, as a percentage; 0 within the half of theirs' last printed digit."""
    return "0" if round(abs(ours - theirs), 2) <= 0.05 else f"{(ours - theirs) / theirs:+.2%}"


def _command(name: str) -> str:
    return f'`create_model("{name}")`'


def of_the_paper() -> str:
    """Return every row of the paper's tables that is about one of its networks, beside ours."""
    lines = [
        ["table", "model", "parameters", "paper", "off"]
        + ["multiply-adds", "as the paper counts", "paper", "off", "mIoU in the paper"]
    ]
    for row in paper.ROWS:
        lines.append([row.table, _command(row.name), *_parameters(row), *_multiply_adds(row), _scores(row)])
    return report.aligned(lines)


def parameters(row: paper.Row) -> float:
    """Return the parameters that are trained, in millions, as the paper counts them for a row."""
    return cost(row.name, classes=row.classes_of_parameters).trained / 1e6


def _parameters(row: paper.Row) -> list[str]:
    if row.millions is None:
        return ["-"] * 3
    millions = parameters(row)
    return [f"{millions:.2f} M", f"{row.millions} M", difference(millions, row.millions)]


def _multiply_adds(row: paper.Row) -> list[str]:
    if row.giga is None:
        return ["-"] * 4
    found = cost(row.name, row.size, row.classes)
    counted = found.counted / 1e9
    ours = [f"{found.multiply_adds / 1e9:.1f} G", f"{counted:.1f} G"]
    return [*ours, f"{row.giga} G", difference(counted, row.giga)]


def _scores(row: paper.Row) -> str:
    found = []
    if row.miou is not None:
        found.append(f"{row.dataset} {row.miou}" + ("" if row.miou_ms is None else f" / {row.miou_ms}"))
    if row.top1 is not None:
        found.append(f"top-1 {row.top1}")
    return "; ".join([*found, *([row.note] if row.note else [])]) or "-"


def of_every_variant() -> str:
    """Return every size, and every variant of T and of its encoder, with cost and the command that builds it."""
    lines = [["model", "parameters", "512x512", "fields", "in the paper"]]
    named = [*list_models("segnext_t_*", variants=True), *list_models("mscan_t_*", variants=True)]
    for name in [*list_models(), *named]:
        found = cost(name)
        tables = ", ".join(dict.fromkeys(row.table for row in paper.rows_of(name))) or "-"
        cells = [_command(name), f"{found.parameters:,}", f"{found.multiply_adds / 1e9:.2f} G", _fields(name)]
        lines.append([*cells, tables])
    for context in ("vq", "cd", "aspp", "psp", None):
        found = cost("segnext_t", context=context)
        command = f'`create_model("segnext_t", context={context!r})`'
        lines.append([command, f"{found.parameters:,}", f"{found.multiply_adds / 1e9:.2f} G", "", "-"])
    return report.aligned(lines)


def _fields(name: str) -> str:
    changed = split_variant(name)[1]
    return ", ".join(f"`{field}={value!r}`" for field, value in changed.items()) or "as published"
