"""Runs services in this process on real sockets, and models for them."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("segnext.serve", reason="the extra 'serve' is not installed", exc_type=ImportError)

from segnext import Predictor, segnext_t
from segnext.data.preprocessing import normalise
from segnext.serve import Settings, create_app
from segnext.serve.server import address, listening_socket, server_of
from segnext.serve.service import Service

CLASSES = ["road", "sky", "tree", "car"]
COLOURS = [[128, 64, 128], [128, 128, 128], [128, 128, 0], [64, 0, 128]]


@dataclass
class Running:
    """A service that runs in a thread of this process."""

    url: str
    service: Service
    port: int
    connections: Collection[object]

    def post(self, content: bytes, path: str = "/v1/segment", **options) -> httpx.Response:
        """Send the bytes of an image."""
        headers = {"content-type": "image/png", **options.pop("headers", {})}
        return httpx.post(self.url + path, content=content, headers=headers, timeout=60, **options)

    def get(self, path: str, **options) -> httpx.Response:
        """Ask for a path."""
        return httpx.get(self.url + path, timeout=60, **options)


@contextmanager
def running(
    models: Mapping[str, Predictor], settings: Settings | None = None, warm: bool = True, **options
) -> Iterator[Running]:
    """Serve models until the block ends."""
    app = create_app(models, settings, **options)
    listener = listening_socket("127.0.0.1", 0)
    server = server_of(app)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    service = app.state.service
    try:
        until(lambda: service.is_ready or not warm)
        yield Running(address(listener), service, listener.getsockname()[1], server.server_state.connections)
    finally:
        server.should_exit = True
        thread.join(60)
    assert not thread.is_alive()


def until(condition, seconds: float = 60) -> None:
    """Wait for a condition; a test fails where it never comes."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.005)


def encoded(image: np.ndarray, **options) -> bytes:
    """Return the bytes of an image file, PNG by default."""
    content = io.BytesIO()
    Image.fromarray(image).save(content, **{"format": "PNG", **options})
    return content.getvalue()


@pytest.fixture(scope="session")
def photograph() -> np.ndarray:
    """Return an image (70, 90, 3) in which the model sees several classes."""
    coarse = np.random.default_rng(3).integers(0, 256, (5, 7, 3), np.uint8)
    return np.array(Image.fromarray(coarse).resize((90, 70), Image.Resampling.BICUBIC))


@pytest.fixture(scope="session")
def model(photograph):
    """Return a small model with classes and colours."""
    torch.manual_seed(0)
    network = segnext_t(num_classes=len(CLASSES), depths=(1, 1, 1, 1))
    with torch.no_grad():  # BN statistics of the data, so that several classes appear
        for _ in range(3):
            network.train()(normalise(photograph).repeat(2, 1, 1, 1))
        network.decoder.classifier.weight.mul_(30)
    network.metadata = {"classes": CLASSES, "palette": COLOURS}
    return network.eval()


@pytest.fixture(scope="session")
def predictor(model) -> Predictor:
    """Return its predictor."""
    return Predictor(model, device="cpu")


class Held(Predictor):
    """A predictor that waits until it is let go, after its first image, which warms it up.

    Attributes:
        batches: the number of images of each call.
        failing: images whose first pixel has this value fail.
    """

    def __init__(self, *arguments, **options) -> None:
        super().__init__(*arguments, **options)
        self.go, self.begun = threading.Event(), threading.Semaphore(0)
        self.batches: list[int] = []
        self.failing: dict[int, Exception] = {}

    def predict_batch(self, images):
        if not self.batches:
            self.batches.append(1)
            return super().predict_batch(images)
        self.batches.append(len(images))
        self.begun.release()
        assert self.go.wait(60)
        for image in images:
            if image[0, 0, 0] in self.failing:
                raise self.failing[image[0, 0, 0]]
        return super().predict_batch(images)


@pytest.fixture
def held(model) -> Iterator[Held]:
    """Return a predictor that is let go at the end in any case."""
    predictor = Held(model, device="cpu")
    yield predictor
    predictor.go.set()
