"""Breaks kernels on purpose: the tests of this folder do see a dropped mask or a missing halo."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from oracle.accuracy import assert_accurate
from segnext_kernels.ops.dwconv_gelu import reference, triton_kernels

# what is broken: text of the kernel, and what replaces it; loads only, which stay inside the larger tensor
BREAKS = {
    "mask-of-the-right-neighbour": ("mask=inside_right & known", "mask=inside & known"),
    "mask-of-the-rows": ("(row >= 0) & (row < height)", "row == row"),
    "mask-of-the-left-neighbour": ("(w >= 1) & (w < width + 1)", "(w >= 0) & (w < width + 1)"),
    "halo-row-below": ("tl.minimum(first + ROWS, height) + 1", "tl.minimum(first + ROWS, height)"),
    "last-tap": ("w22 * right", "w21 * right"),
}


def module_of(text: str, folder: Path) -> ModuleType:
    path = folder / "broken_kernels.py"
    path.write_text(text)
    spec = importlib.util.spec_from_file_location("broken_kernels", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def assert_right(module: ModuleType) -> None:
    """Run the forward on the inside of a larger tensor of NaN."""
    larger = torch.full((3, 9, 12, 24), torch.nan)
    x = larger[1:2, 1:8, 2:11, 3:22].permute(0, 3, 1, 2).normal_()
    weight, bias = torch.randn(19, 1, 3, 3), torch.randn(19)
    expected = reference.dwconv_gelu(x.double(), weight.double(), bias.double())
    assert_accurate(module.forward(x, weight, bias), expected, reference.dwconv_gelu(x, weight, bias))


@pytest.mark.parametrize("name", ["nothing", *BREAKS])
def test_a_break_is_seen(name: str, tmp_path: Path) -> None:
    text = Path(triton_kernels.__file__).read_text()
    if name == "nothing":
        assert_right(module_of(text, tmp_path))
        return
    right, wrong = BREAKS[name]
    assert right in text
    with pytest.raises(AssertionError):
        assert_right(module_of(text.replace(right, wrong, 1), tmp_path))
