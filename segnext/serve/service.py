"""What an application does with images: admits, decodes, segments, and makes answers."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from segnext.data.images import decode_image, image_size
from segnext.data.opening import ImageError, ImageTooLarge, UnknownFormat
from segnext.drawing.encoding import encoded
from segnext.export.network import ExportedNetwork
from segnext.predict.predictor import Predictor
from segnext.serve.answers import Answer, Wanted, answer, class_table
from segnext.serve.bodies import Memory
from segnext.serve.errors import ServiceError
from segnext.serve.metrics import Metrics
from segnext.serve.room import Room
from segnext.serve.settings import Settings
from segnext.serve.worker import Worker

_CODEC_THREADS = 2  # decode and encode beside the model
_ON_GPU = 8  # images that run together by default; on a CPU they gain nothing
_DECODED = 2  # images of the largest size that are in memory at once
_LONGEST_WAIT = 60  # seconds that a client is told to wait
_WARM_UP = 512  # side of the first image, in pixels

T = TypeVar("T")


class Model:
    """A model that is served.

    Args:
        name: by which clients ask for it.
        predictor: of a model that takes RGB photographs.

    Attributes:
        pending: images that wait or are being segmented.

    Raises:
        ValueError: the model takes other bands.
    """

    def __init__(self, name: str, predictor: Predictor, settings: Settings, metrics: Metrics) -> None:
        bands = predictor.preprocessing.bands
        if bands is not None:
            raise ValueError(f"serve: model {name} must take RGB photographs, got one of bands {list(bands)}")
        self.name, self.predictor, self.pending = name, predictor, 0
        self.classes = class_table(predictor.classes, predictor.palette)
        self.worker = Worker(predictor, _max_batch(predictor, settings), partial(self._observe, metrics))
        metrics.queue.labels(name).set_function(lambda: self.pending)

    def _observe(self, metrics: Metrics, images: int, seconds: float) -> None:
        metrics.batches.labels(self.name).observe(images)
        metrics.images.labels(self.name).inc(images)
        metrics.model_seconds.labels(self.name).inc(seconds)

    def as_json(self, is_default: bool) -> dict[str, Any]:
        """Return what clients may know of it."""
        architecture = self.predictor.model.config.architecture
        return {
            "name": self.name,
            "architecture": architecture,
            "default": is_default,
            "classes": self.classes,
        }


class Service:
    """The models, their limits, and the work that is under way.

    Args:
        predictors: by name; the first is the default. At least one.
        settings: the limits.

    Attributes:
        is_ready: all models ran once, and the service is not about to end.
    """

    def __init__(self, predictors: Mapping[str, Predictor], settings: Settings) -> None:
        if not predictors:
            raise ValueError("serve: models must hold at least one, got none")
        self.settings, self.metrics = settings, Metrics()
        self.models = {
            name: Model(name, predictor, settings, self.metrics) for name, predictor in predictors.items()
        }
        self.memory, self.room = Memory(settings.max_bytes), Room(_DECODED * settings.max_pixels)
        self.active = 0
        self.is_draining = False
        self._is_warm = False
        self.metrics.active.set_function(lambda: self.active)
        self._pool = ThreadPoolExecutor(_CODEC_THREADS, thread_name_prefix="segnext codec")

    @property
    def is_ready(self) -> bool:
        return self._is_warm and not self.is_draining

    def start(self) -> None:
        """Start the models' threads."""
        for model in self.models.values():
            model.worker.start()

    async def warm_up(self) -> None:
        """Decode an image and run each model once: the first of a process take longer."""
        await self._aside(decode_image, encoded(Image.new("RGB", (1, 1)), format="PNG"))
        for model in self.models.values():
            size = _fixed_size(model.predictor) or (_WARM_UP, _WARM_UP)
            noise = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
            await model.worker.segment(noise)
        self._is_warm = True

    def stop(self) -> None:
        """End all threads once their work is done."""
        self.is_draining = True
        for model in self.models.values():
            model.worker.stop()
        self._pool.shutdown()

    def model(self, name: str | None) -> Model:
        """Return a model by name, or the default.

        Raises:
            ServiceError: there is none of that name.
        """
        if name is None:
            return next(iter(self.models.values()))
        if name not in self.models:
            raise ServiceError(
                "unknown_model", f"model must be one of {', '.join(self.models)}, got another name"
            )
        return self.models[name]

    @contextmanager
    def request(self, model: Model) -> Iterator[None]:
        """Count a request that wants to segment, until the block ends.

        Raises:
            ServiceError: there are too many, or the model's queue is full already.
        """
        if self.active >= self.settings.max_concurrency:
            raise ServiceError(
                "too_busy",
                f"{self.active} requests are under way already; try again",
                self._retry_after(model),
            )
        self.expect_place(model)
        self.active += 1
        try:
            yield
        finally:
            self.active -= 1

    def expect_place(self, model: Model) -> None:
        """Raise a `ServiceError` if the model's queue is full."""
        if model.pending >= self.settings.queue:
            raise ServiceError(
                "queue_full",
                f"{model.pending} images wait for model {model.name} already; try again",
                self._retry_after(model),
            )

    async def segment(self, model: Model, content: bytes, wanted: Wanted) -> Answer:
        """Return the answer for the bytes of an image file.

        Raises:
            ServiceError: the image cannot be read, is too large, or finds no place in the queue.
        """
        self.expect_place(model)
        model.pending += 1
        try:
            most = self.settings.max_pixels
            height, width = await self._aside(_of_image, partial(image_size, content, most_pixels=most))
            async with self.room.holding(height * width):
                pixels = await self._aside(_of_image, partial(decode_image, content, most_pixels=most))
                del content
                try:
                    prediction = await model.worker.segment(pixels)
                except MemoryError as error:
                    raise ServiceError("image_too_large", str(error)) from None
                del pixels
                return await self._aside(answer, prediction, model.name, wanted)
        finally:
            model.pending -= 1

    async def _aside(self, function: Callable[..., T], *arguments: Any) -> T:
        """Run a function beside the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *arguments)

    def _retry_after(self, model: Model) -> int:
        """Return the seconds until what waits now is done, from the time of the last images."""
        seconds = math.ceil(model.pending * model.worker.seconds_per_image)
        return max(1, min(seconds, _LONGEST_WAIT))


def _of_image(read: Callable[[], T]) -> T:
    """Return what a reader of an image gives, or raise a `ServiceError`."""
    try:
        return read()
    except ImageTooLarge as error:
        raise ServiceError("image_too_large", str(error)) from None
    except UnknownFormat as error:
        raise ServiceError("unsupported_image", str(error)) from None
    except ImageError as error:
        raise ServiceError("damaged_image", str(error)) from None


def _max_batch(predictor: Predictor, settings: Settings) -> int:
    default = 1 if predictor.device.type == "cpu" else _ON_GPU
    return 1 if _fixed_size(predictor) else settings.max_batch or default


def _fixed_size(predictor: Predictor) -> tuple[int, int] | None:
    """Return the height and width of the only images that an exported file takes; None: it takes any."""
    if not isinstance(predictor.model, ExportedNetwork) or predictor.model.description.interface.dynamic:
        return None
    interface = predictor.model.description.interface
    if interface.batch != 1:
        raise ValueError(
            f"serve: {predictor.model.file} must take one image, got batches of {interface.batch}; export it with "
            "--batch 1 or --dynamic"
        )
    return interface.height, interface.width
