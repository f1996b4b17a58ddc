"""Lists the data sets whose YAML ships with the package.

Nothing heavy is imported here: the help of commands names them.
"""

from __future__ import annotations

from pathlib import Path

SETS = Path(__file__).parent / "sets"
CLASSIFICATION = "imagenet"
"""The name of class folders, which need no YAML: `segnext.data.classification` reads them."""


def list_sets() -> list[str]:
    """Return the names of the data sets whose YAML ships with the package."""
    return sorted(path.stem for path in SETS.glob("*.yaml"))


def names_set(name: str) -> bool:
    """Say whether a name is that of a data set: of one that ships with the package, or of a YAML."""
    return name in list_sets() or name.lower().endswith((".yaml", ".yml"))
