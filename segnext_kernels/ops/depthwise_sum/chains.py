"""The geometry of depthwise_sum: which convolutions form which chain, and which channels a branch reads and writes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from segnext_kernels import checks

COMBINES = ("sum", "cat", "split")
# Names a convolution's weight or bias in messages: gets "weight" or "bias" and the place of the convolution in a row.
Label = Callable[[str, int], str]


def ranges(chains: Sequence[int]) -> list[range]:
    """The places of each chain's convolutions among all weights: the root's, then those of each branch."""
    ends = [sum(chains[: i + 1]) for i in range(len(chains))]
    return [range(end - length, end) for end, length in zip(ends, chains, strict=True)]


def widths(channels: int, weights: Sequence[Any], chains: Sequence[int], combine: str) -> list[int]:
    """The number of channels that each branch reads, of the root's ``channels``; of weights the shape counts.

    In "split" an empty branch reads the channels that the others leave.
    """
    branches = ranges(chains)[1:]
    if combine != "split":
        return [channels] * len(branches)
    taken = [weights[branch[0]].shape[0] if branch else 0 for branch in branches]
    return [width if branch else channels - sum(taken) for branch, width in zip(branches, taken, strict=True)]


def out_channels(channels: int, chains: Sequence[int], combine: str) -> int:
    """The number of channels of the result."""
    return channels * (len(chains) - 1) if combine == "cat" else channels


def listed(kind: str, index: int) -> str:
    """The `Label` of the lists ``weights`` and ``biases``."""
    return f"{'weights' if kind == 'weight' else 'biases'}[{index}]"


def expect_chains(
    op: str,
    x: torch.Tensor,
    weights: Sequence[torch.Tensor],
    biases: Sequence[torch.Tensor],
    dilations: Sequence[int],
    chains: Sequence[int],
    combine: str,
    label: Label = listed,
) -> None:
    """Check the op's arguments after x (N, C, H, W) against it and each other."""
    _expect_lengths(op, weights, biases, dilations, chains, combine)
    if combine != "split" and _are_right(x, weights, biases):
        return  # the usual case, in a third of the time
    root, *branches = ranges(chains)
    for i, weight in enumerate(weights):
        checks.expect_shape(op, label("weight", i), weight, ("C", 1, "Kh", "Kw"), REMEDY)
        if weight.shape[2] % 2 == 0 or weight.shape[3] % 2 == 0:
            raise ValueError(
                f"{op}: {label('weight', i)} must have odd kernel sizes, got {tuple(weight.shape)}; {REMEDY}"
            )
        checks.expect_like(op, label("weight", i), weight, "x", x)
    c = x.shape[1]
    if combine == "split":
        _expect_widths(op, c, weights, chains, label)
    for chain, width in zip((root, *branches), (c, *widths(c, weights, chains, combine)), strict=True):
        for i in chain:
            checks.expect_shape(op, label("weight", i), weights[i], (width, 1, "Kh", "Kw"), REMEDY)
            if biases:
                checks.expect_shape(op, label("bias", i), biases[i], (width,))
                checks.expect_like(op, label("bias", i), biases[i], "x", x)


def _are_right(x: torch.Tensor, weights: Sequence[torch.Tensor], biases: Sequence[torch.Tensor]) -> bool:
    """Whether all parameters fit x and its channels; if not, what follows says which one and why."""
    c, device, dtype, strided = x.shape[1], x.device, x.dtype, torch.strided
    for weight in weights:
        if not isinstance(weight, torch.Tensor) or weight.ndim != 4 or weight.layout is not strided:
            return False
        channels, one, height, width = weight.shape
        if channels != c or one != 1 or height % 2 == 0 or width % 2 == 0:
            return False
        if weight.dtype != dtype or weight.device != device:
            return False
    for bias in biases:
        if not isinstance(bias, torch.Tensor) or bias.ndim != 1 or bias.layout is not strided:
            return False
        if bias.shape[0] != c or bias.dtype != dtype or bias.device != device:
            return False
    return True


REMEDY = "depthwise weights have as many channels as their input, a singleton second axis and odd sizes"


def _expect_lengths(
    op: str,
    weights: Sequence[torch.Tensor],
    biases: Sequence[torch.Tensor],
    dilations: Sequence[int],
    chains: Sequence[int],
    combine: str,
) -> None:
    checks.expect_choice(op, "combine", combine, COMBINES)
    if len(biases) not in (0, len(weights)):
        raise ValueError(
            f"{op}: biases must be empty or as many as weights ({len(weights)}), got {len(biases)}"
        )
    if len(dilations) != 2 * len(weights):
        raise ValueError(
            f"{op}: dilations must be two per weight ({2 * len(weights)}), got {len(dilations)}; give y and x of each"
        )
    if len(chains) < 2:
        raise ValueError(
            f"{op}: chains must be the length of the root and those of one branch or more, got {list(chains)}"
        )
    if sum(chains) != len(weights):
        raise ValueError(
            f"{op}: chains must be lengths that add up to the number of weights ({len(weights)}), got {list(chains)}"
        )


def _expect_widths(
    op: str, channels: int, weights: Sequence[torch.Tensor], chains: Sequence[int], label: Label
) -> None:
    """In "split" the branches' channels, with those of one empty branch, are the root's."""
    branches = ranges(chains)[1:]
    empty = sum(not branch for branch in branches)
    if empty > 1:
        raise ValueError(
            f'{op}: chains must hold at most one empty branch in "split", got {empty}; one takes all that remain'
        )
    taken = sum(weights[branch[0]].shape[0] for branch in branches if branch)
    if taken > channels or taken + bool(empty) > channels or (not empty and taken != channels):
        first = next((label("weight", branch[0]) for branch in branches if branch), "chains")
        most = f"fewer than x's {channels}" if empty else f"x's {channels}"
        raise ValueError(
            f"{op}: {first} and the first weights of the other branches must have {most} channels together, got {taken}"
        )
