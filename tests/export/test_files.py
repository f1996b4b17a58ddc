"""Each format's file runs in its own runtime, and gives what the model gives."""

from __future__ import annotations

import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from segnext import Predictor, create_model, export_model, open_exported
from segnext.data.preprocessing import Preprocessing
from segnext.evaluation.exported import compare_on_photographs
from segnext.export.targets import TARGETS, is_exported
from segnext.models import SegNeXt
from segnext.models.finite import NonFiniteError
from segnext.predict.inference import Inference
from segnext.weights.containers import EXPORTED
from tests.export.conftest import FORMATS, Files, small_model

KINDS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "onnx": ("onnx", ".onnx", {}),
    "onnx-dynamic": ("onnx", ".onnx", dict(dynamic=True)),
    "onnx-mask": ("onnx", ".onnx", dict(input="uint8", output="mask")),
    "onnx-float16": ("onnx", ".onnx", dict(dtype="float16")),
    "onnx-opset18": ("onnx", ".onnx", dict(opset=18)),
    "openvino": ("openvino", ".xml", {}),
    "openvino-dynamic-mask": ("openvino", ".xml", dict(dynamic=True, input="uint8", output="mask")),
    "openvino-float16": ("openvino", ".xml", dict(dtype="float16")),
    "pt2": ("pt2", ".pt2", {}),
    "pt2-dynamic": ("pt2", ".pt2", dict(dynamic=True)),
    "torchscript": ("torchscript", ".torchscript", dict(dynamic=True, input="uint8")),
}
SLOW = {"aoti": ("aoti", ".pt2", {})}


@pytest.mark.parametrize(
    ("target", "suffix", "options"),
    [*KINDS.values(), pytest.param(*SLOW["aoti"], marks=pytest.mark.proof)],
    ids=[*KINDS, *SLOW],
)
def test_file_gives_the_masks_of_the_model(
    files: Files,
    model: SegNeXt,
    photograph: torch.Tensor,
    target: str,
    suffix: str,
    options: dict[str, Any],
) -> None:
    network = open_exported(files(target, suffix, **options))
    assert network.description.target == target and network.metadata["classes"] == model.metadata["classes"]
    sizes = [(1, 64, 96), (2, 64, 96), *([(1, 33, 131)] if options.get("dynamic") else [])]
    for count, height, width in sizes:
        pixels = photograph.expand(count, -1, -1, -1)
        if (height, width) != (64, 96):
            pixels = torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8)
        own, given = (Preprocessing.of(one.metadata)(pixels) for one in (model, network))
        wanted, got = model.predict(own), network.predict(given)
        assert got.dtype == wanted.dtype
        least = 0.99 if options.get("dtype") == "float16" else 0.999
        assert (got == wanted).double().mean() >= least
        if options.get("output") != "mask" and options.get("dtype") != "float16":
            logits = model.forward_logits(own).detach()
            error = (network.forward_logits(given) - logits).abs().max() / logits.abs().max()
            assert error < 1e-4


def test_strided_images_are_taken(files: Files, photograph: torch.Tensor) -> None:
    network = open_exported(files("onnx", ".onnx"))
    images = torch.randn(1, 96, 64, 3).permute(0, 3, 2, 1)
    assert torch.equal(network.forward_logits(images), network.forward_logits(images.contiguous()))


@pytest.mark.parametrize("kind", ["onnx", "openvino", "pt2", "torchscript"])
def test_threads_share_a_file(files: Files, kind: str) -> None:
    target, suffix, options = KINDS[kind]
    network = open_exported(files(target, suffix, **options))
    pixels = torch.randint(0, 256, (2, 1, 3, 64, 96)).float()
    wanted = [network.forward_logits(one).clone() for one in pixels]
    kept = network.forward_logits(pixels[0])
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(network.forward_logits, [*pixels] * 40))
    assert all(torch.equal(one, wanted[index % 2]) for index, one in enumerate(results))
    assert torch.equal(kept, wanted[0]), "a later call wrote into an earlier result"


@pytest.mark.parametrize("kind", ["pt2", "torchscript"])
def test_autocast_of_the_caller_changes_nothing(
    files: Files, model: SegNeXt, tmp_path: Path, photograph: torch.Tensor, kind: str
) -> None:
    target, suffix, _ = KINDS[kind]
    path, images = tmp_path / f"m{suffix}", Preprocessing.of(model.metadata)(photograph)
    with torch.autocast("cpu", torch.bfloat16):
        network = export_model(model, path, target, height=64, width=96)
        got = open_exported(files(target, suffix)).forward_logits(images)
    assert network is not None
    logits = model.forward_logits(images).detach()
    for result in (network.forward_logits(images), got):
        assert (result - logits).abs().max() < 1e-4 * logits.abs().max()


