"""Every notebook of examples/ runs, and what is stored in it is what its code gave."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests import summary
from tests.docs.test_links import ROOT, broken

nbformat = pytest.importorskip("nbformat", reason="nbformat reads notebooks: pip install 'segnext[test]'")
pytest.importorskip("nbclient", reason="nbclient runs notebooks: pip install 'segnext[test]'")
pytest.importorskip("ipykernel", reason="ipykernel runs their code: pip install 'segnext[test]'")

from tools.notebooks import MEASURES, code_digest, executed  # noqa: E402

LARGEST = 200_000  # bytes: GitHub shows no notebook of many megabytes, and every clone has all versions
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.name)
def path(request: pytest.FixtureRequest) -> Path:
    return request.param


@pytest.fixture
def notebook(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


def code(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_it_runs(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    # Threads would spin while they wait for a core that another test has.
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    cells = code(executed(path))
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    summary.count("cells of the notebooks, run", len(cells))


def test_what_is_stored_is_of_this_code(path: Path, notebook: Any) -> None:
    nbformat.validate(notebook)
    assert notebook.metadata.executed_code == code_digest(notebook), f"run python -m tools.notebooks ({path})"
    cells = code(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        assert not (MEASURES in cell.metadata.get("tags", ()) and cell.outputs)
        for output in cell.outputs:
            assert output.output_type in ("stream", "execute_result") and output.get("name") != "stderr"


def test_it_is_small_and_of_no_machine(path: Path) -> None:
    content = path.read_text(encoding="utf-8")
    assert len(content) < LARGEST
    for place in ("/tmp", "/home", "/root", "/work", str(ROOT)):
        assert place not in content


def test_links_lead_somewhere(path: Path, notebook: Any) -> None:
    texts = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    assert not [link for text in texts for link in broken(path, text)]
