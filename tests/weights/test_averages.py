"""Tests which weights are taken from files that hold averaged ones too, and what is left out beside the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from segnext import create_model, segnext_t
from segnext.create import build_from_weights
from segnext.weights.reading import read_checkpoint
from tests.weights.checkpoints import official

KEY = "decoder.classifier.bias"
OFFICIAL_KEY = "decode_head.conv_seg.bias"


def shifted(by: float) -> dict[str, Tensor]:
    return {
        name: tensor + by if tensor.is_floating_point() else tensor for name, tensor in official().items()
    }


def wrapped(prefix: str, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in state_dict.items()}


RAW, AVERAGE = official(), shifted(1.0)
COPIES = {f"ema_{name.replace('.', '_')}": tensor for name, tensor in AVERAGE.items() if "num_b" not in name}
COUNTERS = {"steps": torch.tensor(7), "n_averaged": torch.tensor(7)}

# What the code that wrote the file takes for inference, and the file.
FILES: dict[str, tuple[str, dict[str, Any]]] = {
    "mmcv": ("raw", {"state_dict": {**RAW, **COPIES}}),
    "mmcv-wrapped": ("raw", {"state_dict": {**wrapped("module.", RAW), **wrapped("module.", COPIES)}}),
    "mmengine": (
        "average",
        {
            "meta": {"mmengine_version": "0.10.7"},
            "state_dict": AVERAGE,
            "ema_state_dict": {"steps": torch.tensor(3), **wrapped("module.", RAW)},
        },
    ),
    "timm": ("average", {"state_dict": RAW, "state_dict_ema": wrapped("module.", AVERAGE)}),
    "torchvision": ("average", {"model": RAW, "model_ema": {**COUNTERS, **wrapped("module.", AVERAGE)}}),
    "rt-detr": ("average", {"model": RAW, "ema": {"module": AVERAGE, "updates": 3}}),
    "lightning": (
        "average",
        {
            "state_dict": wrapped("model.", AVERAGE),
            "current_model_state": wrapped("model.", RAW),
            "averaging_state": {"n_averaged": torch.tensor(3)},
        },
    ),
    "own-module": (
        "raw",
        {
            "state_dict": {
                **wrapped("model.", RAW),
                **wrapped("ema_model.module.", AVERAGE),
                "ema_model.n_averaged": torch.tensor(3),
            }
        },
    ),
}


def bias_of(path: Path, **options: Any) -> tuple[str, str]:
    """Return whether the classifier's bias is the raw or the averaged one, and what is said about it."""
    checkpoint = read_checkpoint(path, **options)
    own = checkpoint.tensors
    which = "raw" if torch.equal(own[KEY], RAW[OFFICIAL_KEY]) else "average"
    expected = RAW if which == "raw" else AVERAGE
    assert torch.equal(own[KEY], expected[OFFICIAL_KEY])
    assert torch.equal(own["backbone.norms.0.bias"], expected["backbone.norm1.bias"])
    return which, checkpoint.taken


@pytest.mark.parametrize("kind", FILES)
def test_the_peers_choice_by_default_and_either_by_option(kind: str, tmp_path: Path) -> None:
    default, content = FILES[kind]
    path = tmp_path / "checkpoint.pth"
    torch.save(content, path)
    which, taken = bias_of(path)
    assert which == default and "average" in taken
    assert bias_of(path, average=True)[0] == "average"
    assert bias_of(path, average=False)[0] == "raw"


