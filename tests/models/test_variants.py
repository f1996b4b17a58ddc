"""Every variant that the paper compares saves, loads, deploys, exports and trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from segnext import DeployedSegNeXt, create_model, deploy
from segnext.data.config import DataConfig, load_data_config
from segnext.deployment.packed import PackedNetwork
from segnext.models import SegNeXt
from segnext.models.registry import ENCODER_VARIANTS
from segnext.training.settings import Reporting
from segnext.weights.saving import save
from segnext_kernels import native, use_backend
from tests.data.synthetic import write_data_set
from tests.models.narrow import narrow
from tests.training.runs import run

VARIANTS: dict[str, dict[str, Any]] = {
    **ENCODER_VARIANTS,
    "no strips": {"strips": ()},
    "four strips": {"strips": (3, 9, 1, 5), "root": 3},
    "neither": {"mix": False, "gate": False},
    "lka nogate": {"attention": "lka", "gate": False},
}
every_variant = pytest.mark.parametrize("fields", VARIANTS.values(), ids=VARIANTS.keys())


def used(**fields: Any) -> SegNeXt:
    """Return a narrow variant with the statistics and layer scales of a network that has seen data."""
    model = narrow(**fields)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.5, 2)
        for name, parameter in model.named_parameters():
            if "layer_scale" in name:
                parameter.normal_()
    return model


@every_variant
def test_saved_and_loaded(fields: dict[str, Any], tmp_path: Path) -> None:
    model, images = used(**fields), torch.randn(1, 3, 45, 70)
    save(model, tmp_path / "variant.safetensors")
    loaded = create_model(weights=tmp_path / "variant.safetensors").eval()
    assert loaded.config == model.config
    assert torch.equal(loaded(images), model(images))


@every_variant
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_deployed(fields: dict[str, Any], backend: str, tmp_path: Path) -> None:
    model, images = used(**fields), torch.randn(2, 3, 45, 70)
    with torch.no_grad():
        expected = model.forward_logits(images)
    with use_backend(backend):
        fast = deploy(model)
        assert isinstance(fast._network, PackedNetwork) == (backend == "auto" and native._C is not None)
        logits = fast.forward_logits(images)
        tolerance = expected.abs().max().item()
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4 * tolerance)
        fast.save(tmp_path / "fast.safetensors")
        loaded = DeployedSegNeXt.load(tmp_path / "fast.safetensors")
        assert torch.equal(loaded.forward_logits(images), logits)
        low = deploy(model, torch.bfloat16).forward_logits(images)
        assert (low - expected).norm() < 0.1 * expected.norm()  # of scores that mean nothing, mostly rounding


@every_variant
def test_exported(fields: dict[str, Any]) -> None:
    model, images = used(**fields), torch.randn(1, 3, 64, 96)
    program = torch.export.export(model, (images,))
    torch.testing.assert_close(program.module()(images), model(images))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    return load_data_config(write_data_set(tmp_path_factory.mktemp("houses")))


@every_variant
def test_trained(fields: dict[str, Any], data: DataConfig, tmp_path: Path) -> None:
    model = narrow(**fields).train()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    reporting = Reporting(eval_every=0, checkpoint_every=0, workers=0)
    run(data, tmp_path, model=model, reporting=reporting, steps=2, warmup=1, lr=1e-2)
    for name, parameter in model.named_parameters():
        assert torch.isfinite(parameter).all()
        assert not torch.equal(parameter, before[name]), f"{name} does not learn"
