"""Finds the code blocks of the documents, and the command lines in them."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]


@dataclass(frozen=True)
class Block:
    """A code block of a page.

    Attributes:
        page: relative to the checkout, as docs/export.md.
        line: number of its first line.
        language: the word behind the fence; empty for an indented block.
        code: its text.
    """

    page: str
    line: int
    language: str
    code: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks_of(path: Path) -> list[Block]:
    """Return the code blocks of a page, also those in lists and quotations."""
    tokens = MarkdownIt().parse(path.read_text(encoding="utf-8"))
    page = path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name
    return [
        Block(page, token.map[0] + 1, token.info.split(" ")[0], token.content)
        for token in tokens
        if token.type in ("fence", "code_block") and token.map
    ]


def commands(block: Block) -> list[list[str]]:
    """Return the words of each command line of a shell block; comments and the prompt `$` are left out."""
    text = re.sub(r"\\\n\s*", "", block.code)
    lines = (shlex.split(line.removeprefix("$ "), comments=True) for line in text.splitlines())
    return [words for words in lines if words]


def segnext_words(words: list[str]) -> list[str] | None:
    """Return what follows `segnext` on a command line, also behind torchrun; None if it is another program's."""
    for index, word in enumerate(words):
        if word == "segnext" and (index == 0 or words[index - 1] == "-m" or "=" in words[index - 1]):
            end = next(
                (i for i, later in enumerate(words) if i > index and later in ("&", "&&", "|", ">")), None
            )
            return words[index + 1 : end]
    return None
