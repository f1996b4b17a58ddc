"""Prints the text of one version from CHANGELOG.md, for the page of a release.

python -m tools.release_notes 0.1.0
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

CHANGELOG = Path(__file__).resolve().parents[1] / "CHANGELOG.md"


def notes(version: str, changelog: str) -> str:
    """Return what stands under ``## <version>``.

    Raises:
        ValueError: the changelog has no such heading.
    """
    sections = re.split(r"^## (\S+).*$", changelog, flags=re.MULTILINE)
    found = dict(zip(sections[1::2], sections[2::2], strict=True))
    if version not in found:
        raise ValueError(
            f"release_notes: version must be one of {', '.join(found)}, got {version}; add it to CHANGELOG.md"
        )
    return found[version].strip() + "\n"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python -m tools.release_notes VERSION")
    try:
        print(notes(sys.argv[1], CHANGELOG.read_text(encoding="utf-8")), end="")
    except ValueError as error:
        raise SystemExit(str(error)) from None
