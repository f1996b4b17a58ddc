"""Core ML's package (.mlpackage, a folder) for Apple's devices; it can be written anywhere, and runs on macOS alone.

It is written in float32: half precision has not enough digits for the small sums that the factorisation divides by, and
nothing here can measure what it would cost.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import torch

from segnext.atomic import replace_folder
from segnext.export.description import KEY, Description
from segnext.export.graph import ExportGraph
from segnext.export.running import in_one_line
from segnext.export.targets import expect_packages


def write(graph: ExportGraph, description: Description, path: Path) -> Description:
    """Write a package, then read its structure: names, shapes and the description must be there.

    Raises:
        ImportError: coremltools is missing. ValueError: free sizes or uint8 images are asked for.
    """
    interface = description.interface
    if interface.dynamic:
        raise ValueError(
            "export: dynamic must be off for Core ML, whose converter takes no free sizes in a GroupNorm, got on; pass "
            "--size"
        )
    if interface.input == "uint8":
        raise ValueError(
            "export: input must be float32 for Core ML, whose arrays have no bytes, got uint8; leave out --uint8"
        )
    expect_packages("coreml")
    import coremltools

    with in_one_line("export to Core ML"), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = coremltools.convert(
            graph.program(),
            outputs=[coremltools.TensorType(name=interface.output)],
            convert_to="mlprogram",
            minimum_deployment_target=coremltools.target.iOS16,
            compute_precision=coremltools.precision.FLOAT32,
            skip_model_load=True,
        )
        model.user_defined_metadata[KEY] = description.as_text()

    def save(temporary: Path) -> None:
        small = temporary.with_suffix(".mlpackage")  # coremltools writes to no name in capitals
        model.save(str(small))
        _expect_structure(small, graph, description)
        small.replace(temporary)

    replace_folder(path, save, marked_by="Manifest.json")
    return description


def _expect_structure(package: Path, graph: ExportGraph, description: Description) -> None:
    """Raise a ValueError unless a package takes and gives what the graph does, and says what it is."""
    import coremltools

    spec = coremltools.utils.load_spec(str(package))
    with torch.no_grad():
        wanted = [
            ("images", tuple(graph.example().shape)),
            (graph.interface.output, tuple(graph(graph.example()).shape)),
        ]
    got = [
        (one.name, tuple(one.type.multiArrayType.shape))
        for one in (*spec.description.input, *spec.description.output)
    ]
    text = spec.description.metadata.userDefined[KEY]
    if got != wanted or text != description.as_text():
        raise ValueError(
            f"export: the package must have {wanted} and its description, got {got}; please report"
        )
