"""SegNeXt: semantic segmentation with fast kernels, on a CPU or a GPU.

from segnext import segnext_b
model = segnext_b(num_classes=150)      # an nn.Module; logits at the input's size
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segnext.create import (
        create_model,
        mscan_b,
        mscan_l,
        mscan_s,
        mscan_t,
        segnext_b,
        segnext_l,
        segnext_s,
        segnext_t,
    )
    from segnext.deployment.model import DeployedSegNeXt, deploy
    from segnext.models import list_models
    from segnext.predict.predictor import Predictor
    from segnext.weights import load_weights

    __version__: str

__all__ = [
    "DeployedSegNeXt",
    "Predictor",
    "__version__",
    "create_model",
    "deploy",
    "list_models",
    "load_weights",
    "mscan_b",
    "mscan_l",
    "mscan_s",
    "mscan_t",
    "segnext_b",
    "segnext_l",
    "segnext_s",
    "segnext_t",
]

# Everything is imported when it is first used, so that `segnext --help` need not wait for torch.
_HOMES = {
    "DeployedSegNeXt": "segnext.deployment.model",
    "deploy": "segnext.deployment.model",
    "Predictor": "segnext.predict.predictor",
    "list_models": "segnext.models",
    "load_weights": "segnext.weights",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("segnext")
        except PackageNotFoundError:  # run from a checkout that was never installed
            return "0+unknown"
    if name in __all__:
        return getattr(importlib.import_module(_HOMES.get(name, "segnext.create")), name)
    raise AttributeError(f"module 'segnext' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
