"""Runs an application under uvicorn: one socket, clear ends, and no connection that costs nothing to keep."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from segnext.serve.errors import ServiceError
from segnext.serve.service import Service

HEADERS = 16_384  # bytes of a request's line and headers together
_BACKLOG = 2048  # connections that the system keeps until they are accepted
_AFTER = 5  # seconds beyond the time limit until an answer that nobody reads is cut off


class Protocol(H11Protocol):
    """uvicorn's protocol, with a limit on the time without a request, and with our form of an error.

    uvicorn itself waits for ever for the headers of a connection's first request, and for a client to read an answer.
    """

    timeout: float
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_request()

    def on_response_complete(self) -> None:
        self._expect_request()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        super().connection_lost(exc)

    def eof_received(self) -> None:
        """Answer a client that ended its upload too early and still listens; uvicorn would hang up."""
        if self._is_answering() and self.cycle.more_body and not self.cycle.response_started:
            self._refuse(
                ServiceError("upload_truncated", "the image must be sent whole, got a part; send it again")
            )
        super().eof_received()

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP, and headers that are too large."""
        self._refuse(
            ServiceError(
                "bad_request",
                f"the request must be HTTP/1.1 with at most {HEADERS:,} bytes of headers, got something else",
            )
        )

    def _refuse(self, error: ServiceError) -> None:
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):  # an answer is on its way
            self.transport.close()
            return
        body = json.dumps(error.as_json()).encode()
        headers = [
            ("content-type", "application/json"),
            ("content-length", str(len(body))),
            ("connection", "close"),
        ]
        answer = h11.Response(status_code=error.status, headers=headers, reason=b"Bad Request")
        for event in (answer, h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _expect_request(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self.loop.call_later(self.timeout, self._end_if_idle)

    def _end_if_idle(self) -> None:
        if not self._is_answering():
            self.transport.abort()

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete


class Server(uvicorn.Server):
    """uvicorn's server, which ends with status 0 when it is asked to: a second signal ends it at once."""

    def __init__(self, config: uvicorn.Config, on_stop: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_stop = on_stop

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit:
            os._exit(1)  # the model may be running, and cannot be interrupted
        self.should_exit = True
        self._on_stop()


def listening_socket(host: str, port: int) -> socket.socket:
    """Return a socket that listens; connections wait in it until the application runs.

    Raises:
        OSError: the address is in use, is not of this machine, or needs rights; the message is one line.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise OSError(
            f"serve: --host and --port must be a free address of this machine, got {host}:{port} ({reason}); "
            "use another --port"
        ) from None


def run(app: FastAPI, listener: socket.socket) -> None:
    """Serve until SIGINT or SIGTERM: then no connection is accepted, and every request that came is answered."""
    service: Service = app.state.service
    timeout = service.settings.timeout
    config = uvicorn.Config(
        app,
        http=type("TimedProtocol", (Protocol,), {"timeout": timeout}),
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        h11_max_incomplete_event_size=HEADERS,
        timeout_graceful_shutdown=int(timeout) + _AFTER,
    )

    def stop() -> None:
        service.is_draining = True
        print(
            "segnext: ending once all requests are answered; again to end at once",
            file=sys.stderr,
            flush=True,
        )

    Server(config, stop).run(sockets=[listener])


def address(listener: socket.socket) -> str:
    """Return the URL of a listening socket."""
    host, port, *_ = listener.getsockname()
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_loopback(listener: socket.socket) -> bool:
    """Return whether only this machine reaches a socket."""
    host: Any = listener.getsockname()[0]
    return str(host).startswith("127.") or host == "::1"
