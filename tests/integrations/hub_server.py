"""The few endpoints of the Hugging Face hub that putting a model there and loading it take, on this machine."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def hub() -> Iterator[tuple[str, dict[str, bytes], list[str]]]:
    """Serve until the block ends; yield the address, the files by repository and name, and what was asked."""
    files: dict[str, bytes] = {}
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            asked.append(f"POST {self.path}")
            body = self.rfile.read(int(self.headers["Content-Length"] or 0))
            parts = self.path.split("/")
            if self.path == "/api/repos/create":
                name = json.loads(body)
                self.reply({"url": f"{url}/{name.get('organization') or 'user'}/{name['name']}"})
            elif self.path == "/api/validate-yaml":
                self.reply({"errors": [], "warnings": []})
            elif parts[-2] == "preupload":
                regular = {"uploadMode": "regular", "shouldIgnore": False}
                self.reply({"files": [{"path": f["path"], **regular} for f in json.loads(body)["files"]]})
            elif parts[-2] == "commit":
                for entry in map(json.loads, body.splitlines()):
                    if entry["key"] == "file":
                        value = entry["value"]
                        files["/".join([*parts[3:5], value["path"]])] = base64.b64decode(value["content"])
                address = f"{url}/{'/'.join(parts[3:5])}/commit/{COMMIT}"
                self.reply({"commitUrl": address, "commitOid": COMMIT, "success": True})
            else:
                self.send_error(404)

        def do_HEAD(self) -> None:
            self.send_file(with_body=False)

        def do_GET(self) -> None:
            if self.path.startswith("/api/models/"):
                self.reply({"id": "/".join(self.path.split("/")[3:5]), "sha": COMMIT, "siblings": []})
            else:
                self.send_file(with_body=True)

        def send_file(self, with_body: bool) -> None:
            asked.append(f"{self.command} {self.path}")
            owner, name, _, _, *rest = self.path.strip("/").split("/")
            content = files.get("/".join([owner, name, *rest]))
            if content is None:
                self.send_response(404)
                self.send_header("X-Error-Code", "EntryNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(200)
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if with_body:
                self.wfile.write(content)

        def reply(self, content: dict[str, object]) -> None:
            body = json.dumps(content).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        listening.daemon_threads = True
        url = f"http://127.0.0.1:{listening.server_port}"
        Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        try:
            yield url, files, asked
        finally:
            listening.shutdown()
