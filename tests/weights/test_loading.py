"""Tests loading into models with a report, and saving."""

from __future__ import annotations

import dataclasses
import json
import math
import pickle
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from segnext import create_model, deploy, load_weights
from segnext.models import MSCAN, SegNeXt, dialects
from segnext.weights import catalogue, save
from segnext.weights.peers import save_for
from segnext.weights.reading import read_checkpoint
from tests.weights import foreign
from tests.weights.checkpoints import CLASSES, METADATA, imagenet, official, saved


def tiny(**overrides: object) -> SegNeXt:
    model = create_model("segnext_t", **{"num_classes": CLASSES, **overrides})
    assert isinstance(model, SegNeXt)
    return model


def weight_of(model: torch.nn.Module, name: str) -> Tensor:
    return model.state_dict()[name].clone()


def test_saved_model_comes_back_identical_with_its_config(tmp_path: Path) -> None:
    model = create_model("segnext_t", num_classes=CLASSES, in_channels=4, rank=8, drop_path=0.2)
    path = tmp_path / "new" / "model.safetensors"
    save(model, path, METADATA)
    back = create_model(weights=path)
    assert back.config == model.config
    assert back.metadata == METADATA
    own, theirs = model.state_dict(), back.state_dict()
    assert own.keys() == theirs.keys()
    assert all(torch.equal(own[key], theirs[key]) for key in own)
    assert [entry.name for entry in path.parent.iterdir()] == ["model.safetensors"], "no temporary file stays"
    with safe_open(path, framework="pt") as file:
        config = json.loads(file.metadata()["segnext"])
    assert config["format"] == 1 and config["architecture"] == "segnext_t"
    assert config["model"] == {
        "in_channels": 4, "drop_path": 0.2, "num_classes": 3, "decoder_channels": 256, "rank": 8,
        "align_corners": False, "decoder_align_corners": False, "eval_steps": 7,
    }  # fmt: skip


def test_half_precision_file(tmp_path: Path) -> None:
    model, path = tiny(), tmp_path / "half.safetensors"
    save(model, path, dtype=torch.float16)
    checkpoint = read_checkpoint(path)
    tensors = checkpoint.tensors
    assert tensors["backbone.stem.conv1.weight"].dtype == torch.float16
    assert tensors["backbone.stem.norm1.running_var"].dtype == torch.float32
    assert tensors["decoder.hamburger.bases"].dtype == torch.float32
    assert path.stat().st_size < 9.2e6
    assert "native layout" in checkpoint.origin
    back = create_model(weights=path)
    assert {tensor.dtype for tensor in back.parameters()} == {torch.float32}
    name = "backbone.stages.0.0.ffn.fc1.weight"
    torch.testing.assert_close(weight_of(back, name), weight_of(model, name), rtol=1e-3, atol=1e-4)


def for_official(model: SegNeXt, path: Path) -> None:
    save_for(model, path, "official")


def for_paddle(model: SegNeXt, path: Path) -> None:
    save_for(model, path, "paddleseg")


