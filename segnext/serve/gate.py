"""What every request passes: the check of its host and token, the headers of its answer, the log, the numbers."""

from __future__ import annotations

import hmac
from collections.abc import Collection

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from segnext.serve.errors import ServiceError
from segnext.serve.logs import LOGGER, Record
from segnext.serve.service import Service

HEADERS = 16_384
"""Bytes of a request's line and headers together."""

# Paths below these need the token, if there is one; the page itself, its files and the probes need none.
_GUARDED = ("/v1/", "/metrics")
# The page loads nothing from elsewhere; photographs that a browser has are blob: addresses.
_POLICY = (
    "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}


class Gate:
    """ASGI middleware around the whole application.

    Args:
        app: what is inside.
        service: counts answers.
        token: clients of the API send it as ``Authorization: Bearer ...``; None: they need none.
        hosts: names in the ``Host`` header that are answered; None: any. A web page elsewhere whose name is suddenly
            an address of this machine (DNS rebinding) gets no answer.
    """

    def __init__(
        self, app: ASGIApp, service: Service, token: str | None = None, hosts: Collection[str] | None = None
    ) -> None:
        self.app, self.service = app, service
        self._expected = None if token is None else b"bearer " + token.encode()
        self._hosts = None if hosts is None else frozenset(host.lower() for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        record = Record(scope["method"], scope["path"])
        if record.method == "HEAD":  # as GET; the server, which keeps its own scope, leaves the body out
            scope = {**scope, "method": "GET"}
        scope.setdefault("state", {})["record"] = record
        headers = Headers(scope=scope)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                added = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    added.setdefault(name, value)
                added["x-request-id"] = record.id
            await send(message)

        try:
            try:
                self._expect_allowed(scope, headers)
                await self.app(scope, receive, send_with_headers)
            except ServiceError as error:
                await refusal(error, record)(scope, receive, send_with_headers)
            except Exception:
                LOGGER.exception("request %s failed", record.id)
                if record.status is not None:  # the answer has begun: the server cuts it off
                    raise
                fault = ServiceError(
                    "internal_error", f"the service failed; its log has the reason, id {record.id}"
                )
                await refusal(fault, record)(scope, receive, send_with_headers)
        finally:
            self._count(scope, record)

    def _expect_allowed(self, scope: Scope, headers: Headers) -> None:
        method, path = scope["method"], scope["path"]
        # uvicorn's own limit holds only for what comes in several pieces.
        size = len(path.encode()) + len(scope["query_string"])
        if size + sum(len(name) + len(value) + 4 for name, value in headers.raw) > HEADERS:
            raise ServiceError(
                "headers_too_large",
                f"address and headers must have at most {HEADERS:,} bytes, got more; send fewer",
            )
        if self._hosts is not None and _name_of(headers.get("host", "")) not in self._hosts:
            raise ServiceError(
                "wrong_host",
                "the Host header must name this service; `segnext serve --allow-host NAME` adds a name",
            )
        if method == "POST" and headers.get("sec-fetch-site") in ("cross-site", "same-site"):
            raise ServiceError("cross_site", "web pages of other origins must not use this service")
        if self._expected is None or not path.startswith(_GUARDED):
            return
        scheme, _, given = headers.get("authorization", "").encode("latin-1").partition(b" ")
        if not hmac.compare_digest(scheme.lower() + b" " + given.strip(), self._expected):
            raise ServiceError(
                "token_required", "the header Authorization must be 'Bearer TOKEN' with this service's token"
            )

    def _count(self, scope: Scope, record: Record) -> None:
        endpoint = getattr(scope.get("route"), "path", "other")
        metrics = self.service.metrics
        metrics.requests.labels(endpoint, record.status or 0).inc()
        metrics.seconds.labels(endpoint).observe(record.elapsed())
        if record.error:
            metrics.rejected.labels(record.error).inc()
        record.write()


def refusal(error: ServiceError, record: Record) -> JSONResponse:
    """Return the answer that says an error, and note it in the log."""
    record.error = error.code
    headers = {} if error.retry_after is None else {"retry-after": str(error.retry_after)}
    if error.code == "token_required":
        headers["www-authenticate"] = "Bearer"
    return JSONResponse(error.as_json(), error.status, headers)


def _name_of(host: str) -> str:
    """Return the name in a Host header, without the port."""
    name, colon, port = host.lower().rpartition(":")
    return name if colon and (port.isdecimal() or not port) else host.lower()
