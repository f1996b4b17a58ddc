"""Brings one file from a server to the disk: goes on where an earlier attempt stopped, and repeats what may pass.

The standard library does it. It takes proxies from the environment, follows redirections and reads ``file://``;
`requests` and `huggingface_hub` would be dependencies of everybody for a file that is fetched once.

Beside ``<file>.part`` lies ``<file>.part.json``, with the address and the validator (ETag or date) that the server
gave. A later attempt asks for the rest only if the file there is still the same (``If-Range``); a server that has
another one, or that sends no parts, sends the whole file, and the part is written anew.
"""

from __future__ import annotations

import base64
import errno
import hashlib
import http.client
import json
import os
import re
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import sleep
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from segnext.atomic import replace_text
from segnext.one_line import one_line

ATTEMPTS = 5  # in a row that bring less than GAIN
GAIN = 2**20  # bytes: a line that breaks every few megabytes still brings the file
FIRST_PAUSE = 1.0  # seconds; each next one is twice as long
LONGEST_PAUSE = 60.0  # seconds: what a server may ask for
SILENCE = 30.0  # seconds without a byte
CHUNK = 2**20
TRANSIENT = (408, 425, 429, 500, 502, 503, 504)  # these pass
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

Report = Callable[[int, int | None], None]
"""Is told how many bytes are on the disk, and how many there will be, if the server says."""


class DownloadError(OSError):
    """A file could not be fetched; the message has one line and names a cure."""


