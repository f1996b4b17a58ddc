"""README.md, CONTRIBUTING.md and docs/: tables are those of the code, quoted code is the real one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from bench import readme
from bench.pages import operators
from segnext_kernels import native

ROOT = Path(__file__).resolve().parents[2]
TEXTS = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
}
LONGEST = 9 * 1024  # bytes of the README: what a stranger reads to the end
built = pytest.mark.skipif(native._C is None, reason="the support matrix asks the compiled library")


@built
def test_tables_are_up_to_date() -> None:
    # Whether this one is, tests/bench/test_cards.py checks, which counts what it says.
    documents = [document for document in readme.DOCUMENTS if document != "docs/variants.md"]
    with pytest.raises(SystemExit) as exit_status:
        readme.main(["--check", *documents])
    assert exit_status.value.code == 0


def test_readme_is_short() -> None:
    assert len(TEXTS["README.md"].encode()) <= LONGEST and len(TEXTS["README.md"].splitlines()) <= 200


@pytest.mark.parametrize(
    ("document", "sentence"),
    [("README.md", "no `torch.compile`)"), ("docs/kernels.md", "got no time")],
)
def test_what_no_gpu_has_confirmed_is_said_once(document: str, sentence: str) -> None:
    assert TEXTS[document].count(sentence) == 1


def test_the_quoted_op_is_the_real_one() -> None:
    quoted = re.findall(r"```python\n(.*?)```", (ROOT / "docs/adding_an_op.md").read_text(), re.DOTALL)
    lines = {line.strip() for block in quoted for line in block.splitlines() if "..." not in line}
    files = (ROOT / "segnext_kernels/ops/upsample_argmax").glob("*.py")
    code = {line.strip() for file in files for line in file.read_text().splitlines()}
    assert len(lines) > 20
    assert lines <= code


def test_stale_part_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    text = TEXTS["README.md"]
    monkeypatch.setitem(readme.DOCUMENTS, "README.md", {"speed": lambda: "| nothing |"})
    assert readme.updated("README.md", text) != text
    monkeypatch.setitem(readme.DOCUMENTS, "README.md", {"weather": lambda: "sunny"})
    with pytest.raises(ValueError, match="README.md: part weather must stand between <!-- weather"):
        readme.updated("README.md", text)


@built
def test_support_matrix_shows_kernels_that_this_machine_cannot_run() -> None:
    whole = readme.support()
    (row,) = [line for line in whole.splitlines() if line.startswith("| `upsample_argmax` | forward")]
    cells = dict(zip(whole.splitlines()[0].split(" | ")[2:], row.split(" | ")[2:], strict=True))
    assert cells["cpu"] == "fp64 fp32 fp16 bf16"
    assert cells["cuda"] == "fp32 fp16 bf16"
    assert "| `upsample_argmax` | backward" not in whole


def test_equivalent_is_read_from_the_docstring() -> None:
    def sample(x: torch.Tensor) -> None:
        """Does it.

        Same as ``a(
        b)``; and more.
        """

    assert operators.equivalent(sample) == "`a( b)`"

    def loop() -> None:
        """Does it.

        Repeats ``x``
        often.

        Args: none.
        """

    assert operators.equivalent(loop) == "Repeats `x` often."
