"""Tests weights by name: what a name means, the models that come of it, and that the registry is as published."""

from __future__ import annotations

import io
import json
import re
import subprocess
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import segnext
from segnext import Predictor, create_model, load_weights, mscan_t, segnext_b, segnext_t
from segnext.models import build, dialects
from segnext.models.registry import CONFIGS, SegNeXtConfig
from segnext.weights import downloads, published, shipped
from segnext.weights.peers import save_for
from segnext.weights.published import find, list_published, load_published
from segnext.weights.transfer import DownloadError
from tests.cli.commands import call, ended
from tests.interop.mmsegmentation import PYTHON, needs_mmsegmentation
from tests.weights.file_server import FileServer, serving
from tests.weights.registry import use


@cache
def official(classes: int = 150) -> dict[str, torch.Tensor]:
    """Return a SegNeXt-T with the names of mmsegmentation, and without its bases, as that saves it."""
    torch.manual_seed(3)
    return dialects.to_mmsegmentation(build("segnext_t", num_classes=classes).state_dict())


def file_of(tensors: dict[str, torch.Tensor]) -> bytes:
    file = io.BytesIO()
    torch.save({"state_dict": tensors}, file)
    return file.getvalue()


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    whole = official()
    encoder = {key.removeprefix("backbone."): value for key, value in whole.items() if "backbone." in key}
    head = {"head.weight": torch.rand(1000, 256), "head.bias": torch.rand(1000)}
    return {"ade20k-t": file_of(whole), "imagenet-t": file_of(encoder | head)}


@pytest.fixture
def server(files, tmp_path, monkeypatch):
    with serving({}) as running:
        use(monkeypatch, tmp_path, running, files, digest=False)
        yield running


# --- what a name means ---


@pytest.mark.parametrize(
    ("source", "architecture", "part", "name"),
    [
        ("ade20k-b", None, "all", "ade20k-b"),
        ("ade20k-b", "segnext_b", "all", "ade20k-b"),
        ("ade20k", "segnext_b", "all", "ade20k-b"),
        ("imagenet", "mscan_l", "all", "imagenet-l"),
        ("imagenet", "segnext_s", "backbone", "imagenet-s"),
        ("ade20k", "mscan_t", "backbone", "ade20k-t"),
    ],
)
def test_names(source: str, architecture: str | None, part: str, name: str) -> None:
    found = find(source, architecture, part)
    assert found == load_published(name) and found.name == name


@pytest.mark.parametrize(
    "source", ["camvid.safetensors", "./ade20k-b", "ade20k-b.pth", "", Path("ade20k-b"), 5, {}]
)
def test_what_is_no_name(source: object) -> None:
    assert find(source, "segnext_b") is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("ade20k",),
            "'ade20k' must come with an architecture, got none; take one of ade20k-t, ade20k-s, ade",
        ),
        (("ade20k-b", "segnext_t"), "ade20k-b must be loaded into segnext_b, got segnext_t; take ade20k-t"),
        (("ade20k-b", "segnext_t", "backbone"), "into segnext_b, got segnext_t; take ade20k-t"),
        (
            ("imagenet", "segnext_b"),
            r"imagenet-b must be loaded into mscan_b, got segnext_b; pass part='backbone'",
        ),
        (("ade20k-b", "mscan_b"), "must be loaded into segnext_b, got mscan_b; pass part='backbone'"),
        (
            ("ade20k", "segnext_x"),
            "must be one that 'ade20k' is published for, got segnext_x; there are ade20k-t",
        ),
    ],
)
def test_names_that_do_not_fit(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=f"^weights: .*{message}"):
        find(*arguments)


def test_unknown_names() -> None:
    with pytest.raises(ValueError, match="got 'ade20k-x'; did you mean ade20k-t or"):
        load_published("ade20k-x")
    with pytest.raises(FileNotFoundError, match=r"got 'ade2k-b'; shipped are camvid; did you mean ade20k-b"):
        create_model(weights="ade2k-b")
    with pytest.raises(
        FileNotFoundError, match=r"got 'zzz'; shipped are camvid; published are ade20k-t/s/b/l, city"
    ):
        create_model(weights="zzz")
    with pytest.raises(
        FileNotFoundError, match=r"got 'zzz\.pth'; shipped are camvid; `segnext weights` lists"
    ):
        create_model(weights="zzz.pth")


def test_weights_are_listed() -> None:
    assert segnext.list_weights() == [*shipped(), *list_published()]
    assert len(list_published()) == len(set(list_published())) == 12


