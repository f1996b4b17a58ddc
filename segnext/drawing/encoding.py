"""Makes files of pictures in memory, so that they are written whole or not at all."""

from __future__ import annotations

import io
from typing import Any

from PIL import Image


def encoded(picture: Image.Image, **options: Any) -> bytes:
    """Return a picture as a file in memory; `options` are those of Pillow's ``save``, ``format`` among them."""
    content = io.BytesIO()
    picture.save(content, **options)
    return content.getvalue()
