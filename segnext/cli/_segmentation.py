"""What `segnext val` does with segmentations: each process evaluates its share, the first one prints and writes."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from segnext.atomic import replace_bytes, replace_text
from segnext.cli._options import Chosen, InferenceOptions
from segnext.cli._tables import note_other_names, print_evaluation
from segnext.cli._together import evaluate_shown
from segnext.create import create_model
from segnext.data.check import require_sound
from segnext.data.config import DataConfig, load_data_config
from segnext.data.dataset import SegmentationFolder
from segnext.data.preprocessing import Preprocessing
from segnext.evaluation.confusion_picture import confusion_picture
from segnext.evaluation.evaluate import Evaluation, evaluate
from segnext.evaluation.together import AfterImages
from segnext.evaluation.worst import Scored, WorstImages, save_worst
from segnext.export.network import ExportedNetwork, open_exported
from segnext.export.targets import is_exported
from segnext.models import MSCAN, SegNeXt, SegNeXtConfig
from segnext.models.registry import ModelConfig
from segnext.predict.inference import Network
from segnext.predict.predictor import network_of
from segnext.ranks import Ranks
from segnext.training.recipes import MULTI_SCALE, recipe_for


@dataclass(frozen=True)
class Outputs:
    """The files that an evaluation leaves.

    Attributes:
        measures: measures and confusion matrix as JSON; None: they are only printed.
        confusion: the picture of the confusion matrix; None: none is drawn.
        worst_dir: the folder of the worst images; None: they are not kept.
        worst_count: how many.
    """

    measures: Path | None
    confusion: Path | None
    worst_dir: Path | None
    worst_count: int

    def write(
        self,
        said: dict[str, Any],
        evaluation: Evaluation,
        worst: list[Scored],
        dataset: SegmentationFolder,
        config: DataConfig,
    ) -> None:
        """Write all of them, the measures first, since a picture may be impossible."""
        if self.measures is not None:
            counts = evaluation.confusion.counts.tolist()
            content = {**said, **evaluation.summary(config.classes), "confusion": counts}
            replace_text(self.measures, json.dumps(content, indent=2) + "\n")
        if self.confusion is not None:
            replace_bytes(self.confusion, confusion_picture(evaluation.confusion, config.classes))
        if self.worst_dir is not None:
            save_worst(self.worst_dir, worst, dataset, config.palette)

    def print(self, console: Console) -> None:
        """Say where they are."""
        places = {
            "measures": self.measures,
            "confusion matrix": self.confusion,
            "worst images": self.worst_dir,
        }
        for name, place in places.items():
            if place is not None:
                console.print(f"{name}: {place}", markup=False)


def val_segmentation(
    data: str,
    root: Path | None,
    weights: str,
    split: str,
    options: Chosen[InferenceOptions],
    outputs: Outputs,
    device: torch.device,
    dtype: str,
    matmul_precision: str,
    ranks: Ranks,
    *,
    multi_scale: bool,
    boundary: bool,
    deployed: bool,
) -> None:
    """Evaluate the weights of a segmentation and print the table; the arguments are the options of `segnext val`."""
    config = load_data_config(data, root)
    defaults = {**recipe_for(config.name).evaluation, **(MULTI_SCALE if multi_scale else {})}
    inference = options.over(defaults).inference()
    arithmetic = getattr(torch, dtype)
    model = _load(weights, config, arithmetic)
    preprocessing = Preprocessing.of(model.metadata)
    inference = inference.for_weights(preprocessing.short_side or config.short_side)
    config = replace(
        config,
        value_range=config.value_range or preprocessing.value_range,
        bands=config.bands or preprocessing.bands,
    )
    dataset = config.open(split)
    network: Network = model
    if isinstance(model, SegNeXt):
        model.to(device).eval()
        network = network_of(model, device, arithmetic) if deployed else model
    console = Console(highlight=False, soft_wrap=True, quiet=not ranks.is_first)

    def check() -> None:
        require_sound(config, [split], console)

    ranks.of_first(check)
    note_other_names(console, config.classes, model, "ids are compared, not names")
    console.print(str(inference), markup=False)
    worst = WorstImages(outputs.worst_count) if outputs.worst_dir else None

    def evaluated(share: SegmentationFolder, after_images: AfterImages) -> Evaluation:
        return evaluate(
            network,
            share,
            device=device,
            dtype=arithmetic if isinstance(network, SegNeXt) else torch.float32,
            inference=inference,
            boundary=boundary,
            look=worst.look if worst else None,
            after_image=after_images,
        )

    evaluation = evaluate_shown(evaluated, dataset, ranks, console, f"{config.name} {split}")
    of_all = worst.ranked_of_all(ranks) if worst else []
    if not ranks.is_first:
        return
    said = {
        "data": config.name,
        "split": split,
        "weights": weights,
        "deployed": not isinstance(network, SegNeXt),
        "dtype": dtype,
        "matmul_precision": matmul_precision,
        "inference": asdict(inference),
    }
    try:
        outputs.write(said, evaluation, of_all, dataset, config)
    finally:  # a file that cannot be written does not cost the measures
        print_evaluation(console, evaluation, config.classes)
    outputs.print(console)


def _load(weights: str, config: DataConfig, dtype: torch.dtype) -> SegNeXt | ExportedNetwork:
    """Load weights, or open an exported file, of a data set's classes."""
    model = open_exported(weights, dtype) if is_exported(weights) else create_model(weights=weights)
    expect_classes("val", config, weights, model.config)
    assert not isinstance(model, MSCAN)
    return model


def expect_classes(command: str, data: DataConfig, weights: str, config: ModelConfig) -> None:
    """Raise a ValueError unless weights are of a SegNeXt of a data set's classes."""
    if not isinstance(config, SegNeXtConfig) or config.num_classes != len(data.classes):
        raise ValueError(
            f"{command}: weights must be a SegNeXt of {len(data.classes)} classes for {data.name}, got "
            f"{weights}: {config.architecture} of {config.num_classes}; segnext train --head reinit makes some of them"
        )
