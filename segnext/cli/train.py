"""`segnext train`: trains SegNeXt on a data set, or its encoder on class folders."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from segnext.cli._options import (
    SIZE_NAMES,
    Chosen,
    Data,
    Device,
    InferenceOptions,
    Root,
    Threads,
    configure_torch,
    expanded,
    output_option,
)
from segnext.data.shipped import CLASSIFICATION
from segnext.training.classifier_settings import UNUSED, ViewSettings
from segnext.training.settings import Reporting, TrainSettings

if TYPE_CHECKING:
    from segnext.models import SegNeXt


@expanded
def train(
    data: Data,
    output: Annotated[Path, output_option("Folder of the run, e.g. runs/first.")],
    root: Root = None,
    model: Annotated[
        str,
        typer.Option(
            "--model", "-m", help=f"{SIZE_NAMES}, or segnext_t, mscan_t ..., or a variant: t_nomix ..."
        ),
    ] = "t",
    weights: Annotated[
        str | None,
        typer.Option(
            "--weights",
            "-w",
            help="Start from a name (`segnext weights`) or a checkpoint in any known layout.",
        ),
    ] = None,
    head: Annotated[
        Literal["strict", "reinit"],
        typer.Option(help="reinit: a new classifier, for weights of other classes than the data's."),
    ] = "strict",
    part: Annotated[
        Literal["all", "backbone"],
        typer.Option(help="backbone: take only the encoder of the weights (ImageNet)."),
    ] = "all",
    recipe: Annotated[
        str | None,
        typer.Option(
            help="Defaults of the options below: `segnext recipes` lists them. Default: the data set's own, else small."
        ),
    ] = None,
    drop_path: Annotated[
        float | None,
        typer.Option(help="Stochastic depth rate of the last block; default: the size's (0.1, L 0.3)."),
    ] = None,
    one_step_grad: Annotated[
        bool,
        typer.Option(
            "--one-step-grad",
            help="Differentiate only the last step of the decoder's factorisation (less memory).",
        ),
    ] = False,
    settings: Chosen[TrainSettings] = TrainSettings(),  # type: ignore[assignment]  # noqa: B008 (frozen)
    views: Chosen[ViewSettings] = ViewSettings(),  # type: ignore[assignment]  # noqa: B008 (frozen)
    device: Device = "auto",
    reporting: Reporting = Reporting(eval_every=800),  # noqa: B008 (frozen)
    threads: Threads = None,
    compiled: Annotated[
        bool,
        typer.Option("--compile", help="Compile the network (torch.compile); the first step takes long."),
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the folder's checkpoint; repeat the same options.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a run that lies in the folder.")
    ] = False,
) -> None:
    """Train SegNeXt. The defaults shown here suit a small data set (hundreds of images) from scratch.

    Data sets of the paper have recipes of their own, which `segnext recipes` shows; options on the line replace theirs.

    Examples:

      segnext train camvid --root data/camvid -o runs/camvid

      segnext train camvid --root data/camvid -o runs/camvid --resume

      segnext train ade20k --root /data/ade -o runs/ade --model b --weights imagenet --part backbone

      segnext train mine.yaml -o runs/mine --weights camvid --head reinit --lr 2e-4

      torchrun --nproc-per-node 4 -m segnext train mine.yaml -o runs/mine --batch-size 16

      segnext train imagenet --root /data/imagenet -o runs/mscan_b --model mscan_b --dtype bfloat16 --eval-every 6255

    imagenet trains the encoder as a classifier, on class folders: train/n01440764/*.JPEG, val/n01440764/*.JPEG. Its
    final.safetensors is what --weights with --part backbone takes.

    mine.yaml names the classes, and for each split two folders whose files have equal names:

      path: .

      classes: [road, car]

      train: {images: images/train, labels: labels/train}

      val: {images: images/val, labels: labels/val}

    Labels are single-channel images of ids 0, 1, ...; 255 is ignored (masks of 0 and 255 need one more line,
    label_map: {0: 0, 255: 1}). All are checked before the first step, as `segnext doctor mine.yaml` does. The
    run's folder gets final.safetensors (the averaged weights, for `segnext predict --weights`),
    checkpoint.safetensors (for --resume, which goes on exactly as if the run had never stopped), recipe.yaml (all
    settings), results.csv, results.jsonl (all digits and classes), samples.png (predictions of a few images),
    curves.png if matplotlib is installed, and event files with --tensorboard. Ctrl-C writes a checkpoint before it
    stops.
    """
    from dataclasses import replace

    import torch
    from rich.console import Console

    from segnext.cli._classification import train_encoder
    from segnext.cli._tables import note_other_names, print_evaluation
    from segnext.data.config import load_data_config
    from segnext.device import choose_device
    from segnext.training.loop import FINAL
    from segnext.training.loop import train as run
    from segnext.training.recipes import SMALL, load_recipe, recipe_for

    configure_torch(threads)
    is_first = os.environ.get("RANK", "0") == "0"  # of the processes that torchrun started
    console = Console(quiet=not is_first)
    _expect_own_options(data, recipe, settings, views, one_step_grad or part != "all")
    if data == CLASSIFICATION:
        train_encoder(
            root,
            output,
            model,
            weights,
            head,
            drop_path,
            settings,
            views,
            reporting,
            device=choose_device(device),
            compiled=compiled,
            resume=resume,
            overwrite=overwrite,
            console=console,
        )
        return
    config = load_data_config(data, root)
    chosen = recipe_for(config.name) if recipe is None else load_recipe(recipe)
    resolved = settings.over(chosen.settings)
    protocol = InferenceOptions(**chosen.evaluation).inference()
    if protocol.short_side is not None:  # training sees images at the size of the evaluation
        config = replace(config, short_side=protocol.short_side or None)
    torch.manual_seed(resolved.seed)  # before the model draws its weights
    changes: dict[str, Any] = {} if drop_path is None else {"drop_path": drop_path}
    if one_step_grad:
        changes["nmf_grad"] = "one_step"
    if config.bands is not None:
        changes["in_channels"] = len(config.bands)
    network = _network(model, weights, len(config.classes), head, part, changes)
    if compiled:
        network.compile()
    if chosen.name != SMALL:
        console.print(
            f"recipe: {chosen.name}, with {protocol}", markup=False, highlight=False, soft_wrap=True
        )
    effect = "ids are kept, not names; --head reinit begins with a new classifier"
    note_other_names(console, config.classes, network, effect)
    evaluation = run(
        network,
        config,
        output,
        resolved,
        reporting,
        inference=protocol,
        device=choose_device(device),
        resume=resume,
        overwrite=overwrite,
        console=console,
    )
    if evaluation is not None:
        print_evaluation(console, evaluation, config.classes)
    console.print(f"weights: {output / FINAL}", markup=False, highlight=False, soft_wrap=True)


def _expect_own_options(
    data: str,
    recipe: str | None,
    settings: Chosen[TrainSettings],
    views: Chosen[ViewSettings],
    has_decoder_options: bool,
) -> None:
    """Raise unless the options on the line mean something for what is trained."""
    from segnext.training.recipes import load_recipe

    is_classification = data == CLASSIFICATION
    foreign = [name for name in settings.given if name in UNUSED] if is_classification else views.given
    if foreign:
        kind, other = ("classifier", "segmentation") if is_classification else ("segmentation", "classifier")
        name = min(foreign).replace("_", "-")
        raise ValueError(
            f"train: options must be those of a {kind} for {data}, got --{name}, which is one of a {other}; "
            "leave it out"
        )
    if is_classification and has_decoder_options:
        raise ValueError(
            f"train: options must be those of a classifier for {data}, got --one-step-grad or --part, which are "
            "about a decoder; leave them out"
        )
    if recipe is not None and load_recipe(recipe).is_classification != is_classification:
        raise ValueError(
            f"train: recipe must be one of a {'classifier' if is_classification else 'segmentation'} for {data}, got "
            f"{recipe}; leave it out, or take another"
        )


def _network(
    name: str, weights: str | None, classes: int, head: str, part: str, changes: dict[str, Any]
) -> SegNeXt:
    from segnext.create import create_model
    from segnext.models import SegNeXt

    network = create_model(name, weights, classes, head=head, part=part, **changes)
    if not isinstance(network, SegNeXt):
        raise ValueError(f"train: model must be one of {SIZE_NAMES}, got {name}, which does not segment")
    return network
