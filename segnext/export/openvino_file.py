"""OpenVINO's IR: an .xml with the graph and a .bin with the weights, which lie side by side."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from segnext.atomic import replace_files
from segnext.export.description import KEY, Description
from segnext.export.graph import ExportGraph
from segnext.export.int8 import calibration_arrays, quantised
from segnext.export.onnx_file import to_proto
from segnext.export.running import Loaded, RunOptions, in_one_line
from segnext.export.targets import expect_packages
from segnext.measure.runtimes import OPENVINO_NAMES, openvino_core
from segnext.one_line import one_line


def write(
    graph: ExportGraph, description: Description, path: Path, calibrate: Sequence[Path] = ()
) -> Description:
    """Write the two files, or none.

    Args:
        calibrate: photographs, for int8.

    Raises:
        ImportError: OpenVINO is missing, or NNCF for int8. ValueError: there are no photographs for int8.
    """
    expect_packages("openvino")
    import openvino

    model = to_model(graph)
    if description.dtype == "int8":
        arrays = calibration_arrays(calibrate, description)
        model = quantised(model, arrays)
        description = replace(description, notes={**description.notes, "photographs": len(arrays)})
    model.set_rt_info(description.as_text(), KEY)

    def save(xml: Path, _: Path) -> None:
        small = xml.with_suffix(".xml")  # OpenVINO writes to no name in capitals
        try:
            openvino.save_model(model, small, compress_to_fp16=description.dtype == "float16")
        except RuntimeError as error:  # it does not tell the system's error
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
        small.replace(xml)

    replace_files([path, weights_of(path)], save)
    return description


def to_model(graph: ExportGraph) -> Any:
    """Return the network as OpenVINO's model.

    It is read from ONNX: what OpenVINO 2026.4 itself converts from a program of torch.export 2.13 ends the process when
    it is compiled (a segmentation fault).
    """
    core = openvino_core()
    proto = to_proto(graph)
    with in_one_line("export to OpenVINO"):
        return core.read_model(proto.SerializeToString())


def weights_of(path: Path) -> Path:
    """Return the path of the file with the weights."""
    return path.with_suffix(".bin")


def load(path: Path, options: RunOptions) -> Loaded:
    """Open a file for the CPU, tuned for latency.

    Raises:
        ImportError: OpenVINO is not installed. FileNotFoundError: there is no .bin. ValueError: OpenVINO refuses the
            file, the file is not ours, or this CPU has no arithmetic of this dtype.
    """
    expect_packages("openvino", last=1)
    import openvino

    name = one_line(path, 240)
    if options.dtype not in OPENVINO_NAMES:
        wanted = str(options.dtype).removeprefix("torch.")
        raise ValueError(f"{name}: dtype must be float32 or bfloat16 for OpenVINO, got {wanted}; choose one")
    if not weights_of(path).is_file():
        raise FileNotFoundError(
            f"{name}: its weights must lie beside it, got no file {one_line(weights_of(path).name)}; copy both"
        )
    core = openvino_core()
    if options.dtype == torch.bfloat16 and "BF16" not in core.get_property(
        "CPU", "OPTIMIZATION_CAPABILITIES"
    ):
        raise ValueError(
            f"{name}: dtype must be float32 on a CPU without bfloat16 arithmetic, got bfloat16; leave it out"
        )
    with in_one_line(f"{name}: OpenVINO"):
        model = core.read_model(path)
    text = model.get_rt_info(KEY).astype(str) if model.has_rt_info([KEY]) else None
    description = Description.from_text(text, name)
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": OPENVINO_NAMES[options.dtype],
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    with in_one_line(f"{name}: OpenVINO"):
        request = core.compile_model(model, "CPU", settings).create_infer_request()

    one_call = threading.Lock()  # calls at the same time would get each other's results

    def run(images: Tensor) -> Tensor:
        with one_call:
            results = request.infer([images.numpy()], share_inputs=True)
        return torch.from_numpy(results[0])

    return Loaded(run, description, "OpenVINO " + openvino.__version__.split("-")[0])
