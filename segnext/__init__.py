"""SegNeXt: semantic segmentation with fast kernels, on a CPU or a GPU.

from segnext import segnext_b
model = segnext_b(num_classes=150)      # an nn.Module; logits at the input's size
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segnext.create import Constructor
    from segnext.create import create_model as create_model
    from segnext.deployment.model import DeployedSegNeXt as DeployedSegNeXt
    from segnext.deployment.model import deploy as deploy
    from segnext.export.exporting import export_model as export_model
    from segnext.export.network import open_exported as open_exported
    from segnext.models import MSCAN, SegNeXt
    from segnext.models import list_models as list_models
    from segnext.patching.patch import patch as patch
    from segnext.patching.patch import patched as patched
    from segnext.patching.patch import unpatch as unpatch
    from segnext.predict.inference import Inference as Inference
    from segnext.predict.predictor import Predictor as Predictor
    from segnext.weights import list_weights as list_weights
    from segnext.weights import load_weights as load_weights

    __version__: str
    mscan_b: Constructor[MSCAN]
    mscan_l: Constructor[MSCAN]
    mscan_s: Constructor[MSCAN]
    mscan_t: Constructor[MSCAN]
    segnext_b: Constructor[SegNeXt]
    segnext_l: Constructor[SegNeXt]
    segnext_s: Constructor[SegNeXt]
    segnext_t: Constructor[SegNeXt]

# Everything is imported at first use, so that `segnext --help` need not wait for torch. `segnext.create` has one
# more function per name in `list_models()`.
_HOMES = {
    "DeployedSegNeXt": "segnext.deployment.model",
    "Inference": "segnext.predict.inference",
    "Predictor": "segnext.predict.predictor",
    "create_model": "segnext.create",
    "deploy": "segnext.deployment.model",
    "export_model": "segnext.export.exporting",
    "list_models": "segnext.models.registry",
    "list_weights": "segnext.weights",
    "load_weights": "segnext.weights",
    "open_exported": "segnext.export.network",
    "patch": "segnext.patching.patch",
    "patched": "segnext.patching.patch",
    "unpatch": "segnext.patching.patch",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.util import find_spec
        from pathlib import Path

        kernels = find_spec("segnext_kernels")  # finds the folder; to import it would import torch
        assert kernels is not None and kernels.origin is not None
        return Path(kernels.origin).with_name("VERSION").read_text(encoding="utf-8").strip()
    if name == "__all__":
        return __dir__()
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name.startswith(("segnext_", "mscan_")) and name in __dir__():
        return getattr(importlib.import_module("segnext.create"), name)
    raise AttributeError(f"module 'segnext' has no attribute {name!r}")


def __dir__() -> list[str]:
    from segnext.models.registry import list_models

    return sorted(["__version__", *_HOMES, *list_models()])
