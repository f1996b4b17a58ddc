"""The numbers that docs/strip_convolution.md gives of the CPU kernel are those of csrc/ops/msca_conv/strips.h."""

from __future__ import annotations

import re
from pathlib import Path

from segnext_kernels.spec import STRIPS

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "strip_convolution.md").read_text(encoding="utf-8")
SOURCE = (ROOT / "csrc" / "ops" / "msca_conv" / "strips.h").read_text(encoding="utf-8")
ROOT_TAPS, WIDTH, LANES, FLOAT = 5, 128, 16, 4


def constant(name: str) -> int:
    """Return a constant of the source: the first value, which is that of 32 vector registers."""
    found = re.search(rf"\b{name} = (\d+)", SOURCE)
    assert found, f"strips.h has no {name}"
    return int(found[1])


def said(pattern: str) -> float:
    found = re.search(pattern, PAGE)
    assert found, f"the page does not say {pattern}"
    return float(found[1])


def test_memory_of_the_rings() -> None:
    quad = constant("kQuad")
    reach = [-(-(k // 2) // quad) for k in STRIPS]
    strip_row = WIDTH + constant("kRun")
    a_row = strip_row + 2 * (STRIPS[-1] // 2)
    pixels = (ROOT_TAPS + quad - 1) * (a_row + ROOT_TAPS - 1) + (max(reach) + 1) * quad * a_row
    pixels += sum((2 * each + 1) * quad * strip_row for each in reach)
    assert said(r"For 128 columns the rings then take (\d+) KiB") == round(pixels * LANES * FLOAT / 1024)
    assert said(r"keeps (\d+) pixels of one row in registers") == constant("kRun")
