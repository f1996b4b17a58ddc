"""Lists the data sets whose YAML ships with the package.

Nothing heavy is imported here: the help of commands names them.
"""

from __future__ import annotations

from pathlib import Path

SETS = Path(__file__).parent / "sets"


def list_sets() -> list[str]:
    """Return the names of the data sets whose YAML ships with the package."""
    return sorted(path.stem for path in SETS.glob("*.yaml"))
