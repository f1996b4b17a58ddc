"""TorchScript: a trace, for LibTorch and for versions of torch that read no .pt2.

PyTorch no longer develops TorchScript; for new programs take "pt2" or "onnx".
"""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import torch

from segnext.atomic import replace_bytes
from segnext.export.description import KEY, Description
from segnext.export.graph import ExportGraph
from segnext.export.running import Loaded, RunOptions, expect_zip, in_one_line
from segnext.one_line import one_line


def write(graph: ExportGraph, description: Description, path: Path) -> Description:
    """Write a trace. Its sizes are free, whether or not the interface asks for that."""
    with in_one_line("TorchScript"), torch.no_grad():
        traced = torch.jit.trace(graph, (graph.example(),), check_trace=False)
        content = io.BytesIO()  # on a full disk PyTorch's own writer ends the process
        torch.jit.save(traced, content, _extra_files={KEY: description.as_text()})
    replace_bytes(path, content.getvalue())
    return description


def load(path: Path, options: RunOptions) -> Loaded:
    """Open a trace.

    Raises:
        ValueError: it is damaged or not ours.
    """
    name = one_line(path, 240)
    options.expect_float32("a trace", name)
    expect_zip(path, name)
    extra = {KEY: ""}
    with in_one_line(f"{name}: TorchScript"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of TorchScript's end
        module = torch.jit.load(str(path), map_location="cpu", _extra_files=extra)
    text = extra[KEY]
    description = Description.from_text((text.decode() if isinstance(text, bytes) else text) or None, name)
    return Loaded(torch.no_grad()(module), description, "TorchScript, PyTorch " + torch.__version__)
