"""ONNX: written by PyTorch's exporter, run by ONNX Runtime."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from segnext.atomic import replace_bytes
from segnext.export.description import KEY, Description
from segnext.export.graph import ExportGraph
from segnext.export.running import Loaded, RunOptions, in_one_line
from segnext.export.targets import expect_packages
from segnext.one_line import one_line

OPSET = 20
"""The first version with Gelu as one operator."""
OPSETS = (18, 23)
"""The lowest and the highest that PyTorch's exporter writes for this network."""
LARGEST = 2**31
"""Bytes that a file may have: one message of protobuf."""


def write(graph: ExportGraph, description: Description, path: Path, opset: int = OPSET) -> Description:
    """Write a file.

    Returns:
        The description, with the opset.

    Raises:
        ImportError: a package is missing. ValueError: the opset is not one that the network can be written in.
    """
    if not OPSETS[0] <= opset <= OPSETS[1]:
        raise ValueError(
            f"export: opset must be from {OPSETS[0]} to {OPSETS[1]}, got {opset}; {OPSET} has every operator that is "
            "needed"
        )
    expect_packages("onnx", first=1)
    model = to_proto(graph, opset)
    description = replace(description, notes={**description.notes, "opset": opset})
    entry = model.metadata_props.add()
    entry.key, entry.value = KEY, description.as_text()
    replace_bytes(path, model.SerializeToString())
    return description


def to_proto(graph: ExportGraph, opset: int = OPSET) -> Any:
    """Return the network as an ONNX ModelProto without notes on how it was made."""
    with _quiet(), torch.no_grad(), in_one_line("export to ONNX"):
        program = torch.onnx.export(
            graph.program(),
            (graph.example(),),
            dynamo=True,
            opset_version=opset,
            input_names=["images"],
            output_names=[graph.interface.output],
            verbose=False,
        )
        assert program is not None
        model = program.model_proto
    _strip(model.graph)
    for function in model.functions:
        _strip(function)
    written = {entry.domain: entry.version for entry in model.opset_import}
    if written[""] != opset:
        raise ValueError(
            f"export: the exporter must write opset {opset}, got {written['']}; choose that or a higher one"
        )
    return model


def _strip(graph: Any) -> None:
    """Remove what the exporter notes of each node: names of our modules, and paths of this machine."""
    for item in (graph, *graph.node, *getattr(graph, "value_info", ()), *getattr(graph, "input", ())):
        if not isinstance(item, str) and hasattr(item, "metadata_props"):
            del item.metadata_props[:]
    for node in graph.node:
        node.ClearField("doc_string")


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter, which names operators of packages that are not needed."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def load(path: Path, options: RunOptions) -> Loaded:
    """Open a file for ONNX Runtime on the CPU.

    Raises:
        ImportError: it is not installed. ValueError: it refuses the file, or the file is not ours.
    """
    expect_packages("onnx", last=1)
    import onnxruntime

    name = one_line(path, 240)
    options.expect_float32("ONNX Runtime", name)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = torch.get_num_threads()
    settings.log_severity_level = 3
    # otherwise its waiting threads would take the cores from what runs between two images
    settings.add_session_config_entry("session.force_spinning_stop", "1")
    with in_one_line(f"{name}: ONNX Runtime"):
        session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    properties = session.get_modelmeta().custom_metadata_map
    description = Description.from_text(properties.get(KEY), name)

    def run(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {"images": images.numpy()})[0])

    return Loaded(run, description, "ONNX Runtime " + onnxruntime.__version__)