def test_predictor_takes_the_file(files: Files, model: SegNeXt, photograph: torch.Tensor) -> None:
    array = photograph[0].permute(1, 2, 0).numpy()
    wanted = Predictor(model, device="cpu")(array)
    for options in ({}, dict(input="uint8", output="mask")):
        predictor = Predictor(files("onnx", ".onnx", **options))
        got = predictor(array)
        assert (got.mask == wanted.mask).mean() > 0.999
        assert predictor.classes == wanted.classes and predictor.device.type == "cpu"


def test_windows_and_scales_run_on_the_file(files: Files, model: SegNeXt, photograph: torch.Tensor) -> None:
    array = photograph[0].permute(1, 2, 0).numpy()
    inference = Inference(scales=(0.75, 1.0), flip=True, mode="slide", crop=64, stride=40)
    wanted = Predictor(model, device="cpu", inference=inference)(array)
    got = Predictor(files("onnx", ".onnx", dynamic=True), inference=inference)(array)
    assert (got.mask == wanted.mask).mean() > 0.999
    with pytest.raises(ValueError, match="output must be logits for windows, scales"):
        Predictor(files("onnx", ".onnx", input="uint8", output="mask"), inference=inference)(array)


def test_mask_is_resized_to_the_photograph(files: Files, photograph: torch.Tensor) -> None:
    network = open_exported(files("onnx", ".onnx", input="uint8", output="mask"))
    images = photograph.float()
    small, large = network.predict(images), network.predict(images, (128, 192))
    assert torch.equal(large[:, ::2, ::2], small) and large.dtype == torch.uint8


@pytest.mark.parametrize(
    ("options", "shape", "message"),
    [
        (
            {},
            (1, 3, 64, 64),
            "images must be 64x96, for which it was exported, got 64x64; predict",
        ),
        (
            dict(dynamic=True),
            (1, 3, 32, 96),
            "images must have sides from 33 pixels, got 1 of 32x96; pad them",
        ),
        (
            dict(batch=2),
            (3, 3, 64, 96),
            "images must be a multiple of 2, for which it was exported, got 3",
        ),
        (
            {},
            (0, 3, 64, 96),
            "images must be a multiple of 1, for which it was exported, got 0",
        ),
        ({}, (1, 4, 64, 96), r"images must be \(N, 3, H, W\), got \(1, 4, 64, 96\)"),
    ],
)
def test_images_that_do_not_fit_are_one_line(
    files: Files, options: dict[str, Any], shape: tuple[int, ...], message: str
) -> None:
    network = open_exported(files("onnx", ".onnx", **options))
    with pytest.raises(ValueError, match=rf"^{network.file}: {message}") as caught:
        network.predict(torch.randn(shape))
    assert "\n" not in str(caught.value)


def test_square_files_say_how_windows_help(files: Files) -> None:
    network = open_exported(files("onnx", ".onnx", height=64, width=64))
    with pytest.raises(ValueError, match="predict with --mode slide --crop 64, or the file of"):
        network.predict(torch.randn(1, 3, 96, 128))
    inference = Inference(mode="slide", crop=64)
    mask = Predictor(network, inference=inference)(torch.zeros(80, 100, 3, dtype=torch.uint8).numpy()).mask
    assert mask.shape == (80, 100)


def test_logits_that_are_not_finite_are_no_classes(files: Files) -> None:
    network = open_exported(files("onnx", ".onnx"))
    with pytest.raises(NonFiniteError, match="logits must be finite"):
        network.predict(torch.full((1, 3, 64, 96), float("nan")))


def test_weights_that_are_not_finite_become_no_mask(tmp_path: Path) -> None:
    model = small_model()
    with torch.no_grad():
        model.decoder.classifier.weight.fill_(float("nan"))
    with pytest.raises(NonFiniteError, match="export: logits must be finite"):
        export_model(model, tmp_path / "m.torchscript", height=64, width=96, output="mask")
    assert not list(tmp_path.iterdir())


def test_half_precision_that_overflows_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="needs onnxruntime: pip install .[onnx]")
    model = small_model()
    with torch.no_grad():
        model.backbone.stem.norm2.weight.mul_(1e5)
    path = tmp_path / "m.onnx"
    with pytest.raises(
        ValueError, match="the result must be that of PyTorch in ONNX Runtime .*, got one that is off"
    ):
        export_model(model, path, dtype="float16", height=64, width=64)
    assert not path.exists()


