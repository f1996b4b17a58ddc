"""Makes checkpoints for tests: every tensor of a real one, with random values, for three classes."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from oracle import transcription

CLASSES = 3
METADATA = {
    "classes": ["road", "car", "sky"],
    "palette": [[1, 2, 3], [4, 5, 6], [7, 8, 9]],
    "preprocessing": {"mean": [1.5, 2.0, 3.0], "std": [4.0, 5.0, 6.0]},
    "recipe": {"steps": 10},
    "metrics": {"miou": 0.5},
}


@cache
def official(size: str = "t", width: int | None = None) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    shapes = transcription.shapes(size, CLASSES, width)
    return {name: torch.rand(shape, generator=generator) for name, shape in shapes.items()}


def imagenet() -> dict[str, Tensor]:
    backbone = {
        key.removeprefix("backbone."): value for key, value in official().items() if "backbone." in key
    }
    return backbone | {"head.weight": torch.rand(1000, 256), "head.bias": torch.rand(1000)}


def saved(state_dict: dict[str, Tensor], path: Path) -> Path:
    torch.save({"state_dict": state_dict}, path)
    return path
