"""Tests what a service answers to what it cannot do: one status, one code, one line; and it goes on."""

from __future__ import annotations

import io
import logging
import re
import struct
import zlib

import httpx
import numpy as np
import pytest
from PIL import Image

from segnext.serve import Settings
from segnext.serve.errors import STATUSES
from tests.serve.conftest import Running, encoded, running, until
from tests.serve.sockets import connect, head, reply

LIMITS = Settings(max_bytes=100_000, max_pixels=10_000, timeout=30)


@pytest.fixture(scope="module")
def served(predictor, photograph):
    with running({"small": predictor}, LIMITS) as service:
        yield service
        assert service.post(encoded(photograph)).status_code == 200
        own = service.service
        until(lambda: own.active == own.memory.held == own.room.used == 0)


def refused(response: httpx.Response, code: str) -> str:
    """Return the message of an answer that must be this error."""
    error = response.json()["error"]
    assert (error["code"], response.status_code) == (code, STATUSES[code])
    assert "\n" not in error["message"] and response.headers["x-content-type-options"] == "nosniff"
    return error["message"]


def png_of(width: int, height: int) -> bytes:
    """Return a PNG that says it is so large, and is a few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(100_000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


class TestImages:
    @pytest.mark.parametrize("size", [(60_000, 60_000), (20_000, 5_000), (10_001, 1)])
    def test_a_bomb_is_not_decoded(self, served, size, monkeypatch):
        Image.init()  # Pillow's plugins are there: one decodes an image when it is imported
        monkeypatch.setattr(Image.Image, "load", lambda image: pytest.fail("it was decoded"))
        message = refused(served.post(png_of(*size)), "image_too_large")
        assert (
            message.startswith("image: must have at most 10,000 pixels, got ") and "scale it down" in message
        )

    def test_as_large_as_allowed(self, served):
        assert served.post(encoded(np.zeros((100, 100, 3), np.uint8))).status_code == 200

    @pytest.mark.parametrize(
        ("content", "says"),
        [
            (b"hello", "not an image in a format that is read"),
            (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is a SVG file"),
            (b"%PDF-1.7", "PDF"),
            (b"%!PS-Adobe", "PostScript"),
            (b"PK\x03\x04", "not an image"),
        ],
    )
    def test_other_files(self, served, content, says):
        assert re.search(says, refused(served.post(content), "unsupported_image"))

    @pytest.mark.parametrize("options", [{"format": "PNG"}, {"format": "JPEG"}, {"format": "WEBP"}])
    def test_cut_files(self, served, photograph, options):
        content = encoded(photograph, **options)
        assert "damaged" in refused(served.post(content[: len(content) // 2]), "damaged_image")

    def test_nothing(self, served):
        assert "got none" in refused(served.post(b""), "empty_body")

    def test_floating_point(self, served):
        content = io.BytesIO()
        Image.fromarray(np.zeros((8, 8), np.float32)).save(content, format="TIFF")
        assert "brightness" in refused(served.post(content.getvalue()), "damaged_image")

    def test_no_memory_for_the_model(self, held):
        held.failing[7] = MemoryError("not enough memory for 9x8 pixels in mode 'whole'; use mode='slide'")
        held.go.set()
        with running({"held": held}) as served:
            message = refused(served.post(encoded(np.full((8, 9, 3), 7, np.uint8))), "image_too_large")
        assert message.endswith("use mode='slide'")


class TestRequests:
    @pytest.mark.parametrize(
        "kind", ["", "text/html", "application/json", "application/x-www-form-urlencoded"]
    )
    def test_types(self, served, photograph, kind):
        message = refused(
            served.post(encoded(photograph), headers={"content-type": kind}), "unsupported_type"
        )
        assert message.endswith("curl: -H 'Content-Type: image/jpeg'")

    @pytest.mark.parametrize(
        ("query", "says"),
        [
            ("output=film", "parameter output: input should be 'json', 'mask' or 'overlay', got 'film'"),
            ("masks=svg", "parameter masks: input should be 'runs', 'rle', 'polygons' or 'none', got 'svg'"),
            ("alpha=2", "parameter alpha: input should be less than or equal to 1, got '2'"),
            ("alpha=nan", "parameter alpha: "),
            ("legend=perhaps", "parameter legend: input should be a valid boolean"),
        ],
    )
    def test_parameters(self, served, photograph, query, says):
        response = served.post(encoded(photograph), f"/v1/segment?{query}")
        assert refused(response, "invalid_parameter").startswith(says)

    def test_an_unknown_model(self, served, photograph):
        response = served.post(encoded(photograph), "/v1/segment?model=../../etc/passwd")
        assert refused(response, "unknown_model") == "model must be one of small, got another name"

    @pytest.mark.parametrize("path", ["/v2/segment", "/v1/segment/"])
    def test_paths(self, served, path):
        refused(served.get(path), "not_found")

    def test_methods(self, served):
        response = served.get("/v1/segment")
        assert refused(response, "method_not_allowed") == "the method must be POST, got GET"
        assert response.headers["allow"] == "POST"

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"--b\r\n",
            b"--other\r\n\r\n--other--",
            b'--b\r\nContent-Disposition: form-data; name="image"; filename="a',
        ],
    )
    def test_damaged_forms(self, served, content):
        headers = {"content-type": "multipart/form-data; boundary=b"}
        response = served.post(content, headers=headers)
        refused(response, "multipart_invalid" if content else "empty_body")

    def test_a_form_without_a_boundary(self, served, photograph):
        response = served.post(encoded(photograph), headers={"content-type": "multipart/form-data"})
        refused(response, "multipart_invalid")

    def test_forms_without_an_image(self, served, photograph):
        for form in (
            {"files": {"photo": encoded(photograph)}},
            {"data": {"image": "text"}, "files": {"a": b"b"}},
        ):
            response = httpx.post(f"{served.url}/v1/segment", **form)
            assert "curl: -F image=@photo.jpg" in refused(response, "multipart_invalid")

    @pytest.mark.parametrize("path", ["/", "/docs", "/livez", "/v1/models", "/page/page.js"])
    def test_head_is_get_without_a_body(self, served, path):
        whole, alone = served.get(path), httpx.head(served.url + path)
        assert (alone.status_code, alone.content) == (200, b"")
        assert alone.headers["content-length"] == str(len(whole.content))
        assert httpx.head(f"{served.url}/v1/segment").status_code == 405

    def test_pages_of_other_origins(self, served, photograph):
        for site in ("cross-site", "same-site"):
            response = served.post(encoded(photograph), headers={"sec-fetch-site": site})
            refused(response, "cross_site")
        assert "access-control-allow-origin" not in served.get("/v1/models").headers

    def test_a_fault_has_an_id_that_is_in_the_log(self, held, caplog):
        held.failing[7] = RuntimeError("a private reason")
        held.go.set()
        with running({"held": held}) as served:
            response = served.post(encoded(np.full((8, 9, 3), 7, np.uint8)))
            message = refused(response, "internal_error")
            assert response.headers["x-request-id"] in message and "private" not in message
            assert served.get("/livez").status_code == 200
        (fault,) = (record for record in caplog.records if record.levelno == logging.ERROR)
        assert response.headers["x-request-id"] in fault.getMessage()
        assert "a private reason" in str(fault.exc_info[1])


class TestUploads:
    def test_a_length_that_is_too_large(self, served):
        with connect(served.port) as connection:
            connection.sendall(head(Content_Length=10**12))
            answer = reply(connection)
        assert (answer.status, answer.error["code"]) == (413, "body_too_large")
        assert "at most 100,000 bytes, got 1,000,000,000,000" in answer.error["message"]

    def test_pieces_that_are_too_large_together(self, served):
        """Without a declared length, the answer comes as soon as the limit is passed."""
        piece = b"%x\r\n%b\r\n" % (10_000, bytes(10_000))
        with connect(served.port) as connection:
            connection.sendall(head(Transfer_Encoding="chunked") + 11 * piece)
            answer = reply(connection)
        assert (answer.status, answer.error["code"]) == (413, "body_too_large")

    def test_a_client_that_sends_on_gets_the_answer(self, served):
        response = served.post(bytes(5_000_000))
        refused(response, "body_too_large")

    def test_all_uploads_together(self, served, photograph):
        memory = served.service.memory
        memory.held += memory.most
        try:
            response = served.post(encoded(photograph))
        finally:
            memory.held -= memory.most
        refused(response, "too_busy")
        assert response.headers["retry-after"] == "1"

    def test_a_part(self, served, photograph):
        """The client ends its side too early, and listens."""
        content = encoded(photograph)
        with connect(served.port) as connection:
            connection.sendall(head(Content_Length=len(content)) + content[:100])
            connection.shutdown(1)
            answer = reply(connection)
        assert (answer.status, answer.error["code"]) == (400, "upload_truncated")

    def test_a_client_that_hangs_up(self, served, caplog):
        until(lambda: served.service.active == 0)  # of earlier tests
        caplog.set_level("INFO", "segnext.serve")
        with connect(served.port) as connection:
            connection.sendall(head(Content_Length=1000) + b"x")
            until(lambda: served.service.active == 1)
        until(
            lambda: any(
                getattr(record, "fields", {}).get("error") == "client_gone" for record in caplog.records
            )
        )
        until(lambda: served.service.active == 0)

    @pytest.mark.parametrize(
        "content",
        [
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 TLS\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: localhost\r\nCookie: " + b"c" * 20_000,
            b"GET /" + b"p" * 20_000,
            head(Content_Length="many"),
            head(Transfer_Encoding="chunked") + b"zz\r\n",
        ],
        ids=["tls", "headers", "path", "length", "chunk"],
    )
    def test_not_http(self, served, content):
        with connect(served.port) as connection:
            connection.sendall(content)
            answer = reply(connection)
        assert (answer.status, answer.error["code"]) == (400, "bad_request")
        assert "16,384 bytes of headers" in answer.error["message"]

    def test_headers_that_come_at_once(self, served):
        """The server's own limit is for what comes in pieces."""
        with connect(served.port) as connection:
            connection.sendall(head("/livez", "GET", Cookie="c" * 16_384))
            answer = reply(connection)
        # The system may have cut it into pieces.
        assert (answer.status, answer.error["code"]) in ((431, "headers_too_large"), (400, "bad_request"))

    def test_slow_clients(self, predictor):
        """One sends nothing, one half of its headers, one half of its image."""
        with running({"small": predictor}, Settings(timeout=0.3)) as served:
            silent, slow, half = (connect(served.port) for _ in range(3))
            slow.sendall(b"POST /v1/segment HTTP/1.1\r\nHost: 127.0.0.1\r\n")
            half.sendall(head(Content_Length=1000) + b"x")
            assert (late := reply(half)).error["code"] == "upload_too_slow" and late.status == 408
            assert reply(silent) is None and reply(slow) is None
            for connection in (silent, slow, half):
                connection.close()


