"""Runs an application under uvicorn: one socket, clear ends, and no connection that costs nothing to keep."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from contextlib import suppress
from types import FrameType
from typing import Any

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from segnext.serve.errors import ServiceError
from segnext.serve.gate import HEADERS
from segnext.serve.service import Service

_BACKLOG = 2048  # connections that the system keeps until they are accepted
_NOTICE = b"segnext: ending once all requests are answered; again to end at once\n"
_LAST = 0.25  # seconds in which requests are read that arrived before the end was asked for
_AFTER = 5  # seconds beyond the time limit until an answer that nobody reads is cut off


class Protocol(H11Protocol):
    """uvicorn's protocol, with a limit on the time without a request, and with our form of an error.

    uvicorn itself waits for ever for the headers of a connection's first request, and for a client to read an answer.
    """

    timeout: float
    _deadline: asyncio.TimerHandle | None = None
    _was_full = False

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
        self._was_full = False
        self._deadline = self.loop.call_later(self.timeout, self._check)

    def _check(self) -> None:
        """End a connection without a request, and one whose client reads nothing; look again later otherwise."""
        is_full = self.flow.write_paused
        if not self._is_answering() or (is_full and self._was_full):
            self.transport.abort()  # what is not sent yet would keep it open
            return
        self._was_full = is_full
        self._deadline = self.loop.call_later(self.timeout, self._check)

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete


class Server(uvicorn.Server):
    """uvicorn's server, which ends with status 0 when it is asked to: a second signal ends it at once."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit:
            os._exit(1)  # the model may be running, and cannot be interrupted
        self.should_exit = True
        self._service.is_draining = True
        with suppress(OSError):  # the terminal may be gone
            os.write(2, _NOTICE)  # unlike print, it may be called while the interrupted code is printing

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept no connection, answer all requests that came, and end."""
        self._service.is_draining = True
        for server in self.servers:
            server.close()
        await asyncio.sleep(_LAST)  # requests that have arrived and are not read yet: uvicorn would hang up
        await super().shutdown(sockets)


def listening_socket(host: str, port: int) -> socket.socket:
    """Return a socket that listens; connections wait in it until the application runs.

    Raises:
        OSError: the address is in use, is not of this machine, or needs rights; the message is one line.
    """
    try:
        # With its protocol named: asyncio turns Nagle's algorithm off for such sockets alone, and an answer would wait
        # 40 ms for the client's delayed acknowledgement.
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
        family, kind, protocol, _, place = found[0]
        listener = socket.socket(family, kind, protocol)
        try:
            if os.name == "posix":  # elsewhere it would let two services share a port
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(place)
            listener.listen(_BACKLOG)
        except OSError:
            listener.close()
            raise
        return listener
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise OSError(
            f"serve: --host and --port must be a free address of this machine, got {host}:{port} ({reason}); "
            "use another --port"
        ) from None


def server_of(app: FastAPI) -> Server:
    """Return the server of an application of `segnext.serve.create_app`; its `run(sockets=[listener])` serves.

    It serves until SIGINT or SIGTERM: then no connection is accepted, and every request that came is answered.
    """
    service: Service = app.state.service
    timeout = service.settings.timeout
    config = uvicorn.Config(
        app,
        http=type("TimedProtocol", (Protocol,), {"timeout": timeout}),
        ws="none",
        log_config=None,
        access_log=False,
        proxy_headers=False,  # nothing depends on the client's address
        server_header=False,
        h11_max_incomplete_event_size=HEADERS,
        timeout_graceful_shutdown=int(timeout) + _AFTER,
    )
    return Server(config, service)


def address(listener: socket.socket) -> str:
    """Return the URL of a listening socket."""
    host, port, *_ = listener.getsockname()
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_loopback(listener: socket.socket) -> bool:
    """Return whether only this machine reaches a socket."""
    host: Any = listener.getsockname()[0]
    return str(host).startswith("127.") or host == "::1"
