"""Tests the gradients of batches: with a CUDA graph they are those without one."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from segnext import segnext_t
from segnext.training.gradients import Gradients

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
CLASSES = 5


def _batches(count: int, side: int = 64) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (
            torch.randn(2, 3, side, side, generator=generator),
            torch.randint(CLASSES, (2, side, side), generator=generator),
        )
        for _ in range(count)
    ]


def _gradients(model: nn.Module) -> list[Tensor]:
    return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]


def test_gradients_replace_those_before():
    """On a CPU there is no graph, and a second batch's gradients are its own, not a sum."""
    torch.manual_seed(0)
    model = segnext_t(num_classes=CLASSES, drop_path=0.0, decoder_dropout=0.0).train()
    both = Gradients(model, model.loss)
    (first, second) = _batches(2)
    both(*first)
    torch.manual_seed(3)
    loss = both(*second)
    found = _gradients(model)
    torch.manual_seed(3)
    model.zero_grad()
    expected = model.loss(*second)
    expected.backward()
    assert loss == expected.detach() and not loss.requires_grad
    assert all(map(torch.equal, found, _gradients(model)))


@needs_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_graph_gives_the_same_bits(dtype):
    """Loss, gradients and batch-norm statistics, step by step, while an optimiser changes the weights."""
    torch.manual_seed(0)
    model = segnext_t(num_classes=CLASSES).cuda().train()
    models = model, copy.deepcopy(model)

    def loss_of(each: nn.Module):
        def loss(images: Tensor, labels: Tensor) -> Tensor:
            with torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
                return each(images, labels)

        return loss

    graphed, plain = (Gradients(each, loss_of(each)) for each in models)
    optimisers = [torch.optim.AdamW(each.parameters(), lr=1e-3, fused=True) for each in models]
    for step, (images, labels) in enumerate(_batches(4)):
        losses = []
        for compute, optimiser in zip((graphed, plain.without_graph), optimisers, strict=True):
            torch.manual_seed(step)
            losses.append(compute(images.cuda(), labels.cuda()))
            optimiser.step()
        assert torch.equal(*losses), f"step {step}"
        assert all(map(torch.equal, *map(_gradients, models))), f"step {step}"
        assert all(map(torch.equal, *(each.buffers() for each in models))), f"step {step}"
    assert graphed._captured is not None


@needs_gpu
def test_other_shapes_run_without_the_graph():
    """And the batch after them replays it again, into the parameters' gradients."""
    torch.manual_seed(0)
    model = segnext_t(num_classes=CLASSES, drop_path=0.0, decoder_dropout=0.0).cuda().train()
    compute = Gradients(model, model.loss)
    (images, labels), (other, other_labels) = _batches(1)[0], _batches(1, side=96)[0]

    def run(images: Tensor, labels: Tensor) -> list[Tensor]:
        torch.manual_seed(3)
        compute(images.cuda(), labels.cuda())
        return _gradients(model)

    first, between, again = run(images, labels), run(other, other_labels), run(images, labels)
    assert all(map(torch.equal, first, again)) and not all(map(torch.equal, first, between))


@needs_gpu
def test_a_loss_that_reads_on_the_host_is_computed_without_a_graph():
    model = nn.Linear(3, 2).cuda()

    def loss(images: Tensor, labels: Tensor) -> Tensor:
        out = model(images).sum()
        return out if out.item() > 0 else -out

    compute = Gradients(model, loss)
    images, labels = torch.ones(4, 3, device="cuda"), torch.zeros(4, device="cuda")
    with pytest.warns(RuntimeWarning, match="no CUDA graph of the training step"):
        first = compute(images, labels)
    assert torch.equal(first, compute(images, labels)) and model.weight.grad is not None
