"""`export_model` writes a network as one file for another runtime, and looks whether that runtime gives the same."""

from __future__ import annotations

import os
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from segnext.atomic import at_home, make_place, replace_files
from segnext.export.description import Description, Interface
from segnext.export.graph import ExportGraph
from segnext.export.network import ExportedNetwork, open_exported
from segnext.export.targets import (
    SUFFIXES,
    TARGETS,
    expect_packages,
    module_of,
    runs_here,
    targets_of,
)
from segnext.models import SegNeXt
from segnext.models.finite import expect_finite
from segnext.one_line import one_line
from segnext.weights.foreign import from_module

TOLERANCES = {"float32": 1e-4, "float16": 2e-2, "int8": sys.float_info.max}
"""Largest accepted error of a logit, relative to the largest one, on random images. An int8 file must only be
finite: its ranges come from photographs, and noise says nothing about it."""

SMALL_SIDES = (64, 64)
"""Height and width at which a model's logits are looked at before they disappear in a mask."""

OTHER_SIZES = (1, 67, 129)
"""Number, height and width of the images on which a file of free sizes is checked."""


def export_model(
    model: nn.Module,
    path: str | os.PathLike[str],
    target: str | None = None,
    *,
    dtype: str = "float32",
    check: bool = True,
    opset: int | None = None,
    calibrate: Sequence[Path] | None = None,
    **interface: Any,
) -> ExportedNetwork | None:
    """Write a SegNeXt as a file of standard operators for other runtimes; an existing file is replaced.

    The weights are folded as for `segnext.deploy`, and nothing in the graph is random. The model is not changed.

    Args:
        model: a SegNeXt, or one of other code that `segnext.deploy` takes.
        path: the file; its suffix decides about the format: .onnx, .xml (OpenVINO), .pt2, .torchscript,
            .tflite (LiteRT), .mlpackage (Core ML, a folder).
        target: the format, where the suffix leaves a choice: ``"aoti"`` for a compiled .pt2.
        dtype: of the file: ``"float32"``; ``"float16"`` for ONNX (the encoder and the dense layers of the decoder; the
            factorisation and what normalises stay in float32) and OpenVINO (the stored weights); ``"int8"`` for
            OpenVINO (the encoder's convolutions, by NNCF).
        check: open the file in its runtime, and compare it with the model on random images; a file that differs is
            not kept, and one that was there before stays. An int8 file only has to give finite numbers of the right
            shape: how good it is, photographs with labels show.
        opset: of ONNX.
        calibrate: photographs (files) like those of use, for int8; 20 are enough, at most 64 are taken.
        **interface: ``height``, ``width``, ``batch``, ``dynamic``, ``input``, ``output``, see
            `segnext.export.description.Interface`.

    Returns:
        The file as a network, if it was checked; None for Core ML, which runs on macOS alone.

    Raises:
        ValueError: an option is unknown or out of range, `deploy` refuses the model, or the runtime's result differs.
        ImportError: a package is missing; the message says what installs it.
        OSError: the file cannot be written.

    Example:
        >>> export_model(create_model(weights="camvid"), "camvid.onnx", dynamic=True)
    """
    place = at_home(path)
    name = choose_target(place, target)
    expect_dtype(name, dtype)
    if opset is not None and name != "onnx":
        raise ValueError(f"export: opset must be left out for {name}, got {opset}; only ONNX has one")
    if (dtype == "int8") != bool(calibrate):
        raise ValueError(
            "export: calibrate must be photographs like those of use for int8, got none; 20 are enough"
            if dtype == "int8"
            else f"export: calibrate must be left out for {dtype}, got {len(calibrate or ())} photographs; pass int8"
        )
    expect_packages(name)
    try:
        taken = Interface(**interface)
    except TypeError as error:
        raise TypeError(f"export: {one_line(error)}; see segnext.export.description.Interface") from None
    own = from_module(model, what="export")
    description = Description(
        config=own.config, metadata=own.metadata, interface=taken, target=name, dtype=dtype
    )
    if check and taken.output == "mask":
        expect_finite_logits(own, taken)
    reference = ExportGraph(own, taken)
    graph = ExportGraph(own, taken, torch.float16) if (name, dtype) == ("onnx", "float16") else reference
    options: dict[str, Any] = {} if opset is None else {"opset": opset}
    if calibrate:
        options["calibrate"] = calibrate
    with replacing(place) as draft:
        # under the caller's autocast, its casts would be written, and be taken for the model's
        with warnings.catch_warnings(), torch.autocast("cpu", enabled=False):
            warnings.simplefilter("ignore")  # exporters warn about their own code
            module_of(name).write(graph, description, draft, **options)
        if not check or not TARGETS[name].runs:
            return None
        network = open_exported(draft)
        network.path = place
        expect_same(network, reference, TOLERANCES[dtype])
    return network


