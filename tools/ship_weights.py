"""Turns a finished run into shipped weights: an fp16 file, whose accuracy is measured again, and its card.

Start it in the root of the repository:

python -m tools.ship_weights runs/camvid camvid --root ../camvid --about about.md
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from segnext.create import create_model
from segnext.data.config import load_data_config
from segnext.data.preprocessing import Preprocessing
from segnext.evaluation.evaluate import evaluate
from segnext.models import SegNeXt
from segnext.training.loop import FINAL
from segnext.weights.catalogue import FOLDER
from segnext.weights.saving import save


def ship(run: Path, name: str, root: Path, about: str, folder: Path = FOLDER) -> dict[str, Any]:
    """Write ``<name>.safetensors`` and ``<name>.md``; return the metrics of the shipped file.

    Args:
        run: a run's folder with final.safetensors.
        name: name of the weights and of the data set.
        root: the data's folder.
        about: Markdown for the card: what the data is, its terms, how the run went.
        folder: where to write.
    """
    target = folder / f"{name}.safetensors"
    data = load_data_config(name, root)
    save(_segnext(run / FINAL), target, dtype=torch.float16)
    model = _segnext(target).eval()
    metrics = evaluate(model, data.open("val")).summary(data.classes)
    # Convolution weights are exact in fp16 by now, so writing them again changes nothing.
    save(model, target, {"metrics": metrics}, dtype=torch.float16)
    (folder / f"{name}.md").write_text(_card(name, model, metrics, about), encoding="utf-8")
    return metrics


def _segnext(path: Path) -> SegNeXt:
    model = create_model(weights=path)
    if not isinstance(model, SegNeXt):
        raise ValueError(f"ship: {path} must hold a SegNeXt, got {type(model).__name__}")
    return model


def _card(name: str, model: SegNeXt, metrics: dict[str, Any], about: str) -> str:
    recipe = model.metadata["recipe"]
    iou = metrics["class_iou"]
    side = Preprocessing.of(model.metadata).short_side
    size = f"resized to a short side of {side} pixels" if side else "at their own size"
    lines = [
        f"# {name}",
        "",
        about.strip(),
        "",
        f"## Accuracy on the {metrics['images']} images of val",
        "",
        f"mIoU {metrics['miou']:.4f}, pixel accuracy {metrics['pixel_accuracy']:.4f}: whole images, "
        f"{size}, one scale, no flip; float32 arithmetic on this file, whose convolution weights are fp16.",
        "",
        "| class | IoU |",
        "| --- | ---: |",
        *(f"| {label} | {value:.3f} |" for label, value in iou.items()),
        "",
        "## Recipe",
        "",
        "| setting | value |",
        "| --- | --- |",
        *(f"| {key} | {value} |" for key, value in recipe.items()),
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("name")
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--about", type=Path, required=True)
    options = parser.parse_args()
    metrics = ship(options.run, options.name, options.root, options.about.read_text(encoding="utf-8"))
    print(f"{options.name}: val mIoU {metrics['miou']:.4f}")


if __name__ == "__main__":
    main()
