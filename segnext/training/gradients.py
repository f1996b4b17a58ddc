"""The gradients of training batches, on a GPU by one CUDA graph.

A step of SegNeXt-T has thousands of launches, most of them shorter than Python needs to start the next. Without a graph
a GPU waits for Python: on an H200 a step takes 69 ms, and the 40 longest kernels in it 11 (bench/results/h200). Forward
and backward are captured at the first batch; optimiser, clipping and the average of the weights are few launches and
stay outside.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

WARM_UPS = 2  # calls before a capture, in which kernels are compiled and chosen

Loss = Callable[[Tensor, Tensor], Tensor]  # of images and labels


class Gradients:
    """Computes the gradients of a model's loss.

    A graph is bound to the shapes of its first batch; batches of other shapes, and all batches if the loss cannot be
    captured, are computed without one: slower, with one warning.

    Args:
        model: its parameters get the gradients.
        loss: runs the model on images and labels; it must not read a result on the host.
        scale: what the gradients are multiplied by, as a function of the loss.
    """

    def __init__(
        self, model: nn.Module, loss: Loss, scale: Callable[[Tensor], Tensor] = lambda loss: loss
    ) -> None:
        self.model, self.loss, self.scale = model, loss, scale
        self._captured: _Captured | None = None
        self._is_refused = False

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        """Leave the gradients in the parameters, in place of those before; return the loss."""
        if images.is_cuda and self._captured is None and not self._is_refused:
            try:
                self._captured = _Captured(self, images, labels)
            except RuntimeError as error:
                if isinstance(error, torch.OutOfMemoryError):
                    raise
                self._is_refused = True
                warnings.warn(
                    f"train: no CUDA graph of the training step ({type(error).__name__}: {error}); it runs without, "
                    "slower in small batches",
                    RuntimeWarning,
                    stacklevel=2,
                )
        if self._captured is not None and self._captured.takes(images, labels):
            return self._captured(images, labels)
        return self.without_graph(images, labels)

    def without_graph(self, images: Tensor, labels: Tensor) -> Tensor:
        """Compute as Python goes."""
        self.model.zero_grad(set_to_none=True)
        loss = self.loss(images, labels)
        self.scale(loss).backward()
        return loss.detach()


class _Captured:
    """Forward and backward as a graph; the gradients lie in its memory, and each replay overwrites them."""

    def __init__(self, gradients: Gradients, images: Tensor, labels: Tensor) -> None:
        self.parameters = list(gradients.model.parameters())
        self.images, self.labels = torch.empty_like(images).copy_(images), labels.clone()
        before = [(buffer, buffer.clone()) for buffer in gradients.model.buffers()]
        stream, caller = torch.cuda.Stream(images.device), torch.cuda.current_stream(images.device)
        stream.wait_stream(caller)
        # the warm-up is no step: it must leave neither statistics nor drawn numbers behind
        with torch.cuda.stream(stream), torch.random.fork_rng(devices=[images.device]):
            for _ in range(WARM_UPS):
                gradients.without_graph(self.images, self.labels)
            for buffer, value in before:
                buffer.copy_(value)
        gradients.model.zero_grad(set_to_none=True)  # so that the gradients get memory of the graph
        self.graph = torch.cuda.CUDAGraph()
        try:
            # thread_local: threads that load data may use the device during the capture
            with torch.cuda.graph(self.graph, stream=stream, capture_error_mode="thread_local"):
                self.loss = gradients.without_graph(self.images, self.labels)
        finally:
            torch.cuda.set_stream(caller)  # a capture that fails may leave its own stream set
            caller.wait_stream(stream)
        self.gradients = [parameter.grad for parameter in self.parameters]

    def takes(self, images: Tensor, labels: Tensor) -> bool:
        """Whether a batch has the shapes, strides and dtypes of the first."""
        return all(
            given.shape == own.shape and given.dtype == own.dtype and given.stride() == own.stride()
            for given, own in ((images, self.images), (labels, self.labels))
        )

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        self.images.copy_(images)
        self.labels.copy_(labels)
        self.graph.replay()
        for parameter, gradient in zip(self.parameters, self.gradients, strict=True):
            parameter.grad = gradient  # a batch without the graph may have left another
        return self.loss.clone()
