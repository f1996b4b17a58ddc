"""Serves models over HTTP: `segnext serve`, and `create_app` for any ASGI server. docs/serving.md says how.

Needs `pip install 'segnext[serve]'`.
"""

from __future__ import annotations

try:
    import contourpy as _contourpy  # noqa: F401 (all parts of the extra are there, or none is used)
    import fastapi as _fastapi  # noqa: F401
    import prometheus_client as _prometheus_client  # noqa: F401
    import python_multipart as _python_multipart  # noqa: F401
    import uvicorn as _uvicorn  # noqa: F401
except ImportError as error:
    raise ImportError(
        f"serve: the service needs a package, got {error}; pip install 'segnext[serve]'"
    ) from None

from segnext.serve.app import create_app
from segnext.serve.settings import Settings

__all__ = ["Settings", "create_app"]
