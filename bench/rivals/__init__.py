"""Measures SegNeXt beside the segmentation networks that people compare it with, from their own packages, on a CPU."""
