"""Weights: reading every kind of SegNeXt checkpoint or model, writing ours, and the weights in the package."""

from segnext.weights.catalogue import shipped
from segnext.weights.foreign import from_module
from segnext.weights.loading import LoadReport, load_weights
from segnext.weights.saving import save

__all__ = ["LoadReport", "from_module", "load_weights", "save", "shipped"]
