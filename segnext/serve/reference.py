"""The page /docs: the OpenAPI document as plain HTML, without a script and without anything from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import json
from html import escape
from typing import Any

_STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
h2 { margin-top: 3rem; font-size: 1.2rem } h2 b { font-family: ui-monospace, monospace }
table { border-collapse: collapse; width: 100% } td, th { text-align: left; vertical-align: top; padding: .3rem .6rem }
tr { border-top: 1px solid color-mix(in srgb, currentcolor 25%, transparent) }
pre { overflow-x: auto; padding: .8rem; background: color-mix(in srgb, currentcolor 8%, transparent) }
"""
_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
POLICY = f"default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none'; frame-ancestors 'none'"
"""The Content-Security-Policy of the page."""


def page(document: dict[str, Any]) -> str:
    """Return the page of an OpenAPI document."""
    title = escape(document["info"]["title"])
    parts = [
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>',
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style><main>',
        f"<h1>{title} {escape(document['info']['version'])}</h1>",
        *(f"<p>{_code(text)}</p>" for text in document["info"]["description"].split("\n\n")),
        '<p>For programs: <a href="/openapi.json">openapi.json</a>. <a href="/">Try it</a>.</p>',
    ]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            parts += _operation(method.upper(), path, operation)
    return "\n".join([*parts, "</main></html>"])


def _operation(method: str, path: str, operation: dict[str, Any]) -> list[str]:
    parts = [f"<h2><b>{method} {escape(path)}</b></h2><p>{_code(operation.get('description', ''))}</p>"]
    if body := operation.get("requestBody"):
        kinds = ", ".join(f"<code>{escape(kind)}</code>" for kind in body["content"])
        parts.append(f"<p>Body: {kinds}.</p><pre>{escape(_curl(path, body['content']))}</pre>")
    rows = [_parameter(parameter) for parameter in operation.get("parameters", [])]
    if rows:
        parts.append(f"<table><tr><th>parameter<th>values<th>default<th>meaning{''.join(rows)}</table>")
    parts.append("<table><tr><th>status<th>meaning")
    for status, answer in sorted(operation["responses"].items()):
        parts.append(f"<tr><td>{status}<td>{_code(answer['description']).replace('; ', '<br>')}")
    parts.append("</table>")
    example = operation["responses"]["200"]["content"].get("application/json", {}).get("example")
    return [*parts, f"<pre>{escape(json.dumps(example, indent=1))}</pre>"] if example else parts


def _curl(path: str, kinds: dict[str, Any]) -> str:
    if "image/*" in kinds:
        return f"curl -F image=@photo.jpg 'http://127.0.0.1:8000{path}?output=overlay' -o overlay.jpg"
    return f"curl -F images=@a.jpg -F images=@b.jpg http://127.0.0.1:8000{path}"


def _parameter(parameter: dict[str, Any]) -> str:
    schema = parameter["schema"]
    values = schema.get("enum") or [schema.get("type", "text")]
    if "maximum" in schema:
        values = [f"{schema['minimum']} to {schema['maximum']}"]
    shown = ", ".join(escape(str(value)) for value in values)
    default = escape(json.dumps(schema["default"])) if "default" in schema else ""
    cells = (
        f"<code>{escape(parameter['name'])}</code>",
        shown,
        default,
        _code(parameter.get("description", "")),
    )
    return f"<tr>{''.join(f'<td>{cell}' for cell in cells)}"


def _code(text: str) -> str:
    """Return text as HTML, in which `code` is code."""
    pieces = escape(text).split("`")
    return "".join(f"<code>{piece}</code>" if index % 2 else piece for index, piece in enumerate(pieces))