def expect_finite_logits(model: SegNeXt, interface: Interface) -> None:
    """Raise a NonFiniteError if a model gives NaN or Inf, which a mask would hide as a class."""
    graph = ExportGraph(model, replace(interface, output="logits"))
    with torch.inference_mode(), torch.autocast("cpu", enabled=False):
        expect_finite(graph(graph.example(graph.shape(1, *SMALL_SIDES))), "export")


def files_of(path: Path) -> list[Path]:
    """Return the files that make up an exported one, which may be a folder."""
    if path.is_dir():
        return [file for file in path.rglob("*") if file.is_file()]
    return [path, path.with_suffix(".bin")] if "openvino" in targets_of(path) else [path]


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a path beside `path` to write to; what is written there replaces `path` if the block raises nothing.

    Thus a file can be opened and checked before an older one is given up. Core ML's folder, which nothing here can
    check, is written to `path` itself.

    Raises:
        OSError: the system refuses to write; `filename` is `path`.
    """
    if not runs_here(path):
        yield path
        return
    make_place(path)
    prefix = ".export."
    try:
        with tempfile.TemporaryDirectory(".tmp", prefix, path.parent) as folder:
            draft = Path(folder) / path.name
            yield draft
            drafts = files_of(draft)

            def move(*places: Path) -> None:
                for file, place in zip(drafts, places, strict=True):
                    os.replace(file, place)

            replace_files(files_of(path), move)
    except OSError as error:
        if error.errno is None or not str(error.filename).startswith(str(path.parent / prefix)):
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error


def choose_target(path: Path, target: str | None) -> str:
    """Return the name of the format of a file.

    Raises:
        ValueError: the suffix is of no format, or of another one.
    """
    if target is None:
        found = next(iter(targets_of(path)), None)
        if found is None:
            raise ValueError(
                f"export: path must end in one of {', '.join(SUFFIXES)}, got {one_line(path.name)}; rename it"
            )
        return found
    if target not in TARGETS:
        raise ValueError(
            f"export: target must be one of {', '.join(TARGETS)}, got {one_line(repr(target))}; see --help"
        )
    if target not in targets_of(path):
        raise ValueError(
            f"export: the file must end in {TARGETS[target].suffix} for {target}, got {one_line(path.name)}; rename it"
        )
    return target


def expect_dtype(target: str, dtype: str) -> None:
    """Raise a ValueError unless a format can be written in a dtype."""
    if dtype not in TARGETS[target].dtypes:
        raise ValueError(
            f"export: dtype must be {' or '.join(TARGETS[target].dtypes)} for {target}, got {one_line(repr(dtype))}; "
            "choose one of these"
        )


def expect_same(network: ExportedNetwork, graph: ExportGraph, tolerance: float) -> None:
    """Run both on the graph's example, and raise a ValueError if they differ by more than rounding.

    Args:
        network: the file.
        graph: the same network in PyTorch and float32.
        tolerance: allowed error of a logit, relative to the largest; of a mask, the share of pixels.
    """
    # of free sizes, others than those that were recorded
    images = graph.example(graph.shape(*OTHER_SIZES) if graph.interface.dynamic else None)
    with torch.inference_mode(), torch.autocast("cpu", enabled=False):
        wanted, got = graph(images), network.run(images)
    if got.shape != wanted.shape or got.dtype != wanted.dtype:
        raise ValueError(
            f"{network.file}: the result must be {tuple(wanted.shape)} {wanted.dtype} in {network.runtime}, got "
            f"{tuple(got.shape)} {got.dtype}; please report"
        )
    error = _error(got, wanted)
    if not error <= tolerance:
        raise ValueError(
            f"{network.file}: the result must be that of PyTorch in {network.runtime}, got one that is off by "
            f"{error:.1e}, allowed are {tolerance:.0e}; update the runtime, or export with another --opset or --dtype"
        )


def _error(got: Tensor, wanted: Tensor) -> float:
    if wanted.is_floating_point():
        return ((got - wanted).abs().max() / wanted.abs().max()).item()
    return (got != wanted).double().mean().item()
