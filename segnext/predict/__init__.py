"""Photographs to label maps: whole, in windows, at several scales; files and statistics."""
