"""Weights: reading every checkpoint of SegNeXt there is, writing ours, and those in the package."""

from segnext.weights.catalogue import shipped
from segnext.weights.loading import LoadReport, load_weights, read, save

__all__ = ["LoadReport", "load_weights", "read", "save", "shipped"]
