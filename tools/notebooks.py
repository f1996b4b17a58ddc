"""Runs the notebooks of examples/ and stores them with what they gave: for readers who do not run them.

python -m tools.notebooks            # after a change of a notebook or of what it shows
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

EXAMPLES = Path(__file__).parents[1] / "examples"
MEASURES = (
    "measures"  # the tag of a cell whose result is a time: another machine has another, so none is stored
)
SECONDS = 300  # a cell that takes longer hangs


def executed(path: Path) -> Any:
    """Return a notebook as it is after all its cells ran in a fresh kernel, in its folder.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed.
    """
    notebook = nbformat.read(path, as_version=4)
    where = {"metadata": {"path": str(path.parent)}}
    NotebookClient(notebook, timeout=SECONDS, kernel_name="python3", resources=where).execute()
    return notebook


def code_digest(notebook: Any) -> str:
    """Return 16 hexadecimal digits that depend on the code of all cells."""
    code = "\0".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    return hashlib.blake2b(code.encode(), digest_size=8).hexdigest()


def stored(notebook: Any) -> Any:
    """Return an executed notebook without times and other facts of the run, and with the digest of what was run."""
    notebook.metadata.language_info = {"name": "python"}
    notebook.metadata.executed_code = code_digest(notebook)
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        cell.metadata.pop("execution", None)  # when it ran
        if MEASURES in cell.metadata.get("tags", ()):
            cell.outputs = []
        for output in cell.outputs:
            if "image/jpeg" in output.get("data", {}):
                output.data["text/plain"] = "a picture"
    return notebook


def main() -> None:
    """Run and store all notebooks."""
    for path in sorted(EXAMPLES.glob("*.ipynb")):
        nbformat.write(stored(executed(path)), path)
        print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
