"""Runs mmsegmentation's training transforms in its own environment: `test_published_pipeline` starts it and compares.

python tests/data/published_pipeline_peer.py CASES.npz RESULTS.npz
"""

from __future__ import annotations

import sys
import types
from typing import Any

import numpy as np


class _Stub(types.ModuleType):
    """Stands for mmcv's compiled ops, whose names mmsegmentation imports and these transforms never call."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


sys.modules["mmcv.ops"] = _Stub("mmcv.ops")
import cv2  # noqa: E402
from mmcv.transforms import Resize  # noqa: E402
from mmseg.datasets.transforms import PhotoMetricDistortion, RandomCrop  # noqa: E402


def main(cases: str, results: str) -> None:
    """Write what the transforms make of each case; images go in and come out as BGR, as they do there."""
    found = {}
    with np.load(cases) as given:
        for index in range(int(given["count"])):
            image, label = given[f"image{index}"], given[f"label{index}"]
            width, height, seed, crop = given[f"numbers{index}"].tolist()
            data = {
                "img": np.ascontiguousarray(image[..., ::-1]),
                "gt_seg_map": label,
                "seg_fields": ["gt_seg_map"],
            }
            data = Resize(scale=(width, height), keep_ratio=True).transform(data)
            np.random.seed(seed)
            data = RandomCrop((crop, crop), cat_max_ratio=0.75).transform(data)
            data = PhotoMetricDistortion().transform(data)
            found[f"image{index}"] = data["img"][..., ::-1]
            found[f"label{index}"] = data["gt_seg_map"]
        hsv = given["hsv"]
        found["rgb"] = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)[..., ::-1]
    np.savez(results, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
