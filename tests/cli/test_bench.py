"""`segnext bench` checks before it times, gives a reason for every missing number, and refuses in one line."""

from __future__ import annotations

import importlib

import pytest
import torch

import segnext
from segnext import create_model
from segnext.cli.main import main
from segnext.measure import runtimes
from segnext.measure.runtimes import Unavailable

bench = importlib.import_module("segnext.cli.bench")
SMALL = {"num_classes": 5, "channels": (16,) * 4, "depths": (1,) * 4, "decoder_channels": 32, "rank": 4}


@pytest.fixture
def run(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(bench, "_build", lambda name: create_model(f"segnext_{name}", **SMALL).eval())

    def call(*words: object) -> tuple[int, str, str]:
        status = 0
        try:
            main(["bench", "--size", "40x32", "--seconds", "0", *map(str, words)])
        except SystemExit as exit_:
            status = int(exit_.code or 0)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


@pytest.fixture
def no_graphs(monkeypatch):
    def refuse(*_: object) -> bytes:
        raise Unavailable("onnx is not installed; pip install onnx")

    monkeypatch.setattr(runtimes, "export_onnx", refuse)


@pytest.mark.parametrize(("words", "target"), [((), "mask"), (("--logits",), "logits")])
def test_every_installed_runtime_passes_the_check(run, words, target):
    for package in ("onnx", "onnxscript", "onnxruntime", "openvino"):
        pytest.importorskip(package, reason=f"needs {package}: pip install .[bench]")
    status, text, errors = run(*words)
    assert status == 0, errors
    assert f"segnext_t, 1x40x32 to {target}, float32" in text and "no number" not in text
    for name in ("segnext", "eager PyTorch", "ONNX Runtime", "OpenVINO"):
        assert name in text
        assert f"preparing {name}" in errors


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_is_not_installed_is_a_line(run, no_graphs, dtype):
    status, text, _ = run("--dtype", dtype)
    assert status == 0
    assert "OpenVINO: no number: onnx is not installed; pip install onnx" in text
    assert ("ONNX Runtime: no number" in text) == (dtype == "float32")
    (line,) = [line for line in text.splitlines() if "eager PyTorch" in line]
    assert line.rstrip(" │").endswith("x")


class Wrong:
    def __init__(self, *_: object) -> None: ...

    def predict(self, images: torch.Tensor) -> torch.Tensor:
        return torch.randint(5, (1, 40, 32))

    def forward_logits(self, images: torch.Tensor) -> torch.Tensor:
        return torch.full((1, 5, 5, 4), torch.nan)


@pytest.mark.parametrize("words", [(), ("--logits",)])
def test_a_wrong_result_is_never_timed(run, no_graphs, monkeypatch, words):
    monkeypatch.setattr(segnext, "deploy", Wrong, raising=False)
    status, text, errors = run(*words)
    assert (status, text) == (1, "")
    assert "bench: wrong: " in errors.splitlines()[-1]


def test_a_wrong_peer_gets_no_number(run, monkeypatch):
    monkeypatch.setattr(runtimes, "export_onnx", lambda *_: b"")
    for name in ("onnx_runtime", "openvino"):
        monkeypatch.setattr(runtimes, name, lambda *_, **__: lambda: torch.randint(5, (1, 40, 32)))
    status, text, _ = run()
    assert status == 0
    assert text.count("have a class that is not the best") == 2


def test_threads(run, no_graphs, threads):
    assert "1 threads" in run("--threads", 1)[1]


@pytest.mark.parametrize("size", ["big", "0x32", "1x2x3"])
def test_refused_in_a_line(run, size):
    status, text, errors = run("--size", size)
    assert (status, text) == (1, "") and errors.count("\n") == 1 and "segnext: --size must be" in errors


def test_names_of_models():
    assert bench._build("t").config.architecture == "segnext_t"
    assert not bench._build("segnext_t").training
    with pytest.raises(FileNotFoundError):
        bench._build("no-such-weights")
