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
    assert said(r"For 128 columns these are (\d+) KiB") == round(pixels * LANES * FLOAT / 1024)
    assert said(r"rings need more than (\d+) KiB") == constant("kRingBytes")


def test_loads_per_multiply_add() -> None:
    quad, pixels, run = constant("kQuad"), constant("kColumns"), constant("kRun")

    def column_strip(taps: int) -> float:
        return ((taps + quad - 1) * pixels + quad * taps) / (quad * taps * pixels)

    row_strip = (run + 1) / run
    root = ROOT_TAPS * ROOT_TAPS
    loads = root * column_strip(ROOT_TAPS) + sum(k * (column_strip(k) + row_strip) for k in STRIPS)
    assert said(r"a run of (\d+) pixels") == run
    assert said(r"kernel has (0\.\d+) loads") == round(loads / (root + 2 * sum(STRIPS)), 2)
    assert said(r"are (0\.\d+) vector loads") == said(r"kernel has (0\.\d+) loads")