@pytest.mark.parametrize("name", list_published())
def test_the_registry_is_whole(name: str) -> None:
    entry = load_published(name)
    metadata = published.metadata_of(entry)
    segments = isinstance(CONFIGS[entry.architecture], SegNeXtConfig)
    assert entry.url.startswith("https://") and Path(entry.file).suffix == Path(entry.url).suffix
    assert entry.terms.startswith(entry.origin) and entry.licence in entry.terms
    assert len({load_published(other).file for other in list_published()}) == len(list_published())
    assert (entry.sha256 is None) == (entry.size is None)
    assert entry.sha256 is None or re.fullmatch("[0-9a-f]{64}", entry.sha256)
    assert segments == (entry.miou is not None) == (entry.rank == 16)
    if segments:
        assert len(metadata["classes"]) == len(metadata["palette"]) == entry.num_classes
        assert 0.4 < metadata["metrics"]["miou"] < metadata["metrics"]["miou_multi_scale"] < 0.9


@needs_mmsegmentation
def test_addresses_and_accuracies_are_those_of_mmsegmentation() -> None:
    script = (
        "import json, pathlib, importlib.util as u; from yaml import safe_load\n"
        "folder = pathlib.Path(u.find_spec('mmseg').origin).parent / '.mim/configs/segnext'\n"
        "text = ''.join(path.read_text() for path in folder.glob('*.py'))\n"
        "print(json.dumps([safe_load((folder / 'metafile.yaml').read_text())['Models'], text]))"
    )
    done = subprocess.run([PYTHON, "-I", "-c", script], capture_output=True, text=True, check=True)
    models, text = json.loads(done.stdout)
    for model in models:
        size = re.search(r"mscan-(\w)_", model["Name"])[1]
        metrics = model["Results"]["Metrics"]
        entry = load_published(f"ade20k-{size}")
        assert entry.url == model["Weights"]
        assert entry.miou == (metrics["mIoU"], metrics["mIoU(ms+flip)"])
        assert f"'{load_published(f'imagenet-{size}').url}'" in text
    assert len(models) == 4


# --- the models ---


def test_a_segnext_by_its_group(server: FileServer) -> None:
    model = create_model("segnext_t", weights="ade20k")
    assert model.config.architecture == "segnext_t"
    assert torch.equal(model.decoder.classifier.weight, official()["decode_head.conv_seg.weight"])
    assert (model.config.num_classes, model.config.rank) == (150, 16)
    assert model.metadata["classes"][:2] == ["wall", "building"] and len(model.metadata["palette"]) == 150
    assert model.metadata["preprocessing"]["short_side"] == 512
    assert model.metadata["metrics"]["miou"] == 0.415
    assert model.metadata["recipe"]["licence"] == "Apache-2.0"
    assert len(server.asked) == 1


def test_every_way_to_say_it(server: FileServer) -> None:
    by_name = create_model(weights="ade20k-t").state_dict()
    for model in (
        segnext_t(weights="ade20k"),
        create_model("t", weights="ade20k-t"),
        Predictor("ade20k-t").model,
    ):
        assert all(torch.equal(value, by_name[key]) for key, value in model.state_dict().items())
    model = segnext_t()
    load_weights(model, "ade20k")
    assert all(torch.equal(value, by_name[key]) for key, value in model.state_dict().items())
    assert len(server.asked) == 1


def test_an_encoder(server: FileServer) -> None:
    encoder = mscan_t(weights="imagenet")
    assert encoder.config.num_classes == 1000
    model = create_model("segnext_t", weights="imagenet", part="backbone", num_classes=19)
    features = mscan_t(weights="imagenet", features_only=True)
    for key, value in features.state_dict().items():
        assert torch.equal(value, encoder.state_dict()[key])
        assert torch.equal(value, model.state_dict()[f"backbone.{key}"])
    other = segnext_t(num_classes=3)
    load_weights(other, "imagenet", part="backbone")
    assert torch.equal(other.backbone.stem.conv1.weight, encoder.stem.conv1.weight)
    assert model.metadata.keys() == {"preprocessing"}


def test_weights_of_another_architecture_are_not_downloaded(server: FileServer) -> None:
    with pytest.raises(ValueError, match="ade20k-t must be loaded into segnext_t, got segnext_b"):
        segnext_b(weights="ade20k-t")
    with pytest.raises(
        ValueError, match="imagenet-t must be loaded into mscan_t, got segnext_t; pass part='backbone'"
    ):
        segnext_t(weights="imagenet")
    assert not server.asked