@pytest.mark.parametrize(
    ("write", "suffix"), [(save, ".safetensors"), (for_official, ".pth"), (for_paddle, ".pdparams")]
)
def test_failed_save_keeps_the_old_file(write: Callable[..., None], suffix: str, tmp_path: Path) -> None:
    model, path = tiny(), tmp_path / f"model{suffix}"
    write(model, path)
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(
        resource.RLIMIT_FSIZE, (1_000_000, hard)
    )  # writing stops in the middle, as on a full disk
    try:
        with pytest.raises((OSError, RuntimeError, SafetensorError)):
            write(model, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


UNREADABLE: dict[str, tuple[Any, str]] = {
    "names": ({"classes": ["a"]}, "save: classes must be 3 names"),
    "a name of lines": ({"classes": ["a", "b\nc", "d"]}, "save: classes must be 3 names of one line"),
    "a long name": ({"classes": ["a", "b", "c" * 201]}, "save: classes must be 3 names"),
    "an array": ({"palette": np.zeros((3, 3), np.uint8)}, r"save: metadata must be text, .* tolist\(\)"),
    "a set": ({"recipe": {"a": {1}}}, "save: metadata must be text, numbers"),
    "std": ({"preprocessing": {"std": [1, 0, 1]}}, "save: preprocessing: std must be 3 numbers above 0"),
    "NaN": (
        lambda model: model.decoder.classifier.bias.data.fill_(math.nan),
        "got NaN or Inf in decoder.class",
    ),
    "int8": (torch.int8, "dtype must be one of torch.float16, .*, got torch.int8"),
    "float8": (torch.float8_e4m3fn, "dtype must be one of .*, got torch.float8_e4m3fn"),
    "text": ("float16", "dtype must be one of .*, got float16"),
    "overflow": (
        lambda model: model.decoder.classifier.weight.data.fill_(1e5),
        "dtype must hold the weights, got torch.float16 for decoder.classifier.weight, whose largest is 1e",
    ),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_what_could_not_be_read_again_is_not_written(case: str, tmp_path: Path) -> None:
    change, message = UNREADABLE[case]
    path, model = tmp_path / "model.safetensors", tiny()
    save(model, path, {"classes": ("a", "b", "c")})
    before = path.read_bytes()
    options: dict[str, Any] = {"metadata": change} if isinstance(change, dict) else {"dtype": change}
    if callable(change):
        change(model)
        options = {"dtype": torch.float16}
    with pytest.raises(ValueError, match=message) as error:
        save(model, path, **options)
    assert path.read_bytes() == before and "\n" not in str(error.value)
    assert create_model(weights=path).metadata["classes"] == ["a", "b", "c"]


def test_an_architecture_that_no_reader_knows_is_not_saved(tmp_path: Path) -> None:
    model = SegNeXt(dataclasses.replace(tiny().config, architecture="mine"))
    with pytest.raises(
        ValueError, match="save: architecture must be one of segnext_t, .*, got mine; channels"
    ):
        save(model, tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    ("wrap", "remedy"),
    [
        (torch.nn.DataParallel, "got DataParallel; pass its .module"),
        (torch.compile, "got OptimizedModule; pass its ._orig_mod"),
        (deploy, "got DeployedSegNeXt; create_model makes one"),
        (lambda model: torch.nn.Linear(2, 2), "got Linear; create_model makes one"),
        (lambda model: None, "got NoneType"),
    ],
)
def test_other_models_are_named(wrap: Callable[[SegNeXt], Any], remedy: str, tmp_path: Path) -> None:
    model, path = wrap(tiny().eval()), tmp_path / "model.pth"
    message = rf"^\w+: model must be a SegNeXt or an MSCAN, {remedy}"
    for call in (lambda: save(model, path), lambda: save_for(model, path, "official")):
        with pytest.raises(TypeError, match=message):
            call()
    with pytest.raises(TypeError, match=message):
        load_weights(model, "camvid")
    assert not path.exists()


def test_unknown_metadata(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="metadata must be among classes, palette, .*, got 'colours'"):
        save(tiny(), tmp_path / "model.safetensors", {"colours": []})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("layout", "matched", "missing", "reshaped"),
    [
        ("official", 550, 1, 0),
        ("mmsegmentation", 550, 1, 0),
        ("geti", 551, 0, 0),
        ("jseg", 550 - 31, 1 + 31, 0),
        ("paddleseg", 550 - 31, 1 + 31, 26),
    ],
)
def test_report_counts(layout: str, matched: int, missing: int, reshaped: int, tmp_path: Path) -> None:
    rewrite = getattr(foreign, f"as_{layout}", dict)
    extra = (torch.rand(1, 256, 16),) if layout == "geti" else ()
    path = tmp_path / "checkpoint"
    state_dict = rewrite(official(), *extra)
    if layout in ("jseg", "paddleseg"):
        path.write_bytes(pickle.dumps(state_dict))
    else:
        torch.save({"model": {"state_dict": state_dict}} if layout == "geti" else state_dict, path)
    report = load_weights(tiny(align_corners=layout == "geti"), path)
    counts = [len(names) for names in (report.matched, report.missing, report.unexpected, report.reshaped)]
    assert counts == [matched, missing, 0, reshaped]
    text = str(report)
    assert f"{matched} matched, {missing} missing, 0 unexpected, {reshaped} reshaped" in text
    assert f"{layout} layout" in text
    rank = "the bases in the file" if layout == "geti" else "the file does not say"
    assert "NMF rank: 16, " in text and rank in text


def test_names_are_translated_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(official(), tmp_path / "checkpoint.pth")
    translate, calls = dialects.translate, []
    monkeypatch.setattr(dialects, "translate", lambda *args: calls.append(args) or translate(*args))
    assert len(load_weights(tiny(), path).matched) == 550
    assert len(calls) == 1


@pytest.mark.parametrize("strips", [(7, 11), (3, 5, 7, 9)], ids=str)
def test_strips_root_and_expansions_are_read_off_the_shapes(strips: tuple[int, ...], tmp_path: Path) -> None:
    model, path = tiny(strips=strips, root=3, expansions=(2, 3, 4, 4)), tmp_path / "checkpoint.pth"
    saved(dialects.to_official(model.state_dict()), path)
    assert f"block1.0.attn.spatial_gating_unit.conv{len(strips) - 1}_2.bias" in "".join(
        torch.load(path, weights_only=True)["state_dict"]
    )
    back = create_model(weights=path)
    assert back.config == model.config
    own, theirs = model.state_dict(), back.state_dict()
    assert all(torch.equal(own[key], theirs[key]) for key in own)
    save(model, tmp_path / "native.safetensors")
    assert create_model(weights=tmp_path / "native.safetensors").config == model.config
    paddle = tmp_path / "paddle"
    paddle.write_bytes(pickle.dumps(foreign.as_paddleseg(dialects.to_official(own), len(strips))))
    assert create_model(weights=paddle).config == model.config
    encoder = create_model("mscan_t", weights=path, part="backbone", features_only=True)
    assert (encoder.config.strips, encoder.config.root) == (strips, 3)
    with pytest.raises(ValueError, match="must match segnext_t, got .* of another shape|missing"):
        load_weights(tiny(), path)


MISMATCHES = {
    "missing": (
        lambda sd: {key: value for key, value in sd.items() if "conv_seg" not in key},
        r"got 2 missing: decoder\.classifier\.weight, decoder\.classifier\.bias; name what may differ in",
    ),
    "unexpected": (
        lambda sd: sd | {"edge_head.conv_seg.bias": torch.zeros(2)},
        r"got 1 unexpected: edge_head\.conv_seg\.bias; name what may differ",
    ),
    "classes": (
        lambda sd: sd | {"decode_head.conv_seg.weight": torch.zeros(19, 256, 1, 1)},
        r"1 of another shape: decoder\.classifier\.weight \(19, 256, 1, 1\) for \(3, 256, 1, 1\); head=",
    ),
    "input": (
        lambda sd: sd | {"backbone.patch_embed1.proj.0.weight": torch.zeros(16, 4, 3, 3)},
        r"\(16, 4, 3, 3\) for \(16, 3, 3, 3\); adapt_input=True",
    ),
    "shape": (
        lambda sd: sd | {"backbone.norm1.bias": torch.zeros(5)},
        r"backbone\.norms\.0\.bias \(5,\) for \(32,\); create_model\(weights=\.\.\.\) builds the model that",
    ),
}


@pytest.mark.parametrize("case", MISMATCHES)
def test_mismatches_raise_one_line_and_change_nothing(case: str, tmp_path: Path) -> None:
    change, message = MISMATCHES[case]
    path = saved(change(dict(official())), tmp_path / "checkpoint.pth")
    model = tiny()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match=message) as error:
        load_weights(model, path)
    assert str(error.value).startswith(
        f"load_weights: {path} (torch, official layout) must match segnext_t, got"
    )
    assert "\n" not in str(error.value)
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())


