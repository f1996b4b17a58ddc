"""`segnext convert`: turns any checkpoint of SegNeXt into ours, or into one with the official names."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer


class Naming(str, Enum):
    """Says whose tensor names the result has."""

    native = "native"
    official = "official"


def convert(
    source: Annotated[
        str, typer.Argument(help="Checkpoint in any known layout, or the name of shipped weights.")
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="File to write; default: the source's name + .safetensors, here."
        ),
    ] = None,
    to: Annotated[
        Naming,
        typer.Option(help="native: with its config, for weights=; official: the official code's names."),
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
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the output file if it is there.")
    ] = False,
) -> None:
    """Convert a checkpoint of the official code, mmsegmentation, Geti, JSeg or PaddleSeg, and report on it.

    The result also holds what no tensor says: NMF rank, class names, colours. Nothing in the source is executed.

    Examples:

        segnext convert segnext_tiny_512x512_ade_160k.pth

        segnext convert mine.pdparams -o mine.safetensors --classes data.yaml

        segnext convert mine.safetensors --to official -o official.pth
    """
    from segnext.create import build_from_weights
    from segnext.weights.saving import save, save_official

    target = output or Path(f"{Path(source).stem}.safetensors")
    _check_target(target, to, overwrite)
    overrides: dict[str, Any] = {} if rank is None else {"rank": rank}
    model, report = build_from_weights(source, **overrides)
    if classes is not None:
        model.metadata |= _class_metadata(classes, model.config.num_classes)
    (save if to is Naming.native else save_official)(model, target)
    typer.echo(str(report))
    named = len(model.metadata.get("classes", ()))
    typer.echo(
        f"{target}: {model.config.architecture}, {model.config.num_classes} classes "
        f"({'named' if named else 'without names'}), {to.value} names"
    )


def _check_target(target: Path, to: Naming, overwrite: bool) -> None:
    suffixes = (".safetensors",) if to is Naming.native else (".safetensors", ".pth")
    if target.suffix not in suffixes:
        expected = " or ".join(f"*{suffix}" for suffix in suffixes)
        raise ValueError(f"convert: output must be named {expected}, got {target}; rename it with -o")
    if target.exists() and not overwrite:
        raise FileExistsError(
            f"convert: output must be a new file, got {target}; pass --overwrite to replace it"
        )


def _class_metadata(classes: str, num_classes: int) -> dict[str, Any]:
    """Return the class names, and colours if a data YAML gives them.

    Raises:
        ValueError: the number of classes is not the model's.
    """
    from segnext.data.config import list_sets, load_data_config

    metadata: dict[str, Any]
    if classes in list_sets() or classes.endswith((".yaml", ".yml")):
        data = load_data_config(classes, root=".")
        metadata = {"classes": list(data.classes), "palette": [list(colour) for colour in data.palette]}
    else:
        metadata = {"classes": [name.strip() for name in classes.split(",")]}
    if len(metadata["classes"]) != num_classes:
        raise ValueError(
            f"convert: classes must be {num_classes} names as the checkpoint has classes, got "
            f"{len(metadata['classes'])}; give them in the order of their ids"
        )
    return metadata
