"""The limits of a service."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The limits within which a service answers; whatever is over one of them gets an error that names it.

    Attributes:
        max_bytes: of the body of a request, uploads of several images included.
        max_pixels: of an image, checked before it is decoded.
        max_images: in one request to ``/v1/segment-batch``.
        timeout: seconds from the headers of a request to its answer: upload, queue and model together. So long may a
            connection also take to send headers, or to read an answer.
        max_concurrency: requests at once, including those that are still sending their image.
        queue: images of one model that wait or are being segmented.
        max_batch: waiting images of one size that run through the network together; None: 1 on a CPU, 8 on a GPU.

    Raises:
        ValueError: a limit is not above 0.
    """

    max_bytes: int = 32_000_000
    max_pixels: int = 25_000_000
    max_images: int = 32
    timeout: float = 30.0
    max_concurrency: int = 512
    queue: int = 256
    max_batch: int | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and not value > 0:
                raise ValueError(f"serve: {field.name} must be above 0, got {value!r}")
