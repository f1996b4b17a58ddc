"""A client that sends one image many times at once: `python -m bench.serve.load URL IMAGE`; it prints JSON.

It is a process of its own, so that it shares no lock of Python with the service or the library.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

TIMEOUT = 120.0  # seconds; more than any answer takes, so that each request ends with one


async def send(url: str, content: bytes, requests: int, concurrency: int) -> dict[str, Any]:
    """Send so many requests with so many under way; return the seconds of each, statuses, and the whole time."""
    limits = httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
    seconds: list[float] = []
    statuses: Counter[str] = Counter()
    left = iter(range(requests))

    async def client(session: httpx.AsyncClient) -> None:
        for _ in left:
            start = time.perf_counter()
            try:
                answer = await session.post(url, content=content, headers={"content-type": "image/jpeg"})
                statuses[str(answer.status_code)] += 1
            except httpx.HTTPError as error:
                statuses[type(error).__name__] += 1
            seconds.append(time.perf_counter() - start)

    async with httpx.AsyncClient(limits=limits, timeout=TIMEOUT) as session:
        start = time.perf_counter()
        await asyncio.gather(*(client(session) for _ in range(concurrency)))
        whole = time.perf_counter() - start
    return {"seconds": seconds, "statuses": dict(statuses), "whole": whole}


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `python -m bench.serve.load`."""
    parser = argparse.ArgumentParser(prog="python -m bench.serve.load", description=__doc__)
    parser.add_argument("url")
    parser.add_argument("image", type=Path)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--concurrency", type=int, default=200)
    options = parser.parse_args(arguments)
    content = options.image.read_bytes()
    print(json.dumps(asyncio.run(send(options.url, content, options.requests, options.concurrency))))


if __name__ == "__main__":
    main()
