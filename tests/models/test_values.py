"""Tests that only numbers become weights: of the right kind, and finite."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from segnext import load_weights
from segnext.models import SegNeXt, build, dialects
from tests.weights import foreign

WEIGHT = "decoder.classifier.weight"
COUNTER = "backbone.stem.norm1.num_batches_tracked"


def tiny(**overrides: Any) -> SegNeXt:
    shape = {"channels": (16, 32, 32, 32), "depths": (1, 1, 1, 1), "decoder_channels": 32, "num_classes": 3}
    model = build("segnext_t", **(shape | {"rank": 4} | overrides))
    assert isinstance(model, SegNeXt)
    return model.eval()


UNFIT: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "uint8": (lambda t: t.to(torch.uint8), "got uint8"),
    "uint16": (lambda t: t.bfloat16().view(torch.uint16), "got uint16"),
    "int64": (lambda t: t.long(), "got int64"),
    "uint64": (lambda t: t.abs().to(torch.uint64), "got uint64"),
    "bool": (lambda t: t > 0, "got bool"),
    "complex": (lambda t: t.to(torch.complex64), "got complex64"),
    "float8": (lambda t: t.to(torch.float8_e4m3fn), "got float8_e4m3fn"),
    "conjugated": (lambda t: t.to(torch.complex64).conj(), "a view that waits"),
    "negated": (lambda t: t.to(torch.complex64).conj().imag, "a view that waits"),
    "sparse": (lambda t: t.to_sparse(), r"a sparse one \(sparse_coo\)"),
    "quantised": (lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8), r"a quantised one \(qint8\)"),
    "meta": (lambda t: t.to("meta"), "meta device, which has no values"),
}


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
@pytest.mark.parametrize("kind", UNFIT)
def test_other_kinds_of_tensors_are_refused_by_name(kind: str) -> None:
    change, message = UNFIT[kind]
    model = tiny()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = {**before, WEIGHT: change(before[WEIGHT])}
    with pytest.raises(
        ValueError, match=rf"load_state_dict: {WEIGHT} must be a dense tensor of floating.*{message}"
    ):
        model.load_state_dict(state)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize("value", [[1.0], None, "text", np.array(["a"]), np.array([None])], ids=repr)
def test_other_objects_are_refused_by_name(value: Any) -> None:
    with pytest.raises(ValueError, match=rf"values must be tensors or arrays of numbers, got .* as {WEIGHT}"):
        tiny().load_state_dict({**tiny().state_dict(), WEIGHT: value})


def test_a_number_without_axes_is_refused_by_name() -> None:
    name = "decoder.hamburger.bases"
    with pytest.raises(ValueError, match=f"rank of {name} must be 4 as in this model, got no axis"):
        tiny().load_state_dict({**tiny().state_dict(), name: torch.tensor(1.0)})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_state_in_another_floating_dtype_loads(dtype: torch.dtype) -> None:
    source, target = tiny(), tiny()
    target.load_state_dict({key: value.to(dtype) for key, value in source.state_dict().items()})
    torch.testing.assert_close(target.state_dict()[WEIGHT], source.state_dict()[WEIGHT], rtol=1e-2, atol=1e-3)


VARIANCE = "backbone.stem.norm1.running_var"
WIDE: dict[str, tuple[str, torch.dtype, Tensor]] = {
    "half": (VARIANCE, torch.float16, torch.full((8,), 1e5)),
    "half-of-bfloat16": (WEIGHT, torch.float16, torch.full((3, 32, 1, 1), -(2.0**17), dtype=torch.bfloat16)),
    "float-of-double": (WEIGHT, torch.float32, torch.full((3, 32, 1, 1), 1e300, dtype=torch.float64)),
    "counter": (COUNTER, torch.float32, torch.tensor(1e30)),
}


@pytest.mark.parametrize("kind", WIDE)
def test_numbers_that_the_models_dtype_cannot_hold_are_refused_by_name(kind: str) -> None:
    """They became infinite, or another number, without a word."""
    name, dtype, values = WIDE[kind]
    model = tiny().to(dtype)
    message = rf"load_state_dict: {name} must hold numbers of \w+ as in this model, at most .*, got 1[.e]"
    with pytest.raises(ValueError, match=message):
        model.load_state_dict({**tiny().state_dict(), name: values})
    if name != COUNTER:
        model.load_state_dict({**tiny().state_dict(), name: values}, assign=True)  # which converts nothing
        assert torch.equal(model.state_dict()[name], values)
    model.load_state_dict({**tiny().state_dict(), name: values.clamp(0, 1e4)})


def test_negative_variances_are_refused_by_name() -> None:
    state = {**tiny().state_dict(), VARIANCE: torch.full((8,), -0.5)}
    with pytest.raises(ValueError, match=f"variances must be 0 or more, got -0.5 in {VARIANCE}"):
        tiny().load_state_dict(state)


def test_counters_are_integers_or_floating() -> None:
    state = tiny().state_dict()
    for value in (torch.tensor(7), torch.tensor(7, dtype=torch.int32), torch.tensor(7.0)):
        model = tiny()
        model.load_state_dict({**state, COUNTER: value})
        assert model.state_dict()[COUNTER] == 7
    with pytest.raises(ValueError, match=f"{COUNTER} must be a dense tensor of integers, got bool"):
        tiny().load_state_dict({**state, COUNTER: torch.tensor(True)})


@pytest.mark.parametrize(
    ("value", "word"), [(math.nan, "NaN"), (math.inf, "infinity"), (-math.inf, "infinity")]
)
def test_numbers_that_are_not_finite_are_named_and_counted(value: float, word: str, tmp_path: Path) -> None:
    model = tiny()
    state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    state[WEIGHT][1, :2] = value
    state["decoder.classifier.bias"][0] = value
    message = rf"weights must be finite, got {word} in {WEIGHT} \(2 of its 96 values\) and 1 more tensors; the training"
    with pytest.raises(ValueError, match=f"load_state_dict: {message}"):
        model.load_state_dict(state)
    path = tmp_path / "diverged.pth"
    torch.save(state, path)
    with pytest.raises(ValueError, match=f"load_weights: .*diverged.pth .*: {message}"):
        load_weights(model, path)
    assert all(bool(tensor.isfinite().all()) for tensor in model.state_dict().values())


def test_a_state_without_values_loads_into_a_model_without_values() -> None:
    with torch.device("meta"):
        model, state = tiny(), tiny().state_dict()
    model.load_state_dict(state)


@pytest.mark.parametrize("rename", [foreign.as_paddleseg, foreign.as_jseg])
def test_bfloat16_that_was_saved_as_its_bits_is_decoded(rename: Callable[..., dict[str, np.ndarray]]) -> None:
    source, target = tiny().bfloat16(), tiny()
    official = {key: tensor.float() for key, tensor in dialects.to_official(source.state_dict()).items()}
    bits = {
        key: torch.from_numpy(value).bfloat16().view(torch.int16).numpy().view(np.uint16)
        for key, value in rename(official).items()
    }
    target.load_state_dict(bits)
    expected = source.state_dict()
    for key, tensor in target.state_dict().items():
        if not key.endswith(dialects.OPTIONAL):
            assert torch.equal(tensor, expected[key].float()), key
