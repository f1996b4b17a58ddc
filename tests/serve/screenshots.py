"""Takes pictures of the service's page: `python -m tests.serve.screenshots FOLDER`."""

from __future__ import annotations

import sys
from pathlib import Path

from segnext import Predictor
from tests.serve.browser import chromium
from tests.serve.conftest import running

WINDOWS = {"wide": (1280, 900, "light"), "narrow": (360, 780, "light"), "dark": (1280, 900, "dark")}


def take(folder: Path) -> None:
    """Write empty, sample, highlighted and error in each window, NAME_STATE.png."""
    folder.mkdir(parents=True, exist_ok=True)
    with running({"camvid": Predictor("camvid", device="cpu")}) as service, chromium() as browser:
        for name, (width, height, scheme) in WINDOWS.items():
            page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
            page.goto(service.url)
            page.wait_for_selector("#known li")
            page.screenshot(path=folder / f"{name}_empty.png")
            page.click("#sample")
            page.wait_for_selector("#legend button")
            page.screenshot(path=folder / f"{name}_sample.png", full_page=True)
            page.focus("#legend li:nth-child(3) button")
            page.screenshot(path=folder / f"{name}_highlighted.png")
            notes = {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"no photograph"}
            page.set_input_files("#file", notes)
            page.wait_for_selector("#error:not([hidden])")
            page.screenshot(path=folder / f"{name}_error.png")
            page.close()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    take(Path(sys.argv[1]))
