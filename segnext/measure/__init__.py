"""Measuring instruments: costs by formula, and the runtimes that a model is compared with."""
