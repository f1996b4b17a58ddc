"""LiteRT (.tflite, once TensorFlow Lite): written by Google's converter for PyTorch, run by LiteRT's interpreter."""

from __future__ import annotations

import sys
import threading
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from segnext.atomic import replace_bytes
from segnext.export.description import KEY, Description
from segnext.export.graph import ExportGraph
from segnext.export.running import Loaded, RunOptions, in_one_line
from segnext.export.targets import expect_packages
from segnext.one_line import one_line

IDENTIFIER = b"TFL3"
"""Bytes 4 to 8 of every file of this format."""


def write(graph: ExportGraph, description: Description, path: Path) -> Description:
    """Write a file. The converter takes a minute or more.

    Raises:
        ImportError: a package is missing. ValueError: free sizes are asked for.
    """
    if description.interface.dynamic:
        raise ValueError(
            "export: dynamic must be off for LiteRT, whose memory is planned for one size, got on; pass --size"
        )
    expect_packages("litert")
    import litert_torch

    # its account of the steps is no result, so it goes to stderr
    with in_one_line("export to LiteRT"), redirect_stdout(sys.stderr):
        content = litert_torch.convert(graph, (graph.example(),)).model_content()
    replace_bytes(path, _described(content, description.as_text()))
    return description


def _described(content: bytes, text: str) -> bytes:
    """Return a file with a text as one of its metadata entries."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model: Any = schema.ModelT.InitFromPackedBuf(content, 0)
    buffer, entry = schema.BufferT(), schema.MetadataT()
    buffer.data = np.frombuffer(text.encode(), np.uint8)
    entry.name, entry.buffer = KEY, len(model.buffers)
    model.buffers.append(buffer)
    model.metadata = [*(model.metadata or []), entry]
    builder = flatbuffers.Builder(len(content) + len(text))
    builder.Finish(model.Pack(builder), IDENTIFIER)
    return bytes(builder.Output())


def _description(content: bytes) -> str | None:
    """Return the text that `_described` added; None if there is none."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.Model.GetRootAs(content)
    for entry in map(model.Metadata, range(model.MetadataLength())):
        if entry.Name() == KEY.encode():
            return model.Buffers(entry.Buffer()).DataAsNumpy().tobytes().decode()
    return None


def load(path: Path, options: RunOptions) -> Loaded:
    """Open a file for the interpreter on the CPU.

    Raises:
        ImportError: it is not installed. ValueError: it refuses the file, or the file is not ours.
    """
    expect_packages("litert", last=1)
    from ai_edge_litert import interpreter as litert

    name = one_line(path, 240)
    options.expect_float32("LiteRT", name)
    content = path.read_bytes()
    if content[4:8] != IDENTIFIER:
        raise ValueError(f"{name}: file must be one of LiteRT, got other content; export it again")
    with in_one_line(f"{name}: LiteRT"):
        description = Description.from_text(_description(content), name)
        interpreter = litert.Interpreter(model_content=content, num_threads=torch.get_num_threads())
        interpreter.allocate_tensors()
    (taken,), (given,) = interpreter.get_input_details(), interpreter.get_output_details()
    one_call = threading.Lock()  # the interpreter keeps the images and the results of one call

    def run(images: Tensor) -> Tensor:
        with one_call:
            interpreter.set_tensor(taken["index"], images.contiguous().numpy())
            interpreter.invoke()
            return torch.from_numpy(interpreter.get_tensor(given["index"]))

    return Loaded(run, description, "LiteRT " + _version())


def _version() -> str:
    from importlib.metadata import version

    return version("ai-edge-litert")
