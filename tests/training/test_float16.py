"""Training in float16 scales the loss, steps over gradients that overflow, and resumes with the same scale."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from segnext.data.config import DataConfig, load_data_config
from segnext.signals import StoppedAtOnce
from segnext.training.loop import CHECKPOINT, Diverged
from tests.data.synthetic import write_data_set
from tests.training.runs import Trigger, assert_equal_runs, header, narrow, rows, run, tensors


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> DataConfig:
    return load_data_config(write_data_set(tmp_path_factory.mktemp("houses"), val=1))


def _stop_at_once() -> None:
    raise StoppedAtOnce


def _scaler(folder) -> dict[str, float]:
    return json.loads(header(folder / CHECKPOINT)["scaler"])


def test_a_resumed_run_is_bit_identical(data, tmp_path):
    run(data, tmp_path / "whole", dtype="float16")
    assert all(0 < float(row[1]) < 10 for row in rows(tmp_path / "whole") if row[1])
    with pytest.raises(StoppedAtOnce):
        run(data, tmp_path / "run", dtype="float16", file=Trigger("step 5/6", _stop_at_once))
    run(data, tmp_path / "run", dtype="float16", resume=True, model=narrow(seed=5))
    assert_equal_runs(tmp_path / "whole", tmp_path / "run")
    assert _scaler(tmp_path / "run")["_growth_tracker"] + _scaler(tmp_path / "run")["scale"] > 6


def test_an_overflow_changes_the_scale_alone(data, tmp_path):
    """The gradient of the classifier is infinite in the second step."""
    model, steps = narrow(), []

    def overflow(gradient: torch.Tensor) -> torch.Tensor:
        steps.append(len(steps))
        return gradient * float("inf") if len(steps) == 2 else gradient

    model.decoder.classifier.bias.register_hook(overflow)
    run(data, tmp_path / "one", steps=1, warmup=0, dtype="float16")
    run(data, tmp_path / "run", steps=2, warmup=0, dtype="float16", model=model, schedule="cosine")
    assert _scaler(tmp_path / "run")["scale"] == _scaler(tmp_path / "one")["scale"] / 2
    assert len(steps) == 2 and float(rows(tmp_path / "run")[1][1]) > 0
    before, after = tensors(tmp_path / "one" / CHECKPOINT), tensors(tmp_path / "run" / CHECKPOINT)
    weights = [key for key in before if key.startswith(("average.", "optimiser."))]
    assert weights and all(torch.equal(before[key], after[key]) for key in weights)


def test_a_scale_of_one_is_not_to_blame(data, tmp_path):
    model = narrow()
    model.decoder.classifier.bias.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(Diverged, match=r"\(gradient norm (nan|inf)\) at step 16 "):  # 65536 is 2^16
        run(data, tmp_path, steps=20, warmup=0, dtype="float16", model=model)


def test_a_checkpoint_without_its_scale_is_refused(data, tmp_path):
    run(data, tmp_path, steps=1, warmup=0, dtype="float16")
    path = tmp_path / CHECKPOINT
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    scale = json.loads(metadata["scaler"])
    for damaged in ({}, scale | {"scale": -1.0}, scale | {"scale": "1"}):
        save_file(tensors(path), path, metadata | {"scaler": json.dumps(damaged)})
        with pytest.raises(ValueError, match="got no scale of the loss; start anew"):
            run(data, tmp_path, steps=1, warmup=0, dtype="float16", resume=True)
