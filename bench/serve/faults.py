"""A client that does what clients must not: `python -m bench.serve.faults PORT IMAGE`; it prints JSON.

Good requests go on all the time. Each kind of fault comes again and again, and its answers are counted by status;
"closed" is a connection that the service ended, as it must where nobody asked anything.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import struct
import time
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path

GOOD_CLIENTS = 4
BURST = 48  # requests at once, more than the queue holds
PAUSE = 0.05  # seconds between two faults
PATIENCE = 60.0  # seconds until a request counts as one without an answer
NO_ANSWER = "none"


def head(
    length: int | str, kind: str = "image/jpeg", more: str = "", path: str = "/v1/segment?output=mask"
) -> bytes:
    """Return a request's line and headers."""
    fields = f"Host: localhost\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n{more}"
    return f"POST {path} HTTP/1.1\r\n{fields}\r\n".encode()


def bomb(width: int, height: int) -> bytes:
    """Return a PNG of few bytes that says it has so many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = zlib.compress(bytes(1_000_000), 9)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


class Client:
    """Sends faults to a service on this machine.

    Args:
        port: of the service.
        photograph: the bytes of a JPEG.
    """

    def __init__(self, port: int, photograph: bytes) -> None:
        self.port, self.photograph = port, photograph
        self.answers: dict[str, Counter[str]] = {}
        self.good_seconds: list[float] = []

    async def ask(self, content: bytes, *, half_closed: bool = False) -> str:
        """Send bytes; return the status of the answer, "closed" or "none"."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            with suppress(ConnectionError):  # the answer may be there before all is sent
                writer.write(content)
                await writer.drain()
                if half_closed:
                    writer.write_eof()
            line = await asyncio.wait_for(reader.readline(), PATIENCE)
            return line.split()[1].decode() if line else "closed"
        except ConnectionError:
            return "closed"
        except asyncio.TimeoutError:
            return NO_ANSWER
        finally:
            writer.close()

    async def good(self) -> str:
        """Send a photograph."""
        start = time.perf_counter()
        status = await self.ask(head(len(self.photograph)) + self.photograph)
        if status == "200":
            self.good_seconds.append(time.perf_counter() - start)
        return status

    async def leaves(self) -> str:
        """Send a photograph and hang up."""
        _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(head(len(self.photograph)) + self.photograph)
        await writer.drain()
        await asyncio.sleep(0.01)
        writer.close()
        return "left"

    async def slow(self) -> str:
        """Send a byte every 100 ms."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        answer = asyncio.ensure_future(reader.readline())
        writer.write(head(len(self.photograph)))
        with suppress(ConnectionError):
            for byte in self.photograph[:600]:
                writer.write(bytes([byte]))
                await writer.drain()
                done, _ = await asyncio.wait([answer], timeout=0.1)
                if done:
                    break
        answer.cancel()
        line = await answer if answer.done() and not answer.cancelled() else b""
        writer.close()
        return line.split()[1].decode() if line else NO_ANSWER

    def faults(self) -> dict[str, Callable[[], Awaitable[str]]]:
        """Return each kind of fault."""
        photograph, half = self.photograph, self.photograph[: len(self.photograph) // 2]
        bombs = [bomb(60_000, 60_000), bomb(6_000, 6_000)]
        sizes = itertools.cycle(bombs)

        def whole(content: bytes, kind: str = "image/jpeg") -> Awaitable[str]:
            return self.ask(head(len(content), kind) + content)

        return {
            "decompression bomb": lambda: whole(next(sizes), "image/png"),
            "text instead of an image": lambda: whole(b"This is no image. " * 50),
            "wrong Content-Type": lambda: whole(photograph, "text/plain"),
            "half of a JPEG": lambda: whole(half),
            "body over the limit": lambda: self.ask(head(10**10) + photograph),
            "upload that ends early": lambda: self.ask(head(len(photograph)) + half, half_closed=True),
            "slow upload": self.slow,
            "silent connection": lambda: self.ask(b""),
            "oversize headers": lambda: self.ask(head(0, more=f"Cookie: {'c' * 30_000}\r\n")),
            "not HTTP": lambda: self.ask(bytes(range(256)) + b"\r\n\r\n"),
            "client that hangs up": self.leaves,
            "damaged form": lambda: whole(b"--b\r\n", "multipart/form-data; boundary=b"),
        }

    async def count(self, name: str, asked: Awaitable[str]) -> None:
        """Count the answer of a request of some kind."""
        self.answers.setdefault(name, Counter())[await asked] += 1

    async def run(self, seconds: float) -> None:
        """Send good requests and faults for so long, and wait for all answers."""
        end = time.monotonic() + seconds
        running: set[asyncio.Task[None]] = set()

        async def steadily() -> None:
            while time.monotonic() < end:
                await self.count("good request", self.good())

        clients = [asyncio.ensure_future(steadily()) for _ in range(GOOD_CLIENTS)]
        for number, (name, fault) in enumerate(itertools.cycle(self.faults().items())):
            if time.monotonic() >= end:
                break
            running.add(asyncio.ensure_future(self.count(name, fault())))
            if number % 100 == 50:
                running |= {
                    asyncio.ensure_future(self.count("burst over the queue", self.good()))
                    for _ in range(BURST)
                }
            await asyncio.sleep(PAUSE)
        await asyncio.gather(*clients, *running)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `python -m bench.serve.faults`."""
    parser = argparse.ArgumentParser(prog="python -m bench.serve.faults", description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("image", type=Path)
    parser.add_argument("--seconds", type=float, default=60)
    options = parser.parse_args(arguments)
    client = Client(options.port, options.image.read_bytes())
    asyncio.run(client.run(options.seconds))
    answers = {name: dict(counts) for name, counts in client.answers.items()}
    print(json.dumps({"answers": answers, "good_seconds": client.good_seconds}))


if __name__ == "__main__":
    main()
