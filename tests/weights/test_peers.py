"""Tests the files that are written for other code bases, against rewrites that use none of the package's tables."""

from __future__ import annotations

import ast
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from oracle import transcription
from segnext import create_model, segnext_t
from segnext.create import build_from_weights
from segnext.models import MSCAN, SegNeXt
from segnext.weights.peers import PEERS, save_for
from tests.weights import foreign
from tests.weights.checkpoints import CLASSES, METADATA, official


def from_official(**options: Any) -> SegNeXt:
    model = segnext_t(num_classes=CLASSES, **options)
    model.load_state_dict(official())
    model.metadata = dict(METADATA)
    return model


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".SAFETENSORS"])
@pytest.mark.parametrize("peer", ["official", "mmsegmentation"])
def test_everything_comes_back(peer: str, suffix: str, tmp_path: Path) -> None:
    both = {"align_corners": True, "decoder_align_corners": True}
    model, path = (
        from_official(rank=8, eval_steps=3, decoder_dropout=0.2, **both),
        tmp_path / f"model{suffix}",
    )
    (note,) = save_for(model, path, peer)
    assert note.startswith("the fixed NMF bases are left out")
    back, report = build_from_weights(path)
    assert (back.config.rank, back.config.eval_steps) == (8, 3)
    assert back.config.align_corners and back.config.decoder_align_corners
    assert back.metadata == METADATA
    assert not report.notes and report.missing == ["decoder.hamburger.bases"]
    assert "does not say" not in str(report)
    own, theirs = model.state_dict(), back.state_dict()
    assert all(torch.equal(own[key], theirs[key]) for key in own if not key.endswith("bases"))


def test_the_official_file() -> None:
    path = Path("official.pth")
    save_for(from_official(), path, "official")
    checkpoint = torch.load(path, weights_only=True)
    assert checkpoint["state_dict"].keys() == transcription.shapes("t", CLASSES).keys()
    assert (checkpoint["meta"]["CLASSES"], checkpoint["meta"]["PALETTE"]) == (
        METADATA["classes"],
        METADATA["palette"],
    )
    head = values_of(checkpoint["meta"]["config"])["model"]["decode_head"]
    assert head["ham_kwargs"] == {"MD_S": 1, "MD_R": 16, "TRAIN_STEPS": 6, "EVAL_STEPS": 7}


def test_the_file_for_mmsegmentation() -> None:
    path = Path("mmsegmentation.pth")
    save_for(from_official(), path, "mmsegmentation")
    checkpoint = torch.load(path, weights_only=True)
    expected = foreign.as_mmsegmentation(official())
    assert checkpoint["state_dict"].keys() == expected.keys()
    assert all(
        torch.equal(checkpoint["state_dict"][key], expected[key].to(torch.float32))
        for key in expected
        if "num_b" not in key
    )
    assert checkpoint["meta"]["dataset_meta"] == {
        "classes": METADATA["classes"],
        "palette": METADATA["palette"],
    }
    model = values_of(checkpoint["meta"]["cfg"])["model"]
    assert model["decode_head"]["ham_kwargs"] == {"MD_S": 1, "MD_R": 16, "train_steps": 6, "eval_steps": 7}
    assert model["data_preprocessor"]["mean"] == METADATA["preprocessing"]["mean"]
    assert model["data_preprocessor"]["bgr_to_rgb"] is True
    assert model["backbone"]["attention_kernel_sizes"] == [5, [1, 7], [1, 11], [1, 21]]
    assert model["backbone"]["attention_kernel_paddings"] == [2, [0, 3], [0, 5], [0, 10]]


def test_the_file_for_paddleseg() -> None:
    path = Path("paddle.pdparams")
    notes = save_for(from_official(rank=8), path, "paddleseg")
    data = path.read_bytes()
    assert data[:2] == b"\x80\x02"
    arrays, expected = pickle.loads(data), foreign.as_paddleseg(official())
    assert arrays.keys() == expected.keys()
    assert all(
        np.array_equal(arrays[key], expected[key]) and arrays[key].dtype == np.float32 for key in expected
    )
    assert "num_classes: 3 and decoder_cfg: {'channels': 256" in notes[0] and "'MD_R': 8" in notes[0]
    assert "mean: [0.005882, 0.007843, 0.011765] and std: [0.015686, 0.019608, 0.023529] in Norm" in notes[1]
    assert notes[2] == "PaddleSeg's files have no place for classes, palette, recipe, metrics"
    model = from_official(rank=8)
    model.metadata = {"preprocessing": {**METADATA["preprocessing"], "short_side": 48, "value_range": [0, 9]}}
    assert (
        save_for(model, path, "paddleseg")[-1]
        == "PaddleSeg's files have no place for short_side, value_range"
    )


