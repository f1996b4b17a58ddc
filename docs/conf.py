"""How Sphinx builds these pages: `make docs`. The source folder is the checkout, so that links are those of GitHub."""

from __future__ import annotations

import re
from pathlib import Path

from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[1]

project = "segnext"
author = "the segnext authors"
release = (ROOT / "segnext_kernels" / "VERSION").read_text().strip()
version = release

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "docs/index"
include_patterns = [
    "docs/**",
    "*.md",
    "segnext/weights/*.md",
    "tests/cuda_emulator/README.md",
]
exclude_patterns = [".venv", "build", "dist", "out", "runs", "docs/conf.py"]
suppress_warnings = ["myst.header"]  # tables of results have small headings below a large one

# Fragments of links are those that GitHub makes of headings.
myst_heading_anchors = 4

autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
napoleon_numpy_docstring = False
add_module_names = False

html_theme = "furo"
html_title = f"segnext {release}"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_copy_source = False
html_show_sourcelink = False
html_extra_path = ["_root"]  # index.html, which leads to docs/index.html
html_theme_options = {"navigation_with_keys": True}


def _toctrees(text: str) -> str:
    """Return a toctree for each section of docs/index.md that lists pages: its links, in the order shown."""
    trees = []
    for title, body in re.findall(r"^## (.+)\n((?:(?!## ).*\n)*)", text, re.MULTILINE):
        if pages := re.findall(r"^- \[.+?\]\(([\w./-]+)\.(?:md|rst)\)", body, re.MULTILINE):
            listed = "\n".join(pages)
            trees.append(f"```{{toctree}}\n:hidden:\n:caption: {title}\n\n{listed}\n```\n")
    return "\n".join(trees)


def _without_folders(page: Path, text: str) -> str:
    """Return a page without its links to folders: GitHub shows them, a site of pages cannot."""

    def plain(link: re.Match[str]) -> str:
        return link[1] if (page.parent / link[2]).is_dir() else link[0]

    return re.sub(r"(?<!!)\[([^\]]+)\]\(([\w./-]+)\)", plain, text)


def _read(app: Sphinx, name: str, source: list[str]) -> None:
    page = app.env.doc2path(name)
    source[0] = _without_folders(Path(page), source[0])
    if name == root_doc:
        source[0] += "\n" + _toctrees(source[0])
    elif name.endswith("/index"):  # of a folder of pages
        source[0] += "\n```{toctree}\n:hidden:\n:glob:\n\n*\n```\n"


def setup(app: Sphinx) -> None:
    """Add what the settings above cannot say."""
    app.connect("source-read", _read)
