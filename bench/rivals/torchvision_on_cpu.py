"""Lets the torchvision of PyPI be imported beside a CPU build of PyTorch.

PyPI's wheels of torchvision for Linux are built for CUDA. Beside a CPU build of torch their library of operators does
not load, and ``import torchvision`` fails, since it describes two of the missing operators ("operator torchvision::nms
does not exist"). No segmentation network calls an operator of torchvision. So it suffices to declare these two:
whoever called one would get an error.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path

import torch

DESCRIBED = ("nms", "qnms")  # those that torchvision/_meta_registrations.py gives a shape
SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


@cache
def declare_operators() -> torch.library.Library | None:
    """Declare the operators if torchvision is installed and its library does not load; call it before the import.

    Returns:
        What keeps the declaration; None if none was needed.
    """
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return None
    try:
        for library in Path(spec.origin).parent.glob("_C*.so"):
            torch.ops.load_library(library)
            return None
    except OSError:  # it needs libraries of CUDA
        pass
    declared = torch.library.Library("torchvision", "DEF")
    for name in DESCRIBED:
        declared.define(name + SCHEMA)
    return declared
