"""What cannot be exported or opened is one line, and leaves nothing behind."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from segnext import Predictor, create_model, export_model, open_exported
from segnext.export.targets import TARGETS
from segnext.models import SegNeXt
from tests.export.conftest import FORMATS, Files
from tests.full_disk import MESSAGE, full_disk

SMALL_SIDE = dict(height=64, width=64)


@pytest.mark.parametrize(
    ("name", "target", "options", "message"),
    [
        (
            "m.engine",
            None,
            {},
            r"path must end in one of \.onnx, \.xml, .*, got m.engine; rename it",
        ),
        ("m.onnx", "tensorrt", {}, "target must be one of onnx, openvino, .*, got 'tensorrt'; see --help"),
        ("m.onnx", "openvino", {}, "the file must end in .xml for openvino, got m.onnx; rename it"),
        (
            "m.pt2",
            "pt2",
            dict(dtype="float16"),
            "dtype must be float32 for pt2, got 'float16'; choose one of these",
        ),
        ("m.onnx", "onnx", dict(opset=17), "opset must be from 18 to 23, got 17; 20 has every operator"),
        ("m.onnx", "onnx", dict(opset=99), "opset must be from 18 to 23, got 99"),
        ("m.xml", None, dict(opset=18), "opset must be left out for openvino, got 18; only ONNX has one"),
        ("m.onnx", None, dict(height=0), "height must be a whole number from 1, got 0"),
    ],
)
def test_options_that_do_not_fit(
    model: SegNeXt, tmp_path: Path, name: str, target: str | None, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=f"^export: {message}"):
        export_model(model, tmp_path / name, target, **{**SMALL_SIDE, **options})
    assert not list(tmp_path.iterdir())


def test_unknown_field(model: SegNeXt, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="^export: .*unexpected keyword argument 'depth'; see segnext.export"):
        export_model(model, tmp_path / "m.onnx", depth=3)


@pytest.mark.parametrize(
    ("target", "package", "extra"),
    [("onnx", "onnxscript", "onnx"), ("onnx", "onnxruntime", "onnx"), ("openvino", "openvino", "openvino")],
)
def test_missing_package_says_what_installs_it(
    model: SegNeXt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, package: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # importing it fails as if it were not there
    path = tmp_path / f"m{TARGETS[target].suffix}"
    with pytest.raises(
        ImportError, match=rf"{target} needs the package {package}, .*pip install 'segnext\[{extra}\]'"
    ):
        export_model(model, path, **SMALL_SIDE)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("target", "suffix"), FORMATS)
def test_full_disk_leaves_the_old_file(
    model: SegNeXt, tmp_path: Path, target: str, suffix: str, files: Files
) -> None:
    path = tmp_path / f"m{suffix}"
    path.write_bytes(b"old")
    with full_disk(10_000), pytest.raises(OSError, match=f"{MESSAGE}|No space left") as caught:
        export_model(model, path, target, **SMALL_SIDE)
    assert caught.value.filename == str(path), "another file than the one that is asked for"
    assert path.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


def test_folder_that_nobody_may_write_to(model: SegNeXt) -> None:
    with pytest.raises(OSError, match="^.*(denied|Read-only|not permitted|No such file)") as caught:
        export_model(model, "/proc/m.onnx", **SMALL_SIDE)
    assert "/proc/m.onnx" in str(caught.value)


@pytest.mark.parametrize(("target", "suffix"), FORMATS)
@pytest.mark.parametrize("kept", [0, 100, 0.5, "page"])
def test_damaged_files_are_one_line(
    files: Files, tmp_path: Path, target: str, suffix: str, kept: float | str
) -> None:
    content = files(target, suffix).read_bytes()
    path = tmp_path / f"m{suffix}"
    if kept == "page":
        path.write_bytes(b"<!DOCTYPE html><html><title>Sign in</title></html>")
    else:
        assert not isinstance(kept, str)
        path.write_bytes(content[: int(kept if kept != 0.5 else 0.5 * len(content))])
    path.with_suffix(".bin").write_bytes(b"")
    with pytest.raises(ValueError, match=str(path)) as caught:
        open_exported(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 700


def test_weights_that_are_cut_are_one_line(files: Files, tmp_path: Path) -> None:
    source = files("openvino", ".xml")
    path = tmp_path / "m.xml"
    path.write_bytes(source.read_bytes())
    path.with_suffix(".bin").write_bytes(source.with_suffix(".bin").read_bytes()[:1000])
    with pytest.raises(ValueError, match=str(path)) as caught:
        open_exported(path)
    assert "\n" not in str(caught.value)


def test_files_of_other_origin(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="needs onnxruntime: pip install .[onnx]")
    path = tmp_path / "other.onnx"
    torch.onnx.export(torch.nn.ReLU(), (torch.zeros(1),), path, dynamo=True, verbose=False)
    with pytest.raises(
        ValueError, match="file must be one that `segnext export` wrote, got one of other origin"
    ):
        open_exported(path)
    traced = tmp_path / "other.torchscript"
    torch.jit.save(torch.jit.trace(torch.nn.ReLU(), torch.zeros(1)), str(traced))
    with pytest.raises(
        ValueError, match="file must be one that `segnext export` wrote, got one of other origin"
    ):
        open_exported(traced)


def test_paths_of_other_kinds(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="^export: path must be an exported file, got 'none.onnx'"):
        open_exported("none.onnx")
    path = tmp_path / "m.pth"
    path.touch()
    with pytest.raises(ValueError, match="^export: path must end in one of .*, got m.pth; checkpoints"):
        open_exported(path)


def test_other_devices_and_dtypes(files: Files) -> None:
    path = files("onnx", ".onnx")
    with pytest.raises(ValueError, match="device must be cpu for an exported file, got 'cuda'"):
        Predictor(path, device="cuda")
    with pytest.raises(
        ValueError, match="dtype must be float32 for ONNX Runtime, .* got bfloat16; leave it out"
    ):
        Predictor(path, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match="dtype must be float32 or bfloat16 for OpenVINO, got float16"):
        Predictor(files("openvino", ".xml"), dtype=torch.float16)


def test_models_that_segment_nothing(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="^export: "):
        export_model(create_model("mscan_t"), tmp_path / "m.onnx")
    with pytest.raises(TypeError, match="^export: "):
        export_model(torch.nn.ReLU(), tmp_path / "m.onnx")
