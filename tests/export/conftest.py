"""Small networks of every kind, and their exported files, which are made once per process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from segnext import create_model
from segnext.export.exporting import export_model
from segnext.models import SegNeXt

SMALL = dict(num_classes=5, channels=(16, 16, 24, 32), depths=(1, 1, 1, 1), decoder_channels=64, rank=4)
FORMATS = [("onnx", ".onnx"), ("openvino", ".xml"), ("pt2", ".pt2"), ("torchscript", ".torchscript")]
PALETTE = [[index, 0, 255 - index] for index in range(5)]


def small_model(**fields: Any) -> SegNeXt:
    """Make a network whose values are as spread as those of a trained one."""
    torch.manual_seed(0)
    model = create_model("segnext_t", **{**SMALL, **fields})
    assert isinstance(model, SegNeXt)
    for name, tensor in model.state_dict().items():
        if "norm" in name and tensor.is_floating_point():
            tensor.add_(0.2 * torch.rand_like(tensor))
        elif "layer_scale" in name:
            tensor.copy_(0.5 + torch.rand_like(tensor))
        elif name.endswith("gamma.scale"):  # a larger share of criss-cross attention shows its own rounding
            tensor.fill_(0.1)
        elif name.endswith("classifier.weight"):
            tensor.copy_(torch.randn_like(tensor))
    model.metadata = {
        "classes": [f"class {index} of {len(PALETTE)}" for index in range(model.config.num_classes)],
        "preprocessing": {"mean": [100.0, 110.0, 120.0], "std": [50.0, 60.0, 70.0]},
    }
    return model.eval()


@pytest.fixture(scope="package")
def model() -> SegNeXt:
    return small_model()


class Files:
    """Exports the small network once per set of options."""

    def __init__(self, model: SegNeXt, folder: Path) -> None:
        self.model, self.folder, self.made = model, folder, dict[str, Path]()

    def __call__(self, target: str, suffix: str, **options: Any) -> Path:
        name = "-".join([target, *(f"{key}={value}" for key, value in options.items())])
        if name not in self.made:
            path = self.folder / f"{name}{suffix}"
            export_model(self.model, path, target, **{"height": 64, "width": 96, **options})
            self.made[name] = path
        return self.made[name]


@pytest.fixture(scope="package")
def files(model: SegNeXt, tmp_path_factory: pytest.TempPathFactory) -> Files:
    for name in ("onnx", "onnxscript", "onnxruntime", "openvino"):
        pytest.importorskip(name, reason=f"needs {name}: pip install .[onnx,openvino]")
    return Files(model, tmp_path_factory.mktemp("exported"))


@pytest.fixture
def photograph() -> torch.Tensor:
    """(1, 3, 64, 96) uint8."""
    return torch.randint(0, 256, (1, 3, 64, 96), dtype=torch.uint8)
