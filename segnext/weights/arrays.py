"""Rebuilds numpy's arrays from their pickles, and says of what they hold no numbers."""

from __future__ import annotations

import pickle
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from segnext.one_line import shown
from segnext.weights.pickles import Budget


@dataclass(frozen=True)
class Unusable:
    """Stands for a tensor that cannot be a weight.

    Attributes:
        kind: what it is, with an article.
    """

    kind: str


class Array:
    """A numpy array as a pickle rebuilds it; ``value`` is the array, or says why there is none."""

    def __init__(self, budget: Budget) -> None:
        self.value: np.ndarray | Unusable = np.empty(0, np.float32)
        self._budget = budget

    def build(self, state: Any) -> None:
        """Take the state of ``numpy.ndarray``: version, shape, dtype, whether columns lie together, bytes."""
        _, shape, dtype, column_major, raw = state
        self.value = as_array(self._budget, raw, dtype, shape, "F" if column_major else "C")


class DType:
    """Numpy's dtype as pickles write it: a code such as ``f4``, then a state whose second entry is the byte order.

    ``value`` is None for what is neither a number nor text: the bytes of objects would be pointers, dates need their
    unit, and PyTorch has no number longer than a double. Such arrays lie beside the tensors of real checkpoints.
    """

    def __init__(self, code: Any, *_: Any) -> None:
        if not isinstance(code, str) or not re.fullmatch(r"[<>=|]?[a-zA-Z]\d{0,5}", code):
            raise pickle.UnpicklingError(f"array of dtype {shown(code)}")
        self.code = code
        is_plain = re.fullmatch(r"[<>=|]?([biuf][1248]|c8|c16|[US][1-9]\d*)", code)
        self.value = np.dtype(code) if is_plain else None

    def build(self, state: Any) -> None:
        if state[1] not in ("<", ">", "=", "|"):
            raise pickle.UnpicklingError(f"the byte order {shown(state[1])}")
        if self.value is not None:
            self.value = self.value.newbyteorder(state[1])


def text_bytes(text: Any, encoding: str) -> bytes:
    """Decode bytes, which Python 2 and protocol 2 write as latin-1 text."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"text encoding {shown(encoding)}")
    return text.encode("latin-1")


def as_array(budget: Budget, raw: Any, dtype: DType, shape: Any, order: Any = "C") -> np.ndarray | Unusable:
    """Copy bytes to an array in native byte order and writable memory, as torch.from_numpy needs it."""
    if dtype.value is None:
        return Unusable(f"an array of numpy's dtype {dtype.code}")
    if isinstance(raw, str):
        raw = text_bytes(raw, "latin1")
    budget.take(len(raw), "an array")
    flat = np.frombuffer(raw, dtype.value)
    return flat.reshape(as_size(shape), order=order).astype(dtype.value.newbyteorder("="), order="C")


def as_size(size: Any) -> tuple[int, ...]:
    if not isinstance(size, tuple | list) or not all(type(axis) is int and axis >= 0 for axis in size):
        raise pickle.UnpicklingError(f"the shape {shown(size)}")
    return tuple(size)
