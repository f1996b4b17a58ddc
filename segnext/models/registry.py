"""The table of architectures, and building a model from a name."""

from __future__ import annotations

import dataclasses
import difflib
import fnmatch
from collections.abc import Collection
from typing import Any, TypeAlias

from segnext.models.mscan import MSCAN, MSCANConfig
from segnext.models.segnext import SegNeXt, SegNeXtConfig

ModelConfig: TypeAlias = MSCANConfig | SegNeXtConfig

_ENCODERS: dict[str, dict[str, Any]] = {
    "t": {"channels": (32, 64, 160, 256), "depths": (3, 3, 5, 2), "drop_path": 0.1},
    "s": {"channels": (64, 128, 320, 512), "depths": (2, 2, 4, 2), "drop_path": 0.1},
    "b": {"channels": (64, 128, 320, 512), "depths": (3, 3, 12, 3), "drop_path": 0.1},
    "l": {"channels": (64, 128, 320, 512), "depths": (3, 5, 27, 3), "drop_path": 0.3},
}
_DECODERS: dict[str, dict[str, Any]] = {
    "t": {"decoder_channels": 256, "rank": 16},
    "s": {"decoder_channels": 256, "rank": 16},
    "b": {"decoder_channels": 512, "rank": 64},
    "l": {"decoder_channels": 1024, "rank": 64},
}

CONFIGS: dict[str, ModelConfig] = {
    f"segnext_{size}": SegNeXtConfig(architecture=f"segnext_{size}", **_ENCODERS[size], **_DECODERS[size])
    for size in _ENCODERS
} | {f"mscan_{size}": MSCANConfig(architecture=f"mscan_{size}", **_ENCODERS[size]) for size in _ENCODERS}


def list_models(pattern: str = "*") -> list[str]:
    """Names of the architectures that match a shell pattern, for example ``"segnext_*"``."""
    return fnmatch.filter(CONFIGS, pattern)


def build(name: str, **overrides: Any) -> SegNeXt | MSCAN:
    """Build an architecture with random weights.

    Args:
        name: one of :func:`list_models`.
        **overrides: fields of its configuration to change, for example ``num_classes=19``.

    Raises:
        ValueError: unknown name, or a value out of range.
        TypeError: unknown override.
    """
    if name not in CONFIGS:
        raise ValueError(f"build: name must be a known architecture, got {name!r}; {_suggest(name, CONFIGS)}")
    base = CONFIGS[name]
    fields = [field.name for field in dataclasses.fields(base) if field.name != "architecture"]
    for key in overrides:
        if key not in fields:
            raise TypeError(
                f"build: overrides of {name} must be fields of its configuration, got {key!r}; "
                f"{_suggest(key, fields)}"
            )
    config = dataclasses.replace(base, **overrides)
    return SegNeXt(config) if isinstance(config, SegNeXtConfig) else MSCAN(config)


def _suggest(word: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(word.lower(), known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(close)}?" if close else f"known are {', '.join(known)}"
