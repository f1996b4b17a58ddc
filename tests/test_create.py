"""Tests models made from checkpoints alone, and what create_model refuses."""

from __future__ import annotations

import logging
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest
import torch

import segnext
from segnext import create_model
from segnext.models import MSCAN, SegNeXt
from segnext.weights.saving import save
from tests.weights import foreign
from tests.weights.checkpoints import METADATA, imagenet, official, saved


@pytest.mark.parametrize(
    ("layout", "size", "width", "rank"),
    [
        ("official", "t", None, 16),
        ("official", "s", None, 16),
        ("official", "b", None, 64),
        ("jseg", "b", None, 64),
        ("mmsegmentation", "b", None, 16),
        ("paddleseg", "b", 256, 16),
        ("geti", "s", None, 24),
    ],
)
def test_the_checkpoint_alone_decides(
    layout: str, size: str, width: int | None, rank: int, tmp_path: Path
) -> None:
    state_dict: dict[str, Any] = dict(official(size, width))
    if layout == "geti":
        state_dict = foreign.as_geti(state_dict, torch.rand(1, 256, 24))
    elif layout != "official":
        state_dict = getattr(foreign, f"as_{layout}")(state_dict)
    path = tmp_path / "checkpoint"
    meta = {"CLASSES": METADATA["classes"], "PALETTE": METADATA["palette"]}
    path.write_bytes(pickle.dumps(state_dict)) if layout in ("jseg", "paddleseg") else torch.save(
        {"state_dict": state_dict, "meta": meta}, path
    )
    model = create_model(weights=path)
    assert isinstance(model, SegNeXt)
    expected = {"official": 256, "jseg": 512, "mmsegmentation": 512, "paddleseg": 256, "geti": 256}
    assert model.config.architecture == f"segnext_{size}"
    assert model.config.rank == rank == model.decoder.hamburger.bases.shape[-1]
    assert model.config.decoder_channels == (512 if (layout, size) == ("official", "b") else expected[layout])
    assert model.config.num_classes == 3
    assert model.training
    if layout not in ("jseg", "paddleseg"):
        assert model.metadata == {"classes": METADATA["classes"], "palette": METADATA["palette"]}


