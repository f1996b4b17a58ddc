"""Compares the models with a transcription of the official arithmetic, on checkpoints in foreign dialects."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor

from oracle import transcription
from segnext import create_model
from tests.weights import foreign

CLASSES = 21
TOLERANCE = 1e-4  # of the largest logit; float32 rounding through 13 to 21 blocks is about 1e-6


@cache
def official(size: str, width: int | None = None) -> dict[str, Tensor]:
    return transcription.trained_like(size, CLASSES, width=width)


def assert_same_logits(
    model: torch.nn.Module, state_dict: dict[str, Tensor], height: int, width: int
) -> None:
    model.eval()
    image = torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = transcription.segment(state_dict, model.decoder.hamburger.bases, image)
        actual = model(image)
    assert actual.shape == (1, CLASSES, height, width)
    assert expected.isfinite().all() and actual.isfinite().all()
    assert expected.std() > 0.1, "logits that hardly vary would hide errors"
    error = (actual - expected).abs().max() / expected.abs().max()
    assert error < TOLERANCE, f"relative error {error:.2e}"


@pytest.mark.parametrize(
    ("size", "tensors", "parameters"),
    [("t", 550, 4_263_414), ("s", 436, 13_932_886), ("b", 854, 27_636_310), ("l", 1500, 48_926_550)],
)
def test_official_checkpoints_have_the_published_counts(size: str, tensors: int, parameters: int) -> None:
    shapes = transcription.shapes(size, num_classes=150)
    assert len(shapes) == tensors
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    sizes = [torch.Size(shape).numel() for key, shape in shapes.items() if not key.endswith(buffers)]
    assert sum(sizes) == parameters
    with torch.device("meta"):
        model = create_model(f"segnext_{size}")
    assert len(model.state_dict()) == tensors + 1, "the official tensors and the NMF bases"
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


@pytest.mark.parametrize("size", ["t", "b"])
@pytest.mark.parametrize(("height", "width"), [(512, 512), (97, 203)], ids=["512x512", "97x203"])
def test_official_checkpoint_gives_the_official_logits(size: str, height: int, width: int) -> None:
    model = create_model(f"segnext_{size}", num_classes=CLASSES)
    result = model.load_state_dict(official(size), strict=True)
    assert result.missing_keys == ["decoder.hamburger.bases"] and not result.unexpected_keys
    assert_same_logits(model, official(size), height, width)


@pytest.mark.parametrize("size", ["t", "b"])
def test_mmsegmentation_checkpoint_gives_the_official_logits(size: str) -> None:
    model = create_model(f"segnext_{size}", num_classes=CLASSES, rank=16)
    model.load_state_dict(foreign.as_mmsegmentation(official(size)), strict=True)
    assert_same_logits(model, official(size), 97, 203)


@pytest.mark.parametrize("size", ["t", "b"])
def test_paddleseg_checkpoint_gives_the_official_logits(size: str) -> None:
    state_dict = official(size, 256)
    model = create_model(f"segnext_{size}", num_classes=CLASSES, decoder_channels=256, rank=16)
    model.load_state_dict(foreign.as_paddleseg(state_dict), strict=True)
    assert_same_logits(model, state_dict, 97, 203)


def test_imagenet_checkpoint_gives_the_official_logits() -> None:
    state_dict = {key: value for key, value in official("t").items() if key.startswith("backbone.")}
    generator = torch.Generator().manual_seed(2)
    state_dict["head.weight"] = torch.randn(1000, 256, generator=generator) / 16
    state_dict["head.bias"] = torch.randn(1000, generator=generator)
    model = create_model("mscan_t").eval()
    model.load_state_dict({key.removeprefix("backbone."): value for key, value in state_dict.items()})
    image = torch.randn(2, 3, 97, 203, generator=generator)
    with torch.inference_mode():
        expected, actual = transcription.classify(state_dict, image), model(image)
    assert expected.isfinite().all() and expected.std() > 0.1
    assert (actual - expected).abs().max() < TOLERANCE * expected.abs().max()


def test_a_swapped_strip_is_noticed() -> None:
    """The oracle is sharp enough: one exchanged pair of 7-wide strips in one block shows."""
    state_dict = dict(official("t"))
    unit = "backbone.block2.1.attn.spatial_gating_unit"
    row, column = f"{unit}.conv0_1.weight", f"{unit}.conv0_2.weight"
    model = create_model("segnext_t", num_classes=CLASSES)
    swapped = {row: state_dict[column].mT, column: state_dict[row].mT}
    model.load_state_dict(state_dict | swapped)
    with pytest.raises(AssertionError, match="relative error"):
        assert_same_logits(model, state_dict, 97, 203)
