"""Int8 by NNCF: which operators get eight bits, and that the file computes nearly what the network does."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from segnext import create_model, export_model
from segnext.export import int8
from segnext.export.description import Description, Interface
from segnext.export.graph import ExportGraph
from segnext.models import SegNeXt
from tests.export.conftest import SMALL

SIZE = dict(height=64, width=96)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("photographs")
    random = np.random.default_rng(0)
    files = [folder / f"{index:02}.png" for index in range(6)]
    for file in files:
        Image.fromarray(random.integers(0, 256, (50, 70, 3), np.uint8)).save(file)
    return files


def _described(model: SegNeXt, **interface: Any) -> Description:
    return Description(
        config=model.config, metadata=model.metadata, interface=Interface(**interface), target="openvino"
    )


def test_the_decoder_stays_in_float_and_the_encoder_s_convolutions_do_not(model: SegNeXt) -> None:
    pytest.importorskip("openvino")
    pytest.importorskip("onnxscript")
    from segnext.export.openvino_file import to_model

    network = to_model(ExportGraph(model, Interface(**SIZE)))
    kinds = {one.get_friendly_name(): one.get_type_name() for one in network.get_ops()}
    kept = int8.float_operators(network)
    kinds_kept, kinds_all = Counter(kinds[name] for name in kept), Counter(kinds.values())
    # squeeze of three stages, proj_in, align, classifier, and the last fc2; proj_out is a product of the factorisation
    assert kinds_kept["Convolution"] == 7
    # the stem, four entries, and in each of four blocks the attention's three and two of the feed-forward network
    assert kinds_all["Convolution"] - kinds_kept["Convolution"] == 1 + 4 + 4 * 5 - 1
    assert kinds_all["GroupConvolution"] == 4 * 8 and not kinds_kept["GroupConvolution"]
    for kind in ("MatMul", "Softmax", "Interpolate", "Add", "Multiply", "Gelu"):
        assert kinds_kept[kind] == kinds_all[kind] > 0, kind


@pytest.mark.parametrize(
    ("interface", "shapes", "dtype"),
    [
        (SIZE, {(1, 3, 64, 96)}, np.float32),
        ({**SIZE, "batch": 2, "input": "uint8"}, {(2, 64, 96, 3)}, np.uint8),
        ({"dynamic": True}, {(1, 3, 50, 70)}, np.float32),
    ],
    ids=["one-size", "pixels", "any-size"],
)
def test_photographs_become_the_file_s_input(
    model: SegNeXt, photographs: list[Path], interface: dict[str, Any], shapes: set[Any], dtype: Any
) -> None:
    arrays = int8.calibration_arrays(photographs, _described(model, **interface))
    assert len(arrays) == len(photographs)
    assert {array.shape for array in arrays} == shapes and {array.dtype for array in arrays} == {
        np.dtype(dtype)
    }
    if dtype == np.float32:  # (127.5 - mean) / std of the metadata
        assert abs(np.mean(arrays)) < 0.6 and 0.5 < np.std(arrays) < 1.5
    else:
        assert 120 < np.mean(arrays) < 135


def test_of_many_photographs_some_are_taken_at_equal_distances(
    model: SegNeXt, photographs: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(int8, "MOST_PHOTOGRAPHS", 4)
    all_six = np.stack(
        [int8.calibration_arrays([file], _described(model, **SIZE))[0] for file in photographs]
    )
    assert np.array_equal(int8.calibration_arrays(photographs, _described(model, **SIZE)), all_six[::2])


def test_a_file_in_eight_bits(photographs: list[Path], tmp_path: Path) -> None:
    for package in ("nncf", "openvino", "onnxscript"):
        pytest.importorskip(package, reason=f"needs {package}: pip install .[int8]")
    torch.manual_seed(0)
    model = create_model("segnext_t", **SMALL).eval()
    with torch.no_grad():
        model.decoder.classifier.weight.normal_()
    network = export_model(model, tmp_path / "m.xml", dtype="int8", calibrate=photographs, **SIZE)
    assert network is not None
    assert network.description.dtype == "int8" and network.description.notes == {"photographs": 6}
    text = (tmp_path / "m.xml").read_text()
    assert text.count('type="FakeQuantize"') > 24 + 32  # at least the weights of each convolution
    images = torch.from_numpy(np.concatenate(int8.calibration_arrays(photographs[:1], network.description)))
    with torch.no_grad():
        wanted = model(images, resize=False)
    error = ((network.forward_logits(images) - wanted).abs().mean() / wanted.abs().mean()).item()
    assert 1e-4 < error < 0.15  # 0.057; 0.63 if the ranges come from images of a twentieth of the contrast


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            dict(dtype="int8"),
            "calibrate must be photographs like those of use for int8, got none; 20 are enough",
        ),
        (
            dict(calibrate=[Path("a.png")]),
            "calibrate must be left out for float32, got 1 photographs; pass int8",
        ),
        (
            dict(dtype="int8", calibrate=[Path("a.png")]),
            "dtype must be float32 or float16 for onnx, got 'int8'",
        ),
    ],
    ids=["no-photographs", "not-int8", "onnx"],
)
def test_options_that_do_not_fit(
    model: SegNeXt, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    name = "m.onnx" if "onnx" in message else "m.xml"
    with pytest.raises(ValueError, match=f"^export: {message}"):
        export_model(model, tmp_path / name, **SIZE, **options)
    assert not list(tmp_path.iterdir())


def test_without_nncf_the_error_says_what_installs_it(
    model: SegNeXt, photographs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    pytest.importorskip("onnxscript")
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(ImportError, match=r"^export: int8 needs the package nncf, .*'segnext\[int8\]'"):
        export_model(model, tmp_path / "m.xml", dtype="int8", calibrate=photographs, **SIZE)
    assert not list(tmp_path.iterdir())
