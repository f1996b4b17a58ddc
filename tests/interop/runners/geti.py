"""Runs the network modules of OpenVINO Training Extensions (Geti), without what its packages import beside them."""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import common
import torch
from torch import nn

# The `__init__` of these imports Lightning, datumaro and others, of versions that contradict this torch.
BYPASSED = (
    "otx",
    "otx.backend",
    "otx.backend.native",
    "otx.backend.native.models",
    "otx.backend.native.models.segmentation",
    "otx.backend.native.models.segmentation.segmentors",
    "otx.backend.native.models.utils",
    "otx.backend.native.tools",
    "otx.backend.native.tools.explain",
    "otx.utils",
)
_root = importlib.util.find_spec("otx")
assert _root is not None and _root.submodule_search_locations is not None
_site = Path(next(iter(_root.submodule_search_locations))).parent
for _name in BYPASSED:
    _package = types.ModuleType(_name)
    _package.__path__ = [str(_site.joinpath(*_name.split(".")))]
    sys.modules[_name] = _package
_explain = types.ModuleType("otx.backend.native.tools.explain.explain_algo")
_explain.feature_vector_fn = None  # type: ignore[attr-defined]  # for mode="explain" alone
sys.modules[_explain.__name__] = _explain

from otx.backend.native.models.segmentation.backbones.mscan import MSCAN, MSCANModule  # noqa: E402
from otx.backend.native.models.segmentation.heads.ham_head import LightHamHead  # noqa: E402
from otx.backend.native.models.segmentation.segmentors.base_model import BaseSegmentationModel  # noqa: E402

NAMES = {"t": "segnext_tiny", "s": "segnext_small", "b": "segnext_base"}
MSCANModule.load_pretrained_weights = lambda *_, **__: None  # it fetches them from the network


class Lightning(nn.Module):
    """Stands for the LightningModule around the model, which gives the names ``model.``."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model


def write(folder: Path, task: dict[str, Any]) -> None:
    name, classes = NAMES[task["size"]], 5
    model = BaseSegmentationModel(MSCAN(model_name=name), LightHamHead(name, num_classes=classes))
    parameters = {key: p for key, p in model.named_parameters() if p.requires_grad}  # its bases stay as drawn
    with torch.no_grad():
        for key, value in common.values({key: tuple(p.shape) for key, p in parameters.items()}).items():
            parameters[key].copy_(torch.from_numpy(value))
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.momentum = 1.0
        model.train()
        model(torch.from_numpy(common.calibration()))
        model.eval()
        outputs = []
        for image in map(torch.from_numpy, common.images()):
            outputs.append((model.extract_features(image)[1].numpy(), model(image).numpy()))
    common.store(folder / "peer.npz", outputs)
    state_dict = Lightning(model).state_dict()
    names = [f"label {index}" for index in range(classes)]
    parameters_beside = {
        "model_name": name,
        "label_info": {
            "label_names": names,
            "label_ids": names,
            "label_groups": [names],
            "ignore_index": 255,
        },
        "data_input_params": {
            "input_size": (512, 512),
            "mean": (123.675, 116.28, 103.53),
            "std": (58.395, 57.12, 57.375),
        },
    }
    torch.save({"state_dict": state_dict, "hyper_parameters": parameters_beside}, folder / "peer.ckpt")


def read(folder: Path, task: dict[str, Any]) -> None:
    raise NotImplementedError("segnext writes no file for Geti")


common.main(write, read)
