"""What Prometheus may ask a service."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

CONTENT_TYPE = CONTENT_TYPE_LATEST
# From an answer without work to the default time limit.
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_IMAGES = (1, 2, 4, 8, 16, 32)


class Metrics:
    """Counts what one application does, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        kept = self.registry
        self.requests = Counter(
            "segnext_requests", "Answers, by endpoint and HTTP status.", ["endpoint", "status"], registry=kept
        )
        self.seconds = Histogram(
            "segnext_request_seconds",
            "From the headers of a request to its whole answer.",
            ["endpoint"],
            buckets=_SECONDS,
            registry=kept,
        )
        self.active = Gauge(
            "segnext_requests_active", "Requests to segment that are not answered yet.", registry=kept
        )
        self.queue = Gauge(
            "segnext_queue_images", "Images that wait or are being segmented.", ["model"], registry=kept
        )
        self.batches = Histogram(
            "segnext_batch_images", "Images that ran together.", ["model"], buckets=_IMAGES, registry=kept
        )
        self.images = Counter("segnext_images", "Images that were segmented.", ["model"], registry=kept)
        self.model_seconds = Counter(
            "segnext_model_seconds", "Seconds that a model was busy.", ["model"], registry=kept
        )
        self.rejected = Counter(
            "segnext_rejected", "Answers that are errors, by their code.", ["reason"], registry=kept
        )

    def text(self) -> bytes:
        """Return all numbers in Prometheus' text format."""
        return bytes(generate_latest(self.registry))
