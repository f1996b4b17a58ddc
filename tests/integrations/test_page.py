"""docs/integrations.md shows code that runs, with the output that it has."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.integrations.interpreter import PYTHON, ROOT, needs_integrations

PAGE = (ROOT / "docs" / "integrations.md").read_text(encoding="utf-8")
SECTIONS = {
    title: text for title, text in re.findall(r"^## \d+\. (.+)\n((?:(?!## ).*\n)*)", PAGE, re.MULTILINE)
}
BLOCK = re.compile(r"```(python|text)\n(.*?)```", re.DOTALL)
MARK = "--- end of a block ---"
ORDINARY = re.compile(r"^\{'(loss|train_runtime)'.*\n", re.MULTILINE)  # what Trainer prints


def blocks(section: str) -> list[tuple[str, str]]:
    """Return each piece of code of a section with the output that is shown below it."""
    found = BLOCK.findall(section)
    assert [kind for kind, _ in found] == ["python", "text"] * (len(found) // 2)
    return [(code, output) for (_, code), (_, output) in zip(found[::2], found[1::2], strict=True)]


def test_the_page_has_code() -> None:
    assert [len(blocks(section)) for section in SECTIONS.values()] == [2, 2, 0]


@needs_integrations
@pytest.mark.parametrize("title", [title for title, section in SECTIONS.items() if blocks(section)])
def test_output(title: str, tmp_path: Path) -> None:
    shown = blocks(SECTIONS[title])
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    (tmp_path / "code.py").write_text(f"print({MARK!r})\n".join(code for code, _ in shown))
    done = subprocess.run(
        [PYTHON, "-m", "tests.integrations.code_of_page", "code.py"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-4000:]
    outputs = ORDINARY.sub("", done.stdout).split(f"{MARK}\n")
    assert outputs == [output for _, output in shown]
