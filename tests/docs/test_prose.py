"""Options, commands and variables that the documents name in their prose exist; `test_blocks` has those in blocks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from markdown_it import MarkdownIt

from segnext.cli.main import app
from tests.docs.blocks import ROOT

DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
OPTION = re.compile(r"(?<![\w-])--[a-z][\w-]*")
VARIABLE = re.compile(r"\bSEGNEXT_[A-Z_]+\b")
# of other programs
FOREIGN = {
    "--benchmark-only",  # pytest-benchmark
    "--index-url",  # pip
    *("--fp16", "--layerPrecisions", "--precisionConstraints"),  # trtexec
    *("--early_stop_intervals", "--precision", "--resume_model", "--use_ema"),  # PaddleSeg
}
OWN = ("segnext", "make", "python", "pytest")  # a span that begins with another program is that program's


def commands(command: Any, words: str = "segnext") -> Iterator[tuple[str, Any]]:
    """Yield the words of each command of a program, and the command."""
    yield words, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, f"{words} {name}")


COMMANDS = dict(commands(typer.main.get_command(app)))
OURS = {
    option
    for command in COMMANDS.values()
    for parameter in command.params
    for option in (*parameter.opts, *parameter.secondary_opts)
} | {"--help"}
SOURCES = "\n".join(
    path.read_text(encoding="utf-8", errors="replace")
    for folder in ("segnext", "segnext_kernels", "bench", "tools", "csrc", "tests", "examples")
    for path in sorted((ROOT / folder).rglob("*"))
    if path.suffix in (".py", ".h", ".cpp", ".cmake") and path != Path(__file__)
)
BUILD = "\n".join((ROOT / name).read_text() for name in ("Makefile", "setup.py", "CMakeLists.txt"))
# those of bench, tools and the tests are in their sources as words
KNOWN = OURS | FOREIGN | set(re.findall(r'"(--[a-z][\w-]*)"', SOURCES + BUILD))
TARGETS = set(re.findall(r"^([\w-]+):", BUILD, re.MULTILINE))


def spans(text: str) -> Iterator[str]:
    """Yield what a Markdown text has in backticks, outside of blocks."""
    for token in MarkdownIt().enable("table").parse(text):
        for part in token.children or []:
            if part.type == "code_inline":
                yield part.content


def unknown(span: str) -> list[str]:
    """Return what a span names and nothing has."""
    words = span.split()
    is_ours = words[:1] and (words[0] in OWN or words[0].startswith("-"))
    found = [f"{option} in `{span}`" for option in OPTION.findall(span) if is_ours and option not in KNOWN]
    found += [name for name in VARIABLE.findall(span) if name not in SOURCES + BUILD]
    if words[:1] == ["segnext"] and len(words) > 1 and re.fullmatch(r"[a-z][a-z-]+", words[1]):
        name = f"segnext {words[1]}"
        found += [] if name in COMMANDS else [name]
    if words[:1] == ["make"] and len(words) > 1 and re.fullmatch(r"[a-z]+", words[1]):
        found += [] if words[1] in TARGETS else [f"make {words[1]}"]
    return found


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_what_prose_names_exists(document: Path) -> None:
    assert [name for span in spans(document.read_text(encoding="utf-8")) for name in unknown(span)] == []


def test_what_does_not_exist_is_seen() -> None:
    text = (
        "`segnext train --no-such` and `--mine`, `SEGNEXT_NOTHING`, `segnext fly`, `make coffee`; not `--resume`,\n"
        "`segnext val`, `make test`, `SEGNEXT_BACKEND`\n\n| a |\n|---|\n| `--in-a-table` |\n\n```bash\n--block\n```\n"
    )
    assert [name for span in spans(text) for name in unknown(span)] == [
        "--no-such in `segnext train --no-such`",
        "--mine in `--mine`",
        "SEGNEXT_NOTHING",
        "segnext fly",
        "make coffee",
        "--in-a-table in `--in-a-table`",
    ]
