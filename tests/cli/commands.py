"""Runs a command line in this process, as it is typed."""

from __future__ import annotations

import pytest

from segnext.cli.main import main


def ended(*words: object) -> object:
    """Run `segnext WORDS`; return its exit status."""
    with pytest.raises(SystemExit) as exit_:
        main([str(word) for word in words])
    return exit_.value.code


def call(*words: object) -> None:
    """Run `segnext WORDS`, which must succeed."""
    assert ended(*words) == 0
