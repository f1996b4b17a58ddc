"""Tests `segnext convert`."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner, Result

from segnext import create_model
from segnext.cli.convert import convert
from segnext.models import SegNeXt
from tests.weights import foreign
from tests.weights.checkpoints import imagenet, official, saved

app = typer.Typer()
app.command()(convert)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def expect_error(kind: type[Exception], message: str, *arguments: object) -> None:
    result = run(*arguments)
    assert isinstance(result.exception, kind), result.output
    assert message in str(result.exception) and "\n" not in str(result.exception)


@pytest.fixture(autouse=True)
def in_a_new_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_official_to_native_by_default() -> None:
    saved(official(), Path("segnext_tiny.pth"))
    result = run("segnext_tiny.pth")
    assert result.exit_code == 0, result.output
    assert "550 matched, 1 missing, 0 unexpected, 0 reshaped" in result.output
    assert "NMF rank: 16, as the official segnext_t" in result.output
    assert "segnext_tiny.safetensors: segnext_t, 3 classes (without names), native names" in result.output
    model = create_model(weights="segnext_tiny.safetensors")
    expected = official()["decode_head.conv_seg.weight"]
    assert isinstance(model, SegNeXt) and torch.equal(model.decoder.classifier.weight, expected)


def test_there_and_back_is_identical() -> None:
    saved(official(), Path("start.pth"))
    assert run("start.pth", "-o", "native.safetensors").exit_code == 0
    result = run("native.safetensors", "--to", "official", "-o", "back.pth")
    assert result.exit_code == 0 and "official names" in result.output
    back = torch.load("back.pth", weights_only=True)["state_dict"]
    start = official()
    assert back.keys() == start.keys()
    assert all(torch.equal(back[key], start[key].to(back[key].dtype)) for key in start)


@pytest.mark.parametrize(
    ("peer", "suffix", "matched"), [("mmsegmentation", "pth", 550), ("paddleseg", "PDPARAMS", 519)]
)
def test_to_other_code_bases_and_back(peer: str, suffix: str, matched: int) -> None:
    saved(official(), Path("start.pth"))
    result = run("start.pth", "--to", peer, "-o", f"there.{suffix}", "--rank", "8")
    assert result.exit_code == 0 and f"{peer} names" in result.output
    assert "note: " in result.output and ("'MD_R': 8" in result.output) == (peer == "paddleseg")
    back = run(f"there.{suffix}", "-o", "back.safetensors")
    assert back.exit_code == 0 and f"{matched} matched" in back.output
    own, model = official(), create_model(weights="back.safetensors")
    assert torch.equal(model.state_dict()["decoder.classifier.weight"], own["decode_head.conv_seg.weight"])
    assert model.config.rank == (8 if peer == "mmsegmentation" else 16)
    assert ("preprocessing" in model.metadata) == (peer == "mmsegmentation")


def test_averages_and_unknown_parts_are_chosen_on_the_command_line() -> None:
    average = {f"module.{key}": value + 1 for key, value in official().items()}
    torch.save(
        {"state_dict": {**official(), "edge.x": torch.rand(2)}, "state_dict_ema": average}, "start.pth"
    )
    own = official()["decode_head.conv_seg.weight"]
    for options, expected in (((), own + 1), (("--average",), own + 1), (("--no-average",), own)):
        arguments = ("start.pth", "--overwrite", "--allow-unexpected", "edge.", *options)
        result = run(*arguments)
        assert result.exit_code == 0 and "weights: " in result.output, result.exception
        model = create_model(weights="start.safetensors")
        assert torch.equal(model.state_dict()["decoder.classifier.weight"], expected)
    expect_error(ValueError, "segnext convert: --allow-unexpected", "start.pth", "--overwrite")


def test_paddle_with_classes_from_a_yaml() -> None:
    Path("mine.pdparams").write_bytes(pickle.dumps(foreign.as_paddleseg(official()), 2))
    Path("data.yaml").write_text(
        "path: .\ntrain: {images: a, labels: b}\nclasses: [road, car, sky]\n"
        "palette: [[1, 2, 3], [4, 5, 6], [7, 8, 9]]\n"
    )
    result = run("mine.pdparams", "--classes", "data.yaml")
    assert result.exit_code == 0, repr(result.exception)
    assert "26 reshaped" in result.output and "3 classes (named)" in result.output
    assert create_model(weights="mine.safetensors").metadata == {
        "classes": ["road", "car", "sky"],
        "palette": [[1, 2, 3], [4, 5, 6], [7, 8, 9]],
    }


def test_class_names_and_rank_on_the_command_line() -> None:
    saved(official(), Path("start.pth"))
    assert run("start.pth", "--classes", "road, car,sky", "--rank", "8").exit_code == 0
    model = create_model(weights="start.safetensors")
    assert model.metadata == {"classes": ["road", "car", "sky"]} and model.config.rank == 8


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("a,b\nc,d", "classes must be 3 names of one line"),
        (f"a,b,{'c' * 201}", "classes must be 3 names of one line"),
        ("a,,c", "classes must be names with commas between them, got a,,c"),
        ("", "classes must be names with commas between them, got ; name"),
    ],
)
def test_class_names_that_no_file_may_hold(names: str, message: str) -> None:
    saved(official(), Path("start.pth"))
    expect_error(ValueError, message, "start.pth", "--classes", names)
    assert not Path("start.safetensors").exists()


def test_imagenet_backbone() -> None:
    saved(imagenet(), Path("mscan_t.pth"))
    result = run("mscan_t.pth")
    assert result.exit_code == 0 and "mscan_t, 1000 classes" in result.output
    assert "NMF rank" not in result.output


def test_never_overwrites_unasked() -> None:
    saved(official(), Path("start.pth"))
    Path("start.safetensors").write_text("mine")
    expect_error(FileExistsError, "got start.safetensors; pass --overwrite to replace it", "start.pth")
    assert Path("start.safetensors").read_text() == "mine"
    assert run("start.pth", "--overwrite").exit_code == 0
    assert create_model(weights="start.safetensors").config.num_classes == 3


def test_a_link_to_nothing_is_there_too() -> None:
    saved(official(), Path("start.pth"))
    Path("start.safetensors").symlink_to("nothing")
    expect_error(FileExistsError, "got start.safetensors; pass --overwrite to replace it", "start.pth")
    assert Path("start.safetensors").is_symlink()


def test_home_in_the_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell leaves ~ as it is behind an equals sign."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    saved(official(), Path("start.pth"))
    result = run("start.pth", "--output=~/weights.safetensors")
    assert f"{tmp_path}/home/weights.safetensors: segnext_t" in result.output
    assert create_model(weights="~/weights.safetensors")
    expect_error(
        FileExistsError, "home/weights.safetensors; pass", "start.pth", "--output=~/weights.safetensors"
    )


def test_errors_leave_no_file() -> None:
    saved(official(), Path("start.pth"))
    Path("broken.pth").write_bytes(Path("start.pth").read_bytes()[:1000])
    expect_error(ValueError, "damaged or cut", "broken.pth")
    expect_error(FileNotFoundError, "got 'nothing.pth'", "nothing.pth")
    expect_error(
        ValueError, "must be 3 names as the checkpoint has classes, got 2", "start.pth", "--classes", "a,b"
    )
    # a shipped data set gives its names without being on this machine
    expect_error(
        ValueError,
        "must be 3 names as the checkpoint has classes, got 150",
        "start.pth",
        "--classes",
        "ade20k",
    )
    expect_error(ValueError, "output must be named *.safetensors, got x.pth", "start.pth", "-o", "x.pth")
    expect_error(
        ValueError,
        "must be named *.safetensors or *.pth, got x.bin",
        *("start.pth", "--to", "official", "-o", "x.bin"),
    )
    expect_error(ValueError, "must be named *.pdparams", *("start.pth", "--to", "paddleseg", "-o", "x.pth"))
    assert sorted(path.name for path in Path().iterdir()) == ["broken.pth", "start.pth"]
