"""Tests `segnext serve` as a process: its start, its end, its log, and what it refuses."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest

from segnext.cli.serve import _named, _token
from segnext.weights import save
from tests.processes import ROOT
from tests.serve.conftest import encoded, until
from tests.serve.sockets import connect, head, reply


@pytest.fixture(scope="module")
def weights(model, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    save(model, path)
    return path


def command(*words: object, **environment: str) -> subprocess.Popen[str]:
    shared = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "segnext", "serve", *map(str, words)],
        env={**os.environ, **shared, **environment},
        text=True,
        stderr=subprocess.PIPE,
    )


def refused(*words: object, **environment: str) -> str:
    """Return the only line of a command that must fail."""
    with command(*words, **environment) as process:
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    (line,) = errors.splitlines()
    assert line.startswith("segnext: ")
    return line


@contextmanager
def serving(*words: object, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str, list[str]]]:
    """Run the command at a free port; give the process, its URL, and the lines that it has written so far."""
    with command("--port", 0, "--device", "cpu", *words, **environment) as process:
        lines: list[str] = []
        reader = threading.Thread(target=lambda: lines.extend(process.stderr), daemon=True)
        try:
            first = process.stderr.readline()
            found = re.search(r" at (http://\S+);", first)
            assert found, first
            reader.start()
            until(lambda: httpx.get(f"{found[1]}/readyz").status_code == 200)
            yield process, found[1], lines
        finally:
            process.kill()
            process.wait()
            if reader.ident:
                reader.join(10)


def test_from_start_to_end(weights, photograph, tmp_path):
    """Two models, a file that disappears, a second service, and SIGTERM while requests are under way."""
    copy = tmp_path / "gone.safetensors"
    copy.write_bytes(weights.read_bytes())
    token = tmp_path / "token"
    token.write_text("secret-token\n")
    words = ("--weights", copy, "--weights", f"other={weights}", "--token-file", token)
    with serving(*words) as (process, url, lines):
        copy.unlink()
        client = httpx.Client(base_url=url, headers={"authorization": "Bearer secret-token"}, timeout=60)
        listed = client.get("/v1/models").json()
        assert [model["name"] for model in listed["models"]] == ["gone", "other"]
        content, kind = encoded(photograph), {"content-type": "image/png"}
        assert client.post("/v1/segment", content=content, headers=kind).json()["model"] == "gone"
        client.post(
            "/v1/segment", content=b"--x secret", headers={"content-type": "multipart/form-data; boundary=x"}
        )
        deep = encoded(np.arange(1024, dtype=np.uint16).reshape(32, 32))  # 10 bits of 16: there is a warning
        assert client.post("/v1/segment", content=deep, headers=kind).status_code == 200
        port = url.rpartition(":")[2]
        line = refused("--port", port, "--weights", weights)
        assert re.fullmatch(
            rf"segnext: serve: --host and --port must be a free address .*, got 127.0.0.1:{port} "
            r"\(address already in use\); use another --port",
            line,
        )
        uploading = connect(int(port))
        uploading.sendall(
            head(Authorization="Bearer secret-token", Content_Length=len(content)) + content[:50]
        )
        until(lambda: "segnext_requests_active 1.0" in client.get("/metrics").text)
        process.send_signal(signal.SIGTERM)
        until(lambda: any("ending once all requests are answered" in line for line in lines))
        uploading.sendall(content[50:])
        assert reply(uploading).status == 200
        assert process.wait(60) == 0
    logged = [json.loads(line) for line in lines if line.startswith("{")]
    entries = [entry for entry in logged if entry["level"] == "info"]
    assert all({"time", "id", "method", "path", "status", "ms"} <= set(entry) for entry in entries)
    assert [entry["status"] for entry in entries if entry["path"] == "/v1/segment"] == [200, 400, 200, 200]
    (warning,) = (entry for entry in logged if entry["level"] == "warning")
    assert warning["message"].startswith("16-bit pixels that use 10 bits")
    (end,) = (line for line in lines if not line.startswith("{"))
    assert "ending once all requests are answered" in end
    assert "secret" not in "".join(lines)


def test_a_second_signal_ends_it_at_once(weights):
    with serving("--weights", weights, "--log", "text") as (process, url, lines):
        uploading = connect(int(url.rpartition(":")[2]))
        uploading.sendall(head(Content_Length=1000) + b"x")
        until(lambda: "segnext_requests_active 1.0" in httpx.get(f"{url}/metrics").text)
        process.send_signal(signal.SIGINT)
        until(lambda: any("again to end at once" in line for line in lines))
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 1
        uploading.close()
    assert any(re.match(r"\d\d:\d\d:\d\d GET /readyz 200 \d+\.\d ms$", line) for line in lines)


def test_on_all_networks_without_a_token_it_says_so(weights):
    with serving("--weights", weights, "--host", "0.0.0.0") as (_, url, lines):
        until(lambda: any("everybody who reaches 0.0.0.0 may use it" in line for line in lines))
        port = url.rpartition(":")[2]
        assert httpx.get(f"http://127.0.0.1:{port}/livez", headers={"host": "any.name"}).status_code == 200


def test_tokens(tmp_path, monkeypatch):
    file = tmp_path / "token"
    for content in ("", "two words", "ü", "two\nlines"):
        file.write_text(content)
        with pytest.raises(
            ValueError, match=f"the token must be printable ASCII .* got something else in {file}"
        ):
            _token(file)
    file.write_text("good\n")
    monkeypatch.setenv("SEGNEXT_TOKEN", "other")
    assert _token(file) == "good" and _token(None) == "other"
    monkeypatch.setenv("SEGNEXT_TOKEN", "")
    with pytest.raises(ValueError, match="got something else in SEGNEXT_TOKEN"):
        _token(None)
    monkeypatch.delenv("SEGNEXT_TOKEN")
    assert _token(None) is None
    assert "No such file" in refused("--token-file", tmp_path / "none", "--port", 0)


def test_no_such_weights(tmp_path):
    assert "none.safetensors" in refused("--weights", tmp_path / "none.safetensors", "--port", 0)


def test_a_host_that_is_not_here():
    assert "must be a free address of this machine, got 192.0.2.1:80" in refused(
        "--host", "192.0.2.1", "--port", 80
    )


def test_names():
    assert _named(["camvid", "a=b.pt", "/x=y/c.pt", "runs/final.safetensors"]) == {
        "camvid": "camvid",
        "a": "b.pt",
        "c": "/x=y/c.pt",
        "final": "runs/final.safetensors",
    }
    with pytest.raises(ValueError, match="must have different names, got final twice; name them NAME=PATH"):
        _named(["a/final.pt", "b/final.pt"])


def test_without_the_extra():
    code = "import sys; sys.modules['fastapi'] = None; from segnext.cli.main import main; main(['serve'])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.strip().endswith("pip install 'segnext[serve]'")
