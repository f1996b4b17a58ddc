"""Eight-bit integers by NNCF: the encoder of an OpenVINO model is quantised, the decoder stays in float.

NNCF runs the model on photographs, and chooses for each quantised tensor the range that covers what it saw. The
factorisation repeats divisions by small sums, whose rounding adds up; norms and the decoder's few 1x1 convolutions cost
little in float. Boundaries are found in the graph, since exporters give operators names of their own.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np

from segnext.data.bands import read_bands
from segnext.data.preprocessing import Preprocessing, as_batch, short_side_scale
from segnext.data.resizing import resize
from segnext.export.description import Description
from segnext.export.running import in_one_line
from segnext.export.targets import expect_package

MOST_PHOTOGRAPHS = 64
"""Photographs that are run; of more, as many are taken at equal distances."""

DEPTHWISE = "GroupConvolution"
"""OpenVINO's name of a depthwise convolution: every block of the encoder has some. Of the decoders only that with the
context "msca" has any; the convolutions in front of these are quantised too."""

BETWEEN = ("Add", "Multiply", "Gelu")
"""What lies between the encoder's convolutions. With these in eight bits too, a file of SegNeXt-T was slower and a
little less exact."""


def calibration_arrays(files: Sequence[Path], description: Description) -> list[np.ndarray]:
    """Return photographs as a file's input, resized as `segnext predict` does, or to the file's size.

    Args:
        files: photographs; of more than `MOST_PHOTOGRAPHS`, some are taken.
        description: of the file that they are for.

    Raises:
        ValueError: there are none.
        segnext.data.images.ImageError: a photograph cannot be read.
    """
    if not files:
        raise ValueError(
            "export: calibrate must have photographs for int8, got none; give 20 or more like those of use"
        )
    interface, own = description.interface, Preprocessing.of(description.metadata)
    step = max(1, -(-len(files) // MOST_PHOTOGRAPHS))
    arrays = []
    for file in files[::step]:
        pixels = as_batch(read_bands(file, own.bands, own.value_range))
        size = (interface.height, interface.width)
        if interface.dynamic:
            height, width = pixels.shape[2:]
            scale = short_side_scale(height, width, own.short_side) if own.short_side else 1.0
            size = (max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5)))
        pixels = resize(pixels, size).expand(1 if interface.dynamic else interface.batch, -1, -1, -1)
        images = pixels.permute(0, 2, 3, 1) if interface.input == "uint8" else own(pixels)
        arrays.append(images.contiguous().numpy())
    return arrays


def quantised(model: Any, arrays: Sequence[np.ndarray]) -> Any:
    """Return an OpenVINO model whose encoder computes in eight bits; weights have a range per output channel.

    Args:
        model: in float, as `segnext.export.openvino_file.to_model` makes it.
        arrays: inputs like those of use.

    Raises:
        ImportError: NNCF is not installed. ValueError: NNCF refuses the model.
    """
    expect_package("nncf", "int8", "int8")
    with _quiet(), in_one_line("export to int8"):
        import nncf

        return nncf.quantize(
            model,
            nncf.Dataset(arrays),
            # activations of GELU have a long side and a short one, which a symmetric range would waste
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(arrays),
            ignored_scope=nncf.IgnoredScope(names=float_operators(model), validate=False),
        )


def float_operators(model: Any) -> list[str]:
    """Return the names of the operators that stay in float: all but the encoder's convolutions.

    The encoder are the operators from which a depthwise convolution is reached. So its last 1x1 convolution stays in
    float too.
    """
    before: set[str] = set()
    kept = []
    for operator in reversed(model.get_ordered_ops()):
        name = operator.get_friendly_name()
        readers = (
            reader.get_node() for output in operator.outputs() for reader in output.get_target_inputs()
        )
        if operator.get_type_name() == DEPTHWISE or any(one.get_friendly_name() in before for one in readers):
            before.add(name)
            if operator.get_type_name() in BETWEEN:
                kept.append(name)
        elif operator.get_type_name() not in ("Constant", "Parameter", "Result"):
            kept.append(name)
    return kept


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence NNCF's list of what it leaves alone; its progress bars go to stderr, results alone to stdout."""
    log = logging.getLogger("nncf")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        log.setLevel(level)
