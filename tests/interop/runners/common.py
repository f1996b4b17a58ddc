"""What the runners share. They run inside the peers' environments, so this file needs numpy alone.

A runner is called as ``python <runner>.py write|read <folder>``. ``write`` builds the peer's model by the peer's code
from ``task.json``, fills it, saves it with the peer's own writer and stores its outputs in ``peer.npz``. ``read`` lets
the peer's own loader take the file that segnext wrote, strictly, and stores the outputs in ``back.npz``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

SIZES = ((64, 96), (57, 83), (97, 131))  # height and width; two of them are odd
CALIBRATION = (4, 3, 96, 96)


def images(channels: int = 3) -> list[np.ndarray]:
    """Return normalised images (1, C, H, W)."""
    random = np.random.default_rng(1)
    return [random.standard_normal((1, channels, *size)).astype(np.float32) for size in SIZES]


def calibration() -> np.ndarray:
    """Return the images whose statistics the normalisations take."""
    return np.random.default_rng(2).standard_normal(CALIBRATION).astype(np.float32)


def bases(channels: int, rank: int) -> np.ndarray:
    """Return NMF bases (1, D, R) with columns of unit length, as every peer draws them."""
    drawn = np.random.default_rng(3).random((1, channels, rank))
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


def values(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Draw parameters as training leaves them: unit gain, layer scales of 0.1 to 0.3, biases and norms that differ.

    Statistics are not drawn: the peer's own training mode sets them, so that features keep their size.
    """
    random = np.random.default_rng(4)
    drawn: dict[str, np.ndarray] = {}
    for name, shape in shapes.items():
        if "layer_scale" in name:
            value = random.uniform(0.1, 0.3, shape)
        elif len(shape) == 4:
            value = random.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
        elif name.endswith("weight"):
            value = 1 + 0.1 * random.standard_normal(shape)
        else:
            value = 0.1 * random.standard_normal(shape)
        drawn[name] = value.astype(np.float32)
    return drawn


def store(path: Path, outputs: list[tuple[np.ndarray, np.ndarray]]) -> None:
    """Store the logits at an eighth and at the images' size."""
    arrays = {}
    for index, (small, full) in enumerate(outputs):
        arrays |= {f"small{index}": small, f"full{index}": full}
    np.savez(path, **arrays)


def main(write: Callable[[Path, dict[str, Any]], None], read: Callable[[Path, dict[str, Any]], None]) -> None:
    """Run what the command line asks for."""
    folder = Path(sys.argv[2])
    task = json.loads((folder / "task.json").read_text())
    {"write": write, "read": read}[sys.argv[1]](folder, task)