def test_photographs_are_compared_at_the_size_of_the_file(files: Files, model: SegNeXt) -> None:
    street = Path(__file__).parents[2] / "docs" / "street.jpg"
    network = open_exported(files("openvino", ".xml"))
    agreement = compare_on_photographs(model, network, [street, street])
    assert agreement.pixels == 2 * 64 * 96 and agreement.images == 2 and agreement.share > 0.999
    assert agreement.failure("float32") is None
    with torch.no_grad():  # a file of other weights
        other = small_model()
        other.decoder.classifier.weight.neg_()
    wrong = compare_on_photographs(other, network, [street])
    assert "at least 99.9 % of the pixels must have the same class" in str(wrong.failure("float32"))
    assert wrong.failure("int8") is None  # pixels say nothing about it: labels do
    wrong.miou = (0.7, 0.697)
    assert "mIoU must be at most 0.2 points below 70.00, got 69.70" in str(wrong.failure("int8"))


def test_onnx_file_holds_standard_operators_and_its_description(files: Files) -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load(files("onnx", ".onnx", dynamic=True))
    onnx.checker.check_model(model, full_check=True)
    assert {node.domain for node in model.graph.node} == {""}
    assert [entry.version for entry in model.opset_import if entry.domain == ""] == [20]
    assert not any("Random" in node.op_type for node in model.graph.node)
    assert [axis.dim_param or axis.dim_value for axis in model.graph.input[0].type.tensor_type.shape.dim] == [
        "batch",
        3,
        "height",
        "width",
    ]
    assert [value.name for value in (*model.graph.input, *model.graph.output)] == ["images", "logits"]
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)


@pytest.mark.parametrize("kind", ["onnx", "openvino", "pt2", "torchscript"])
def test_where_weights_are_wanted_a_line_says_what_the_file_is(files: Files, kind: str) -> None:
    target, suffix, options = KINDS[kind]
    with pytest.raises(
        ValueError, match=rf"must be a checkpoint, got an exported file by its name \({suffix}\)"
    ) as caught:
        create_model(weights=files(target, suffix, **options))
    assert "segnext predict, val and bench take it" in str(caught.value) and "\n" not in str(caught.value)


def test_files_are_known_by_their_suffix() -> None:
    assert is_exported("a/b.onnx") and is_exported(Path("b.xml"))
    assert not is_exported("camvid") and not is_exported("b.pth") and not is_exported(3)
    assert {target.suffix for target in TARGETS.values()} >= {".onnx", ".xml", ".pt2", ".torchscript"}
    assert set(EXPORTED) == {target.suffix for target in TARGETS.values() if target.runs}


@pytest.mark.parametrize(
    ("name", "target"),
    [
        *(("m" + suffix.upper(), target) for target, suffix in FORMATS),
        pytest.param("m.PT2", "aoti", marks=pytest.mark.proof),
    ],
)
def test_capitals_in_a_suffix_change_nothing(
    files: Files, model: SegNeXt, tmp_path: Path, photograph: torch.Tensor, name: str, target: str
) -> None:
    path, images = tmp_path / name, Preprocessing.of(model.metadata)(photograph)
    export_model(model, path, target, height=64, width=96)
    assert is_exported(path) and path.name in [file.name for file in tmp_path.iterdir()]
    network = open_exported(path)
    assert network.description.target == target
    assert (network.predict(images) == model.predict(images)).double().mean() > 0.999
    with pytest.raises(ValueError, match="must be a checkpoint, got an exported file by its name"):
        create_model(weights=path)


def test_openvino_needs_both_files(files: Files, tmp_path: Path) -> None:
    path = shutil.copy(files("openvino", ".xml"), tmp_path / "m.xml")
    with pytest.raises(
        FileNotFoundError, match="its weights must lie beside it, got no file m.bin; copy both"
    ):
        open_exported(path)


@pytest.mark.parametrize(("target", "suffix"), FORMATS)
def test_a_network_goes_to_other_processes_by_its_path(
    model: SegNeXt, tmp_path: Path, photograph: torch.Tensor, target: str, suffix: str
) -> None:
    images = Preprocessing.of(model.metadata)(photograph)
    network = export_model(model, tmp_path / f"m{suffix}", target, height=64, width=96)
    assert network is not None
    there = pickle.loads(pickle.dumps(network))
    assert (there.path, there.digest, there.metadata) == (network.path, network.digest, network.metadata)
    assert torch.equal(there.forward_logits(images), network.forward_logits(images))