def test_other_architecture_raises(tmp_path: Path) -> None:
    path = saved(official(), tmp_path / "checkpoint.pth")
    with pytest.raises(ValueError, match="must match segnext_s, got .* of another shape") as error:
        load_weights(create_model("segnext_s", num_classes=CLASSES), path)
    assert len(str(error.value)) < 800, "a few names, not all of them"


def test_allowed_by_name(tmp_path: Path) -> None:
    state_dict = dict(official()) | {"edge_head.conv_seg.bias": torch.zeros(2)}
    del state_dict["decode_head.align.conv.weight"]
    path = saved(state_dict, tmp_path / "checkpoint.pth")
    with pytest.raises(ValueError, match="1 missing: decoder.align.conv.weight; name"):
        load_weights(tiny(), path, allow_missing=("decoder.squeeze.",), allow_unexpected=("edge_head.",))
    report = load_weights(tiny(), path, allow_missing=("decoder.align.",), allow_unexpected=("edge_head.",))
    assert report.missing == ["decoder.hamburger.bases", "decoder.align.conv.weight"]
    assert report.unexpected == ["edge_head.conv_seg.bias"]
    assert "unexpected: edge_head.conv_seg.bias" in str(report)


@pytest.mark.parametrize("names", ["decoder.align.", ["decoder.", ""], [b"decoder."]], ids=repr)
@pytest.mark.parametrize("option", ["allow_missing", "allow_unexpected", "given"])
def test_a_string_is_no_list_of_beginnings(option: str, names: Any, tmp_path: Path) -> None:
    """Its letters allowed an encoder without a stem."""
    without_stem = {key: value for key, value in official().items() if "patch_embed1" not in key}
    path = saved(without_stem, tmp_path / "checkpoint.pth")
    message = f"load_weights: {option} must be a list of names or their beginnings, got .*; write"
    with pytest.raises(ValueError, match=message):
        load_weights(tiny(), path, **{"allow_missing": ("backbone.stem.",), option: names})


