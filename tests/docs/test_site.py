"""`make docs`: Sphinx builds the pages without a warning, links lead somewhere, nothing is loaded from elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests import summary

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(
    any(find_spec(name) is None for name in ("sphinx", "myst_parser", "furo")),
    reason="needs Sphinx, MyST and Furo: pip install '.[docs]'",
)


class Page(HTMLParser):
    """What a page loads, where its links lead, and the places that links may name."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.links: list[str] = []
        self.places: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if "id" in given:
            self.places.add(given["id"])
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif tag == "link" and given.get("rel") in ("stylesheet", "icon", "preload"):
            self.loaded.append(given["href"])
        elif "src" in given:
            self.loaded.append(given["src"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Page]:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-d", folder / "doctrees"]
    done = subprocess.run(
        [*command, "-c", ROOT / "docs", ROOT, folder / "html"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    return {path: Page(path) for path in (folder / "html").rglob("*.html") if "_static" not in path.parts}


def test_links_lead_somewhere(site: dict[Path, Page]) -> None:
    wrong = []
    for path, page in site.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            known = site.get(target)
            if not target.exists() or (parts.fragment and known and parts.fragment not in known.places):
                wrong.append(f"{path.name}: {link}")
            summary.count("links of the built pages, checked")
    assert wrong == []


def test_nothing_is_loaded_from_elsewhere(site: dict[Path, Page]) -> None:
    loaded = {source for page in site.values() for source in page.loaded}
    assert len(loaded) > 5
    assert [source for source in loaded if "//" in source] == []


def test_every_page_is_in_the_index(site: dict[Path, Page]) -> None:
    names = {path.name for path in site}
    pages = {f"{page.stem}.html" for page in (ROOT / "docs").rglob("*.md")}
    assert pages <= names and "search.html" in names
