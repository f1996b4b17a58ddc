"""Tests that a file's configuration and metadata are checked before a model is built from them."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from segnext import create_model
from segnext.create import build_from_weights
from segnext.models import SegNeXt, build
from segnext.weights import save
from segnext.weights.saving import overrides_of
from tests.weights.checkpoints import METADATA, official, saved

SHAPE: dict[str, Any] = {
    "channels": (16, 32, 32, 32),
    "depths": (1, 1, 1, 1),
    "decoder_channels": 32,
    "num_classes": 3,
    "rank": 4,
}


@pytest.fixture(scope="module")
def tiny() -> SegNeXt:
    model = build("segnext_t", **SHAPE)
    assert isinstance(model, SegNeXt)
    return model


def write(model: SegNeXt, path: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """Save a model with a changed configuration."""
    config = {"format": 1, "architecture": "segnext_t", "model": overrides_of(model.config), **METADATA}
    tensors = {key: tensor.contiguous() for key, tensor in model.state_dict().items()}
    config = json.loads(json.dumps(config))
    save_file(tensors, path, {"segnext": json.dumps(change(config) or config)})
    return path


def in_model(**fields: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda config: config["model"].update(fields)


def beside(**entries: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda config: config.update(entries)


BAD: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "in-channels-2-31": (in_model(in_channels=2**31), "in_channels must be at most 65,536, got 2147483648"),
    "channels-2-31": (in_model(channels=[2**31] * 4), "channels must be at most 65,536"),
    "depths": (in_model(depths=[10**6, 1, 1, 1]), "depths must be at most 256"),
    "strips": (in_model(strips=[7] * 1000), "strips must be at most 16 lengths"),
    "much-larger-than-the-file": (
        in_model(channels=[4096] * 4),
        "its config must be that of its tensors, got a model of 4",
    ),
    "much-deeper-than-the-file": (in_model(depths=[256] * 4), "a model of 1,024 blocks and more than"),
    "classes-60000-wide": (
        in_model(num_classes=60_000, decoder_channels=65_536),
        "its config must be that of its tensors",
    ),
    "text": (
        in_model(in_channels="3"),
        "its tensors or its config are those of no model: .*in_channels must be int, got '3'",
    ),
    "none": (in_model(rank=None), "rank must be int, got None"),
    "a-list": (in_model(drop_path=[0.1]), r"drop_path must be float, got \[0.1\]"),
    "nan": (in_model(drop_path=float("nan")), r"drop_path must be in \[0, 1\), got nan"),
    "unknown-field": (in_model(heads=8), "must have fields of segnext_t, got heads; update segnext"),
    "field-of-many-lines": (in_model(**{"a\nb": 1}), r"must have fields of segnext_t, got a\\nb"),
    "unknown-architecture": (
        beside(architecture="segnext_x"),
        "must be one of segnext_t, .*, got segnext_x; update",
    ),
    "no-architecture": (beside(architecture=None), "format 1, architecture and model"),
    "architecture-list": (beside(architecture=["segnext_t"]), "format 1, architecture and model"),
    "decoder": (in_model(decoder="fpn"), "decoder in its config must be one of ham, cnn, mlp, got fpn"),
    "context": (
        in_model(context=["ham"]),
        r"those of no model: segnext_t: context must be one of ham, .* or None, got \['ham'\]",
    ),
    "context-of-mlp": (
        in_model(decoder="mlp", context="cc"),
        "context must be left out with decoder='mlp', which has no place for one, got cc",
    ),
    "in-indices": (
        in_model(in_indices=[3, 4]),
        r"in_indices must be stages from 0 to 3 in rising order, got",
    ),
    "context-much-larger-than-the-file": (
        in_model(context="psp", decoder_channels=1024),
        "its config must be that of its tensors, got a model of 4",
    ),
    "classes-too-few": (
        beside(classes=["a"]),
        "classes must be 3 names of one line, got \\['a'\\]",
    ),
    "classes-text": (beside(classes="abc"), "classes must be 3 names of one line, got abc"),
    "classes-numbers": (beside(classes=[1, 2, 3]), "classes must be 3 names of one line"),
    "classes-of-many-lines": (
        beside(classes=["a", "b\x1b[2J", "c\nd"]),
        "classes must be 3 names of one line",
    ),
    "palette-flat": (
        beside(palette=[1, 2, 3]),
        r"palette must be 3 colours \[red, green, blue\] of 0\.\.255, got \[1, 2, 3\]",
    ),
    "palette-256": (beside(palette=[[0, 0, 256]] * 3), "palette must be 3 colours"),
    "palette-short": (beside(palette=[[0, 0]] * 3), "palette must be 3 colours"),
    "palette-dictionary": (
        beside(palette={"0": [0, 0, 0]}),
        "palette must be 3 colours .* got 1 in a dict",
    ),
    "preprocessing-list": (
        beside(preprocessing=[1]),
        "must hold mean, std, short_side, value_range, bands, got",
    ),
    "preprocessing-text": (beside(preprocessing={"mean": "abc"}), "mean must be a list of numbers, got abc"),
    "preprocessing-infinity": (
        beside(preprocessing={"std": [float("inf")] * 3}),
        "std must be 3 numbers above 0",
    ),
    "preprocessing-zero": (
        beside(preprocessing={"mean": [1] * 3, "std": [1, 0, 1]}),
        "std must be 3 numbers above 0, one per channel",
    ),
    "preprocessing-of-one-channel": (
        beside(preprocessing={"mean": [1.0], "std": [1.0]}),
        "mean and std must have 3 numbers, got 1",
    ),
    "short-side-text": (beside(preprocessing={"short_side": "512"}), "short_side must be a whole number"),
    "short-side-of-a-bomb": (
        beside(preprocessing={"short_side": 10**6}),
        "short_side must be from 1 to 8192",
    ),
    "value-range": (beside(preprocessing={"value_range": [5, 1]}), "value_range must be two finite numbers"),
    "preprocessing-unknown": (beside(preprocessing={"crop": 3}), "must hold mean, std, .*, got crop"),
    "recipe-list": (beside(recipe=[1]), r"recipe must be a dictionary, got \[1\]"),
    "metrics-text": (beside(metrics="good"), "metrics must be a dictionary, got good"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_configuration(case: str, tiny: SegNeXt, tmp_path: Path) -> None:
    change, message = BAD[case]
    path, clock = write(tiny, tmp_path / "model.safetensors", change), time.process_time()
    with pytest.raises(ValueError, match=message) as error:
        create_model(weights=path)
    assert str(error.value).startswith(f"{path}: ") and len(str(error.value).splitlines()) == 1
    assert time.process_time() - clock < 2, "a model was built"


def test_a_good_configuration_loads(tiny: SegNeXt, tmp_path: Path) -> None:
    model = create_model(weights=write(tiny, tmp_path / "model.safetensors", lambda config: None))
    assert model.config == tiny.config and model.metadata == METADATA


def test_every_architecture_is_of_the_size_of_its_tensors(tmp_path: Path) -> None:
    for name in ("segnext_t", "mscan_b"):
        model = build(name, in_channels=5, num_classes=1000)
        save(model, tmp_path / "model.safetensors")
        assert create_model(weights=tmp_path / "model.safetensors").config == model.config


NUMBERS = {
    "stem": "backbone.patch_embed1.proj.0.weight",
    "classifier": "decode_head.conv_seg.weight",
    "layer-scale": "backbone.block1.0.layer_scale_1",
    "strip": "backbone.block1.0.attn.spatial_gating_unit.conv0_1.weight",
}


@pytest.mark.parametrize("case", NUMBERS)
def test_a_number_where_a_matrix_must_be(case: str, tmp_path: Path) -> None:
    path = saved(official() | {NUMBERS[case]: torch.tensor(1.0)}, tmp_path / "checkpoint.pth")
    with pytest.raises(
        ValueError, match=r"tensors must have a SegNeXt's axes, got \S+ \(\); fetch it again"
    ) as error:
        create_model(weights=path)
    assert str(error.value).startswith(f"{path}: ")


def doubled(levels: int) -> list[Any]:
    value: list[Any] = ["a"]
    for _ in range(levels):
        value = [value, value]
    return value


LEFT_OUT: dict[str, tuple[dict[str, Any], str]] = {
    "names-2-36": ({"CLASSES": [doubled(36)] * 3}, "classes .* left out: classes must be 3 names .* 3 in a list"),
    "names-of-lines": ({"CLASSES": ["a", "b\nc", "d"]}, r"classes must be 3 names of one line, got .*b\\nc"),
    "palette-infinite": ({"PALETTE": [[float("inf")] * 3] * 3}, "palette in the file is left out"),
    "std-negative": (
        {"cfg": "model = dict(data_preprocessor=dict(mean=[1, 2, 3], std=[1, -2, 3], bgr_to_rgb=True))"},
        "preprocessing in the file left out: preprocessing: std must be 3 numbers above 0",
    ),
    "our-own": ({"segnext": {"preprocessing": {"short_side": -1}}}, "short_side must be from 1 to 8192"),
    "palette-of-names": ({"PALETTE": ["red", "blue", "green"]}, "palette in the file is left out"),
    "config-2-36": (
        {"cfg": "a0 = [1]\n" + "".join(f"a{i} = [a{i - 1}, a{i - 1}]\n" for i in range(1, 37))
         + "model = dict(decode_head=dict(ham_kwargs=dict(MD_R=a36)))"},
        "md_r in meta.cfg is 2 in a list, not a number",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", LEFT_OUT)
def test_odd_metadata_of_a_foreign_file_is_left_out_and_said(case: str, tmp_path: Path) -> None:
    meta, message = LEFT_OUT[case]
    path, clock = tmp_path / "checkpoint.pth", time.process_time()
    torch.save({"meta": meta, "state_dict": official()}, path)
    model, report = build_from_weights(path)
    assert re.search(message, str(report))
    assert "classes" not in model.metadata and "palette" not in model.metadata
    assert time.process_time() - clock < 4
