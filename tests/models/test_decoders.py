"""Decoders compute what their papers say; files and errors name their fields."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from segnext import DeployedSegNeXt, create_model, deploy
from segnext.models import SegNeXt, build
from segnext.models.decoders import stages_of
from segnext.models.ham import Hamburger
from segnext.models.layers import ConvNormAct
from segnext.models.light_ham import LightHam
from segnext.models.mlp import MLP
from segnext.weights.identify import overrides_of
from segnext.weights.peers import save_for
from segnext.weights.saving import save
from tests.models.narrow import images, narrow, used

HEADS: list[dict[str, Any]] = [
    {"decoder": "cnn", "decoder_channels": 64},
    {"decoder": "mlp"},
    {"in_indices": (0, 1, 2, 3)},
]


def test_a_seed_gives_the_weights_that_it_always_gave() -> None:
    config = narrow().config
    torch.manual_seed(3)
    squeeze, ham, align = ConvNormAct(72, 32), Hamburger(32, 4), ConvNormAct(32, 32)
    torch.manual_seed(3)
    decoder = LightHam.from_config(config)
    assert torch.equal(decoder.squeeze.conv.weight, squeeze.conv.weight)
    assert torch.equal(decoder.align.conv.weight, align.conv.weight)
    assert torch.equal(cast(Hamburger, decoder.context).proj_out.weight, ham.proj_out.weight)


def test_the_mlp_is_segformers() -> None:
    torch.manual_seed(0)
    decoder = MLP([4, 6], 8, 3).double().eval()
    for norm in (*(level.norm for level in decoder.levels), decoder.fusion.norm):
        nn.init.normal_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 0.5, 2)
        nn.init.normal_(norm.bias)
    fine, coarse = torch.randn(2, 4, 9, 7).double(), torch.randn(2, 6, 5, 4).double()

    def layer(x: torch.Tensor, part: Any) -> torch.Tensor:
        y = torch.einsum("oc,nchw->nohw", part.conv.weight.flatten(1), x)
        mean, scale = part.norm.running_mean, part.norm.weight / (part.norm.running_var + 1e-5).sqrt()
        return ((y - mean.view(-1, 1, 1)) * scale.view(-1, 1, 1) + part.norm.bias.view(-1, 1, 1)).relu()

    small = F.interpolate(layer(coarse, decoder.levels[1]), (9, 7), mode="bilinear", align_corners=False)
    x = layer(torch.cat([layer(fine, decoder.levels[0]), small], 1), decoder.fusion)
    expected = decoder.classifier(x)
    torch.testing.assert_close(decoder([fine, coarse]), expected)


def test_a_file_that_says_light_ham_loads(tmp_path: Path) -> None:
    assert build("segnext_t", decoder="light_ham").config == build("segnext_t").config
    config = {"format": 1, "architecture": "segnext_t", "model": overrides_of(narrow().config)}
    config["model"] |= {"decoder": "light_ham"}
    tensors = {key: tensor.contiguous() for key, tensor in narrow().state_dict().items()}
    save_file(tensors, tmp_path / "old.safetensors", {"segnext": json.dumps(config)})
    assert create_model(weights=tmp_path / "old.safetensors", decoder="ham").config == narrow().config
    deploy(narrow()).save(tmp_path / "fast.safetensors")
    with safe_open(tmp_path / "fast.safetensors", "pt") as file:
        header = file.metadata()
    header["config"] = header["config"].replace(
        '"decoder": "ham", "in_indices": null, "context": "ham"', '"decoder": "light_ham"'
    )
    save_file(load_file(tmp_path / "fast.safetensors"), tmp_path / "fast.safetensors", header)
    assert DeployedSegNeXt.load(tmp_path / "fast.safetensors").config == narrow().config


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "decoder": ({"decoder": "fpn"}, "decoder must be one of ham, cnn, mlp, got fpn"),
    "context": ({"context": "oc"}, "context must be one of ham, vq, cd, .*, psp or None, got oc"),
    "context of mlp": ({"decoder": "mlp", "context": "nl"}, "context must be left out with decoder='mlp'"),
    "no stages": ({"in_indices": ()}, r"in_indices must be stages from 0 to 3 in rising order, got \(\)"),
    "falling": ({"in_indices": (2, 1)}, r"in_indices must be stages .*, got \(2, 1\)"),
    "twice": ({"in_indices": (1, 1)}, r"in_indices must be stages .*, got \(1, 1\)"),
    "out of range": ({"in_indices": (1, 4)}, r"in_indices must be stages .*, got \(1, 4\)"),
    "a number": ({"in_indices": 3}, "in_indices must be stages .*, got 3"),
    "two for cnn": (
        {"decoder": "cnn", "in_indices": (2, 3)},
        "in_indices must be one stage for decoder='cnn'",
    ),
    "width": (
        {"context": "cc", "decoder_channels": 40},
        "decoder_channels must be a positive multiple of 32",
    ),
    "groups": (
        {"context": "psp", "decoder_channels": 32},
        "decoder_channels must be at least 64 with context='psp', .*, got 32",
    ),
    "drawn bases": (
        {"context": "nl", "random_eval_bases": True},
        "random_eval_bases must be False with context='nl' and decoder='ham', which draw no bases, got True",
    ),
    "rank": ({"context": "em", "rank": 0}, "rank must be at least 1, got 0"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_fields_are_named_in_one_line(case: str) -> None:
    fields, message = BAD[case]
    with pytest.raises(ValueError, match=f"segnext_t: {message}") as error:
        build("segnext_t", **fields)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("held", "asked", "message"),
    [
        ({}, {"decoder": "mlp"}, "decoder must be ham as in .*, got mlp"),
        ({"decoder": "mlp"}, {"decoder": "ham"}, "decoder must be mlp as in .*, got ham"),
        ({}, {"context": "vq"}, "context must be ham as in .*, got vq"),
        ({"context": "nl"}, {"context": None}, "context must be nl as in .*, got None"),
        ({}, {"in_indices": (0, 1, 2, 3)}, r"in_indices must be \(1, 2, 3\) as in .*, got \(0, 1, 2, 3\)"),
        ({"context": "em"}, {"rank": 8}, "rank must be 4 as in .*, got 8"),
    ],
    ids=str,
)
def test_weights_of_another_decoder_are_refused_by_field(
    held: dict[str, Any], asked: dict[str, Any], message: str, tmp_path: Path
) -> None:
    save(narrow(**held), tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=f"create_model: {message}") as error:
        create_model(weights=tmp_path / "model.safetensors", **asked)
    assert "\n" not in str(error.value)
    same = create_model(weights=tmp_path / "model.safetensors", in_indices=held.get("in_indices"))
    assert same.config == narrow(**held).config


@pytest.mark.parametrize("fields", HEADS, ids=str)
@pytest.mark.parametrize("peer", ["official", "mmsegmentation"])
def test_peers_get_the_decoders_that_they_have(fields: dict[str, Any], peer: str, tmp_path: Path) -> None:
    model = used(**fields)
    save_for(model, tmp_path / "model.pth", peer)
    name = {"name": "segnext_t", "channels": model.config.channels, "depths": model.config.depths}
    loaded = cast(SegNeXt, create_model(weights=tmp_path / "model.pth", rank=4, **name)).eval()
    assert loaded.config == model.config
    assert torch.equal(loaded(images()), model(images()))


@pytest.mark.parametrize(
    ("peer", "fields", "message"),
    [
        ("official", {"context": "nl"}, "context must be ham for the official code"),
        ("mmsegmentation", {"context": None}, "context must be ham for mmsegmentation"),
        (
            "paddleseg",
            {"decoder": "mlp"},
            "decoder must be ham for PaddleSeg, whose code has no other, got mlp",
        ),
        ("paddleseg", {"in_indices": (0, 1)}, r"in_indices must be \(1, 2, 3\) for PaddleSeg"),
    ],
    ids=str,
)
def test_peers_are_refused_what_they_have_not(
    peer: str, fields: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = tmp_path / ("model.pdparams" if peer == "paddleseg" else "model.pth")
    with pytest.raises(ValueError, match=f"save_for: {message}") as error:
        save_for(narrow(**fields), path, peer)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("asked", [{"decoder": "cnn"}, {"in_indices": (0, 1, 2)}], ids=str)
def test_of_heads_with_equal_widths_the_user_chooses(
    asked: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The first three stages of every size have as many channels as the last one."""
    channels = (8, 16, 24, 48)
    model = narrow(**asked, decoder_channels=64, channels=channels)
    torch.save(model.state_dict(), tmp_path / "raw.pth")
    name = {"name": "segnext_t", "channels": channels, "depths": (1, 1, 1, 1), "rank": 4}
    loaded = cast(SegNeXt, create_model(weights=tmp_path / "raw.pth", **name, **asked)).eval()
    assert loaded.config.decoder == model.config.decoder
    assert stages_of(loaded.config) == stages_of(model.config)
    assert torch.equal(loaded(images()), model(images()))
    with caplog.at_level("INFO", logger="segnext"):
        create_model(weights=tmp_path / "raw.pth", **name)
    assert (
        "in_indices (3,), as the widths fit, as do those of (0, 1, 2); the file does not say" in caplog.text
    )


def test_a_product_that_was_taken_out_later_is_noticed(tmp_path: Path) -> None:
    model = narrow()
    cast(Any, model.backbone.stages[0])[0].attention.gate = False
    with pytest.raises(
        ValueError, match=r"got backbone.stages.0.0.attention \(gate is False instead of True\)"
    ):
        deploy(model)
    with pytest.raises(ValueError, match="gate is False"):
        save(model, tmp_path / "model.safetensors")


def test_partial_loading_does_not_hide_a_missing_product(tmp_path: Path) -> None:
    save(narrow(), tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="gate must be True as in .*, got False"):
        create_model(weights=tmp_path / "model.safetensors", gate=False, allow_missing=("decoder.",))