def test_reinitialised_head(tmp_path: Path) -> None:
    path = saved(official(), tmp_path / "checkpoint.pth")
    model = tiny(num_classes=7)
    classifier = weight_of(model, "decoder.classifier.weight")
    report = load_weights(model, path, head="reinit")
    assert report.reinitialised == ["decoder.classifier.weight", "decoder.classifier.bias"]
    assert "reinitialised: decoder.classifier.weight" in str(report)
    assert torch.equal(weight_of(model, "decoder.classifier.weight"), classifier)
    assert torch.equal(
        weight_of(model, "decoder.align.conv.weight"), official()["decode_head.align.conv.weight"]
    )


def test_imagenet_backbone_into_segnext(tmp_path: Path) -> None:
    path = saved(imagenet(), tmp_path / "mscan_t.pth")
    model = tiny()
    decoder = weight_of(model, "decoder.squeeze.conv.weight")
    with pytest.raises(ValueError, match="14 missing: decoder|13 missing: decoder"):
        load_weights(model, path)
    report = load_weights(model, path, part="backbone")
    assert all(name.startswith("decoder.") for name in report.missing) and not report.unexpected
    stem = "backbone.patch_embed1.proj.0.weight"
    assert torch.equal(weight_of(model, "backbone.stem.conv1.weight"), official()[stem])
    assert torch.equal(weight_of(model, "decoder.squeeze.conv.weight"), decoder)
    by_name = load_weights(tiny(), path, allow_missing=("decoder.",), allow_unexpected=("head.",))
    assert by_name.unexpected == ["head.weight", "head.bias"]
    assert by_name.matched == report.matched


def test_backbone_of_a_segmentation_checkpoint(tmp_path: Path) -> None:
    path = saved(official(), tmp_path / "segnext_t.pth")
    model = tiny(rank=8)  # the rank matters to the decoder only
    decoder = weight_of(model, "decoder.squeeze.conv.weight")
    load_weights(model, path, part="backbone")
    assert torch.equal(weight_of(model, "decoder.squeeze.conv.weight"), decoder)
    encoder = create_model("mscan_t", features_only=True)
    assert isinstance(encoder, MSCAN)
    report = load_weights(encoder, path, part="backbone")
    assert not report.missing and not report.rank
    assert torch.equal(weight_of(encoder, "norms.3.bias"), official()["backbone.norm4.bias"])


@pytest.mark.parametrize(("given", "wanted"), [(3, 1), (3, 4), (3, 7), (4, 3), (1, 3)])
def test_adapted_input(given: int, wanted: int, tmp_path: Path) -> None:
    key = "backbone.patch_embed1.proj.0.weight"
    source = torch.rand(16, given, 3, 3)
    path = saved(dict(official()) | {key: source}, tmp_path / "checkpoint.pth")
    model = tiny(in_channels=wanted)
    report = load_weights(model, path, adapt_input=True)
    adapted = weight_of(model, "backbone.stem.conv1.weight")
    assert f"adapted from {given} to {wanted} input channels" in report.notes[0]
    assert report.reshaped == ["backbone.stem.conv1.weight"]
    if wanted == 1:
        torch.testing.assert_close(adapted, source.sum(1, keepdim=True))
    else:
        expected = source.repeat(1, math.ceil(wanted / given), 1, 1)[:, :wanted] * given / wanted
        torch.testing.assert_close(adapted, expected)


