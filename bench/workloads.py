"""What the model benchmarks run: models, the same weights in plain PyTorch, inputs, training steps, gates."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from bench import plain_segnext
from segnext import create_model
from segnext.models import SegNeXt, layouts
from tests.models import transcription

CLASSES = 150
TOLERANCE = 1e-4  # of the largest logit, float32


def pair(size: str, **overrides: Any) -> tuple[SegNeXt, dict[str, Tensor]]:
    """Our model in evaluation mode, and the official state dict of trained-like values that is in it."""
    state_dict = transcription.trained_like(size, CLASSES)
    model = cast(SegNeXt, create_model(f"segnext_{size}", num_classes=CLASSES, **overrides))
    model.load_state_dict(state_dict)
    return model.eval(), state_dict


def image(side: int) -> Tensor:
    """Noise of a normalised photograph's scale, smooth over a few pixels; (1, 3, side, side)."""
    coarse = torch.randn(1, 3, side // 4, side // 4, generator=torch.Generator().manual_seed(1))
    return F.interpolate(coarse, (side, side), mode="bilinear").contiguous(memory_format=torch.channels_last)


def assert_close(actual: Tensor, oracle: Tensor, what: str) -> None:
    """Logits within the tolerance of the oracle's."""
    assert oracle.isfinite().all() and actual.isfinite().all(), f"{what}: logits must be finite"
    error = ((actual - oracle).abs().max() / oracle.abs().max()).item()
    assert error <= TOLERANCE, f"{what}: relative error of the logits {error:.2e} is above {TOLERANCE:.0e}"


def assert_best_class(labels: Tensor, oracle: Tensor, what: str) -> None:
    """Each pixel's class is the oracle's best, or as good within the tolerance of two logits."""
    full = F.interpolate(oracle, labels.shape[1:], mode="bilinear", align_corners=False)
    gap = full.amax(1) - full.gather(1, labels.long()[:, None]).squeeze(1)
    allowed = 2 * TOLERANCE * oracle.abs().max()
    assert oracle.isfinite().all(), f"{what}: logits must be finite"
    assert (gap <= allowed).all(), (
        f"{what}: {int((gap > allowed).sum())} pixels have a class that is not the best"
    )


class Training:
    """Training steps on one batch, seeded by their number: variants see the same random bases, step by step.

    Args:
        parameters: by official name, in the order of the model's.
        loss: the loss of the current parameters.
    """

    def __init__(self, parameters: dict[str, Tensor], loss: Callable[[], Tensor]) -> None:
        self.parameters, self.loss = parameters, loss
        self.optimiser = torch.optim.AdamW(parameters.values(), lr=6e-5, weight_decay=0.01, fused=True)
        self.losses: list[float] = []

    def step(self) -> Training:
        """Forward, backward, update."""
        torch.manual_seed(len(self.losses))
        self.optimiser.zero_grad()
        loss = self.loss()
        loss.backward()
        self.optimiser.step()
        self.losses.append(loss.item())
        return self


def model_training(model: SegNeXt, images: Tensor, targets: Tensor) -> Training:
    """Our model, put into training mode."""
    parameters = layouts.to_official(dict(model.named_parameters()))
    return Training(parameters, partial(model.train().loss, images, targets))


def plain_training(
    state_dict: dict[str, Tensor], model: SegNeXt, images: Tensor, targets: Tensor
) -> Training:
    """The official arithmetic on a copy of ``state_dict``; what is a parameter of the model is trained."""
    trained = layouts.to_official(dict(model.named_parameters()))
    own = {name: tensor.clone().requires_grad_(name in trained) for name, tensor in state_dict.items()}
    shape = (len(images), *model.decoder.hamburger.bases.shape[1:])

    def loss() -> Tensor:
        bases = F.normalize(torch.rand(shape), dim=1)  # as the model draws them
        return plain_segnext.loss(own, bases, images, targets)

    return Training({name: own[name] for name in trained}, loss)


def assert_same_step(training: Training, oracle: Training, what: str) -> None:
    """The first step's loss and gradients are the oracle's, to float32 rounding through the network."""
    difference = abs(training.losses[0] - oracle.losses[0])
    assert difference <= TOLERANCE * oracle.losses[0], (
        f"{what}: loss {training.losses[0]}, not {oracle.losses[0]}"
    )
    ours, oracles = (
        torch.cat([t.grad.flatten() for t in run.parameters.values() if t.grad is not None])
        for run in (training, oracle)
    )
    error = ((ours - oracles).norm() / oracles.norm()).item()
    assert error <= 1e-3, f"{what}: relative error of the gradient {error:.1e} is above 1e-3"
