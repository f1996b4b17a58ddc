"""SegNeXt and MSCAN as ``torch.nn`` modules on the ops of ``segnext_kernels``."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segnext.models.config import MSCANConfig, SegNeXtConfig
    from segnext.models.mscan import MSCAN
    from segnext.models.registry import ModelConfig, build, list_models
    from segnext.models.segnext import SegNeXt

__all__ = ["MSCAN", "MSCANConfig", "ModelConfig", "SegNeXt", "SegNeXtConfig", "build", "list_models"]

# These are imported at first use, because the registry of names needs no torch and the modules do.
_HOMES = {
    "MSCAN": "mscan",
    "MSCANConfig": "config",
    "ModelConfig": "registry",
    "SegNeXt": "segnext",
    "SegNeXtConfig": "config",
    "build": "registry",
    "list_models": "registry",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"segnext.models.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'segnext.models' has no attribute {name!r}")
