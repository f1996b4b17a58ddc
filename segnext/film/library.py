"""Imports PyAV when it is first needed."""

from __future__ import annotations

from typing import Any


def av_library() -> Any:
    """Return PyAV's module.

    Raises:
        ImportError: it is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise ImportError(f"films need PyAV: pip install 'segnext[video]' ({error})") from None
    av.logging.set_level(None)  # what FFmpeg says about damaged packets; they are counted
    return av
