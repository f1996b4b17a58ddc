"""Tests the text of a release, and that the changelog speaks of the version that is here."""

from __future__ import annotations

import pytest

from segnext import __version__
from tools.release_notes import CHANGELOG, notes

TEXT = "# Changelog\n\n## 0.2.0 (2027-01-01)\n\n### Added\n\n- More.\n\n## 0.1.0\n\nThe first.\n"


def test_one_version() -> None:
    assert notes("0.2.0", TEXT) == "### Added\n\n- More.\n"
    assert notes("0.1.0", TEXT) == "The first.\n"


def test_a_version_that_is_not_there() -> None:
    with pytest.raises(ValueError, match=r"version must be one of 0\.2\.0, 0\.1\.0, got 0\.3\.0"):
        notes("0.3.0", TEXT)


def test_the_changelog_has_this_version() -> None:
    assert "### Added" in notes(__version__, CHANGELOG.read_text(encoding="utf-8"))
