"""CUDA graphs of a deployed model: which are kept; and on a GPU, that their results are the model's."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor

from segnext import create_model, deploy
from segnext.graphs import GRAPHS, GraphCache
from segnext.models import SegNeXt
from tests.models import transcription

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


class Capture:
    """What a graph is to the cache."""

    made: list[Any] = []
    finished: list[Any] = []

    def __init__(self, function: Any, images: Tensor) -> None:
        self.function, self.shape = function, images.shape
        Capture.made.append(images.shape)

    def __call__(self, images: Tensor) -> Tensor:
        assert images.shape == self.shape
        return self.function(images)

    def finish(self) -> None:
        Capture.finished.append(self.shape)


@pytest.fixture
def cache() -> GraphCache:
    Capture.made, Capture.finished = [], []
    return GraphCache(Capture)  # type: ignore[arg-type]


def test_one_capture_for_each_shape_and_kind(cache: GraphCache) -> None:
    for side in (4, 5, 4, 5):
        images = torch.rand(1, 3, side, side)
        assert torch.equal(cache("double", lambda t: 2 * t, images), 2 * images)
    assert torch.equal(cache("half", lambda t: t / 2, images), images / 2)
    assert len(Capture.made) == 3


def test_the_least_recently_used_goes_when_it_is_done(cache: GraphCache) -> None:
    sides = list(range(1, GRAPHS + 1))
    for side in (*sides, 1, GRAPHS + 1):  # 1 is used again: 2 goes
        cache("same", torch.clone, torch.rand(1, 3, side, side))
    assert [shape[2] for shape in Capture.finished] == [2]
    cache("same", torch.clone, torch.rand(1, 3, 1, 1))
    assert len(Capture.made) == GRAPHS + 1


def test_an_empty_batch_needs_no_graph(cache: GraphCache) -> None:
    assert cache("same", torch.clone, torch.rand(0, 3, 4, 4)).shape == (0, 3, 4, 4)
    assert not Capture.made


def test_a_failed_capture_leaves_nothing(cache: GraphCache) -> None:
    cache._capture = lambda function, images: 1 // 0  # type: ignore[assignment, return-value]
    with pytest.raises(ZeroDivisionError):
        cache("same", torch.clone, torch.rand(1, 3, 4, 4))
    assert not cache._calls


@pytest.fixture(scope="module")
def model() -> SegNeXt:
    model = create_model("segnext_t", num_classes=7)
    assert isinstance(model, SegNeXt)
    model.load_state_dict(transcription.trained_like("t", 7))
    return model.eval().cuda()


@needs_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_graphs_give_what_the_model_gives(model: SegNeXt, dtype: torch.dtype) -> None:
    fast = deploy(model, dtype)
    plain = deploy(model, dtype, cuda_graph=False)
    for shape in ((1, 3, 64, 96), (2, 3, 97, 203), (1, 3, 64, 96)):
        images = torch.randn(shape, device="cuda")
        logits = fast.forward_logits(images)
        assert torch.equal(logits, plain.forward_logits(images))
        assert torch.equal(fast.predict(images), plain.predict(images))
        expected = model.forward_logits(images).detach()
        error = ((logits - expected).abs().max() / expected.abs().max()).item()
        assert error <= (1e-3 if dtype == torch.float32 else 5e-2), error


@needs_gpu
def test_results_own_their_memory_and_streams_do_not_mix(model: SegNeXt) -> None:
    fast = deploy(model, torch.bfloat16)
    batches = [torch.randn(1, 3, 48, 64, device="cuda") for _ in range(6)]
    expected = [fast.forward_logits(images) for images in batches]
    assert not torch.equal(expected[0], expected[1])
    torch.cuda.synchronize()

    def run(images: Tensor) -> Tensor:
        with torch.cuda.stream(torch.cuda.Stream()):
            result = fast.forward_logits(images)
            torch.cuda.current_stream().synchronize()
        return result

    with ThreadPoolExecutor(6) as pool:
        for actual, wanted in zip(pool.map(run, batches), expected, strict=True):
            assert torch.equal(actual, wanted)


@needs_gpu
def test_inside_and_outside_of_inference_mode(model: SegNeXt) -> None:
    fast, images = deploy(model, torch.bfloat16), torch.randn(1, 3, 48, 64, device="cuda")
    with torch.inference_mode():
        inside = fast.predict(images)
    outside = fast.predict(images)
    assert torch.equal(inside, outside)
    outside += 1  # the caller's own
