"""Trains our model, and the same weights in plain PyTorch, and checks that their steps agree."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.models.checks import TOLERANCE
from bench.models.networks import CLASSES, pair
from bench.peers import Run
from oracle import transcription
from oracle.inputs import in_layout
from segnext.models import SegNeXt, dialects
from segnext.training.gradients import Gradients

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
        loss = self._gradients()
        self.optimiser.step()
        self.losses.append(loss.item())
        return self

    def _gradients(self) -> Tensor:
        """Leave the gradients in the parameters; return the loss."""
        self.optimiser.zero_grad()
        loss = self.loss()
        loss.backward()
        return loss


class GraphedTraining(Training):
    """The same on a GPU, with forward and backward in a CUDA graph, as `segnext train` runs them.

    Args:
        module: has the parameters and the running statistics.
        loss: of images and targets.
    """

    def __init__(
        self, parameters: dict[str, Tensor], module: nn.Module, loss: Loss, images: Tensor, targets: Tensor
    ) -> None:
        super().__init__(parameters, partial(loss, images, targets))
        self._graph, self._batch = Gradients(module, loss), (images, targets)

    def _gradients(self) -> Tensor:
        return self._graph(*self._batch)


class PlainLoss(nn.Module):
    """The loss by the official arithmetic, on a copy of ``state_dict``.

    Attributes:
        trained: by official name, those of its tensors that are parameters of the model.
    """

    def __init__(self, state_dict: dict[str, Tensor], model: SegNeXt) -> None:
        super().__init__()
        names = dialects.to_official(dict(model.named_parameters()))
        self.trained = {name: nn.Parameter(state_dict[name].clone()) for name in names}
        others = {name: tensor.clone() for name, tensor in state_dict.items() if name not in names}
        for name, tensor in self.trained.items():
            self.register_parameter(name.replace(".", "/"), tensor)
        for name, tensor in others.items():
            self.register_buffer(name.replace(".", "/"), tensor)
        self._all = {**others, **self.trained}
        self._shape = model.decoder.hamburger.bases.shape[1:]

    def forward(self, images: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of a batch, with bases drawn as the model draws them."""
        bases = F.normalize(torch.rand((len(images), *self._shape), device=images.device), dim=1)
        return transcription.loss(self._all, bases, images, targets)


def model_training(
    model: SegNeXt, images: Tensor, targets: Tensor, autocast: torch.dtype | None = None
) -> Training:
    """Train our model, under autocast if asked for; it is put into training mode."""
    parameters, loss = model_loss(model)
    return Training(parameters, partial(_loss_under, autocast, loss, images, targets))


def plain_training(
    state_dict: dict[str, Tensor],
    model: SegNeXt,
    images: Tensor,
    targets: Tensor,
    autocast: torch.dtype | None = None,
) -> Training:
    """Train the official arithmetic on a copy of ``state_dict``: those tensors that are parameters of the model."""
    parameters, loss = plain_loss(state_dict, model)
    return Training(parameters, partial(_loss_under, autocast, loss, images, targets))


def _loss_under(autocast: torch.dtype | None, loss: Loss, images: Tensor, targets: Tensor) -> Tensor:
    with torch.autocast(images.device.type, autocast, enabled=autocast is not None):
        return loss(images, targets)


def model_loss(model: SegNeXt) -> tuple[dict[str, Tensor], Loss]:
    """Return the parameters by official name, and the loss; put the model into training mode."""
    return dialects.to_official(dict(model.named_parameters())), model.train().loss


def plain_loss(state_dict: dict[str, Tensor], model: SegNeXt) -> tuple[dict[str, Tensor], PlainLoss]:
    """Return parameters by official name, and the loss, of the official arithmetic on a copy of ``state_dict``."""
    module = PlainLoss(state_dict, model)
    return dict(module.trained), module


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
