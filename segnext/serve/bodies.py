"""Reads the bodies of requests into memory, and never more than a request may send."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager

from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from segnext.serve.errors import ServiceError

_BODIES = 8  # of the largest size, that all requests together may hold in memory
_FIELDS = 16  # of a form, beside its images
_PIECE = 1 << 18  # bytes of a form that are parsed at once


class Memory:
    """Counts the bytes of all bodies that are held at once, up to `_BODIES` of the largest size."""

    def __init__(self, max_bytes: int) -> None:
        self.most, self.held = _BODIES * max_bytes, 0

    @contextmanager
    def body(self) -> Iterator[Body]:
        """Give a body to fill; its bytes count until the block ends, or `Body.release`."""
        body = Body(self)
        try:
            yield body
        finally:
            body.release()


class Body:
    """The bytes of one request."""

    def __init__(self, memory: Memory) -> None:
        self._memory, self.counted = memory, 0

    def add(self, count: int) -> None:
        """Count bytes that have come.

        Raises:
            ServiceError: all bodies together would take too much memory.
        """
        if self._memory.held + count > self._memory.most:
            raise ServiceError(
                "too_busy",
                f"all uploads together must have at most {self._memory.most:,} bytes; try again",
                1,
            )
        self._memory.held += count
        self.counted += count

    def release(self) -> None:
        """Count them no longer."""
        self._memory.held -= self.counted
        self.counted = 0


async def read(request: Request, max_bytes: int, body: Body) -> bytes:
    """Return the body of a request; nothing is read beyond the limit, whether or not a length was declared.

    Raises:
        ServiceError: the body is too large or empty. ClientDisconnect: the client went away before its end.
    """
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > max_bytes:
        raise _too_large(max_bytes, f"{int(declared):,}")
    chunks = []
    async for chunk in request.stream():
        if body.counted + len(chunk) > max_bytes:
            raise _too_large(max_bytes, "more")
        body.add(len(chunk))
        chunks.append(chunk)
    if not body.counted:
        raise ServiceError("empty_body", "the body must be the bytes of an image, got none; send the file")
    return b"".join(chunks)


async def images_of_form(headers: Headers, content: bytes, name: str, most: int) -> list[bytes]:
    """Return the files of a multipart form whose fields are called `name`, at least one.

    Raises:
        ServiceError: this is no such form, or it has no or too many images.
    """
    parser = MultiPartParser(
        headers, _pieces(content), max_files=most + 1, max_fields=_FIELDS, max_part_size=len(content)
    )
    parser.spool_max_size = len(content) + 1  # what clients send is never written to a disk
    try:
        form = await parser.parse()
    except MultiPartException as error:
        if len([1 for _, value in parser.items if isinstance(value, UploadFile)]) > most:
            raise _too_many(most) from None
        raise ServiceError("multipart_invalid", f"the form cannot be read: {error.message}") from None
    files = [field for field in form.getlist(name) if isinstance(field, UploadFile)]
    if len(files) > most:
        raise _too_many(most)
    if not files:
        raise ServiceError(
            "multipart_invalid",
            f"the form must have a file in a part {name!r}, got none; curl: -F {name}=@photo.jpg",
        )
    return [await file.read() for file in files]


async def _pieces(content: bytes) -> AsyncGenerator[bytes, None]:
    for start in range(0, len(content), _PIECE):
        yield content[start : start + _PIECE]
        await asyncio.sleep(0)  # others are answered meanwhile


def _too_large(max_bytes: int, got: str) -> ServiceError:
    return ServiceError(
        "body_too_large",
        f"the body must have at most {max_bytes:,} bytes, got {got}; send a smaller image, or a JPEG",
    )


def _too_many(most: int) -> ServiceError:
    return ServiceError(
        "too_many_images", f"a request must have at most {most} images, got more; send several requests"
    )
