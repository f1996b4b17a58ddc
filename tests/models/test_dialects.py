"""Names are translated from every dialect to ours and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from oracle import transcription
from segnext import create_model
from segnext.models import dialects
from tests.weights import foreign


def official(size: str = "t") -> dict[str, Tensor]:
    """Make an official checkpoint in which each tensor is filled with a number of its own."""
    shapes = transcription.shapes(size, num_classes=3)
    return {name: torch.full(shape, float(index)) for index, (name, shape) in enumerate(shapes.items())}


def backbone_only(state_dict: dict[str, Any]) -> dict[str, Any]:
    return {
        key.removeprefix("backbone."): value
        for key, value in state_dict.items()
        if key.startswith("backbone.")
    }


BASES = torch.ones(1, 256, 16)
CHECKPOINTS = {
    "official": official(),
    "official_imagenet": backbone_only(official()),
    "mmsegmentation": foreign.as_mmsegmentation(official()),
    "geti": foreign.as_geti(official(), BASES),
    "jseg": foreign.as_jseg(official()),
    "paddleseg": foreign.as_paddleseg(official()),
    "native": dialects.to_native(official()),
}


@pytest.mark.parametrize("dialect", dialects.DIALECTS)
def test_detects(dialect: str) -> None:
    assert dialects.detect(CHECKPOINTS[dialect]) == dialect


@pytest.mark.parametrize("dialect", dialects.DIALECTS)
@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "module._orig_mod."])
def test_sees_through_wrappers(dialect: str, wrapper: str) -> None:
    wrapped = {wrapper + key: value for key, value in CHECKPOINTS[dialect].items()}
    assert dialects.detect(wrapped) == dialect
    assert dialects.to_native(wrapped).keys() == dialects.to_native(CHECKPOINTS[dialect]).keys()


@pytest.mark.parametrize("dialect", dialects.DIALECTS)
def test_every_dialect_becomes_the_models_names_and_values(dialect: str) -> None:
    with torch.device("meta"):
        own = create_model("segnext_t", num_classes=3).state_dict()
    native = dialects.to_native(CHECKPOINTS[dialect], own)
    reference = dialects.to_native(official())
    absent = own.keys() - native.keys()
    assert native.keys() <= own.keys()
    assert all(isinstance(tensor, Tensor) for tensor in native.values())
    for key in native.keys() & reference.keys():
        assert native[key].shape == own[key].shape, key
        assert torch.equal(native[key], reference[key]), key
    if dialect == "official_imagenet":
        assert absent == {key for key in own if key.startswith("decoder.")}
    else:
        expected = {"decoder.hamburger.bases"} if dialect != "geti" else set()
        if dialect in ("jseg", "paddleseg"):
            expected |= {key for key in own if key.endswith("num_batches_tracked")}
        assert absent == expected


@pytest.mark.parametrize("size", ["t", "s", "b", "l"])
def test_official_round_trip_is_identical(size: str) -> None:
    start = official(size)
    back = dialects.to_official(dialects.to_native(start))
    assert list(back) == list(start)
    assert all(back[key] is start[key] for key in start)


def test_native_round_trip_loses_only_the_bases() -> None:
    own = create_model("segnext_t", num_classes=3).state_dict()
    back = dialects.to_native(dialects.to_official(own))
    assert own.keys() - back.keys() == {"decoder.hamburger.bases"}
    assert all(torch.equal(back[key], own[key]) for key in back)


def test_encoder_prefix_follows_the_model() -> None:
    full, bare = CHECKPOINTS["official"], CHECKPOINTS["official_imagenet"]
    assert "backbone.stem.conv1.weight" in dialects.to_native(bare, ["backbone.stem.conv1.weight"])
    assert "stem.conv1.weight" in dialects.to_native(full, ["stem.conv1.weight"])
    assert "stem.conv1.weight" in dialects.to_native(bare)
    assert "backbone.stem.conv1.weight" in dialects.to_native(full)


def test_reports_what_it_reshaped() -> None:
    translation = dialects.translate(CHECKPOINTS["paddleseg"])
    assert len(translation.reshaped) == 2 * 13
    assert all("layer_scale" in name for name in translation.reshaped)
    assert not dialects.translate(CHECKPOINTS["official"]).reshaped


def test_paddles_linear_is_transposed() -> None:
    head = np.arange(256 * 5, dtype=np.float32).reshape(256, 5)
    paddle = backbone_only(foreign.as_paddleseg(official())) | {"head.weight": head, "head.bias": head[0]}
    translation = dialects.translate(paddle)
    assert np.array_equal(translation.tensors["head.weight"].numpy(), head.T)
    assert "head.weight" in translation.reshaped
    jittor = backbone_only(foreign.as_jseg(official())) | {"head.weight": head.T.copy()}
    assert np.array_equal(dialects.to_native(jittor)["head.weight"].numpy(), head.T)


def test_unknown_names_are_kept_for_the_report() -> None:
    extra = official() | {"auxiliary_head.conv_seg.weight": torch.zeros(1)}
    assert "auxiliary_head.conv_seg.weight" in dialects.to_native(extra)


@pytest.mark.parametrize(
    ("state_dict", "message"),
    [
        ({"layer1.0.conv1.weight": torch.zeros(1)}, r"got layer1\.0\.conv1\.weight; is it another network's"),
        ({f"fc{i}.weight": torch.zeros(1) for i in range(9)}, r"got fc0\.weight, fc1\.weight, fc2\.weight;"),
    ],
)
def test_refuses_other_networks_in_one_line(state_dict: dict[str, Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        dialects.to_native(state_dict)
    assert "\n" not in str(error.value)


def test_refuses_two_tensors_for_one_name() -> None:
    key = "backbone.norm1.weight"
    with pytest.raises(ValueError, match="got a second backbone.norms.0.weight from module.backbone.norm1"):
        dialects.to_native({key: torch.zeros(1), f"module.{key}": torch.zeros(1)})


def test_empty_stays_empty() -> None:
    assert dialects.to_native({}) == {}


def test_official_names_only_for_ours() -> None:
    with pytest.raises(ValueError, match=r"must be those of model\.state_dict\(\), got fc\.weight"):
        dialects.to_official({"fc.weight": torch.zeros(1)})
