"""Writes the model card of a model for the Hugging Face hub, from what the model says about itself."""

from __future__ import annotations

from typing import Any

import yaml

from segnext.models import MSCAN, SegNeXt
from segnext.models.registry import describe
from segnext.one_line import one_line

_SHOWN = (int, float, str, bool)


def card(model: SegNeXt | MSCAN, license: str | None, repository: str) -> str:
    """Return the card in Markdown, with the entries that the hub reads at its head.

    What is not known is not said: a licence, a data set and an accuracy appear if the metadata or the caller names
    them.

    Args:
        model: whose card it is.
        license: of the weights; None: what the metadata says.
        repository: stands in the example.
    """
    recipe, metrics = (model.metadata.get(key) or {} for key in ("recipe", "metrics"))
    segments = isinstance(model, SegNeXt)
    known = license or recipe.get("licence")
    head: dict[str, Any] = {
        "library_name": "segnext",
        "pipeline_tag": "image-segmentation" if segments else "image-classification",
        "tags": ["segnext", "semantic-segmentation" if segments else "image-classification", "pytorch"],
    }
    if known:
        head["license"] = str(known).lower()
    if recipe.get("data") and "miou" in metrics:
        head["model-index"] = [
            _result(model.config.architecture, str(recipe["data"]), float(metrics["miou"]))
        ]
    parts = [
        f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---",
        f"# {describe(model.config)}",
        _introduction(model),
        "## How to use it\n\n" + _usage(segments, repository),
        _section("Accuracy", metrics),
        _section("Preprocessing", model.metadata.get("preprocessing") or {}),
        _classes(model.metadata.get("classes") or []),
        _terms(recipe, known),
        _section(
            "Training", {key: value for key, value in recipe.items() if key not in ("terms", "licence")}
        ),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _introduction(model: SegNeXt | MSCAN) -> str:
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    what = "semantic segmentation" if isinstance(model, SegNeXt) else "image classification, or features"
    return (
        f"{what.capitalize()}; {model.config.num_classes} classes, {model.config.in_channels} input channels, "
        f"{millions:.1f} M parameters. Paper: SegNeXt, [arXiv 2209.08575](https://arxiv.org/abs/2209.08575)."
    )


def _usage(segments: bool, repository: str) -> str:
    more = (
        '\nprediction = Predictor(model)("photo.jpg")\nprediction.save_mask("photo_mask.png")'
        if segments
        else ""
    )
    imports = "from segnext import Predictor\n" if segments else ""
    return (
        f"`pip install 'segnext[hub]'`\n\n```python\n{imports}from segnext.integrations.hub import from_pretrained\n\n"
        f'model = from_pretrained("{repository}"){more}\n```'
    )


def _section(title: str, entries: dict[str, Any]) -> str:
    rows = [
        f"| {key} | {_cell(value)} |"
        for key, value in entries.items()
        if isinstance(value, _SHOWN) or (isinstance(value, list | tuple) and len(value) <= 16)
    ]
    return "\n".join([f"## {title}\n", "| | |", "| --- | --- |", *rows]) if rows else ""


def _cell(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return one_line(text, 400).replace("|", "\\|")


def _classes(names: list[str]) -> str:
    if not names:
        return ""
    listed = ", ".join(f"{index} {one_line(name)}" for index, name in enumerate(names))
    return f"## Classes\n\n{listed}"


def _terms(recipe: dict[str, Any], license: str | None) -> str:
    terms = recipe.get("terms") or (f"Licence: {license}." if license else "")
    missing = "The terms of the weights and of the data they were trained with are not stated in their file."
    return f"## Terms\n\n{one_line(terms, 1000) if terms else missing}"


def _result(name: str, data: str, miou: float) -> dict[str, Any]:
    return {
        "name": name,
        "results": [
            {
                "task": {"type": "image-segmentation"},
                "dataset": {"name": data, "type": data},
                "metrics": [{"type": "mean_iou", "name": "mIoU", "value": round(100 * miou, 2)}],
            }
        ],
    }
