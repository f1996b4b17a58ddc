"""torch.export's archive (.pt2): the recorded graph and its weights, which any torch that is as new runs."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import torch

from segnext.atomic import replace_bytes
from segnext.export.description import KEY, Description
from segnext.export.graph import ExportGraph
from segnext.export.running import Loaded, RunOptions, expect_zip, in_one_line
from segnext.one_line import one_line


def write(graph: ExportGraph, description: Description, path: Path) -> Description:
    """Write an archive."""
    with in_one_line("export by torch.export"):
        program = graph.program()
    program.example_inputs = None  # megabytes of noise
    content = io.BytesIO()  # on a full disk PyTorch's own writer ends the process
    torch.export.save(program, content, extra_files={KEY: description.as_text()})
    replace_bytes(path, content.getvalue())
    return description


def load(path: Path, options: RunOptions) -> Loaded:
    """Open an archive, to run its operators one after the other.

    Raises:
        ValueError: it is damaged or not ours.
    """
    name = one_line(path, 240)
    options.expect_float32("a recorded program", name)
    expect_zip(path, name)
    extra = {KEY: ""}
    # by name PyTorch takes no capitals in .pt2
    with in_one_line(f"{name}: torch.export"), path.open("rb") as file:
        program = torch.export.load(file, extra_files=extra)
    description = Description.from_text(extra[KEY] or None, name)
    return Loaded(torch.no_grad()(program.module()), description, "PyTorch " + torch.__version__)


def is_compiled(path: Path) -> bool:
    """Say whether an archive holds a compiled library, as those of AOTInductor do."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any("aotinductor" in name for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False
