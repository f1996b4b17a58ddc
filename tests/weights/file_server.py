"""A server of files on this machine that behaves as servers and lines do when things go wrong."""

from __future__ import annotations

import base64
import hashlib
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread


@dataclass
class Answer:
    """How one request is answered; by default as it should be.

    Attributes:
        status: another status than 200 or 206, without a file.
        headers: beside the usual ones, or instead of them.
        cut: the line breaks after so many bytes of this answer.
        stall: seconds without a byte, in the middle of the answer.
        pause: seconds between two pieces of 64 KiB.
        ranges: whether parts are sent.
        body: sent instead of the file.
    """

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None
    stall: float = 0.0
    pause: float = 0.0
    ranges: bool = True
    body: bytes | None = None


@dataclass
class FileServer:
    """The server, and what it was asked.

    Attributes:
        files: contents by path.
        answers: how the next requests are answered; then as `usual`.
        usual: how all later ones are.
        asked: the headers of each request, with its path as "path".
    """

    files: dict[str, bytes]
    url: str = ""
    answers: list[Answer] = field(default_factory=list)
    usual: Answer = field(default_factory=Answer)
    asked: list[dict[str, str]] = field(default_factory=list)


@contextmanager
def serving(files: dict[str, bytes]) -> Iterator[FileServer]:
    """Serve files until the block ends."""
    server = FileServer(files)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            server.asked.append(
                {"path": self.path, **{key.lower(): text for key, text in self.headers.items()}}
            )
            answer = server.answers.pop(0) if server.answers else server.usual
            self.close_connection = True
            _answer(self, server.files.get(self.path), answer)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        listening.daemon_threads = True
        server.url = f"http://127.0.0.1:{listening.server_port}"
        thread = Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            listening.shutdown()


def tag_of(content: bytes) -> str:
    return f'"{hashlib.md5(content).hexdigest()}"'


def checksum(content: bytes) -> str:
    return base64.b64encode(hashlib.md5(content).digest()).decode()


def _answer(handler: BaseHTTPRequestHandler, content: bytes | None, answer: Answer) -> None:
    if content is None or answer.status:
        handler.send_response(answer.status or 404)
        for key, text in answer.headers.items():
            handler.send_header(key, text)
        handler.send_header("Content-Length", "0")
        handler.end_headers()
        return
    body, tag, start = answer.body if answer.body is not None else content, tag_of(content), 0
    asked = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range") or "")
    fresh = handler.headers.get("If-Range") in (None, tag)
    if asked and fresh and answer.ranges and answer.body is None:
        start = int(asked[1])
        if start >= len(content):
            handler.send_error(416)
            return
        body = content[start:]
    handler.send_response(206 if start else 200)
    headers = {"Content-Type": "application/octet-stream", "Content-Length": str(len(body)), "ETag": tag}
    if start:
        headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
    for key, text in {**headers, **answer.headers}.items():
        handler.send_header(key, text)
    handler.end_headers()
    end = len(body) if answer.cut is None else min(answer.cut, len(body))
    try:
        for position in range(0, end, 65536):
            if answer.stall and position >= end // 2:
                handler.wfile.flush()
                time.sleep(answer.stall)
                answer.stall = 0.0
            handler.wfile.write(body[position : min(position + 65536, end)])
            time.sleep(answer.pause)
        handler.wfile.flush()
    except OSError:  # the other side has gone
        return
