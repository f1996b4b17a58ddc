"""`segnext recipes`: lists the published training recipes, or shows one in full."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console


def recipes(
    name: Annotated[str | None, typer.Argument(help="A recipe's name: show all its settings.")] = None,
) -> None:
    """List the paper's training recipes with the mIoU that it reports, or show one with all its settings.

    Examples:

      segnext recipes

      segnext recipes ade20k

      segnext recipes imagenet

      segnext train ade20k --model b --root /data/ade -o runs/ade --weights imagenet --part backbone

    `segnext train DATA` takes the recipe with the data set's name, and "small" for every other data set; `--recipe`
    names another one, and each option on the line replaces one setting. "imagenet" pretrains the encoder, and its
    number is the top-1 accuracy. `segnext val DATA` evaluates by its protocol:
    whole images with this short side, or windows of a side and a stride.
    """
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    if name is None:
        _list(console)
    else:
        console.print(shown(name), markup=False, end="")


def shown(name: str) -> str:
    """Return one recipe as YAML."""
    from segnext.training.classifier_settings import ClassifierSettings, ViewSettings
    from segnext.training.recipes import load_recipe
    from segnext.training.settings import TrainSettings

    recipe = load_recipe(name)
    content: dict[str, Any]
    if recipe.is_classification:
        classifier = ClassifierSettings(**recipe.settings, views=ViewSettings(**recipe.views))
        content = {"recipe": name, "settings": classifier.as_json(), "paper_top1": recipe.top1}
        return _as_yaml(content)
    content = {
        "recipe": recipe.name,
        "settings": TrainSettings(**recipe.settings).as_json(),
        "evaluation": recipe.evaluation or {"mode": "whole"},
        "paper_miou, single and multi-scale": {size: list(values) for size, values in recipe.miou.items()},
    }
    return _as_yaml(content)


def _as_yaml(content: dict[str, Any]) -> str:
    import yaml

    text: str = yaml.safe_dump(content, sort_keys=False, default_flow_style=None)
    return text


def _list(console: Console) -> None:
    from rich.table import Table

    from segnext.models.registry import SIZES
    from segnext.training.recipes import list_recipes, load_recipe
    from segnext.training.settings import TrainSettings

    table = Table("recipe", box=None, title="recipes, and the paper's mIoU (top-1) in percent at one scale")
    for heading in ("steps", "batch", "crop"):
        table.add_column(heading, justify="right")
    table.add_column("evaluated")
    for size in SIZES:
        table.add_column(size.upper(), justify="right")
    for name in list_recipes():
        recipe = load_recipe(name)
        settings = TrainSettings(**recipe.settings)
        numbers = (f"{settings.steps / 1000:.3g}k", str(settings.batch_size), str(settings.crop))
        published = recipe.top1 or {size: single for size, (single, _) in recipe.miou.items()}
        protocol = "top-1" if recipe.is_classification else _protocol(recipe.evaluation)
        table.add_row(name, *numbers, protocol, *(str(published.get(size, "")) for size in SIZES))
    console.print(table)


def _protocol(evaluation: dict[str, object]) -> str:
    if evaluation.get("mode") == "slide":
        return f"slide {evaluation['crop']}/{evaluation['stride']}"
    side = evaluation.get("short_side")
    return f"whole {side}" if side else "whole"
