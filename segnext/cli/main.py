"""The `segnext` command: one typer app, one module per command, and one place where errors become a line."""

from __future__ import annotations

import importlib
import io
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from segnext.one_line import one_line

# This is the order of the help. `segnext/cli/<name>.py` defines the function `<name>` and imports torch inside it.
COMMANDS = (
    "predict",
    "compare",
    "serve",
    "train",
    "val",
    "recipes",
    "convert",
    "export",
    "info",
    "bench",
    "patch",
    "doctor",
)

# Each has commands of its own: `segnext/cli/<name>.py` defines the typer app `<name>`.
GROUPS = ("data", "weights")

# Users can cause or mend these. Any other error is a defect of ours, and its traceback is shown.
EXPECTED = (ValueError, TypeError, OSError, NotImplementedError, RuntimeError, MemoryError, ImportError)

# Characters of a message; those of other libraries can have thousands.
LONGEST = 2000
_show_as_python = warnings.showwarning

app = typer.Typer(
    name="segnext",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _command in COMMANDS:
    app.command()(getattr(importlib.import_module(f"segnext.cli.{_command}"), _command))
for _group in GROUPS:
    app.add_typer(getattr(importlib.import_module(f"segnext.cli.{_group}"), _group), name=_group)


def _print_version(wanted: bool) -> None:
    if wanted:
        from segnext import __version__

        print(f"segnext {__version__}")
        raise typer.Exit()


@app.callback()
def segnext(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    traceback: Annotated[
        bool,
        typer.Option("--traceback", help="Show where an error came from; allowed anywhere on the line."),
    ] = False,
) -> None:
    """Semantic segmentation with SegNeXt: predict, train, evaluate, convert, inspect.

    Example:

      segnext predict photo.jpg --weights camvid -o out/
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command line and exit; this is the entry point of the `segnext` script.

    Expected errors print one line, ``segnext: ...``, to the error stream and exit with status 1.

    Args:
        arguments: what follows `segnext` on the line; `sys.argv` by default.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(
            errors="replace"
        )  # a class name that the terminal lacks must not end a command
    if os.environ.get("WORLD_SIZE", "1") != "1":
        # When a process of several fails, those that miss it say so in one line; torch would add stacks of C++.
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            # What Pillow says of damaged metadata and of images above half its limit; each that it refuses is a line.
            warnings.filterwarnings("ignore", module="PIL")
            logging.getLogger("PIL").setLevel(logging.CRITICAL)
            app([word for word in words if word != "--traceback"], prog_name="segnext")
    except EXPECTED as error:
        if "--traceback" in words:
            raise
        print(f"segnext: {message_of(error)}", file=sys.stderr)
        sys.exit(1)


def _show_warning(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
    """Show a warning of ours in one line, and any other as Python does."""
    if category.__module__.startswith("segnext."):
        print(f"segnext: note: {message}", file=sys.stderr)
    else:
        _show_as_python(message, category, *place, **more)


def message_of(error: BaseException) -> str:
    """Return the message of an error on one line; one from the operating system gets the file in front."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{one_line(error.filename, LONGEST)}: {error.strerror}"
    text = str(error).strip() or type(error).__name__
    if isinstance(error, NotImplementedError):  # ours list one reason per line
        return text
    return one_line(" ".join(line.strip() for line in text.splitlines()), LONGEST)
