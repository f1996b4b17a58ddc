"""The encoders as timm and segmentation_models_pytorch make them, in an environment of their own.

`make interop` makes that environment; SEGNEXT_INTEGRATIONS_PYTHON names the interpreter of another one.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.integrations.interpreter import facts, needs_integrations

pytestmark = needs_integrations

ROUNDING = 2e-6  # a few float32 roundings, as a share of the largest number


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return facts("timm_facts", tmp_path_factory.mktemp("timm"))


def test_names_and_tensors_are_ours(found: dict[str, Any]) -> None:
    assert found["names"] == ["mscan_b", "mscan_l", "mscan_s", "mscan_t"]
    assert found["is ours"] and found["keys"]


@pytest.mark.parametrize(
    ("indices", "stages"),
    [("default", [0, 1, 2, 3]), ("last two", [2, 3]), ("last", [3]), ("first and third", [0, 2])],
)
def test_out_indices(indices: str, stages: list[int], found: dict[str, Any]) -> None:
    shapes, channels, strides, modules = found["features"][indices]
    assert channels == [(32, 64, 160, 256)[i] for i in stages]
    assert strides == [4 * 2**i for i in stages]
    assert modules == [f"norms.{i}" for i in stages]
    sides = {4: [25, 17], 8: [13, 9], 16: [7, 5], 32: [4, 3]}  # of images of 97 x 65
    assert shapes == [[2, c, *sides[s]] for c, s in zip(channels, strides, strict=True)]


@pytest.mark.parametrize("way", ["logits", "intermediates", "None", "getter", "hook", "fx"])
def test_values_are_ours(way: str, found: dict[str, Any]) -> None:
    assert found["same_as_ours"][way] <= ROUNDING


def test_a_classifier(found: dict[str, Any]) -> None:
    facts = found["classifier"]
    assert facts["features"] == [2, 256, 4, 3]
    assert facts["pre_logits"] == [2, 256]
    assert facts["logits"] == [2, 7]
    assert facts["attributes"] == [7, 256, 256]
    assert facts["head"] == "Head"


def test_another_classifier(found: dict[str, Any]) -> None:
    """Each has the logits' shape, ``head_hidden_size`` and ``num_classes``."""
    facts = found["classifier"]
    assert facts["other"] == [[2, 3], 256, 3]
    assert facts["both"] == [[2, 3], 512, 3]  # two ways of pooling side by side
    assert facts["none"] == [[2, 256], 256, 0]
    assert facts["bare"] == [[2, 256, 4, 3], 256, 0]


def test_how_to_make_the_input(found: dict[str, Any]) -> None:
    assert found["classifier"]["data"] == {
        "input_size": [3, 224, 224],
        "interpolation": "bicubic",
        "crop_pct": 0.9,
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
    }


@pytest.mark.parametrize("file", ["ours", "official", "saved by segnext", "classifier", "one channel"])
def test_checkpoints(file: str, found: dict[str, Any]) -> None:
    assert found["checkpoints"][file] <= ROUNDING


def test_the_rest_of_segnext_takes_them(found: dict[str, Any]) -> None:
    assert found["checkpoints"]["matched"]
    assert found["checkpoints"]["as a backbone of ours"] == [2, 150, 97, 65]


def test_grad_checkpointing_changes_no_result(found: dict[str, Any]) -> None:
    assert found["recompute"]["switched"]
    assert found["recompute"]["gradients"] <= 1e-5
    assert found["recompute"]["batches"] == 2  # two forward passes, each counted once


@pytest.mark.parametrize(
    ("stride", "strides", "sides"),
    [
        ("16", [4, 8, 16, 16], [[32, 16], [16, 8], [8, 4], [8, 4]]),
        ("8", [4, 8, 8, 8], [[32, 16], [16, 8], [16, 8], [16, 8]]),
    ],
)
def test_a_dilated_encoder_sees_as_far(
    stride: str, strides: list[int], sides: list[list[int]], found: dict[str, Any]
) -> None:
    difference, reduction, shapes = found["dilated"][stride]
    assert difference <= ROUNDING
    assert reduction == strides
    assert [shape[2:] for shape in shapes] == sides


def test_rates(found: dict[str, Any]) -> None:
    assert found["rates"]["drop_path"] == [0.0, 0.3]
    assert 0.35 < found["rates"]["dropped"] < 0.65


def test_layers_are_ordered_by_depth(found: dict[str, Any]) -> None:
    coarse, fine = found["groups"]["coarse"], found["groups"]["fine"]
    assert [group[0] for group in coarse] == [
        *("stem.conv1", "downsamples.0", "downsamples.1", "downsamples.2", "norms.3", "head.bias")
    ]
    assert [group[-1] for group in fine] == [
        "stem.norm2",
        *(["stages.0"] * 3 + ["norms.0"] + ["stages.1"] * 3 + ["norms.1"]),
        *(["stages.2"] * 5 + ["norms.2"] + ["stages.3"] * 2 + ["norms.3"]),
        "head.weight",
    ]
    assert found["groups"]["vectors are spared"]


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("stage", "mscan: out_indices must be stages from -4 to 3, or a number of last stages, got (4,)"),
        ("pool", "mscan_t: num_classes must be 0 with global_pool='', got 1000; a linear layer takes pooled"),
        ("stride", "mscan_t: output_stride must be one of 8, 16, 32, got 4"),
        ("field", "unexpected keyword argument 'qkv_bias'"),
        ("download", "No pretrained weights exist for mscan_t."),
    ],
)
def test_errors(what: str, message: str, found: dict[str, Any]) -> None:
    assert message in found["errors"][what]


@pytest.mark.parametrize(
    "decoder",
    [
        *("unet", "unetplusplus", "manet", "linknet", "fpn", "pspnet", "pan"),
        *("deeplabv3", "deeplabv3plus", "upernet", "segformer"),
    ],
)
def test_segmentation_models_pytorch(decoder: str, found: dict[str, Any]) -> None:
    shape, without_gradient = found["segmentation_models"][decoder]
    assert shape == [2, 11, 256, 128]
    assert without_gradient == []
