"""`segnext convert`: turns any checkpoint of SegNeXt into ours, or into one of another code base."""

from __future__ import annotations

import os
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from segnext.cli._options import output_option
from segnext.one_line import one_line


class Naming(str, Enum):
    """Says whose the result is."""

    native = "native"
    official = "official"
    mmsegmentation = "mmsegmentation"
    paddleseg = "paddleseg"


def convert(
    source: Annotated[
        str, typer.Argument(help="Checkpoint in any known layout, or a name (`segnext weights`).")
    ],
    output: Annotated[
        Path | None,
        output_option("File to write; default: the source's name + .safetensors, here."),
    ] = None,
    to: Annotated[
        Naming,
        typer.Option(
            help="native: with its config, for weights=; else as the official code, mmsegmentation 1.x or "
            "PaddleSeg (*.pdparams) keep it."
        ),
    ] = Naming.native,
    rank: Annotated[
        int | None, typer.Option(help="NMF rank it was trained with, if not the one its origin uses.")
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            help="Class names: a data YAML, a shipped one's name, or the names with commas between them."
        ),
    ] = None,
    average: Annotated[
        bool | None,
        typer.Option(
            "--average/--no-average",
            help="For files with averaged weights (EMA, SWA): take these or the others; default: as the code that "
            "wrote the file.",
        ),
    ] = None,
    allow_unexpected: Annotated[
        list[str] | None,
        typer.Option(help="Beginning of tensor names to leave out; may be given several times."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the output file if it is there.")
    ] = False,
) -> None:
    """Convert a checkpoint of the official code, mmsegmentation, Geti, JSeg or PaddleSeg, and report on it.

    The result also holds what no tensor says: NMF rank, steps, align_corners, mean and std, class names, colours.
    They are read from the configuration in the source. Nothing in the source is executed.

    Examples:

        segnext convert segnext_tiny_512x512_ade_160k.pth

        segnext convert mine.pdparams -o mine.safetensors --classes data.yaml

        segnext convert mine.safetensors --to mmsegmentation -o mine.pth
    """
    from segnext.create import build_from_weights
    from segnext.data.preprocessing import Preprocessing
    from segnext.models.registry import describe
    from segnext.weights.peers import save_for
    from segnext.weights.saving import save

    target = output or Path(f"{Path(source).stem}.safetensors")
    _check_target(target, to, overwrite)
    overrides: dict[str, Any] = {} if rank is None else {"rank": rank}
    model, report = build_from_weights(
        source, average=average, allow_unexpected=allow_unexpected or (), **overrides
    )
    if classes is not None:
        model.metadata |= _class_metadata(classes, model.config.num_classes)
    left: list[str] = []
    if to is Naming.native:
        save(model, target)
    else:
        model.metadata["preprocessing"] = Preprocessing.of(model.metadata).as_json()
        left = save_for(model, target, to.value)
    typer.echo(str(report))
    named = len(model.metadata.get("classes", ()))
    typer.echo(
        f"{one_line(target, 240)}: {describe(model.config)}, {model.config.num_classes} classes "
        f"({'named' if named else 'without names'}), {to.value} names"
    )
    for sentence in left:
        typer.echo(f"  note: {sentence}")


def _check_target(target: Path, to: Naming, overwrite: bool) -> None:
    from segnext.weights.peers import PEERS

    suffixes = (".safetensors",) if to is Naming.native else PEERS[to.value].suffixes
    if target.suffix.lower() not in suffixes:
        expected = " or ".join(f"*{suffix}" for suffix in suffixes)
        raise ValueError(f"convert: output must be named {expected}, got {target}; rename it with -o")
    if os.path.lexists(target) and not overwrite:  # a link to nothing is also something that is there
        raise FileExistsError(
            f"convert: output must be a new file, got {target}; pass --overwrite to replace it"
        )


def _class_metadata(classes: str, num_classes: int) -> dict[str, Any]:
    """Return the class names, and colours if a data YAML gives them.

    Raises:
        ValueError: the number of classes is not the model's.
    """
    from segnext.data.config import load_classes
    from segnext.data.shipped import names_set

    metadata: dict[str, Any]
    if names_set(classes):
        names, palette = load_classes(classes)
        metadata = {"classes": list(names), "palette": [list(colour) for colour in palette]}
    else:
        metadata = {"classes": [name.strip() for name in classes.split(",")]}
    if not all(metadata["classes"]):
        raise ValueError(
            f"convert: classes must be names with commas between them, got {one_line(classes)}; name each one"
        )
    if len(metadata["classes"]) != num_classes:
        raise ValueError(
            f"convert: classes must be {num_classes} names as the checkpoint has classes, got "
            f"{len(metadata['classes'])}; give them in the order of their ids"
        )
    return metadata
