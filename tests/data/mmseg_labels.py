"""Reads data sets with mmsegmentation's own classes, in its environment: ``python mmseg_labels.py FOLDER < requests``.

A request is ``{"class": ..., "arguments": ...}``; all of them are one JSON list. The labels of request 3 are written to
``FOLDER/3.npz``, by the path of the image.
"""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn


class _Operators(types.ModuleType):
    """Stands for ``mmcv.ops``, which mmcv-lite lacks; data sets call none of them."""

    __path__: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (nn.Module,), {})


try:
    import mmcv.ops  # noqa: F401
except ImportError:
    sys.modules["mmcv.ops"] = _Operators("mmcv.ops")

from mmseg.registry import DATASETS  # noqa: E402
from mmseg.utils import register_all_modules  # noqa: E402


def main() -> None:
    """Answer all requests."""
    register_all_modules()
    for number, request in enumerate(json.load(sys.stdin)):
        pipeline = [{"type": "LoadImageFromFile"}, {"type": "LoadAnnotations"}]
        data = DATASETS.build({"type": request["class"], **request["arguments"], "pipeline": pipeline})
        items = [data[index] for index in range(len(data))]
        labels = {item["img_path"]: item["gt_seg_map"] for item in items}
        np.savez(Path(sys.argv[1]) / f"{number}.npz", **labels)


if __name__ == "__main__":
    main()
