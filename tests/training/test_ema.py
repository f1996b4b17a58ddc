"""The averaged model is compared with its recurrence, written out."""

import copy

import pytest
import torch
from torch import nn

from segnext.training.ema import AveragedModel


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5))


@torch.no_grad()
def disturb(model: nn.Module, step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            tensor.add_(torch.randn(tensor.shape, generator=generator))
        else:
            tensor.add_(1)


@pytest.mark.parametrize("decay", [0.3, 0.999])
def test_recurrence(decay):
    model = network()
    average = AveragedModel(model, decay)
    expected = {name: tensor.double() for name, tensor in copy.deepcopy(model.state_dict()).items()}
    for step in range(40):
        disturb(model, step)
        average.update(model, step)
        kept = min(decay, (1 + step) / (10 + step))
        for name, tensor in model.state_dict().items():
            expected[name] = kept * expected[name] + (1 - kept) * tensor.double()
    for name, tensor in average.model.state_dict().items():
        if name.endswith("num_batches_tracked"):
            assert tensor == 40  # this buffer counts and is not averaged
        else:
            torch.testing.assert_close(tensor.double(), expected[name], rtol=1e-5, atol=1e-5)


def test_no_decay_follows_the_model():
    model = network()
    average = AveragedModel(model, 0.0)
    for step in range(3):
        disturb(model, step)
        average.update(model, step)
    for mine, theirs in zip(average.model.state_dict().values(), model.state_dict().values(), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_the_average_is_a_copy_for_evaluation():
    model = network().train()
    average = AveragedModel(model, 0.5).model
    assert not any(module.training for module in average.modules()) and model.training
    assert not any(parameter.requires_grad for parameter in average.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())
    pointers = {tensor.data_ptr() for tensor in model.state_dict().values()}
    assert pointers.isdisjoint(tensor.data_ptr() for tensor in average.state_dict().values())


@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan")])
def test_decay_out_of_range(decay):
    with pytest.raises(ValueError, match=r"ema: decay must be in 0\.\.1 \(1 excluded\), got"):
        AveragedModel(network(), decay)
