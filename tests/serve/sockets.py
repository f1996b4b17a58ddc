"""Talks to a service byte by byte, as no well-behaved client does."""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass


@dataclass
class Reply:
    """What a service sent back until it closed, or until its answer was whole."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> dict[str, str]:
        return dict(json.loads(self.body)["error"])


def connect(port: int, seconds: float = 30) -> socket.socket:
    """Return a connection to a service on this machine."""
    return socket.create_connection(("127.0.0.1", port), timeout=seconds)


def head(path: str = "/v1/segment", method: str = "POST", **headers: object) -> bytes:
    """Return a request's line and headers; underscores in names become hyphens."""
    fields = {"Host": "127.0.0.1", "Content-Type": "image/png"}
    fields |= {name.replace("_", "-"): str(value) for name, value in headers.items()}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode()


def reply(connection: socket.socket) -> Reply | None:
    """Read one answer; None: the service closed the connection without one."""
    received = b""
    while b"\r\n\r\n" not in received:
        if not (more := connection.recv(65536)):
            return None
        received += more
    start, _, body = received.partition(b"\r\n\r\n")
    first, *lines = start.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    while len(body) < int(headers.get("content-length", 0)):
        if not (more := connection.recv(65536)):
            break
        body += more
    return Reply(int(first.split()[1]), headers, body)
