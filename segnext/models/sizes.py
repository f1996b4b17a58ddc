"""Sizes as callers give them: integers of Python, NumPy or PyTorch."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any

import torch


def plain_size(size: Any) -> Any:
    """Make Python integers of those of NumPy and of tensors; anything else is left for the op to refuse."""
    if not isinstance(size, Iterable):
        return size
    return tuple(side if isinstance(side, (int, torch.SymInt)) else _integer(side) for side in size)


def _integer(side: Any) -> Any:
    try:
        return operator.index(side)
    except TypeError:
        return side
