"""Tests the documents: every link between files leads somewhere, and every section that the code cites exists."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from markdown_it import MarkdownIt

from tests import summary

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "segnext").rglob("*.md")),
    *sorted((ROOT / "tests").rglob("*.md")),
]
# A path of the checkout in backticks: a folder of the top level, and at least one more name.
PATH = re.compile(r"^(?:csrc|segnext|segnext_kernels|bench|tests|oracle|tools|examples|docs)/[\w./-]*[\w/]$")
CITATION = re.compile(r"docs/(\w+)\.md(?:,?\s+section (\d+(?:\.\d+)?))?")


def headings(text: str) -> list[str]:
    """Return the titles of a Markdown text, outside of its code."""
    return re.findall(
        r"^#+ (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE
    )


def anchors(path: Path) -> list[str]:
    """Return the fragments that GitHub gives to the headings of a document."""
    titles = headings(path.read_text(encoding="utf-8"))
    return [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]


def links(text: str) -> list[str]:
    """Return where links and images of a Markdown text lead, also those by reference and in HTML."""
    found = []
    for token in MarkdownIt().parse(text):
        parts = [token, *(token.children or [])]
        for part in parts:
            found += [str(part.attrs[name]) for name in ("href", "src") if name in part.attrs]
            if part.type in ("html_block", "html_inline"):
                found += re.findall(r'(?:href|src)="([^"]+)"', part.content)
    return found


def paths(text: str) -> list[str]:
    """Return the paths of the checkout that a Markdown text has in backticks."""
    spans = [part.content for token in MarkdownIt().parse(text) for part in token.children or []]
    return [span for span in spans if PATH.match(span)]


def broken(document: Path, text: str) -> Iterator[str]:
    """Yield the links and paths of a document that lead nowhere."""
    for link in links(text):
        if "://" in link:
            summary.count("addresses of the documents, checked for their form alone")
            if urlsplit(link).scheme != "https" or "." not in urlsplit(link).netloc:
                yield link
            continue
        summary.count("links between the documents and files, checked")
        target, _, fragment = link.partition("#")
        path = document if not target else document.parent / target
        if not path.exists() or (fragment and fragment not in anchors(path)):
            yield link
    for name in paths(text):
        summary.count("paths named in the documents, checked")
        if not (ROOT / name).exists():
            yield name


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(document: Path) -> None:
    assert list(broken(document, document.read_text(encoding="utf-8"))) == []


def test_what_is_broken_is_seen() -> None:
    text = (
        "[a](docs/nowhere.md) [b](README.md#no-such-title) [c](README.md) [d](https://example.org/x) ![e](none.png)\n"
        "[f][f] `segnext/nothing.py` `segnext/create.py` [g](http://example.org) <https://example.org>\n\n"
        '<img src="lost.png">\n\n[f]: lost.md\n'
    )
    wrong = [
        "docs/nowhere.md",
        "README.md#no-such-title",
        "none.png",
        "lost.md",
        "http://example.org",
        "lost.png",
    ]
    assert list(broken(ROOT / "README.md", text)) == [*wrong, "segnext/nothing.py"]


def uncited(text: str) -> Iterator[str]:
    """Yield the citations of documents or of their sections that do not exist."""
    for name, section in CITATION.findall(text):
        path = ROOT / "docs" / f"{name}.md"
        titles = headings(path.read_text(encoding="utf-8")) if path.exists() else []
        numbers = [title.split()[0].rstrip(".") for title in titles]
        if not titles or (section and section not in numbers):
            yield f"{name} {section}"


def test_cited_sections_exist() -> None:
    folders = ("segnext", "segnext_kernels", "csrc", "bench", "oracle", "tests")
    suffixes = {".py", ".h", ".cuh", ".cpp", ".cu", ".yaml"}
    sources = [p for folder in folders for p in (ROOT / folder).rglob("*") if p.suffix in suffixes]
    wrong = {
        path.relative_to(ROOT).as_posix(): found
        for path in sources
        if path != Path(__file__) and (found := list(uncited(path.read_text(encoding="utf-8"))))
    }
    assert wrong == {}


def test_a_wrong_citation_is_seen() -> None:
    text = "docs/model.md, section 2.1; docs/model.md, section 99; docs/nowhere.md"
    assert list(uncited(text)) == ["model 99", "nowhere "]
