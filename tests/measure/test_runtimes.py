"""Other runtimes give the same result as PyTorch, or a reason in one line."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch
from torch import Tensor

from segnext import create_model
from segnext.measure import runtimes
from segnext.measure.runtimes import Unavailable
from segnext.models import SegNeXt

WEIGHT = torch.randn(5, 3, 3, 3, generator=torch.Generator().manual_seed(0))
IMAGES = torch.randn(1, 3, 8, 6, generator=torch.Generator().manual_seed(1))


def toy(images: Tensor) -> Tensor:
    return torch.nn.functional.gelu(torch.conv2d(images, WEIGHT, padding=1))


def small_model() -> SegNeXt:
    model = create_model(
        "segnext_t",
        num_classes=5,
        channels=(16, 16, 16, 16),
        depths=(1, 1, 1, 1),
        decoder_channels=32,
        rank=4,
    )
    assert isinstance(model, SegNeXt)
    return model.eval()


@pytest.fixture(scope="module")
def toy_graph() -> bytes:
    for name in ("onnx", "onnxscript"):
        pytest.importorskip(name, reason=f"the exporter needs {name}: pip install .[bench]")
    return runtimes.export_onnx(toy, IMAGES)


@pytest.mark.parametrize(("runtime", "package"), [("onnx_runtime", "onnxruntime"), ("openvino", "openvino")])
def test_result_is_that_of_pytorch(toy_graph: bytes, runtime: str, package: str) -> None:
    pytest.importorskip(package, reason=f"needs {package}: pip install .[bench]")
    strided = IMAGES.contiguous(memory_format=torch.channels_last)
    run = getattr(runtimes, runtime)(toy_graph, strided)
    torch.testing.assert_close(run(), toy(IMAGES), rtol=1e-5, atol=1e-5)


def test_bfloat16_is_the_precision_inside(toy_graph: bytes) -> None:
    pytest.importorskip("openvino", reason="needs openvino: pip install .[bench]")
    try:
        output = runtimes.openvino(toy_graph, IMAGES, dtype=torch.bfloat16)()
    except Unavailable as reason:
        pytest.skip(str(reason))
    error = (output - toy(IMAGES)).abs().max()
    assert 1e-5 < error < 0.1


def test_ctrl_c_after_two_models_in_openvino_is_no_crash(toy_graph: bytes, tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="needs openvino: pip install .[bench]")
    (tmp_path / "toy.onnx").write_bytes(toy_graph)
    program = """if True:
        import gc, pathlib, signal, sys, torch
        from segnext.measure import runtimes
        graph = pathlib.Path(sys.argv[1]).read_bytes()
        runs = [runtimes.openvino(graph, torch.zeros(1, 3, 8, 6)) for _ in range(2)]
        for _ in range(2):
            del runs[0]
            gc.collect()
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            print("stopped")"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "toy.onnx")],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, "stopped\n")


def test_bfloat16_is_refused_where_the_cpu_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino", reason="needs openvino: pip install .[bench]")

    class Core:
        def get_property(self, *_: str) -> list[str]:
            return ["FP32", "INT8"]

    monkeypatch.setattr(runtimes, "openvino_core", Core)
    with pytest.raises(Unavailable, match="no bfloat16 arithmetic"):
        runtimes.openvino(b"", IMAGES, dtype=torch.bfloat16)


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime", "openvino"])
def test_what_is_not_installed_is_named_with_its_remedy(
    monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    calls = {"onnxruntime": runtimes.onnx_runtime, "openvino": runtimes.openvino}
    if package in ("onnxscript",):
        monkeypatch.setitem(sys.modules, "onnx", types.ModuleType("onnx"))
    with pytest.raises(Unavailable, match=rf"^{package} is not installed; pip install .*{package}"):
        if package in calls:
            calls[package](b"", IMAGES)
        else:
            runtimes.export_onnx(toy, IMAGES)


def test_what_fails_says_so_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise OSError("no compiler\nand a long story")

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(Unavailable) as error:
        runtimes.torch_compile(toy, IMAGES)
    assert str(error.value) == "torch.compile failed: OSError: no compiler"


def test_compilation_is_over_before_the_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def fake(function: object, dynamic: bool, mode: str | None) -> object:
        assert not dynamic
        return lambda images: calls.append(torch.is_inference_mode_enabled()) or toy(images)

    monkeypatch.setattr(torch, "compile", fake)
    run = runtimes.torch_compile(toy, IMAGES)
    assert calls == [True]
    assert torch.equal(run(), toy(IMAGES))


def test_plain_is_the_model_without_our_operators() -> None:
    model, images = small_model(), torch.randn(1, 3, 40, 64)
    plain = runtimes.plain(model, images)
    with torch.inference_mode():
        torch.testing.assert_close(plain(images), model.forward_logits(images), rtol=1e-4, atol=1e-5)
    assert isinstance(plain, torch.fx.GraphModule)
    operators = {str(node.target) for node in plain.graph.nodes if node.op == "call_function"}
    assert "aten.conv2d.default" in operators
    assert not [name for name in operators if "segnext" in name or "aten.linear" in name]


def test_fastest_is_the_fastest() -> None:
    import time

    slow = lambda: time.sleep(0.02) or IMAGES  # noqa: E731
    quick = lambda: IMAGES  # noqa: E731
    assert runtimes.fastest([slow, quick, slow]) is quick
    assert runtimes.fastest([slow]) is slow