def test_new_mmsegmentation_metadata(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pth"
    meta = {"dataset_meta": {"classes": ("a", "b", "c"), "palette": [[0, 1, 2]] * 3}, "seed": 1}
    torch.save({"state_dict": dict(official()), "meta": meta}, path)
    assert create_model(weights=path).metadata == {"classes": ["a", "b", "c"], "palette": [[0, 1, 2]] * 3}


def test_imagenet_weights(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = saved(imagenet(), tmp_path / "mscan_t.pth")
    classifier = create_model(weights=path)
    assert isinstance(classifier, MSCAN) and classifier.config.num_classes == 1000
    segmenter = create_model("segnext_t", weights=path, part="backbone", num_classes=19)
    assert isinstance(segmenter, SegNeXt) and segmenter.config.num_classes == 19
    stem = segmenter.backbone.stem.conv1.weight
    assert torch.equal(stem, classifier.stem.conv1.weight)
    features = create_model("mscan_t", weights=path, part="backbone", features_only=True)
    assert torch.equal(features.stem.conv1.weight, stem)
    without_head = create_model(weights=path, head="reinit", num_classes=0)
    assert without_head.head is None
    with pytest.raises(ValueError, match=r"name must be mscan_t for .*, got segnext_t; .*part='backbone'"):
        create_model("segnext_t", weights=path)


def test_another_class_count(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "checkpoint.pth"
    torch.save({"state_dict": dict(official()), "meta": {"CLASSES": METADATA["classes"]}}, path)
    with pytest.raises(ValueError, match="num_classes must be 3 as in .*, got 5; pass head='reinit'"):
        create_model(weights=path, num_classes=5)
    with caplog.at_level(logging.WARNING, "segnext"):
        model = create_model(weights=path, num_classes=5, head="reinit")
    assert model.decoder.classifier.weight.shape == (5, 256, 1, 1)
    assert "reinitialised: decoder.classifier.weight" in caplog.text
    assert model.metadata == {}, "class names of another data set would be wrong"


def test_other_input_channels(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = saved(official(), tmp_path / "checkpoint.pth")
    with caplog.at_level(logging.WARNING, "segnext"):
        assert create_model(weights=path).config.in_channels == 3
        assert not caplog.text
        model = create_model(weights=path, in_channels=1)
    assert "adapted from 3 to 1 input channels" in caplog.text
    expected = official()["backbone.patch_embed1.proj.0.weight"].sum(1, keepdim=True)
    torch.testing.assert_close(model.backbone.stem.conv1.weight.data, expected)


def test_rank_from_the_user(tmp_path: Path) -> None:
    path = saved(official(), tmp_path / "checkpoint.pth")
    assert create_model(weights=path, rank=8).config.rank == 8


def test_unknown_sizes_need_a_name(tmp_path: Path) -> None:
    state_dict = {key: value for key, value in official().items() if ".block3.4." not in key}
    path = saved(state_dict, tmp_path / "checkpoint.pth")
    with pytest.raises(ValueError, match="name must be given for .* of no known architecture"):
        create_model(weights=path)
    model = create_model("segnext_t", weights=path, depths=(3, 3, 4, 2), rank=16)
    assert model.config.depths == (3, 3, 4, 2) and model.config.num_classes == 3
    key = "backbone.block2.0.mlp.fc1.weight"
    path = saved({**state_dict, key: state_dict[key][None]}, tmp_path / "damaged.pth")
    with pytest.raises(ValueError, match=r"damaged\.pth \(.*: expansions must be .*, got \(8, 0, 4, 4\)"):
        create_model("segnext_t", weights=path, depths=(3, 3, 4, 2), rank=16)


def test_wrong_name(tmp_path: Path) -> None:
    path = saved(official(), tmp_path / "checkpoint.pth")
    with pytest.raises(ValueError, match="name must be segnext_t for .*, got segnext_b; leave it out"):
        create_model("segnext_b", weights=path)
    with pytest.raises(ValueError, match="name must be a known architecture, got 'segnext_x'"):
        create_model("segnext_x")
    with pytest.raises(TypeError, match="name or weights must be given, got neither"):
        create_model()
    with pytest.raises(TypeError, match="got 'classes'"):
        create_model("segnext_t", classes=3)


@pytest.mark.parametrize("name", segnext.list_models())
def test_every_architecture_has_a_function(name: str) -> None:
    with torch.device("meta"):
        model = getattr(segnext, name)(num_classes=5)
    assert model.config.architecture == name and model.config.num_classes == 5
    assert name in segnext.__all__


def test_a_size_alone_means_its_segnext(tmp_path: Path) -> None:
    assert create_model("t", num_classes=3).config == create_model("segnext_t", num_classes=3).config
    path = saved(official(), tmp_path / "checkpoint.pth")
    assert create_model("t", weights=path).config.architecture == "segnext_t"
    with pytest.raises(ValueError, match="name must be segnext_t for .*, got segnext_b; leave it out"):
        create_model("b", weights=path)


def test_functions_tell_their_size() -> None:
    assert "SegNeXt-B, 27.6 M parameters" in str(segnext.segnext_b.__doc__)
    assert "MSCAN-L" in str(segnext.mscan_l.__doc__)
    assert pickle.loads(pickle.dumps(segnext.segnext_t)) is segnext.segnext_t


def test_the_table_of_sizes_needs_no_torch() -> None:
    code = (
        "import sys; from segnext.models.registry import SIZES; import segnext; dir(segnext); "
        "assert 'segnext_t' in segnext.__all__ and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_package_imports_little() -> None:
    """It imports only torch, the ops and the models; heavier parts are imported when they are used."""
    code = (
        "import sys, segnext; "
        "heavy = {'PIL', 'yaml', 'typer', 'rich', 'tensorboard', 'safetensors'} & set(sys.modules); "
        "assert not heavy, heavy; "
        "segnext.load_weights; segnext.__version__; assert 'load_weights' in dir(segnext)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_model_on_the_meta_device_does_not_import_the_compiler() -> None:
    """Loading a checkpoint makes one; the import would take a second or more."""
    code = (
        "import sys, torch; from segnext import create_model\n"
        "with torch.device('meta'): create_model('segnext_t'); create_model('mscan_t')\n"
        "assert 'torch._dynamo' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_unknown_attribute() -> None:
    with pytest.raises(AttributeError, match="module 'segnext' has no attribute 'nothing'"):
        _ = segnext.nothing


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"strips": (7, 11)}, r"strips must be \(7, 11, 21\) as in .*, got \(7, 11\); leave it out"),
        ({"mix": False}, r"mix must be True as in"),
        ({"attention": "lka"}, r"attention must be msca as in"),
        ({"name": "segnext_t_lka"}, r"attention must be msca as in"),
        ({"decoder": "mlp"}, r"decoder must be ham as in"),
        ({"context": "nl"}, r"context must be ham as in"),
        ({"decoder_channels": 512}, r"decoder_channels must be 256 as in"),
    ],
    ids=str,
)
def test_a_variant_that_the_weights_do_not_have_is_named(asked, message):
    with pytest.raises(ValueError, match=f"create_model: {message}") as raised:
        create_model(weights="camvid", **asked)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "fields",
    [{"mix": False}, {"gate": False}, {"attention": "lka"}, {"strips": [3, 9, 1, 5], "root": 3}],
    ids=str,
)
def test_variants_are_saved_and_loaded(fields, tmp_path):
    model = cast(SegNeXt, create_model("segnext_t", num_classes=3, **fields)).eval()
    path = tmp_path / "variant.safetensors"
    save(model, path)
    loaded = create_model(weights=path)
    assert loaded.config == model.config
    images = torch.randn(1, 3, 32, 48)
    assert torch.equal(loaded.eval()(images), model(images))
