"""What `segnext val` and `segnext train` do with class folders: they evaluate and train encoders as classifiers."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from segnext.atomic import replace_text
from segnext.cli._options import Chosen
from segnext.cli._tables import note_other_names
from segnext.cli._together import evaluate_shown
from segnext.create import create_model
from segnext.data.classification import ClassFolders, ClassifiedImages, open_class_folders
from segnext.data.shipped import CLASSIFICATION
from segnext.evaluation.classification import SIDE, Accuracy, evaluate_classifier
from segnext.evaluation.together import AfterImages
from segnext.models import MSCAN
from segnext.models.registry import SIZES
from segnext.ranks import Ranks
from segnext.training.classification import train_classifier
from segnext.training.classifier_settings import ClassifierSettings, ViewSettings
from segnext.training.folder import FINAL
from segnext.training.recipes import load_recipe
from segnext.training.settings import Reporting, TrainSettings

OF_IDS = "ids are compared, not names"


def val_classifier(
    root: Path | None,
    weights: str,
    split: str,
    output: Path | None,
    device: torch.device,
    dtype: str,
    matmul_precision: str,
    ranks: Ranks,
) -> None:
    """Evaluate an encoder's weights and print top-1 and top-5; the arguments are the options of `segnext val`.

    In several processes each evaluates its share, and the first one prints and writes.
    """
    data = open_class_folders(root)
    images = data.open(split)
    model = _load(weights, data)
    model.to(device=device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    console, side = Console(highlight=False, soft_wrap=True, quiet=not ranks.is_first), trained_side(model)
    note_other_names(console, data.classes, model, OF_IDS)

    def evaluated(share: ClassifiedImages, after_images: AfterImages) -> Accuracy:
        arithmetic = getattr(torch, dtype)
        return evaluate_classifier(
            model, share, device=device, dtype=arithmetic, side=side, after_batch=after_images
        )

    accuracy = evaluate_shown(evaluated, images, ranks, console, f"{data.name} {split}")
    if not ranks.is_first:
        return
    try:
        if output is not None:  # first, since what stands behind a pipe may be gone
            said: dict[str, Any] = {
                "data": data.name,
                "split": split,
                "weights": weights,
                "dtype": dtype,
                "matmul_precision": matmul_precision,
                "side": side,
            }
            replace_text(output, json.dumps({**said, **accuracy.summary()}, indent=2) + "\n")
    finally:  # a file that cannot be written does not cost the measures
        print_accuracy(console, accuracy)
    if output is not None:
        console.print(f"measures: {output}", markup=False)


def train_encoder(
    root: Path | None,
    output: Path,
    name: str,
    weights: str | None,
    head: str,
    drop_path: float | None,
    settings: Chosen[TrainSettings],
    views: Chosen[ViewSettings],
    reporting: Reporting,
    *,
    device: torch.device,
    compiled: bool,
    resume: bool,
    overwrite: bool,
    console: Console,
) -> None:
    """Train an encoder as a classifier; the arguments are the options of `segnext train`."""
    data, recipe = open_class_folders(root), load_recipe(CLASSIFICATION)
    chosen = ClassifierSettings(**asdict(settings.over(recipe.settings)), views=views.over(recipe.views))
    torch.manual_seed(chosen.seed)  # before the model draws its weights
    changes: dict[str, Any] = {} if drop_path is None else {"drop_path": drop_path}
    full = f"mscan_{name}" if name in SIZES else name
    model = create_model(full, weights, len(data.classes), head=head, **changes)
    if not isinstance(model, MSCAN):
        raise ValueError(
            f"train: model must be one of {', '.join(f'mscan_{size}' for size in SIZES)} for {data.name}, got {name}, "
            "which does not classify"
        )
    if compiled:
        model.compile()
    note_other_names(console, data.classes, model, "ids are kept, not names; --head reinit begins anew")
    accuracy = train_classifier(
        model,
        data,
        output,
        chosen,
        reporting,
        device=device,
        resume=resume,
        overwrite=overwrite,
        console=console,
    )
    if accuracy is not None:
        print_accuracy(console, accuracy)
    console.print(f"weights: {output / FINAL}", markup=False, highlight=False, soft_wrap=True)


def trained_side(model: MSCAN) -> int:
    """Return the side of the images that an encoder was trained with, 224 if its file does not say another."""
    side = model.metadata.get("recipe", {}).get("crop")
    return side if type(side) is int and 32 <= side <= 1024 else SIDE


def print_accuracy(console: Console, accuracy: Accuracy) -> None:
    """Print top-1 and top-5 in percent."""
    top1, top5 = (100 * share for share in (accuracy.top1, accuracy.top5))
    console.print(
        f"top-1 {top1:.3f} %  top-5 {top5:.3f} %  ({accuracy.images} images, {accuracy.seconds:.0f} s)",
        markup=False,
        highlight=False,
    )


def _load(weights: str, data: ClassFolders) -> MSCAN:
    model = create_model(weights=weights)
    if not isinstance(model, MSCAN):
        raise ValueError(
            f"val: weights must be an encoder with its classifier for {data.name}, got {weights}: "
            f"{model.config.architecture}; a decoder gives no class of a whole image"
        )
    if model.config.num_classes != len(data.classes) or model.head is None:
        raise ValueError(
            f"val: weights must be an encoder of {len(data.classes)} classes for {data.name}, got {weights}: "
            f"{model.config.architecture} of {model.config.num_classes}"
        )
    return model
