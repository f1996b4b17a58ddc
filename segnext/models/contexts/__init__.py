"""Modules for global context inside a decoder: one file per module, and the table that names them.

Each maps (N, D, H, W) to (N, D, H, W) and treats every image alone.
"""