@pytest.mark.parametrize("peer", PEERS)
def test_what_could_not_be_read_again_is_not_written(peer: str) -> None:
    path, model = Path("model" + PEERS[peer].suffixes[-1]), from_official(rank=8)
    model.metadata = {"classes": ["a"]}
    with pytest.raises(ValueError, match="classes must be 3 names"):
        save_for(model, path, peer)
    model.metadata = {}
    model.decoder.classifier.bias.data.fill_(float("inf"))
    with pytest.raises(ValueError, match="weights must be finite, got NaN or Inf in decoder.classifier.bias"):
        save_for(model, path, peer)
    assert not path.exists()


@pytest.mark.parametrize("peer", PEERS)
def test_the_encoder_alone(peer: str) -> None:
    encoder = create_model("mscan_t")
    path = Path(f"encoder{PEERS[peer].suffixes[-1]}")
    save_for(encoder, path, peer)
    back = create_model(weights=path)
    assert isinstance(back, MSCAN)
    own, theirs = encoder.state_dict(), back.state_dict()
    assert all(torch.equal(own[key], theirs[key]) for key in own)


def test_one_logit() -> None:
    model = segnext_t(num_classes=2, threshold=0.4)
    save_for(model, "binary.pth", "mmsegmentation")
    back = create_model(weights="binary.pth")
    assert (back.config.num_classes, back.config.threshold) == (2, 0.4)


REFUSALS: dict[str, tuple[str, dict[str, Any], str]] = {
    "strips": ("official", {"strips": (7, 11)}, r"strips must be \(7, 11, 21\) for the official code"),
    "root": ("paddleseg", {"root": 3}, "root must be 5 for PaddleSeg, whose code has no other, got 3; keep"),
    "two-strips": ("mmsegmentation", {"strips": (7, 11)}, "strips must be 3 lengths for mmsegmentation"),
    "bands": ("mmsegmentation", {"in_channels": 4}, "in_channels must be 3 for mmsegmentation"),
    "threshold": (
        "official",
        {"num_classes": 2, "threshold": 0.5},
        "threshold must be None for the official code",
    ),
    "geti": (
        "mmsegmentation",
        {"align_corners": True},
        "align_corners must be False as decoder_align_corners",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_a_peer_cannot_compute_is_refused(case: str) -> None:
    peer, options, message = REFUSALS[case]
    with pytest.raises(ValueError, match=message) as error:
        save_for(segnext_t(**{"num_classes": 3, **options}), f"model{PEERS[peer].suffixes[-1]}", peer)
    assert "\n" not in str(error.value) and not list(Path().iterdir())


def test_other_lengths_go_to_mmsegmentation() -> None:
    model = segnext_t(num_classes=3, strips=(3, 5, 9), root=3)
    save_for(model, "model.pth", "mmsegmentation")
    assert create_model(weights="model.pth").config == model.config


def test_bad_arguments() -> None:
    with pytest.raises(
        ValueError, match="peer must be one of official, mmsegmentation, paddleseg, got 'keras'"
    ):
        save_for(segnext_t(num_classes=3), "model.pth", "keras")
    with pytest.raises(
        ValueError, match="path must end in .pdparams for PaddleSeg, got model.pth; rename it"
    ):
        save_for(segnext_t(num_classes=3), "model.pth", "paddleseg")


@pytest.fixture(autouse=True)
def in_a_new_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def values_of(text: str) -> dict[str, Any]:
    """Return the assignments of Python text whose values are literals."""
    return {
        statement.targets[0].id: ast.literal_eval(statement.value)
        for statement in ast.parse(text).body
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name)
    }
