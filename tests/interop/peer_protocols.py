"""Runs mmsegmentation 1.2.2's pipelines around our network, in mmsegmentation's environment; `protocols` starts it.

All around the network is theirs: reading, resizing, padding, normalising, resizing logits, averaging of views, argmax.
The network is ours, so that the masks differ only by the protocol.
"""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch

from segnext.models import build


class _Stub(types.ModuleType):
    """Stands for mmcv's compiled ops, whose names mmsegmentation imports and its SegNeXt never calls."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


sys.modules["mmcv.ops"] = _Stub("mmcv.ops")
from mmcv.transforms import LoadImageFromFile, RandomFlip, Resize  # noqa: E402
from mmengine.config import ConfigDict  # noqa: E402
from mmseg.datasets.transforms import PackSegInputs, ResizeToMultiple  # noqa: E402
from mmseg.models import SegDataPreProcessor, SegTTAModel  # noqa: E402
from mmseg.models.decode_heads.decode_head import BaseDecodeHead  # noqa: E402
from mmseg.models.segmentors import EncoderDecoder  # noqa: E402
from mmseg.models.segmentors.base import BaseSegmentor  # noqa: E402


class _Segmentor(EncoderDecoder):
    def __init__(self, network: torch.nn.Module, preprocessor: SegDataPreProcessor) -> None:
        BaseSegmentor.__init__(self, data_preprocessor=preprocessor)
        self.network, self.align_corners, self.out_channels = network, False, network.config.num_classes
        self.test_cfg = ConfigDict(mode="whole")

    def encode_decode(self, inputs: torch.Tensor, batch_img_metas: list[dict[str, Any]]) -> torch.Tensor:
        return BaseDecodeHead.predict_by_feat(self, self.network.forward_logits(inputs), batch_img_metas)


def _resizes(protocol: str, short_side: int, scale: float) -> list[Any]:
    """Return the transforms of one view: the official code's test pipeline, or mmsegmentation 1.x's."""
    if protocol == "official":
        box = (int(4 * short_side * scale), int(short_side * scale))  # as its MultiScaleFlipAug
        return [Resize(scale=box, keep_ratio=True), ResizeToMultiple(size_divisor=32)]
    if short_side:
        return [Resize(scale=(4 * short_side, short_side), keep_ratio=True)]
    return [Resize(scale_factor=scale, keep_ratio=True)]


def _mask(segmentor: _Segmentor, case: dict[str, Any], photograph: str) -> np.ndarray:
    samples = []
    for scale in case["scales"]:
        for probability in (0.0, 1.0) if case["flip"] else (0.0,):
            flip = RandomFlip(prob=probability, direction="horizontal")
            results: Any = {"img_path": photograph}
            resizes = _resizes(case["protocol"], case["short_side"], scale)
            for transform in (LoadImageFromFile(), *resizes, flip, PackSegInputs()):
                results = transform(results)
            with torch.no_grad():
                data = {"inputs": [results["inputs"]], "data_samples": [results["data_samples"]]}
                samples += segmentor.test_step(data)
    if len(samples) > 1:
        averaging = SegTTAModel(segmentor)
        samples = averaging.merge_preds([samples])
    return samples[0].pred_sem_seg.data.squeeze().numpy().astype(np.uint8)


def main() -> None:
    """Read the job that `protocols` wrote, and write one file with the masks of all cases beside it."""
    folder = Path(sys.argv[1])
    job = json.loads((folder / "job.json").read_text())
    model = build(job["architecture"], **job["options"])
    model.load_state_dict(torch.load(folder / "weights.pt", weights_only=True))
    masks = {}
    for index, case in enumerate(job["cases"]):
        padding = None if case["protocol"] == "official" else {"size_divisor": 32}
        preprocessor = SegDataPreProcessor(
            mean=job["mean"], std=job["std"], bgr_to_rgb=True, pad_val=0, seg_pad_val=255, test_cfg=padding
        )
        segmentor = _Segmentor(model, preprocessor).eval()
        for photograph in case["photographs"]:
            masks[f"{index}:{photograph}"] = _mask(segmentor, case, photograph)
    np.savez_compressed(folder / "masks.npz", **masks)


if __name__ == "__main__":
    main()
