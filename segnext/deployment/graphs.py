"""CUDA graphs of a deployed model: one launch for a whole forward pass, whose kernels would else wait for Python.

A graph is bound to the addresses it was captured with: its input is copied in, its result copied out, and all between
lies in the graph's own memory. One graph for each input shape, layout and kind of result, a few of them kept. What
cannot be captured runs as it is: slower, and with one warning.
"""

from __future__ import annotations

import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable

import torch
from torch import Tensor

GRAPHS = 4  # shapes times kinds of result; each holds the memory of a forward pass
WARM_UPS = 2  # calls before a capture: Triton compiles, cuDNN chooses, the allocator learns the sizes

Function = Callable[[Tensor], Tensor]


class CaptureError(Exception):
    """A function that runs, but cannot be captured."""


class CapturedCall:
    """``function`` on images of one shape as a CUDA graph; may be called from several threads and streams.

    Raises:
        CaptureError: the function runs, but cannot be captured. What the function itself raises passes.
    """

    def __init__(self, function: Function, images: Tensor) -> None:
        self.device, self._lock = images.device, threading.Lock()
        with torch.cuda.device(self.device):
            self._images = torch.empty_like(images)  # in the caller's layout, or the copy would transpose
            self._images.copy_(images)
            stream, caller = torch.cuda.Stream(), torch.cuda.current_stream()
            stream.wait_stream(caller)
            with torch.cuda.stream(stream):
                for _ in range(WARM_UPS):
                    function(self._images)
            self._graph, self._done = torch.cuda.CUDAGraph(), torch.cuda.Event()
            try:
                # other threads may go on using the device meanwhile
                with torch.cuda.graph(self._graph, stream=stream, capture_error_mode="thread_local"):
                    self._result = function(self._images)
            except Exception as error:
                torch.cuda.set_stream(caller)  # a capture that breaks off may leave its own
                raise CaptureError(f"{type(error).__name__}: {error}") from error
            finally:
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
    """Runs functions of images through graphs, of which it keeps `GRAPHS`.

    Where all places are taken, a new shape runs as it is and gets a graph only if it comes twice in a row, in place of
    the one that was not used for longest: images of ever new sizes, or the scales of one image in turn, would else
    cost a capture each.

    Args:
        capture: makes a graph of a function for images like those given.
    """

    def __init__(self, capture: Callable[[Function, Tensor], CapturedCall] = CapturedCall) -> None:
        self._capture = capture
        self._calls: OrderedDict[Hashable, CapturedCall] = OrderedDict()
        self._uncaptured: set[Hashable] = set()
        self._last: Hashable = None
        self._lock = threading.Lock()

    def __call__(self, kind: Hashable, function: Function, images: Tensor) -> Tensor:
        """``function(images)``; calls of one ``kind``, shape and layout must be of one function.

        Inside a capture of the caller's the function runs as it is and becomes part of that.
        """
        if images.numel() == 0 or (images.is_cuda and torch.cuda.is_current_stream_capturing()):
            return function(images)
        dense = torch.empty_like(images, device="meta").stride()  # of the graph's own input
        key = (kind, images.shape, dense, images.dtype)
        with self._lock:
            call = self._calls.get(key) or self._made(key, function, images)
            if call is not None:
                self._calls.move_to_end(key)
            self._last = key
        return function(images) if call is None else call(images)

    def _made(self, key: Hashable, function: Function, images: Tensor) -> CapturedCall | None:
        """A new graph; None where the call shall run as it is."""
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
                while self._calls:  # their memory may be what is missing
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