def test_rank_of_the_origin_is_enforced(tmp_path: Path) -> None:
    path = saved(foreign.as_mmsegmentation(official("b")), tmp_path / "b.pth")
    model = create_model("segnext_b", num_classes=CLASSES)
    with pytest.raises(
        ValueError, match=r"rank of the model must be 16 \(as mmsegmentation .*got 64; create"
    ):
        load_weights(model, path)
    assert load_weights(model, path, rank=64).rank == "64, given by the user"
    assert load_weights(create_model("segnext_b", num_classes=CLASSES, rank=16), path).rank.startswith(
        "16, as"
    )


def test_remedies_for_another_rank_work(tmp_path: Path) -> None:
    save(tiny(rank=4), tmp_path / "ours.safetensors", {})
    with pytest.raises(ValueError, match="rank of the model must be 4 .*, got 16; create it with rank=4$"):
        load_weights(tiny(), tmp_path / "ours.safetensors", rank=16)
    with pytest.raises(ValueError, match=r"rank must be 4 as in .*ours\.safetensors.*, got 5; leave it out"):
        create_model(weights=tmp_path / "ours.safetensors", rank=5)
    assert load_weights(tiny(rank=4), tmp_path / "ours.safetensors").rank == "4, from the file's config"


def test_what_reading_decides_is_not_asked_for_afterwards(tmp_path: Path) -> None:
    checkpoint = read_checkpoint(saved(official(), tmp_path / "checkpoint.pth"))
    for option in ({"rank": 16}, {"average": True}):
        with pytest.raises(ValueError, match="got .*; pass them to read_checkpoint"):
            load_weights(tiny(), checkpoint, **option)


@pytest.mark.parametrize("option", [{"rank": 0}, {"rank": True}, {"rank": "16"}, {"average": "no"}], ids=str)
def test_bad_requests_do_not_blame_the_file(option: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"^read_checkpoint: \w+ must be .*, got") as error:
        read_checkpoint("anything", **option)
    assert "anything" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head": "new"}, "head must be 'strict' or 'reinit', got 'new'"),
        ({"part": "encoder"}, "part must be 'all' or 'backbone', got 'encoder'"),
    ],
)
def test_bad_options(options: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_weights(tiny(), "anything", **options)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"must be a file or a shipped name, got 'nothing\.pth'; shipped are"
    ):
        read_checkpoint("nothing.pth")
    with pytest.raises(IsADirectoryError, match="got the folder"):
        read_checkpoint(tmp_path)


def test_foreign_network_names_the_file(tmp_path: Path) -> None:
    path = saved({"layer1.0.conv1.weight": torch.zeros(1)}, tmp_path / "resnet.pth")
    with pytest.raises(ValueError, match=rf"{path}: state dict: names must be those of SegNeXt"):
        read_checkpoint(path)


def test_shipped_weights_have_cards_and_load() -> None:
    with pytest.raises(ValueError, match="name must be that of shipped weights, got 'nothing'"):
        catalogue.card("nothing")
    for name in catalogue.shipped():
        assert catalogue.card(name).startswith("#")
        model = create_model(weights=name)
        assert len(model.metadata["classes"]) == model.config.num_classes
        assert catalogue.locate(name).stat().st_size < 10e6


def test_stages_that_an_encoder_leaves_out_are_in_the_report(tmp_path: Path) -> None:
    whole = create_model("mscan_t", num_classes=CLASSES)
    save(whole, tmp_path / "whole.safetensors", {})
    encoder = create_model(weights=tmp_path / "whole.safetensors", features_only=True, out_indices=(0, 1))
    assert torch.equal(weight_of(encoder, "norms.1.weight"), weight_of(whole, "norms.1.weight"))
    report = load_weights(encoder, tmp_path / "whole.safetensors")
    assert set(report.unexpected) == whole.state_dict().keys() - encoder.state_dict().keys()
    assert "unexpected: downsamples.1.conv.bias" in str(report)
    save(encoder, tmp_path / "part.safetensors", {})
    again = create_model(weights=tmp_path / "part.safetensors")
    assert again.state_dict().keys() == encoder.state_dict().keys()
