"""Reads arrays from MATLAB files, by scipy."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def require_scipy(kind: str) -> None:
    """Raise an `ImportError` that names the extra, before thousands of files fail."""
    try:
        import scipy.io  # noqa: F401
    except ImportError:
        raise ImportError(f"data prepare: {kind} needs scipy; pip install 'segnext[data]'") from None


def read_matlab(path: Path, key: str, member: str | None = None) -> np.ndarray:
    """Read an array, or a member of a structure, from a .mat file.

    Returns:
        (H, W), whole numbers.

    Raises:
        ValueError: the file is damaged, or holds something else.
    """
    from scipy.io import loadmat

    try:
        found = loadmat(path)[key]
        if member is not None:
            found = found[member][0, 0]
    except (KeyError, IndexError):
        raise ValueError(f"must hold {key}{f'.{member}' if member else ''}, got another .mat file") from None
    except Exception as error:  # scipy raises errors of many kinds
        raise ValueError(f"cannot be read, it is damaged or truncated ({error})") from None
    if not isinstance(found, np.ndarray) or found.ndim != 2 or found.dtype.kind not in "iu":
        raise ValueError(f"{key} must be a matrix of whole numbers, got another .mat file")
    return found
