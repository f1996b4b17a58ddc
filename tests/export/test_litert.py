"""LiteRT: files that its interpreter runs. The converter takes a minute, so only `make proof` makes one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from segnext import export_model, open_exported
from segnext.models import SegNeXt
from segnext_kernels import upsample_argmax

SIZE = dict(height=64, width=96)


def test_free_sizes_are_refused(model: SegNeXt, tmp_path: Path) -> None:
    for package in ("ai_edge_litert", "litert_torch"):
        pytest.importorskip(package, reason=f"needs {package}: pip install .[litert]")
    with pytest.raises(ValueError, match="^export: dynamic must be off for LiteRT, .* got on; pass --size"):
        export_model(model, tmp_path / "m.tflite", dynamic=True)
    assert not list(tmp_path.iterdir())


def test_a_file_of_other_content_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert", reason="needs ai_edge_litert: pip install .[litert]")
    (tmp_path / "m.tflite").write_bytes(bytes(100))
    with pytest.raises(ValueError, match="m.tflite: file must be one of LiteRT, got other content"):
        open_exported(tmp_path / "m.tflite")


@pytest.mark.proof
def test_a_mask_from_pixels_equals_that_of_the_network(
    model: SegNeXt, tmp_path: Path, photograph: torch.Tensor
) -> None:
    for package in ("ai_edge_litert", "litert_torch"):
        pytest.importorskip(package, reason=f"needs {package}: pip install .[litert]")
    network = export_model(model, tmp_path / "m.tflite", input="uint8", output="mask", **SIZE)
    assert network is not None and network.runtime.startswith("LiteRT ")
    assert network.description.target == "litert" and network.metadata["classes"] == model.metadata["classes"]
    mean, std = (
        torch.tensor(model.metadata["preprocessing"][name]).view(1, 3, 1, 1) for name in ("mean", "std")
    )
    with torch.no_grad():
        wanted = upsample_argmax(model((photograph - mean) / std, resize=False), (64, 96))
    assert (network.run(photograph.permute(0, 2, 3, 1)) == wanted).double().mean() > 0.999
