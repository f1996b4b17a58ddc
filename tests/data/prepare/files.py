"""Writes and reads the small files of these tests, and prepares them as the command does."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from segnext.data.prepare.plan import Request, plan
from segnext.data.prepare.work import Summary, run


def write_png(path: Path, pixels: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path, "PNG")
    return path


def write_text(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def write_json(path: Path, content: Any) -> Path:
    return write_text(path, json.dumps(content))


def read_ids(path: Path) -> list[list[int]]:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image).tolist()


def prepare(kind: str, root: Path, out: Path | None = None, **options: Any) -> Summary:
    request = Request(kind, root, out or root, **options)
    return run(plan(request), overwrite=request.overwrite)


def counts(summary: Summary) -> tuple[int, int, int]:
    return summary.written, summary.skipped, len(summary.failures)
