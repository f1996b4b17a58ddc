"""Prints as JSON what `segnext.patch` makes of mmsegmentation's SegNeXt-T; runs where mmsegmentation is installed."""

from __future__ import annotations

import copy
import json
import logging
import sys
import types
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.rivals.torchvision_on_cpu import declare_operators

declare_operators()
warnings.filterwarnings("ignore")
logging.disable(logging.WARNING)


class _Operators(types.ModuleType):
    """Stands for ``mmcv.ops``, which mmcv-lite lacks. mmsegmentation imports its names; SegNeXt calls none of them."""

    __path__: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (nn.Module,), {})


try:
    import mmcv.ops  # noqa: F401
except ImportError:
    sys.modules["mmcv.ops"] = _Operators("mmcv.ops")

import mmseg  # noqa: E402
from mmengine.config import Config  # noqa: E402
from mmengine.model import ExponentialMovingAverage  # noqa: E402
from mmengine.structures import PixelData  # noqa: E402
from mmseg.registry import MODELS  # noqa: E402
from mmseg.structures import SegDataSample  # noqa: E402
from mmseg.utils import register_all_modules  # noqa: E402

import segnext  # noqa: E402
from segnext.patching.swap import is_patched  # noqa: E402

SIZE = (64, 96)


def build() -> Any:
    (path,) = (Path(mmseg.__file__).parent / ".mim/configs/segnext").glob("segnext_mscan-t_1xb16*512x512.py")
    config = Config.fromfile(path)
    config.model.backbone.init_cfg = None
    torch.manual_seed(0)
    model = MODELS.build(config.model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "layer_scale" in name:
                parameter.fill_(0.5)
    return model.eval()


def samples(ignored: bool = False) -> list[SegDataSample]:
    made = []
    generator = torch.Generator().manual_seed(1)
    for _ in range(2):
        labels = torch.randint(150, (1, *SIZE), generator=generator)
        labels[:, : None if ignored else 5] = 255
        sample = SegDataSample(metainfo={"img_shape": SIZE, "ori_shape": SIZE, "pad_shape": SIZE})
        sample.gt_sem_seg = PixelData(data=labels)
        made.append(sample)
    return made


def losses(model: Any, images: Tensor, ignored: bool = False) -> dict[str, float]:
    torch.manual_seed(2)
    found = model.train().loss(images, samples(ignored))
    model.eval()
    return {name: value.item() for name, value in found.items()}


def seeded(model: Any, images: Tensor) -> Tensor:
    torch.manual_seed(2)
    with torch.no_grad():
        result: Tensor = model(images)
    return result


def main() -> None:
    register_all_modules()
    images = torch.randn(2, 3, *SIZE, generator=torch.Generator().manual_seed(0))
    plain = build()
    for module in plain.modules():
        if isinstance(module, nn.Dropout2d):
            module.p = 0.0  # PyTorch draws in the order of memory, which is another one after the patch
    model = copy.deepcopy(plain)
    report = segnext.patch(model, verify=images)
    facts: dict[str, Any] = {"report": str(report)}
    facts["kinds"] = [part.kind for part in report.patched]
    facts["left"] = [str(part) for part in report.left]
    facts["agreements"] = [(one.mode, one.output, one.gradient) for one in report.agreements]
    average = ExponentialMovingAverage(model)
    average.update_parameters(model)
    expected = seeded(plain, images)
    facts["average"] = ((seeded(average.module, images) - expected).abs().max() / expected.abs().max()).item()
    facts["average is patched"] = sum(map(is_patched, average.module.modules()))
    facts["losses"] = [losses(plain, images), losses(model, images)]
    facts["losses without labels"] = [losses(plain, images, True), losses(model, images, True)]
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
