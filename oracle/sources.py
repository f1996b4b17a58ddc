"""Finds the folder csrc, and loads `csrc/sources.py`, which belongs to no package."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

CSRC = Path(__file__).resolve().parents[1] / "csrc"
_spec = importlib.util.spec_from_file_location("sources", CSRC / "sources.py")
assert _spec is not None and _spec.loader is not None
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)
digest: Callable[[], str] = _module.digest
bindings: Callable[..., Path] = _module.bindings
