"""Tests CUDA graphs of a deployed model: the cache keeps the right ones; on a GPU their results are the model's."""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor

from oracle import transcription
from segnext import create_model, deploy
from segnext.deployment.graphs import GRAPHS, CaptureError, GraphCache
from segnext.models import SegNeXt

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


class Capture:
    """Stands for a graph in the cache's tests."""

    made: list[Any] = []
    finished: list[Any] = []

    def __init__(self, function: Any, images: Tensor) -> None:
        self.function, self.shape = function, images.shape
        function(images)
        Capture.made.append(images.shape)

    def __call__(self, images: Tensor) -> Any:
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


def test_a_memory_format_has_a_capture_of_its_own(cache: GraphCache) -> None:
    images = torch.rand(2, 3, 4, 5)
    inside = torch.rand(2, 3, 9, 9)[:, :, :4, :5]  # the graph's own copy of it is as dense as the first
    for view in (images, images.contiguous(memory_format=torch.channels_last), inside, images):
        assert torch.equal(cache("double", lambda t: 2 * t, view), 2 * view)
    assert len(Capture.made) == 2


def test_a_shape_that_comes_twice_takes_the_least_recently_used_ones_place(cache: GraphCache) -> None:
    sides = list(range(1, GRAPHS + 1))
    for side in (*sides, 1, GRAPHS + 1, GRAPHS + 1):  # 1 is used again: 2 goes
        cache("same", torch.clone, torch.rand(1, 3, side, side))
    assert [shape[2] for shape in Capture.finished] == [2]
    cache("same", torch.clone, torch.rand(1, 3, 1, 1))
    assert len(Capture.made) == GRAPHS + 1


def test_more_shapes_in_turn_than_places_cost_no_captures(cache: GraphCache) -> None:
    for side in (*range(1, GRAPHS + 3), *range(1, GRAPHS + 3)):
        images = torch.rand(1, 3, side, side)
        assert torch.equal(cache("double", lambda t: 2 * t, images), 2 * images)
    assert len(Capture.made) == GRAPHS and not Capture.finished


def test_a_function_that_cannot_be_captured_runs_after_one_warning(cache: GraphCache) -> None:
    attempts = []

    def fail(function: Any, images: Tensor) -> Any:
        attempts.append(images.shape)
        raise CaptureError("RuntimeError: operation not permitted when stream is capturing")

    cache._capture = fail
    images, others = torch.rand(1, 3, 4, 5), torch.rand(1, 3, 6, 5)
    with pytest.warns(
        RuntimeWarning, match=r"no CUDA graph of images \(1, 3, 4, 5\) \(RuntimeError: operation"
    ):
        assert torch.equal(cache("double", lambda t: 2 * t, images), 2 * images)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for again in (images, others, images, others):
            assert torch.equal(cache("double", lambda t: 2 * t, again), 2 * again)
    assert len(attempts) == 2  # one per shape
    cache._capture = Capture  # type: ignore[assignment]
    assert cache("double", lambda t: 2 * t, torch.rand(1, 3, 8, 8)).shape == (1, 3, 8, 8)
    assert len(Capture.made) == 1


def test_graphs_make_room_where_memory_is_missing(cache: GraphCache) -> None:
    def only_alone(function: Any, images: Tensor) -> Any:
        if cache._calls:
            raise torch.OutOfMemoryError("out of memory")
        return Capture(function, images)

    cache._capture = only_alone
    for side in (4, 5):
        cache("same", torch.clone, torch.rand(1, 3, side, side))
    assert [shape[2] for shape in Capture.finished] == [4] and len(cache._calls) == 1

    def never(function: Any, images: Tensor) -> Any:
        raise torch.OutOfMemoryError("out of memory")

    cache._capture = never
    with pytest.raises(torch.OutOfMemoryError):
        cache("same", torch.clone, torch.rand(1, 3, 6, 6))
    assert not cache._calls


def test_an_empty_batch_needs_no_graph(cache: GraphCache) -> None:
    assert cache("same", torch.clone, torch.rand(0, 3, 4, 4)).shape == (0, 3, 4, 4)
    assert not Capture.made


def test_the_functions_own_exception_passes_and_leaves_nothing(cache: GraphCache) -> None:
    with pytest.raises(ZeroDivisionError), warnings.catch_warnings():
        warnings.simplefilter("error")
        cache("same", lambda images: 1 // 0, torch.rand(1, 3, 4, 4))  # type: ignore[arg-type, return-value]
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
def test_a_function_that_waits_for_the_host_cannot_be_captured() -> None:
    cache, images = GraphCache(), torch.ones(1, 3, 4, 4, device="cuda")
    stream = torch.cuda.current_stream()
    with pytest.warns(RuntimeWarning, match="no CUDA graph of images"):
        (result,) = cache("sum", lambda t: (t * t.sum().item(),), images)
    assert torch.equal(result, 48 * images) and torch.cuda.current_stream() == stream
    (result,) = cache("sum", lambda t: (t * t.sum().item(),), images)
    assert torch.equal(result, 48 * images)


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
    outside += 1  # the caller owns it
