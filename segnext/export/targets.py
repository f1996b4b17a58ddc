"""The formats: their names on the command line, their files, and the packages that they need.

Importing this module needs no torch, so that the command line's help can name the formats. Each format has a module
with `write(graph, description, path)`, which writes a whole file or none, and, where its files run here,
`load(path, options)`, which returns the function that runs it and its description.
"""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from types import ModuleType
from typing import NamedTuple


class Target(NamedTuple):
    """A format.

    Attributes:
        suffix: of its files.
        module: in `segnext.export`.
        dtypes: what it can be written in.
        packages: what writing and running it needs beside torch; the first is that which runs it.
        extra: the extra of segnext that installs them.
        text: what it is for.
        runs: whether its files run here, so that they can be compared.
    """

    suffix: str
    module: str
    dtypes: tuple[str, ...]
    packages: tuple[str, ...]
    extra: str
    text: str
    runs: bool = True


TARGETS = {
    "onnx": Target(
        ".onnx",
        "onnx_file",
        ("float32", "float16"),
        ("onnxruntime", "onnx", "onnxscript"),
        "onnx",
        "ONNX Runtime, TensorRT and most others",
    ),
    "openvino": Target(
        ".xml",
        "openvino_file",
        ("float32", "float16", "int8"),
        ("openvino", "onnx", "onnxscript"),
        "openvino",
        "OpenVINO's IR, with a .bin beside it",
    ),
    "pt2": Target(
        ".pt2", "program_file", ("float32",), (), "", "torch.export's archive; torch >= 2.9 runs it"
    ),
    "aoti": Target(
        ".pt2", "compiled_file", ("float32",), (), "", "compiled by AOTInductor for this machine's CPU"
    ),
    "torchscript": Target(
        ".torchscript", "script_file", ("float32",), (), "", "a trace, for LibTorch and old versions of torch"
    ),
    "litert": Target(
        ".tflite",
        "litert_file",
        ("float32",),
        ("ai_edge_litert", "litert_torch"),
        "litert",
        "LiteRT, once TensorFlow Lite, on phones and boards",
    ),
    "coreml": Target(
        ".mlpackage",
        "coreml_file",
        ("float32",),
        ("coremltools",),
        "coreml",
        "Core ML on Apple devices",
        runs=False,
    ),
}
SUFFIXES = tuple(dict.fromkeys(target.suffix for target in TARGETS.values()))


def targets_of(path: str | os.PathLike[str]) -> list[str]:
    """Return the targets whose suffix a path has, in small letters or capitals; .pt2 is that of two."""
    suffix = Path(os.fspath(path)).suffix.lower()
    return [name for name, target in TARGETS.items() if target.suffix == suffix]


def runs_here(path: str | os.PathLike[str]) -> bool:
    """Say whether a path has the suffix of a format that a runtime for this machine runs."""
    return any(TARGETS[name].runs for name in targets_of(path))


def is_exported(path: object) -> bool:
    """Say whether a path has the suffix of an exported file."""
    return isinstance(path, str | os.PathLike) and bool(targets_of(path))


def device_for(weights: str, device: str) -> str:
    """Return the device of a command: exported files run on the CPU.

    Raises:
        ValueError: another one is asked for.
    """
    if not is_exported(weights) or device == "cpu":
        return device
    if device != "auto":
        raise ValueError(
            f"{weights}: device must be cpu for an exported file, got {device!r}; use the weights that it was made from"
        )
    return "cpu"


def module_of(name: str) -> ModuleType:
    """Return the module of a format."""
    return importlib.import_module(f"segnext.export.{TARGETS[name].module}")


def expect_packages(name: str, first: int = 0, last: int | None = None) -> None:
    """Raise an ImportError that names the cure unless the packages of a format are installed."""
    target = TARGETS[name]
    for package in target.packages[first:last]:
        expect_package(package, name, target.extra)


def expect_package(package: str, what: str, extra: str) -> None:
    """Raise an ImportError that names the extra to install unless a package is there."""
    try:
        importlib.import_module(package)
    except ImportError as error:
        raise ImportError(
            f"export: {what} needs the package {package}, got {error}; pip install 'segnext[{extra}]'"
        ) from None
