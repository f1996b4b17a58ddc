"""What a run's result depends on beside its settings: the model's configuration, and how labels are read."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from segnext.data.classification import ClassFolders
from segnext.data.config import DataConfig
from segnext.models import MSCAN, SegNeXt

# Resumed runs may trade time for memory. The architecture has a place of its own.
_FREE = ("architecture", "recompute")
PREFIXES = ("model.", "data.")
"""Of these settings; checkpoints from before they were stored have none."""
LATER: dict[str, Any] = {
    **{"ranks": 1, "accumulate": 1, "sync_bn": False, "patience": 0},
    **{"model.attention": "msca", "model.mix": True, "model.gate": True},
    **{"model.in_indices": None, "model.context": "ham"},
}
"""Settings that came later, with the values that older checkpoints were trained with."""


def determining(model: SegNeXt | MSCAN, data: DataConfig | ClassFolders) -> dict[str, Any]:
    """Return them by name, in the form in which JSON gives them back."""
    found = {f"model.{name}": value for name, value in asdict(model.config).items() if name not in _FREE}
    found["model.frozen"] = sum(not parameter.requires_grad for parameter in model.parameters())
    found |= {f"data.{name}": value for name, value in data.reading_of_labels().items()}
    found["data.classes"] = data.classes
    plain: dict[str, Any] = json.loads(json.dumps(found))
    return plain
