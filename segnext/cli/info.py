"""`segnext info`: shows what a model is made of and what it costs at an input size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from segnext.cli._options import SIZE_NAMES, Batch, Size, parse_size
from segnext.one_line import one_line

if TYPE_CHECKING:
    from rich.console import Console

    from segnext.models import MSCAN, SegNeXt


def info(
    model: Annotated[
        str | None,
        typer.Argument(
            help=f"{SIZE_NAMES}; an architecture; a name of weights or a checkpoint. Without it, all are listed."
        ),
    ] = None,
    size: Size = "512",
    classes: Annotated[
        int | None, typer.Option(min=1, help="Number of classes; default: the model's own.")
    ] = None,
    batch: Batch = 1,
) -> None:
    """Show layers, parameters, multiply-adds and memory of a model.

    Examples:

      segnext info

      segnext info b --size 512

      segnext info segnext_t --size 1024x2048 --classes 19

      segnext info camvid --size 360x480

    Multiply-adds are counted on the real graph (half of torch.utils.flop_counter's FLOPs). Memory is an
    estimate for float32: the activations that training keeps for the backward pass, and the most that exist
    at one time in inference.
    """
    from rich.console import Console

    console = Console(highlight=False)
    if model is None:
        _list(console)
        return
    height, width = parse_size("--size", size)
    network = _build(model, classes)
    _print_costs(console, network, height, width, batch)
    _print_metadata(console, network.metadata)


def _list(console: Console) -> None:
    import torch
    from rich.table import Table

    from segnext.models import build, list_models
    from segnext.models.registry import DECODER_VARIANTS, ENCODER_VARIANTS
    from segnext.weights import shipped

    table = Table("architecture", title="Architectures")
    table.add_column("classes", justify="right")
    table.add_column("parameters", justify="right")
    for name in list_models():
        with torch.device("meta"):
            network = build(name)
        parameters = sum(p.numel() for p in network.parameters())
        table.add_row(name, str(network.config.num_classes), f"{parameters:,}")
    console.print(table)
    console.print(
        f"Shipped weights: {', '.join(shipped()) or 'none'}; `segnext weights` lists those to download"
    )
    endings = ", ".join(dict.fromkeys([*ENCODER_VARIANTS, *DECODER_VARIANTS]))
    console.print(f"Variants that the paper compares, by an ending such as segnext_t_nl: {endings}")
    console.print("Details: segnext info NAME --size 512")


def _build(name: str, classes: int | None) -> SegNeXt | MSCAN:
    import torch

    from segnext.create import create_model
    from segnext.models import list_models
    from segnext.models.registry import find_architecture

    if find_architecture(name):
        with torch.device("meta"):  # nothing is computed, so no weights are needed
            return create_model(name, num_classes=classes)
    try:
        head = "strict" if classes is None else "reinit"
        return create_model(weights=name, num_classes=classes, head=head)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"info: {name!r} is no architecture ({', '.join(list_models())}) and no weights: {error}"
        ) from None


def _print_costs(console: Console, network: SegNeXt | MSCAN, height: int, width: int, batch: int) -> None:
    from rich.table import Table

    from segnext.measure.costs import count_costs
    from segnext.models.registry import describe

    cost = count_costs(network, height, width, batch)
    images = f"{batch} images of " if batch > 1 else ""
    table = Table("part", title=f"{describe(network.config)} on {images}{height}x{width}", show_footer=True)
    for heading, total in (
        ("output (NxCxHxW)", ""),
        ("parameters", f"{cost.parameters:,}"),
        ("multiply-adds", _giga(cost.multiply_adds)),
        ("kept for training", _mebi(cost.saved_bytes)),
    ):
        table.add_column(heading, total, justify="right")
    table.columns[0].footer = "total"
    for part in cost.parts:
        table.add_row(
            part.name,
            "x".join(map(str, part.output)),
            f"{part.parameters:,}",
            _giga(part.multiply_adds),
            _mebi(part.saved_bytes),
        )
    console.print(table)
    console.print(
        f"inference: {_mebi(4 * cost.parameters)} of weights, at most {_mebi(cost.peak_bytes)} of activations"
    )


def _print_metadata(console: Console, metadata: dict[str, Any]) -> None:
    if metadata.get("classes"):
        names = metadata["classes"]
        console.print(f"{len(names)} classes: {', '.join(names)}", markup=False)
    for key in ("metrics", "recipe", "preprocessing"):
        entry = metadata.get(key)
        if isinstance(entry, dict):
            plain = ", ".join(f"{k} {v}" for k, v in entry.items() if not isinstance(v, dict))
            console.print(f"{key}: {one_line(plain, 4000)}", markup=False)
        elif entry:
            console.print(f"{key}: {one_line(entry, 4000)}", markup=False)


def _giga(count: int) -> str:
    return f"{count / 1e9:.3f} G"


def _mebi(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"
