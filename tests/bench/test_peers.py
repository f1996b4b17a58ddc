"""Tests the models' peers: each formulation is exported once, the fastest is timed, each in its dtype."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch
from torch import Tensor

from bench import peers
from bench.peers import Build
from segnext.measure import runtimes

IMAGES = torch.randn(1, 2, 3, 4).contiguous(memory_format=torch.channels_last)


def formulation(seconds: float) -> Build:
    def build(layout: torch.memory_format) -> tuple[Any, tuple[Tensor]]:
        return (lambda images: seconds), (IMAGES.contiguous(memory_format=layout),)

    return build


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Note what was exported; stand in for the runtimes, which sleep as long as the formulation says."""
    calls: list[float] = []

    def export(function: Any, images: Tensor) -> float:
        assert images.is_contiguous()
        calls.append(function(images))
        return calls[-1]

    def runtime(model: float, images: Tensor, dtype: torch.dtype = torch.float32) -> Any:
        def run() -> tuple[float, torch.dtype]:
            time.sleep(model)
            return model, dtype

        return run

    monkeypatch.setattr(runtimes, "export_onnx", export)
    monkeypatch.setattr(runtimes, "onnx_runtime", runtime)
    monkeypatch.setattr(runtimes, "openvino", runtime)
    return calls


def test_runtimes_share_graphs_and_get_the_fastest(exported: list[float]) -> None:
    table = peers.float32_peers(formulation(0.001))
    build = formulation(0.03)
    assert table["ONNX Runtime"](build)() == (0.001, torch.float32)
    assert table["OpenVINO"](build)() == (0.001, torch.float32)
    assert exported == [0.03, 0.001]
    assert list(table)[:2] == list(peers.PEERS)


def test_bfloat16_is_lowered_from_float32(exported: list[float]) -> None:
    table = peers.bfloat16_peers(formulation(0.002), formulation(0.05))
    assert table["OpenVINO"](formulation(9.0))() == (0.002, torch.bfloat16)
    assert "ONNX Runtime" not in table and "eager" not in table
