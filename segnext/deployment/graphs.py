"""CUDA graphs of a deployed model: one launch per forward pass; without a graph, small kernels wait for Python.

A graph is bound to the addresses it was captured with: its input is copied in, its result copied out, and all tensors
between lie in the graph's own memory. Each input shape, memory format and kind of result has a graph of its own; a few
are kept. A function that cannot be captured runs without a graph: slower, and with one warning.
"""

from __future__ import annotations

import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable

import torch
from torch import Tensor

GRAPHS = 4  # so many are kept; each holds the memory of a forward pass
WARM_UPS = (
    2  # calls before a capture, in which Triton compiles, cuDNN chooses and the allocator learns the sizes
)

Function = Callable[[Tensor], tuple[Tensor, ...]]


class CaptureError(Exception):
    """A function that runs, but cannot be captured."""


class CapturedCall:
    """``function`` on images of one shape as a CUDA graph; may be called from several threads and streams.

    Raises:
        CaptureError: the function runs, but cannot be captured. An exception of the function itself passes through.
    """

    def __init__(self, function: Function, images: Tensor) -> None:
        self.device, self._lock = images.device, threading.Lock()
        with torch.cuda.device(self.device):
            self._images = torch.empty_like(
                images
            )  # in the caller's memory format, or the copy would transpose
            self._images.copy_(images)
            stream, caller = torch.cuda.Stream(), torch.cuda.current_stream()
            stream.wait_stream(caller)
            with torch.cuda.stream(stream):
                for _ in range(WARM_UPS):
                    function(self._images)
            self._graph, self._done = torch.cuda.CUDAGraph(), torch.cuda.Event()
            try:
                # thread_local: other threads may use the device during the capture
                with torch.cuda.graph(self._graph, stream=stream, capture_error_mode="thread_local"):
                    self._results = function(self._images)
            except Exception as error:
                torch.cuda.set_stream(caller)  # a capture that fails may leave its own stream set
                raise CaptureError(f"{type(error).__name__}: {error}") from error
            finally:
                caller.wait_stream(stream)
            self._done.record()

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the results for these images, in memory of their own."""
        with self._lock, torch.cuda.device(self.device):
            stream = torch.cuda.current_stream()
            stream.wait_event(self._done)  # another stream's call may still be reading or writing
            self._images.copy_(images)
            self._graph.replay()
            # keeps the allocator from reusing this memory while the replay runs, should this object be freed
            self._images.record_stream(stream)
            results = tuple(result.clone() for result in self._results)
            self._done.record(stream)
        return results

    def finish(self) -> None:
        """Wait until the device no longer uses the graph's memory."""
        self._done.synchronize()


class GraphCache:
    """Runs functions of images through graphs and keeps `GRAPHS` of them.

    When the cache is full, a new shape runs without a graph. If it comes twice in a row, it gets one, in place of the
    least recently used. Otherwise images that all differ in size, or the scales of one image in turn, would
    cost a capture per call.

    Args:
        capture: makes the graph of a function for images of one shape.
    """

    def __init__(self, capture: Callable[[Function, Tensor], CapturedCall] = CapturedCall) -> None:
        self._capture = capture
        self._calls: OrderedDict[Hashable, CapturedCall] = OrderedDict()
        self._uncaptured: set[Hashable] = set()
        self._last: Hashable = None
        self._lock = threading.Lock()

    def __call__(self, kind: Hashable, function: Function, images: Tensor) -> tuple[Tensor, ...]:
        """Return ``function(images)``; calls with equal ``kind``, shape and memory format must have the same function.

        While the caller captures a graph, the function runs directly and becomes part of that graph.
        """
        if images.numel() == 0 or (images.is_cuda and torch.cuda.is_current_stream_capturing()):
            return function(images)
        dense = torch.empty_like(images, device="meta").stride()  # the strides of the graph's own input
        key = (kind, images.shape, dense, images.dtype)
        with self._lock:
            call = self._calls.get(key) or self._made(key, function, images)
            if call is not None:
                self._calls.move_to_end(key)
            self._last = key
        return function(images) if call is None else call(images)

    def _made(self, key: Hashable, function: Function, images: Tensor) -> CapturedCall | None:
        """Return a new graph, or None if the call is to run without one."""
        if key in self._uncaptured or (len(self._calls) >= GRAPHS and key != self._last):
            return None
        while len(self._calls) >= GRAPHS:
            self._forget_one()
        try:
            try:
                call = self._capture(function, images)
            except torch.OutOfMemoryError:
                if not self._calls:
                    raise
                while self._calls:  # free the memory of all other graphs
                    self._forget_one()
                call = self._capture(function, images)
        except CaptureError as error:
            if not self._uncaptured:
                warnings.warn(
                    f"deploy: no CUDA graph of images {tuple(images.shape)} ({error}); they run without, slower in "
                    "small batches; cuda_graph=False avoids the attempt",
                    RuntimeWarning,
                    stacklevel=2,
                )
            self._uncaptured.add(key)
            return None
        self._calls[key] = call
        return call

    def _forget_one(self) -> None:
        self._calls.popitem(last=False)[1].finish()
