"""The published recipes as data (`recipes.yaml`): settings, protocol of the evaluation, and the paper's mIoU.

Nothing heavy is imported here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from segnext.safe_yaml import read_yaml

SMALL = "small"
"""The recipe of every data set without a published one: the defaults of `TrainSettings`, images seen whole."""

MULTI_SCALE = {"scales": "0.5,0.75,1,1.25,1.5,1.75", "flip": True}
"""The options of the multi-scale protocol, beside those of a recipe's single-scale evaluation."""

_FILE = Path(__file__).with_name("recipes.yaml")


@dataclass(frozen=True)
class Recipe:
    """How the networks of one data set are trained and evaluated.

    Attributes:
        name: that of the data set, or "small".
        settings: fields of `TrainSettings` that differ from its defaults.
        evaluation: options of `segnext val` that differ from its defaults.
        miou: the paper's mIoU in percent, by size: single scale, and multi-scale or None.
    """

    name: str
    settings: dict[str, Any]
    evaluation: dict[str, Any]
    miou: dict[str, tuple[float, float | None]]


def list_recipes() -> list[str]:
    """Return the names of all recipes, "small" first."""
    return [SMALL, *_content()["recipes"]]


def load_recipe(name: str) -> Recipe:
    """Return a recipe by its name.

    Raises:
        ValueError: there is none of this name.
    """
    if name == SMALL:
        return Recipe(SMALL, {}, {}, {})
    if name not in _content()["recipes"]:
        raise ValueError(f"recipe: name must be one of {', '.join(list_recipes())}, got {name!r}")
    content = _content()["recipes"][name]
    settings = {**_content()["common"], **content["settings"]}
    settings["scale"] = tuple(settings["scale"])
    miou = {size: (single, several) for size, (single, several) in content["miou"].items()}
    return Recipe(name, settings, dict(content["evaluation"]), miou)


def recipe_for(data: str) -> Recipe:
    """Return the published recipe of a data set, or the small one if there is none of its name."""
    return load_recipe(data if data in list_recipes() else SMALL)


@cache
def _content() -> dict[str, Any]:
    content: dict[str, Any] = read_yaml(_FILE)
    return content
