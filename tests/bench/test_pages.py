"""docs/ops and docs/figures are what the code and the result files say; what is drawn is what plain PyTorch does."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

import pytest
import torch
import torch.nn.functional as F

from bench import readme, report
from bench.newest import measured_on, newest_runs
from bench.pages import operators, performance, strip
from bench.pages.passes import boundary, passes
from bench.pages.svg import Bar, Group, bar_chart
from bench.results import Row
from segnext_kernels import native
from segnext_kernels.spec import STRIPS, all_specs


@pytest.mark.skipif(native._C is None, reason="the support matrix asks the compiled library")
def test_files_are_up_to_date() -> None:
    files = readme.whole_files()
    assert len(files) == 2 * len(all_specs()) + 1 + 3 + 6 + 1
    stale = [file.name for file, text in files.items() if not file.exists() or file.read_text() != text]
    assert stale == [], "run `make readme`"


def test_passes_of_a_chain() -> None:
    x, weight = torch.randn(1, 8, 10, 12), torch.randn(8, 1, 3, 3)

    def chain(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return F.gelu(F.conv2d(x, weight, padding=1, groups=8)).permute(0, 2, 3, 1) + 1

    size, taps = 4 * x.numel(), 4 * weight.numel()
    found = passes(chain, (x, weight))
    assert [(one.name, one.read, one.written) for one in found] == [
        ("depthwise 3x3", size + taps, size),
        ("gelu", size, size),
        ("add", size, size),
    ]
    assert boundary(chain, (x, weight)) == (size + taps, size)


def test_what_is_overwritten_is_read_and_written() -> None:
    x = torch.randn(4, 5)
    (only,) = passes(lambda x: x.mul_(2), (x,))
    assert (only.name, only.read, only.written) == ("multiply", 80, 80)


@pytest.mark.parametrize("spec", all_specs().values(), ids=lambda spec: spec.name)
def test_fusing_moves_less(spec) -> None:
    before, after = operators.totals(spec)
    assert before > 1.9 * after


def test_every_operator_is_explained() -> None:
    assert set(operators.EXPLAINED) == set(all_specs())


def test_bars_have_lengths_in_proportion() -> None:
    drawn = bar_chart(
        "a < b", [Group("", [Bar("one", [(1, "#111111")], "1"), Bar("two", [(2, "#222222")], "2")])]
    )
    root = ElementTree.fromstring(drawn)
    widths = {e.get("fill"): float(e.get("width", 0)) for e in root.iter("{http://www.w3.org/2000/svg}rect")}
    assert widths["#222222"] == pytest.approx(2 * widths["#111111"], abs=0.2)
    assert root.find("{http://www.w3.org/2000/svg}title").text == "a < b"


def test_the_essay_counts_with_the_tiles_of_the_cpu_kernel() -> None:
    source = (readme.ROOT / "csrc/ops/msca_conv/strips.h").read_text()
    wide, _ = source.split("#if SEGNEXT_VECTOR_REGISTERS == 32")[1].split("#else")
    assert re.search(r"kQuad = (\d+);", source).group(1) == str(strip.QUAD)
    assert re.search(r"kColumns = (\d+), kRun = (\d+);", wide).groups() == (
        str(strip.COLUMNS),
        str(strip.RUN),
    )


@pytest.mark.parametrize("rows", [16, 32, 128])
def test_the_work_of_a_part_is_that_of_the_loop(rows: int) -> None:
    # StripUnit::run() of strips.h, for rows in the middle of a high map
    ahead, quads = max(strip.REACHES), rows // strip.QUAD
    work = 0
    for quad in range(-2 * ahead, quads):
        work += strip.ROOT**2  # produce_a(quad + ahead)
        for k, reach in zip(STRIPS, strip.REACHES, strict=True):
            work += k * (quad >= -2 * reach) + k * (quad >= 0)  # produce_strip(), finish()
    assert strip.multiply_adds(rows=rows) == pytest.approx(work / quads)
    assert strip.multiply_adds() == 103


@pytest.mark.skipif(native._C is None, reason="the support matrix asks the compiled library")
@pytest.mark.parametrize("spec", all_specs().values(), ids=lambda spec: spec.name)
def test_every_shape_that_was_measured_is_on_the_page(spec) -> None:
    page = operators.page(spec)
    for _, run in newest_runs():
        names = [row.name.partition(" ") for row in run.rows if row.table in operators.TABLES]
        missing = [shape for op, _, shape in names if op == spec.name and f"| {shape} " not in page]
        assert missing == []
    assert "Not measured yet" not in page


def test_memory_is_shown_of_each_machine_where_it_was_measured() -> None:
    text = performance.memory()
    measured = [(run, [row for row in run.rows if "fresh" in row.notes]) for _, run in newest_runs()]
    assert any(rows for _, rows in measured)
    for run, rows in measured:
        title, table = report.fresh(run)
        assert (f"{measured_on(run)}, {title}:\n\n{table}" in text) == bool(rows)


def test_a_slower_model_is_named_by_its_row_and_the_rest_of_its_table() -> None:
    assert performance.named(Row("training step, fp32", "T 4x256x256", {})) == "T 4x256x256, fp32"
    assert performance.named(Row("training step", "T 8x512x512, AdamW", {})) == "T 8x512x512, AdamW"
