"""Overlays, legends and colours."""
