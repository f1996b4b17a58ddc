"""Tests the documents: every link between files leads somewhere, and every section that the code cites exists."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "segnext").rglob("*.md")),
    *sorted((ROOT / "tests").rglob("*.md")),
]
LINK = re.compile(r"\]\(([^)\s]+)\)")
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


def broken(document: Path, text: str) -> Iterator[str]:
    """Yield the links of a document that lead nowhere."""
    for link in LINK.findall(text):
        target, _, fragment = link.partition("#")
        if "://" in target:
            continue
        path = document if not target else document.parent / target
        if not path.exists() or (fragment and fragment not in anchors(path)):
            yield link


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(document: Path) -> None:
    assert list(broken(document, document.read_text(encoding="utf-8"))) == []


def test_a_broken_link_is_seen() -> None:
    text = "[a](docs/nowhere.md) [b](README.md#no-such-title) [c](README.md) [d](https://example.org/x)"
    assert list(broken(ROOT / "README.md", text)) == ["docs/nowhere.md", "README.md#no-such-title"]


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
