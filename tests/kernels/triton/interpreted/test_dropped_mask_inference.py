"""Breaks the kernels around a deployed model's blocks on purpose: NaN around their inputs shows a dropped mask."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch.utils._pytree import tree_map_only

from oracle.accuracy import assert_accurate
from segnext_kernels.ops.channel_norm import reference as channel_norm
from segnext_kernels.ops.conv2d_act import reference as conv2d_act
from segnext_kernels.ops.resize_sum import reference as resize_sum
from tests.kernels.triton.interpreted.test_dropped_mask import module_of

DEFINITIONS = {"channel_norm": channel_norm, "conv2d_act": conv2d_act, "resize_sum": resize_sum}
ROWS = "(at_y >= 0) & (at_y < height)"
COLUMNS = "(at_x >= 0) & (at_x < width)"
BREAKS: dict[str, tuple[str, str, str]] = {
    "conv2d_act-nothing": ("conv2d_act", "", ""),
    "conv2d_act-rows-above": ("conv2d_act", ROWS, "(at_y < height)"),
    "conv2d_act-rows-below": ("conv2d_act", ROWS, "(at_y >= 0)"),
    "conv2d_act-columns-left": ("conv2d_act", COLUMNS, "(at_x < width)"),
    "conv2d_act-columns-right": ("conv2d_act", COLUMNS, "(at_x >= 0)"),
    "conv2d_act-channels": ("conv2d_act", "inside[:, None] & (i < in_channels)[None, :]", "inside[:, None]"),
    "conv2d_act-taps-of-the-weight": ("conv2d_act", "known[:, None] & in_panel", "(tap >= 0)[:, None] & in_panel"),
    "channel_norm-nothing": ("channel_norm", "", ""),
    "channel_norm-channels": ("channel_norm", "tl.where(inside, x - mean, 0.0)", "x - mean"),
    "channel_norm-load": ("channel_norm", "mask=inside, other=0.0).to", "mask=inside | True).to"),
    "resize_sum-nothing": ("resize_sum", "", ""),
    "resize_sum-below": ("resize_sum", "scale_h, height, reach_h)", "scale_h, height, 0)"),
    "resize_sum-weights": ("resize_sum", "wy * lower", "wx * lower"),
}  # fmt: skip


def poisoned(*shape: int) -> torch.Tensor:
    """Make Gaussian numbers inside NaN; with four axes the channels are innermost."""
    order = (0, 2, 3, 1) if len(shape) == 4 else tuple(range(len(shape)))
    larger = torch.full([shape[axis] + 6 for axis in order], torch.nan)
    inside = larger[tuple(slice(3, 3 + shape[axis]) for axis in order)].normal_()
    return inside.permute([order.index(axis) for axis in range(len(shape))])


def arguments(op: str) -> list[tuple[Any, ...]]:
    """Return calls that reach all kernels of the op: `conv2d_act` has two."""
    if op == "channel_norm":
        return [(poisoned(2, 20, 3, 5), poisoned(20), poisoned(20), 1e-5)]
    if op == "resize_sum":
        return [(poisoned(1, 20, 7, 9), [poisoned(1, 20, 4, 5), poisoned(1, 20, 2, 2)])]
    rest = (2, 1, "none", False, False)
    return [
        (poisoned(1, channels, 7, 7), poisoned(5, channels, 3, 3), poisoned(5), *rest) for channels in (3, 17)
    ]


def assert_right(op: str, module: ModuleType) -> None:
    reference = getattr(DEFINITIONS[op], op)
    for args in arguments(op):
        wide = tree_map_only(torch.Tensor, torch.Tensor.double, args)
        assert_accurate(module.forward(*args), reference(*wide), reference(*args))


@pytest.mark.parametrize("name", BREAKS)
def test_a_break_is_seen(name: str, tmp_path: Path) -> None:
    op, right, wrong = BREAKS[name]
    text = Path(str(DEFINITIONS[op].__file__)).with_name("triton_kernels.py").read_text()
    if not right:
        assert_right(op, module_of(text, tmp_path))
        return
    assert right in text
    with pytest.raises(AssertionError):
        assert_right(op, module_of(text.replace(right, wrong), tmp_path))