def test_a_path_of_that_name_is_a_path(server: FileServer, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("ade20k-t").write_bytes(file_of(official(classes=3)))
    assert create_model(weights="./ade20k-t").config.num_classes == 3
    assert create_model(weights="ade20k-t").config.num_classes == 150


def test_commands_take_names(server: FileServer, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    Image.fromarray(pixels).save("photo.png")
    call("predict", "photo.png", "--weights", "ade20k-t", "--short-side", 64, "-o", "out")
    assert np.asarray(Image.open("out/photo_mask.png")).shape == (64, 96)
    call("info", "ade20k-t", "--size", 64)
    call("convert", "ade20k-t")
    assert create_model(weights="ade20k-t.safetensors").metadata["metrics"]["measured_by"] == "mmsegmentation"
    assert len(server.asked) == 1
    capsys.readouterr()
    call("weights")
    listed = capsys.readouterr().out
    assert re.search(r"ade20k-t +segnext_t +150 +41\.50, 42\.59 +[\d.]+ +Apache-2\.0 +cache", listed)
    assert re.search(r"imagenet-t +mscan_t +1000 +Apache-2\.0 +-", listed)
    assert re.search(r"camvid +segnext_t +11 +71\.\d\d +8\.7 +Apache-2\.0 +package", listed)
    call("weights", "fetch", "imagenet-t", "ade20k-t")
    paths = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert [path.name for path in paths] == [load_published(name).file for name in ("imagenet-t", "ade20k-t")]
    assert all(path.is_file() for path in paths) and len(server.asked) == 2


def test_commands_refuse_in_one_line(server: FileServer, monkeypatch, capsys) -> None:
    assert ended("weights", "fetch", "imagenet-t", "ade20k") == 1
    assert (
        "'ade20k' must come with an architecture, got none; take one of ade20k-t" in capsys.readouterr().err
    )
    monkeypatch.setenv("SEGNEXT_OFFLINE", "1")
    assert ended("predict", "photo.png", "--weights", "ade20k-t") == 1
    errors = capsys.readouterr().err
    assert errors.startswith(
        "segnext: weights: ade20k-t must be in the cache, as SEGNEXT_OFFLINE is set, got no "
    )
    assert errors.count("\n") == 1 and not server.asked
    with pytest.raises(DownloadError):
        Predictor("ade20k-t")


def test_an_encoder_without_a_classifier(tmp_path, monkeypatch) -> None:
    """Whether the published encoders have one, nobody could look up here."""
    encoder = {
        key.removeprefix("backbone."): value for key, value in official().items() if "backbone." in key
    }
    with serving({}) as running:
        use(monkeypatch, tmp_path, running, {"imagenet-t": file_of(encoder)}, digest=False)
        features = mscan_t(weights="imagenet", features_only=True)
        model = segnext_t(weights="imagenet", part="backbone", num_classes=3)
        assert torch.equal(model.backbone.stem.conv1.weight, features.stem.conv1.weight)
        assert mscan_t(weights="imagenet").config.num_classes == 0
        with pytest.raises(ValueError, match="num_classes must be 0 as in .*, got 1000; pass head='reinit'"):
            mscan_t(weights="imagenet", num_classes=1000)


def test_a_file_of_paddleseg(tmp_path, monkeypatch) -> None:
    """It holds arrays alone: names, colours and accuracy are those of the registry."""
    torch.manual_seed(3)
    given = build("segnext_t", num_classes=19)
    save_for(given, tmp_path / "model.pdparams", "paddleseg")
    with serving({}) as running:
        content = (tmp_path / "model.pdparams").read_bytes()
        use(monkeypatch, tmp_path, running, {"cityscapes-t": content}, digest=False)
        model = segnext_t(weights="cityscapes")
        (asked,) = running.asked
    assert asked["path"].endswith("/model.pdparams")
    assert (
        downloads.place(load_published("cityscapes-t")).name
        == "segnext_mscan_t_cityscapes_1024x1024_160k.pdparams"
    )
    assert all(torch.equal(value, given.state_dict()[name]) for name, value in model.state_dict().items())
    assert (
        model.metadata["classes"][:2] == ["road", "sidewalk"] and model.metadata["metrics"]["miou"] == 0.8104
    )
    assert "short_side" not in model.metadata["preprocessing"]
