"""Trains our model, and the same weights in plain PyTorch, and checks that their steps agree."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.models.checks import TOLERANCE
from bench.models.networks import CLASSES, pair
from bench.peers import Run
from oracle import transcription
from oracle.inputs import in_layout
from segnext.models import SegNeXt, dialects

LEARNING_RATE = 6e-5
Loss = Callable[[Tensor, Tensor], Tensor]  # of images and targets


class Training:
    """Takes training steps on one batch. Each is seeded by its number, so variants see the same random bases.

    Args:
        parameters: by official name, in the model's order.
        loss: returns the loss of the current parameters.
        lr: learning rate of AdamW.
    """

    def __init__(
        self, parameters: dict[str, Tensor], loss: Callable[[], Tensor], lr: float = LEARNING_RATE
    ) -> None:
        self.parameters, self.loss = parameters, loss
        self.optimiser = torch.optim.AdamW(parameters.values(), lr=lr, weight_decay=0.01, fused=True)
        self.losses: list[float] = []

    def step(self) -> Training:
        """Run forward, backward and update once."""
        torch.manual_seed(len(self.losses))
        self.optimiser.zero_grad()
        loss = self.loss()
        loss.backward()
        self.optimiser.step()
        self.losses.append(loss.item())
        return self


def model_training(model: SegNeXt, images: Tensor, targets: Tensor) -> Training:
    """Train our model; it is put into training mode."""
    parameters, loss = model_loss(model)
    return Training(parameters, partial(loss, images, targets))


def plain_training(
    state_dict: dict[str, Tensor], model: SegNeXt, images: Tensor, targets: Tensor
) -> Training:
    """Train the official arithmetic on a copy of ``state_dict``: those tensors that are parameters of the model."""
    parameters, loss = plain_loss(state_dict, model)
    return Training(parameters, partial(loss, images, targets))


def model_loss(model: SegNeXt) -> tuple[dict[str, Tensor], Loss]:
    """Return the parameters by official name, and the loss; put the model into training mode."""
    return dialects.to_official(dict(model.named_parameters())), model.train().loss


def plain_loss(state_dict: dict[str, Tensor], model: SegNeXt) -> tuple[dict[str, Tensor], Loss]:
    """Return parameters and loss of the official arithmetic, on a copy of ``state_dict``."""
    trained = dialects.to_official(dict(model.named_parameters()))
    own = {name: tensor.clone().requires_grad_(name in trained) for name, tensor in state_dict.items()}
    shape = model.decoder.hamburger.bases.shape[1:]

    def loss(images: Tensor, targets: Tensor) -> Tensor:
        bases = F.normalize(
            torch.rand((len(images), *shape), device=images.device), dim=1
        )  # as the model draws them
        return transcription.loss(own, bases, images, targets)

    return {name: own[name] for name in trained}, loss


def assert_same_step(training: Training, oracle: Training, what: str) -> None:
    """Assert that the first step's loss and gradients are the oracle's, up to float32 rounding through the network."""
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


def assert_step_no_worse(training: Training, oracle: Training, eager: Training, what: str) -> None:
    """Assert that the first step's errors of loss and gradients are at most twice eager PyTorch's, plus 1e-3."""

    def errors(run: Training) -> tuple[float, float]:
        mine, theirs = (
            torch.cat([t.grad.flatten().float() for t in each.parameters.values() if t.grad is not None])
            for each in (run, oracle)
        )
        loss = abs(run.losses[0] - oracle.losses[0]) / oracle.losses[0]
        return loss, ((mine - theirs).norm() / theirs.norm()).item()

    for name, error, allowed in zip(("loss", "gradient"), errors(training), errors(eager), strict=True):
        assert error <= 2 * allowed + 1e-3, (
            f"{what}: relative error of the {name} {error:.1e}, eager's {allowed:.1e}"
        )


def training_batch() -> tuple[Tensor, Tensor]:
    """Return images (4, 3, 256, 256) in channels_last and their targets."""
    generator = torch.Generator().manual_seed(2)
    images = in_layout(torch.randn(4, 3, 256, 256, generator=generator), torch.channels_last)
    return images, torch.randint(CLASSES, (4, 256, 256), generator=generator)


# For fresh processes: each function makes one variant.


def our_training() -> Run:
    """Take training steps of our T."""
    model, _ = pair("t", drop_path=0.0, decoder_dropout=0.0)
    return model_training(model, *training_batch()).step


def eager_training() -> Run:
    """Take training steps of the same T in plain PyTorch, channels_last."""
    model, state_dict = pair("t", drop_path=0.0, decoder_dropout=0.0)
    own = in_layout(state_dict, torch.channels_last)
    return plain_training(own, model, *training_batch()).step
