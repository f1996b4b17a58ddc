"""The interpreter that has timm and transformers: SEGNEXT_INTEGRATIONS_PYTHON, or the one that `make interop` made."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
IN_INTEROP = Path("~/.cache/segnext/interop/integrations/bin/python").expanduser()
PYTHON = Path(os.environ.get("SEGNEXT_INTEGRATIONS_PYTHON", IN_INTEROP))

needs_integrations = pytest.mark.skipif(
    not PYTHON.is_file(), reason="timm is not installed: make interop, or SEGNEXT_INTEGRATIONS_PYTHON"
)


def facts(module: str, folder: Path) -> dict[str, Any]:
    """Run a module of this folder by that interpreter and return the JSON that it prints in its last line.

    Args:
        module: for example ``"timm_facts"``.
        folder: where it may write.

    Raises:
        RuntimeError: it failed; the message is the end of what it wrote.
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [PYTHON, "-m", f"tests.integrations.{module}", folder],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-4000:])
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
