"""The log of a service: a line for each request, as JSON or as text, without a word of what clients sent."""

from __future__ import annotations

import datetime
import json
import logging
import secrets
import sys
import time
import warnings
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from segnext.one_line import one_line

LOGGER = logging.getLogger("segnext.serve")


@dataclass
class Record:
    """What the log says about a request; no header, no name of a file, no query.

    Attributes:
        id: of this request, in its answer's header too.
        path: of the URL, shortened.
        ms: from the headers of the request to the end of its answer.
        bytes: of the body that came.
        error: a code of `segnext.serve.errors`.
    """

    method: str
    path: str
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    status: int | None = None
    ms: float | None = None
    model: str | None = None
    width: int | None = None
    height: int | None = None
    images: int | None = None
    bytes: int | None = None
    error: str | None = None

    def __post_init__(self) -> None:
        self.path = one_line(self.path)
        self.start = time.perf_counter()

    def elapsed(self) -> float:
        """Return the seconds since the headers came."""
        return time.perf_counter() - self.start

    def write(self) -> None:
        """Write the line."""
        self.ms = round(1e3 * self.elapsed(), 2)
        fields = {name: value for name, value in asdict(self).items() if value is not None}
        LOGGER.info("%s %s %s", self.method, self.path, self.status, extra={"fields": fields})


class JsonLines(logging.Formatter):
    """Formats each record as an object on one line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        moment = datetime.datetime.fromtimestamp(record.created, datetime.timezone.utc)
        line: dict[str, Any] = {
            "time": moment.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
        }
        line |= getattr(record, "fields", None) or {"message": record.getMessage()}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


class TextLines(logging.Formatter):
    """Formats each record for people."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; a traceback follows on lines of its own."""
        moment = datetime.datetime.fromtimestamp(record.created).strftime("%H:%M:%S")
        fields = getattr(record, "fields", None)
        line = f"{moment} {_request(fields) if fields else record.getMessage()}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _request(fields: dict[str, Any]) -> str:
    words = [fields["method"], fields["path"], str(fields.get("status", "-")), f"{fields['ms']:.1f} ms"]
    if "width" in fields:
        words += [fields["model"], f"{fields['width']}x{fields['height']}"]
    if "error" in fields:
        words += [fields["error"], fields["id"]]
    return " ".join(words)


def configure(form: Literal["json", "text"]) -> None:
    """Send the service's log, and warnings of the server and of Python, to the standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if form == "json" else TextLines())
    for name, level in (
        ("segnext.serve", logging.INFO),
        ("uvicorn.error", logging.WARNING),
        ("asyncio", logging.ERROR),
    ):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)
    # Its warnings say what is wrong with a form, in words of the form; the client gets an error.
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)
    warnings.showwarning = _show_warning


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    LOGGER.warning("%s", one_line(str(message)))
