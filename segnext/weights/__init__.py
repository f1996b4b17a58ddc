"""Weights: reading every kind of SegNeXt checkpoint, writing ours, and the weights in the package."""

from segnext.weights.catalogue import shipped
from segnext.weights.loading import LoadReport, load_weights
from segnext.weights.saving import save

__all__ = ["LoadReport", "load_weights", "save", "shipped"]
