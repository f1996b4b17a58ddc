"""Every variant that the paper compares, and more, saves, loads, deploys, exports and trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch

from segnext import DeployedSegNeXt, create_model, deploy
from segnext.data.config import DataConfig, load_data_config
from segnext.deployment.packed import PackedNetwork
from segnext.models import SegNeXt, dialects
from segnext.models.decoders import stages_of
from segnext.models.registry import DECODER_VARIANTS, ENCODER_VARIANTS
from segnext.training.settings import Reporting
from segnext.weights.saving import save
from segnext_kernels import native, use_backend
from tests.data.synthetic import write_data_set
from tests.models.narrow import images, narrow, used
from tests.training.runs import run

ENCODERS: dict[str, dict[str, Any]] = {
    **ENCODER_VARIANTS,
    "no strips": {"strips": ()},
    "four strips": {"strips": (3, 9, 1, 5), "root": 3},
    "neither": {"mix": False, "gate": False},
    "lka nogate": {"attention": "lka", "gate": False},
}
CONTEXTS: dict[str, dict[str, Any]] = {
    "no context": {"context": None},
    **{context: {"context": context} for context in ("vq", "cd", "cc", "em", "nl", "msca")},
    **{context: {"context": context, "decoder_channels": 64} for context in ("aspp", "psp")},
}
DECODERS: dict[str, dict[str, Any]] = {
    "cnn": {"decoder": "cnn", "decoder_channels": 64},
    "mlp": {"decoder": "mlp"},
    "stage 1": {"in_indices": (0, 1, 2, 3)},
    "two stages": {"in_indices": (0, 3), "context": None},
    "mlp of two": {"decoder": "mlp", "in_indices": (1, 3), "decoder_align_corners": True},
    "cnn with nl": {"decoder": "cnn", "in_indices": (2,), "context": "nl"},
}
CASES = {**ENCODERS, **CONTEXTS, **DECODERS}
# The other cases put the same modules together in another way.
MODULES = {
    name: fields for name, fields in CASES.items() if name in {*ENCODERS, *CONTEXTS, "mlp"} - {"no context"}
}
every_module = pytest.mark.parametrize("fields", MODULES.values(), ids=MODULES.keys())
every_case = pytest.mark.parametrize("fields", CASES.values(), ids=CASES.keys())


def test_every_named_variant_is_a_case() -> None:
    narrow_fields = [{**fields, "decoder_channels": 32} for fields in CASES.values()]
    for ending, changed in {**ENCODER_VARIANTS, **DECODER_VARIANTS}.items():
        assert {**changed, "decoder_channels": 32} in narrow_fields, ending


@every_case
def test_saved_and_loaded(fields: dict[str, Any], tmp_path: Path) -> None:
    model = used(**fields)
    save(model, tmp_path / "model.safetensors")
    loaded = cast(SegNeXt, create_model(weights=tmp_path / "model.safetensors")).eval()
    assert loaded.config == model.config
    assert torch.equal(loaded(images()), model(images()))
    assert model.forward_logits(images()).shape[2] == -(-45 // (4, 8, 16, 32)[stages_of(model.config)[0]])


@every_case
def test_a_state_dict_alone_is_identified(fields: dict[str, Any], tmp_path: Path) -> None:
    model = used(**fields)
    torch.save(model.state_dict(), tmp_path / "raw.pth")
    # No tensor shows whether there is a product; those of "cd" are as those of "vq".
    hidden = {"gate", "context"} if fields.get("context") == "cd" else {"gate"}
    asked = {name: value for name, value in fields.items() if name in hidden}
    name = {"name": "segnext_t", "channels": model.config.channels, "depths": model.config.depths}
    unseen = {"decoder_align_corners": model.config.decoder_align_corners, "rank": 4}
    loaded = cast(SegNeXt, create_model(weights=tmp_path / "raw.pth", **name, **asked, **unseen)).eval()
    assert loaded.config == model.config
    assert torch.equal(loaded(images()), model(images()))


@every_case
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_deployed(fields: dict[str, Any], backend: str, tmp_path: Path) -> None:
    model = used(**fields)
    with torch.no_grad():
        expected, labels = model.forward_logits(images()), model.predict(images())
    with use_backend(backend):
        fast = deploy(model)
        assert isinstance(fast._network, PackedNetwork) == (backend == "auto" and native._C is not None)
        logits = fast.forward_logits(images())
        tolerance = 1e-4 * expected.abs().max().item()
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=tolerance)
        assert torch.equal(fast.forward_logits(images()), logits), "memory is used twice"
        assert (
            fast.predict(images()) == labels
        ).float().mean() > 0.999  # logits that are closer than rounding
        for size in ((1, 1), (32, 65)):
            one = torch.randn(2, 3, *size)
            with torch.no_grad():
                torch.testing.assert_close(
                    fast.forward_logits(one), model.forward_logits(one), rtol=1e-3, atol=1e-3
                )
        fast.save(tmp_path / "fast.safetensors")
        loaded = DeployedSegNeXt.load(tmp_path / "fast.safetensors")
        again = loaded.forward_logits(images())
        # PyTorch's own products depend on where in memory a file's tensors begin.
        torch.testing.assert_close(again, logits, rtol=1e-5, atol=tolerance if backend != "auto" else 0)
        low = deploy(model, torch.bfloat16).forward_logits(images())
        assert (low - expected).norm() < 0.1 * expected.norm()


@every_module
def test_exported(fields: dict[str, Any]) -> None:
    model = used(**fields)
    program = torch.export.export(model, (images(),))
    torch.testing.assert_close(program.module()(images()), model(images()))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    return load_data_config(write_data_set(tmp_path_factory.mktemp("houses")))


@every_module
def test_trained(fields: dict[str, Any], data: DataConfig, tmp_path: Path) -> None:
    model = narrow(**fields).train()
    before = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    reporting = Reporting(eval_every=0, checkpoint_every=0, workers=0)
    run(data, tmp_path, model=model, reporting=reporting, steps=2, warmup=1, lr=1e-2)
    fixed = ("decoder.hamburger.bases", "decoder.em_attention.proj_in.")
    for name, tensor in model.state_dict().items():
        assert torch.isfinite(tensor).all()
        if tensor.ndim > 1:
            assert torch.equal(tensor, before[name]) == name.startswith(fixed), name


@every_case
def test_names_of_the_official_style_lead_back(fields: dict[str, Any]) -> None:
    model = narrow(**fields)
    official = dialects.to_official(model.state_dict())
    assert all(key.startswith(("backbone.", "decode_head.")) for key in official)
    lacking = {key for key in model.state_dict() if key.endswith("hamburger.bases")}
    assert dialects.to_native(official, model.state_dict()).keys() == model.state_dict().keys() - lacking
    again = narrow(**fields)
    again.load_state_dict(official)
    assert torch.equal(again(images()), model(images()))
