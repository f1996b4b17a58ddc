"""The interpreter that has mmsegmentation: SEGNEXT_MMSEG_PYTHON, or the one that `make interop` made."""

import os
from pathlib import Path

import pytest

IN_INTEROP = Path("~/.cache/segnext/interop/mmsegmentation/bin/python").expanduser()
PYTHON = Path(os.environ.get("SEGNEXT_MMSEG_PYTHON", IN_INTEROP))

needs_mmsegmentation = pytest.mark.skipif(
    not PYTHON.is_file(), reason="mmsegmentation is not installed: make interop, or SEGNEXT_MMSEG_PYTHON"
)