class _MayPass(Exception):
    """An attempt failed in a way that another one may not; `wait` is what the server asks for, in seconds."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


@dataclass(frozen=True)
class Received:
    """What came.

    Attributes:
        sha256: 64 hexadecimal digits of the whole file.
        resumed: a part of it is from an earlier attempt.
    """

    sha256: str
    resumed: bool


class _HttpsOnly(urllib.request.HTTPRedirectHandler):
    """Follows redirections, but none from https to anything else: most files have no other proof of their origin."""

    def redirect_request(self, request: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if urlsplit(request.full_url).scheme == "https" and urlsplit(newurl).scheme != "https":
            raise urllib.error.HTTPError(newurl, code, "a redirection away from https", headers, fp)
        return super().redirect_request(request, fp, code, msg, headers, newurl)


def bring(url: str, part: Path, what: str, cure: str, report: Report) -> Received:
    """Fetch a file, and repeat what may pass: cut lines, timeouts, errors of the server.

    Args:
        url: http, https or file.
        part: where the bytes go; what an earlier attempt left there is used.
        what: names the file in messages.
        cure: ends the messages about a server that cannot be reached or does not have the file.
        report: is called for each megabyte.

    Raises:
        DownloadError: it failed; `part` stays, to be used next time, unless it was of no use.
    """
    failures = 0
    while True:
        before = _size(part)
        try:
            return _attempt(url, part, what, cure, report)
        except _MayPass as error:
            failures = 1 if _size(part) - before >= GAIN else failures + 1
            if failures == ATTEMPTS:
                kept = f"; {_size(part):,} bytes are kept in {part}" if _size(part) else ""
                raise DownloadError(
                    f"weights: {what} must come from {_host(url)} whole, got {error} {ATTEMPTS} times{kept}; "
                    "the same command goes on later"
                ) from None
            sleep(max(FIRST_PAUSE * 2 ** (failures - 1), min(error.wait, LONGEST_PAUSE)))


def discard(part: Path) -> None:
    """Remove a part and what is known about it."""
    part.unlink(missing_ok=True)
    _notes_of(part).unlink(missing_ok=True)


def _attempt(url: str, part: Path, what: str, cure: str, report: Report) -> Received:
    notes = _read_notes(part, url)
    held = _size(part) if notes else 0
    digests = _Digests()
    if held and held == notes.get("size"):  # the process ended before the file got its name
        digests.add_file(part)
        _expect_md5(digests, notes, part)
        return Received(digests.sha256.hexdigest(), True)
    headers = {"User-Agent": "segnext", "Accept-Encoding": "identity"}
    if held:
        headers |= {"Range": f"bytes={held}-", "If-Range": notes["validator"]}
    with _opened(urllib.request.Request(url, headers=headers), part, what, cure) as response:
        resumed = bool(held) and response.status == 206
        if resumed:
            total = _total(response.headers.get("Content-Range"), held, part)
            digests.add_file(part)
        else:
            held, total = 0, _number(response.headers.get("Content-Length"))
            notes = _notes(url, response.headers, total)
        first = _next_chunk(response)
        if not resumed:
            _expect_no_page(response.headers, first, url, what, cure)
        try:
            if not resumed:
                replace_text(_notes_of(part), json.dumps(notes))
            with part.open("ab" if resumed else "wb", buffering=0) as file:
                have = _copied(response, first, file, digests, held, total, report)
                os.fsync(file.fileno())
        except OSError as error:
            raise _unwritable(error, part, what, total) from None
    if total is not None and have != total:
        if have > total:
            discard(part)
        raise _MayPass(f"{have:,} of {total:,} bytes")
    _expect_md5(digests, notes, part)
    return Received(digests.sha256.hexdigest(), resumed)


def _copied(
    response: Any,
    chunk: bytes,
    file: Any,
    digests: _Digests,
    have: int,
    total: int | None,
    report: Report,
) -> int:
    """Write what comes, and return how many bytes the file then has."""
    while chunk:
        left = memoryview(chunk)
        while left:
            left = left[file.write(left) :]
        digests.add(chunk)
        have += len(chunk)
        report(have, total)
        chunk = _next_chunk(response)
    return have


def _opened(request: urllib.request.Request, part: Path, what: str, cure: str) -> Any:
    host = _host(request.full_url)
    try:
        opener = urllib.request.build_opener(_HttpsOnly)
        return opener.open(request, timeout=SILENCE)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # the part is longer than the file is now
            discard(part)
            raise _MayPass("another file than before") from None
        said = f"HTTP {error.code} ({one_line(error.reason)})"
        if error.code in TRANSIENT:
            raise _MayPass(said, float(_number(error.headers.get("Retry-After")) or 0)) from None
        raise DownloadError(f"weights: {what} must be at {request.full_url}, got {said}; {cure}") from None
    except urllib.error.URLError as error:
        reason = error.reason
        if isinstance(reason, FileNotFoundError) or "No such file" in str(reason):
            raise DownloadError(
                f"weights: {what} must be at {request.full_url}, got no such file; {cure}"
            ) from None
        if _is_passing(reason):
            raise _MayPass(_in_words(reason)) from None
        raise DownloadError(
            f"weights: {what} must be fetched from {host}, got no connection ({_in_words(reason)}); {cure}"
        ) from None
    except (OSError, http.client.HTTPException) as error:
        if _is_passing(error):
            raise _MayPass(_in_words(error)) from None
        raise DownloadError(
            f"weights: {what} must be fetched from {host}, got {_in_words(error)}; {cure}"
        ) from None


def _next_chunk(response: Any) -> bytes:
    try:
        chunk: bytes = response.read(CHUNK)
        return chunk
    except http.client.IncompleteRead as error:
        return error.partial  # the number of bytes is compared at the end
    except (OSError, http.client.HTTPException) as error:
        raise _MayPass(_in_words(error)) from None


def _is_passing(error: object) -> bool:
    if isinstance(error, ssl.SSLCertVerificationError):
        return False
    passing = (TimeoutError, ConnectionResetError, ConnectionAbortedError, BrokenPipeError, ssl.SSLError)
    return isinstance(error, (*passing, http.client.HTTPException))


def _in_words(error: object) -> str:
    if isinstance(error, TimeoutError):
        return f"nothing for {SILENCE:.0f} seconds"
    text = (isinstance(error, OSError) and error.strerror) or str(error).strip()
    return one_line(text or type(error).__name__)


def _expect_no_page(headers: Any, first: bytes, url: str, what: str, cure: str) -> None:
    """Raise if a proxy or a portal answers with a page."""
    kind = (headers.get("Content-Type") or "").partition(";")[0].strip().lower()
    if kind in ("text/html", "application/xhtml+xml") or first[:64].lstrip().startswith(b"<"):
        raise DownloadError(
            f"weights: {what} must come from {_host(url)} as a checkpoint, got a web page ({kind or 'no type'}), "
            f"as a proxy or a login sends; {cure}"
        )


def _unwritable(error: OSError, part: Path, what: str, total: int | None) -> DownloadError:
    reason = error.strerror or one_line(error)
    if error.errno in _FULL:  # what came would keep the disk full
        discard(part)
        needed = f" of {total:,} bytes" if total else ""
        return DownloadError(
            f"weights: disk must have room for {what}{needed}, got {reason!r} in {part.parent}; free some, or let "
            "TORCH_HOME name a folder elsewhere"
        )
    return DownloadError(
        f"weights: cache must be writable for {what}, got {reason!r} for {part}; let TORCH_HOME name another folder"
    )


class _Digests:
    """SHA-256, which tells files apart, and MD5, which servers send."""

    def __init__(self) -> None:
        self.sha256, self.md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)

    def add(self, chunk: bytes) -> None:
        self.sha256.update(chunk)
        self.md5.update(chunk)

    def add_file(self, path: Path) -> None:
        file: BinaryIO
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                self.add(chunk)


def _expect_md5(digests: _Digests, notes: dict[str, Any], part: Path) -> None:
    """Compare with the digest that the server gave, if it gave one."""
    if notes.get("md5") not in (None, base64.b64encode(digests.md5.digest()).decode()):
        discard(part)
        raise _MayPass("bytes that do not have the server's own checksum (Content-MD5)")


def _notes(url: str, headers: Any, size: int | None) -> dict[str, Any]:
    tag = headers.get("ETag") or ""
    # A weak tag (W/) is that of files that mean the same, and may not be used for parts.
    validator = tag if tag.startswith('"') else headers.get("Last-Modified")
    return {"url": url, "validator": validator, "size": size, "md5": headers.get("Content-MD5")}


def _read_notes(part: Path, url: str) -> dict[str, Any]:
    """Return what is known about the part; nothing if it is of another address, or cannot be told from another file."""
    try:
        notes = json.loads(_notes_of(part).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    usable = isinstance(notes, dict) and notes.get("url") == url and isinstance(notes.get("validator"), str)
    return notes if usable else {}


def _notes_of(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _total(content_range: str | None, start: int, part: Path) -> int | None:
    """Return the size of the file that a server sends from `start` on."""
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", content_range or "")
    if found is None or int(found[1]) != start:
        discard(part)
        raise _MayPass("another part than the one that was asked for")
    return _number(found[2])


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdecimal() else None


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _host(url: str) -> str:
    split = urlsplit(url)
    return split.netloc or one_line(url)
