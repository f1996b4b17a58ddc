"""Tests how much memory loading takes: the model that comes of it, and little beside."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from segnext import create_model, load_weights, segnext_s
from segnext.models import MSCAN, SegNeXt, build, dialects
from segnext.weights import save
from segnext.weights.reading import read_checkpoint
from tests.weights import memory_child

ALLOWED = 1.3  # of the file


@pytest.fixture(scope="module")
def model() -> SegNeXt | MSCAN:
    torch.manual_seed(0)
    return segnext_s()


def write(model: SegNeXt | MSCAN, kind: str, folder: Path) -> Path:
    path = folder / f"s.{kind}"
    if kind == "safetensors":
        save(model, path)
    else:
        torch.save({"state_dict": dialects.to_mmsegmentation(model.state_dict())}, path)
    return path


@pytest.mark.skipif(not memory_child.CLEAR.exists(), reason="Linux tells the peak, and forgets it")
@pytest.mark.parametrize("kind", ["safetensors", "pth"])
def test_a_file_takes_no_more_than_its_model(model: SegNeXt | MSCAN, kind: str, tmp_path: Path) -> None:
    path = write(model, kind, tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", memory_child.__name__, path],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    peak, held = map(int, done.stdout.split())
    print(f"{path.name}, {path.stat().st_size:,} bytes: {peak / path.stat().st_size:.2f} times the file")
    assert 0.5 * held < peak < ALLOWED * path.stat().st_size


@pytest.mark.parametrize("kind", ["safetensors", "pth"])
def test_the_tensors_that_were_read_become_the_models(
    model: SegNeXt | MSCAN, kind: str, tmp_path: Path
) -> None:
    path = write(model, kind, tmp_path)
    loaded = create_model(weights=path)
    path.write_bytes(b"")  # the model does not depend on the file
    memory = [tensor.untyped_storage() for tensor in loaded.state_dict().values()]
    assert len({storage.data_ptr() for storage in memory}) == len(memory)
    assert sum(storage.nbytes() for storage in memory) == sum(t.nbytes for t in loaded.state_dict().values())
    assert all(storage.resizable() for storage in memory)  # FSDP resizes them
    assert all(parameter.requires_grad for parameter in loaded.parameters()) and loaded.training
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)  # the bases come from their seed in both


def test_other_dtypes_are_those_of_the_model(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build("segnext_t", num_classes=3)
    save(model, tmp_path / "half.safetensors", dtype=torch.float16)
    loaded = create_model(weights=tmp_path / "half.safetensors")
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
    torch.set_default_dtype(torch.float64)
    try:
        assert (
            create_model(weights=tmp_path / "half.safetensors").decoder.classifier.weight.dtype
            == torch.float64
        )
    finally:
        torch.set_default_dtype(torch.float32)


def test_tensors_of_one_storage_get_memory_of_their_own(tmp_path: Path) -> None:
    torch.manual_seed(0)
    state_dict = build("segnext_t", num_classes=3).state_dict()
    flat = torch.cat([value.flatten().float() for value in state_dict.values()])
    parts = flat.split([value.numel() for value in state_dict.values()])
    views = {key: part.view(state_dict[key].shape) for key, part in zip(state_dict, parts, strict=True)}
    once = torch.rand(256)
    tied = {key: once for key in views if key in ("decoder.squeeze.norm.bias", "decoder.squeeze.norm.weight")}
    torch.save(views | tied, tmp_path / "flat.pth")
    loaded = create_model(weights=tmp_path / "flat.pth").state_dict()
    assert len({value.untyped_storage().data_ptr() for value in loaded.values()}) == len(loaded)
    assert all(value.untyped_storage().nbytes() == value.nbytes for value in loaded.values())
    assert torch.equal(loaded["decoder.squeeze.norm.bias"], loaded["decoder.squeeze.norm.weight"])


def test_a_model_without_memory_takes_the_tensors(tmp_path: Path) -> None:
    torch.manual_seed(0)
    given = build("segnext_t", num_classes=3)
    save(given, tmp_path / "t.safetensors")
    with torch.device("meta"):
        model = build("segnext_t", num_classes=3)
    with pytest.raises(ValueError, match="model must have memory for its weights"):
        load_weights(model, tmp_path / "t.safetensors")
    checkpoint = read_checkpoint(tmp_path / "t.safetensors")
    load_weights(model, checkpoint, assign=True)
    for name, value in model.state_dict().items():
        assert torch.equal(given.state_dict()[name], value)
    with torch.device("meta"):
        model = build("segnext_t", num_classes=3)
    del checkpoint.tensors["decoder.classifier.weight"]
    with pytest.raises(
        ValueError, match=r"must hold all weights of a model on the meta device, got none for dec"
    ):
        load_weights(model, checkpoint, assign=True, allow_missing=["decoder.classifier."])
