"""Weights: reading every kind of SegNeXt checkpoint or model, writing ours, and those that have names."""

from segnext.weights.catalogue import list_weights, shipped
from segnext.weights.foreign import from_module
from segnext.weights.loading import LoadReport, load_weights
from segnext.weights.saving import save

__all__ = ["LoadReport", "from_module", "list_weights", "load_weights", "save", "shipped"]
