"""A registry of published weights for tests, in the form of the real one, whose files a local server has."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import yaml

from segnext.weights import published
from tests.weights.file_server import FileServer

HOST = "https://download.example.org"


def use(
    monkeypatch: pytest.MonkeyPatch, folder: Path, server: FileServer, files: dict[str, bytes], **known: bool
) -> None:
    """Let names mean files of the server: ``{"ade20k-t": content}``, with the rest as in the real registry.

    Args:
        monkeypatch: takes it back.
        folder: for the registry and for the cache.
        server: gets the files.
        files: contents by name.
        **known: ``digest=False``: nobody has measured the files.
    """
    content: dict[str, Any] = yaml.safe_load(published.FILE.read_text(encoding="utf-8"))
    groups = {}
    for name, data in files.items():
        group, _, size = name.partition("-")
        row = dict(content["groups"][group]["sizes"][size])
        row = {key: value for key, value in row.items() if key not in ("bytes", "sha256")}
        if known.get("digest", True):
            row |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        kept = groups.setdefault(group, {**content["groups"][group], "base": f"{HOST}/{group}/", "sizes": {}})
        kept["sizes"][size] = row
        server.files[f"/{group}/{row['path']}"] = data
    file = folder / "published.yaml"
    file.write_text(yaml.safe_dump({"groups": groups}))
    monkeypatch.setattr(published, "FILE", file)
    monkeypatch.setenv("TORCH_HOME", str(folder / "torch"))
    monkeypatch.setenv("SEGNEXT_MIRROR", server.url)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for name in ("SEGNEXT_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