class TestDoors:
    def test_hosts(self, predictor):
        with running({"small": predictor}, hosts=["localhost", "[::1]", "Example.org"]) as served:
            for host in (
                "localhost",
                "localhost:",
                f"localhost:{served.port}",
                "[::1]",
                "[::1]:80",
                "example.ORG",
            ):
                assert served.get("/livez", headers={"host": host}).status_code == 200
            for host in ("evil.example", "localhost.evil.example", "127.0.0.1:80", ""):
                refused(served.get("/livez", headers={"host": host}), "wrong_host")

    def test_tokens(self, predictor, photograph):
        with running({"small": predictor}, token="right-token") as served:
            for given in (
                "",
                "Bearer",
                "Bearer wrong",
                "Basic right-token",
                "right-token",
                "Bearer right-tokenx",
                "Bearer é",
            ):
                headers = {"authorization": given.encode("latin-1")}
                for response in (
                    served.post(encoded(photograph), headers=headers),
                    served.get("/v1/models", headers=headers),
                    served.get("/metrics", headers=headers),
                ):
                    refused(response, "token_required")
                    assert response.headers["www-authenticate"] == "Bearer"
            for given in ("Bearer right-token", "bearer  right-token"):
                headers = {"authorization": given}
                assert served.post(encoded(photograph), headers=headers).status_code == 200
                assert served.get("/v1/models", headers=headers).json()["token_required"] is True
            for path in ("/livez", "/readyz", "/docs", "/openapi.json"):
                assert served.get(path).status_code == 200

    def test_headers_of_every_answer(self, served: Running):
        for path in ("/v1/models", "/livez", "/none", "/docs"):
            headers = served.get(path).headers
            assert headers["content-security-policy"].startswith("default-src '")
            assert (
                headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"
            )
            assert "server" not in headers
