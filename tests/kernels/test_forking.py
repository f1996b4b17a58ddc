"""Tests that a process that was forked after computing computes too, and gets the parent's numbers."""

from __future__ import annotations

import multiprocessing
import sys
from multiprocessing.queues import SimpleQueue

import pytest
import torch

from segnext_kernels import dwconv_gelu

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="elsewhere fork is not what processes are made by"
)
SECONDS = 60


def _compute() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(2, 64, 64, 64, generator=generator), torch.randn(64, 1, 3, 3, generator=generator)
    # a kernel of ours and two of PyTorch's, each with enough work for several threads
    return (
        dwconv_gelu(x.contiguous(memory_format=torch.channels_last), weight).sum((0, 2, 3))
        + (x @ x).exp().mean()
    )


def _child(answers: SimpleQueue) -> None:
    answers.put((_compute().tolist(), torch.get_num_threads()))


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_child_computes_after_the_parent_did(method: str) -> None:
    torch.set_num_threads(3)
    expected = _compute()
    context = multiprocessing.get_context(method)
    answers = context.SimpleQueue()
    child = context.Process(target=_child, args=(answers,))
    child.start()
    child.join(SECONDS)
    ended = not child.is_alive()
    child.kill()
    assert ended, "the child hangs"
    numbers, threads = answers.get()
    torch.testing.assert_close(torch.tensor(numbers), expected)
    assert threads == 1 or method == "spawn"
    assert torch.get_num_threads() == 3, "the parent keeps its threads"
