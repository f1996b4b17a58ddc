"""`segnext weights`: lists the weights that have a name, and downloads published ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

weights = typer.Typer(invoke_without_command=True, rich_markup_mode="markdown")


@weights.callback()
def _weights(context: typer.Context) -> None:
    """List the weights that have a name; `fetch` downloads some of them.

    Examples:

      segnext weights

      segnext weights fetch ade20k-b

      segnext predict photo.jpg --weights ade20k-b

    A name stands wherever weights do. "camvid" is in the package. The others were published by others, and are
    downloaded when they are first used (mmsegmentation's ade20k and imagenet, PaddleSeg's cityscapes). The mIoU is what
    they report, in percent, at one scale and at several. Beside an architecture the first part of a name is enough:

      segnext train DATA --model b --weights imagenet --part backbone -o runs/first
    """
    if context.invoked_subcommand is None:
        from rich.console import Console

        _list(Console(highlight=False, soft_wrap=True))


@weights.command()
def fetch(
    names: Annotated[list[str], typer.Argument(help="Names of published weights.", show_default=False)],
) -> None:
    """Download weights into the cache of torch hub, and print where they are.

    Example:

      segnext weights fetch ade20k-b imagenet-b

    SEGNEXT_MIRROR names a server or a folder that has copies, SEGNEXT_OFFLINE=1 forbids downloads, TORCH_HOME moves
    the cache.
    """
    import sys

    from segnext.weights.downloads import fetch as fetch_one
    from segnext.weights.published import load_published

    chosen = [load_published(name) for name in names]  # all names are checked before the first download
    for published in chosen:
        path = fetch_one(published)
        print(f"segnext: {published.name}: {published.terms}", file=sys.stderr)
        print(path)


def _list(console: Console) -> None:
    import json

    from rich.table import Table
    from safetensors import safe_open

    from segnext.weights.catalogue import locate, shipped
    from segnext.weights.containers import CONFIG_KEY
    from segnext.weights.downloads import place
    from segnext.weights.published import list_published, load_published

    table = Table(box=None, title="weights by name")
    for heading in ("name", "architecture"):
        table.add_column(heading, no_wrap=True)
    for heading in ("classes", "mIoU", "MB"):
        table.add_column(heading, justify="right", no_wrap=True)
    for heading in ("licence", "here"):
        table.add_column(heading, no_wrap=True)
    for name in shipped():
        path = locate(name)
        with safe_open(path, framework="numpy") as file:
            config = json.loads(file.metadata()[CONFIG_KEY])
        row = (config["architecture"], str(len(config["classes"])), f"{100 * config['metrics']['miou']:.2f}")
        table.add_row(name, *row, f"{path.stat().st_size / 1e6:.1f}", "Apache-2.0", "package")
    for published in map(load_published, list_published()):
        path = place(published)
        is_there = path.is_file()
        size = path.stat().st_size if is_there else published.size
        table.add_row(
            published.name,
            published.architecture,
            str(published.num_classes),
            "" if published.miou is None else "{:.2f}, {:.2f}".format(*published.miou),
            "" if size is None else f"{size / 1e6:.1f}",
            published.licence,
            "cache" if is_there else "-",
        )
    console.print(table)
    folder = place(load_published(list_published()[0])).parent
    console.print(f"cache: {folder}", markup=False)