def test_an_average_of_some_tensors_says_so(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pth"
    torch.save({"state_dict": RAW, "ema": {OFFICIAL_KEY: AVERAGE[OFFICIAL_KEY]}}, path)
    checkpoint = read_checkpoint(path)
    assert torch.equal(checkpoint.tensors[KEY], AVERAGE[OFFICIAL_KEY])
    total = sum("num_batches" not in name for name in RAW)
    said = (
        f"the averaged ones, from ema ({total - 1} of {total} tensors, which it lacks, are those beside it)"
    )
    assert checkpoint.taken.startswith(said)


@pytest.mark.parametrize(
    "ema", [{"decay": torch.tensor(0.9), "shadow": AVERAGE}, wrapped("teacher.", AVERAGE)]
)
def test_an_average_under_other_names_is_not_said_to_be_taken(ema: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pth"
    torch.save({"state_dict": RAW, "ema": ema}, path)
    which, said = bias_of(path)
    assert (which, said) == ("raw", "those beside ema, which holds no tensors of their names")
    with pytest.raises(
        ValueError, match="average must be None for a file whose ema holds no tensors .*, got True"
    ):
        read_checkpoint(path, average=True)


def test_the_average_alone(tmp_path: Path) -> None:
    model = segnext_t(num_classes=3)
    path, alone = tmp_path / "swa.pth", tmp_path / "ema.pth"
    torch.save(AveragedModel(model).state_dict(), path)
    torch.save({"epoch": 3, "state_dict_ema": wrapped("module.", AVERAGE)}, alone)
    for file in (path, alone):
        assert read_checkpoint(file).taken == "the average, which is all that the file holds"
        with pytest.raises(
            ValueError, match="average must be True or None for a file with averaged weights only"
        ):
            create_model(weights=file, average=False)
    assert bias_of(alone, average=True)[0] == "average"
    loaded, report = build_from_weights(path, average=True)
    assert torch.equal(loaded.state_dict()[KEY], model.state_dict()[KEY])
    assert report.left_out == ["n_averaged"] and "left out: n_averaged" in str(report)
    assert "weights: the average, which is all that the file holds" in str(report)


def test_no_average(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pth"
    torch.save(RAW, path)
    assert bias_of(path) == bias_of(path, average=False) == ("raw", "")
    with pytest.raises(ValueError, match=r"checkpoint.pth: average must be False or None for a file without"):
        create_model(weights=path, average=True)


@pytest.mark.parametrize(
    "prefix",
    [
        "auxiliary_head.",
        "auxiliary_head.0.",
        "model.aux_head.",
        "module.criterion.",
        "decode_head.loss_decode.",
    ],
)
def test_parts_beside_the_model_are_left_out_and_named(prefix: str, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pth"
    extra = {f"{prefix}conv.weight": torch.rand(2, 3), f"{prefix}conv.bias": torch.rand(2)}
    torch.save({"state_dict": {**RAW, **extra}}, path)
    model, report = build_from_weights(path)
    assert len(report.left_out) == 2 and not report.unexpected
    assert "left out: 2 of " in str(report)
    assert torch.equal(model.state_dict()[KEY], RAW[OFFICIAL_KEY])


def test_the_encoder_of_geocalib(tmp_path: Path) -> None:
    """Its file holds an MSCAN-B, an encoder of low-level features and two decoders with Hamburgers of their own."""
    encoder = {name: tensor for name, tensor in official("b").items() if name.startswith("backbone.")}
    others = {
        "ll_enc.conv1.conv.weight": torch.rand(64, 3, 3, 3),
        "perspective_decoder.up_head.decoder.hamburger.ham_in.conv.weight": torch.rand(8, 8, 1, 1),
    }
    path = tmp_path / "geocalib.tar"
    torch.save({"model": {**encoder, **others}}, path)
    model, report = build_from_weights(path)
    assert model.config.architecture == "mscan_b" and model.config.num_classes == 0
    assert "left out: ll_enc, perspective_decoder" in str(report)
    assert torch.equal(model.state_dict()["norms.3.bias"], encoder["backbone.norm4.bias"])


def test_unknown_parts_are_refused_with_a_remedy_that_exists(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pth"
    torch.save({"state_dict": {**RAW, "edge_head.weight": torch.rand(2)}}, path)
    with pytest.raises(
        ValueError, match=r"1 unexpected: edge_head.weight; name what may differ in .*allow_unexpected"
    ):
        create_model(weights=path)
    assert create_model(weights=path, allow_unexpected=("edge_head.",))
    lacking = {name: tensor for name, tensor in RAW.items() if "align" not in name}
    torch.save(lacking, path)
    with pytest.raises(ValueError, match="allow_missing"):
        create_model(weights=path)
    assert create_model(weights=path, allow_missing=("decoder.align.",))
