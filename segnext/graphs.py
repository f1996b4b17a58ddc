"""CUDA graphs of a deployed model: one launch for a whole forward pass, whose kernels would else wait for Python.

A graph is bound to the addresses it was captured with: its input is copied in, its result copied out, and all between
lies in the graph's own memory. One graph for each input shape and kind of result, the most recent ones kept.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable

import torch
from torch import Tensor

GRAPHS = 4  # shapes times kinds of result; each holds the memory of a forward pass
WARM_UPS = 2  # calls before a capture: Triton compiles, cuDNN chooses, the allocator learns the sizes

Function = Callable[[Tensor], Tensor]


class CapturedCall:
    """``function`` on images of one shape as a CUDA graph; may be called from several threads and streams."""

    def __init__(self, function: Function, images: Tensor) -> None:
        self.device, self._lock = images.device, threading.Lock()
        with torch.cuda.device(self.device):
            self._images = torch.empty_like(images, memory_format=torch.contiguous_format)
            self._images.copy_(images)
            stream, caller = torch.cuda.Stream(), torch.cuda.current_stream()
            stream.wait_stream(caller)
            with torch.cuda.stream(stream):
                for _ in range(WARM_UPS):
                    function(self._images)
            self._graph, self._done = torch.cuda.CUDAGraph(), torch.cuda.Event()
            # other threads may go on using the device meanwhile
            with torch.cuda.graph(self._graph, stream=stream, capture_error_mode="thread_local"):
                self._result = function(self._images)
            caller.wait_stream(stream)
            self._done.record()

    def __call__(self, images: Tensor) -> Tensor:
        """The result for these images, in memory of its own."""
        with self._lock, torch.cuda.device(self.device):
            stream = torch.cuda.current_stream()
            stream.wait_event(self._done)  # another stream's call may still be reading or writing
            self._images.copy_(images)
            self._graph.replay()
            # or its memory, if this call is dropped now, might serve another
            self._images.record_stream(stream)
            result = self._result.clone()
            self._done.record(stream)
        return result

    def finish(self) -> None:
        """Wait until the device has done with the graph's memory."""
        self._done.synchronize()


class GraphCache:
    """Runs functions of images through graphs, and keeps the `GRAPHS` most recently used.

    Args:
        capture: makes a graph of a function for images like those given.
    """

    def __init__(self, capture: Callable[[Function, Tensor], CapturedCall] = CapturedCall) -> None:
        self._capture = capture
        self._calls: OrderedDict[Hashable, CapturedCall] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, kind: Hashable, function: Function, images: Tensor) -> Tensor:
        """``function(images)``; calls of one ``kind`` and shape must be of one function.

        Inside a capture of the caller's the function runs as it is and becomes part of that.
        """
        if images.numel() == 0 or (images.is_cuda and torch.cuda.is_current_stream_capturing()):
            return function(images)
        key = (kind, images.shape, images.dtype)
        with self._lock:
            if key not in self._calls:
                while len(self._calls) >= GRAPHS:
                    self._calls.popitem(last=False)[1].finish()
                self._calls[key] = self._capture(function, images)
            self._calls.move_to_end(key)
            call = self._calls[key]
        return call(images)
