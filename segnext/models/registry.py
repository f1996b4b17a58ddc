"""The table of sizes, the architectures that follow from it, and `build`, which makes a model from a name.

Importing this module needs no torch, so that the command line's help can name the sizes.
"""

from __future__ import annotations

import dataclasses
import difflib
import fnmatch
from collections.abc import Collection
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from segnext.models.config import MSCANConfig, SegNeXtConfig
from segnext.one_line import one_line

if TYPE_CHECKING:
    from segnext.models.mscan import MSCAN
    from segnext.models.segnext import SegNeXt

ModelConfig: TypeAlias = MSCANConfig | SegNeXtConfig


class Size(NamedTuple):
    """One size of the network.

    Attributes:
        channels: width of the four stages.
        depths: blocks in the four stages.
        drop_path: stochastic depth rate of the last block.
        decoder_channels: decoder width.
        rank: NMF rank.
        millions: parameters with 150 classes, in millions.
    """

    channels: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]
    drop_path: float
    decoder_channels: int
    rank: int
    millions: float


# A row defines the architectures segnext_<size> and mscan_<size>, and functions of these names in `segnext`.
SIZES = {
    "t": Size((32, 64, 160, 256), (3, 3, 5, 2), 0.1, 256, 16, 4.3),
    "s": Size((64, 128, 320, 512), (2, 2, 4, 2), 0.1, 256, 16, 13.9),
    "b": Size((64, 128, 320, 512), (3, 3, 12, 3), 0.1, 512, 64, 27.6),
    "l": Size((64, 128, 320, 512), (3, 5, 27, 3), 0.3, 1024, 64, 48.9),
}

CONFIGS: dict[str, ModelConfig] = {
    f"segnext_{name}": SegNeXtConfig(
        architecture=f"segnext_{name}",
        channels=size.channels,
        depths=size.depths,
        drop_path=size.drop_path,
        decoder_channels=size.decoder_channels,
        rank=size.rank,
    )
    for name, size in SIZES.items()
} | {
    f"mscan_{name}": MSCANConfig(
        architecture=f"mscan_{name}",
        channels=size.channels,
        depths=size.depths,
        drop_path=size.drop_path,
    )
    for name, size in SIZES.items()
}


# What the paper compares with its networks, by the ending of a name: "segnext_b_nl" is "segnext_b" with these fields.
# Those that change the encoder are variants of MSCAN too.
ENCODER_VARIANTS: dict[str, dict[str, Any]] = {
    "strip7": dict(strips=(7,)),
    "strip11": dict(strips=(11,)),
    "strip21": dict(strips=(21,)),
    "nomix": dict(mix=False),
    "nogate": dict(gate=False),
    "lka": dict(attention="lka"),
}
DECODER_VARIANTS: dict[str, dict[str, Any]] = {
    "mlp": dict(decoder="mlp"),
    "cnn": dict(decoder="cnn"),
    "stage1": dict(in_indices=(0, 1, 2, 3)),
    "cc": dict(context="cc"),
    "em": dict(context="em"),
    "nl": dict(context="nl"),
    "msca": dict(context="msca"),
}
# name: architecture and the fields that it changes
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    f"{architecture}_{ending}": (architecture, changed)
    for architecture, config in CONFIGS.items()
    for ending, changed in {
        **ENCODER_VARIANTS,
        **(DECODER_VARIANTS if isinstance(config, SegNeXtConfig) else {}),
    }.items()
}


def list_models(pattern: str = "*", variants: bool = False) -> list[str]:
    """Return the names of the models that match a shell pattern, for example ``"segnext_*"``.

    Args:
        pattern: with ``*``, ``?`` and ``[...]``.
        variants: also those of the variants that the paper compares, for example ``"segnext_b_nl"``.
    """
    return fnmatch.filter([*CONFIGS, *(VARIANTS if variants else ())], pattern)


def find_architecture(name: str) -> str | None:
    """Return the architecture or variant that a name means, or None: ``"t"`` means ``"segnext_t"``."""
    size = name.split("_")[0] if isinstance(name, str) else None
    full = f"segnext_{name}" if size in SIZES else name
    return full if isinstance(full, str) and (full in CONFIGS or full in VARIANTS) else None


def split_variant(name: str) -> tuple[str, dict[str, Any]]:
    """Return the architecture of a name that ``find_architecture`` returns, and the fields that its variant changes."""
    return VARIANTS.get(name, (name, {}))


STRUCTURE = (
    *("expansions", "attention", "strips", "root", "mix", "gate"),
    *("decoder", "in_indices", "context"),
)


def describe(config: ModelConfig) -> str:
    """Name a model by its architecture and by what of its structure is not as published."""
    base = CONFIGS.get(config.architecture)
    fields = [
        name for name in STRUCTURE if hasattr(base, name) and getattr(config, name) != getattr(base, name)
    ]
    return config.architecture + "".join(f", {name}={getattr(config, name)!r}" for name in fields)


def build(name: str, **overrides: Any) -> SegNeXt | MSCAN:
    """Build an architecture with random weights.

    Args:
        name: one of ``list_models(variants=True)``; ``segnext_`` may be left out.
        **overrides: fields of its configuration to change, for example ``num_classes=19``.

    Raises:
        ValueError: unknown name, or a value out of range.
        TypeError: the name is no text, or an unknown override.
    """
    from segnext.models.mscan import MSCAN
    from segnext.models.segnext import SegNeXt

    if not isinstance(name, str):
        raise TypeError(f"build: name must be that of an architecture, got {type(name).__name__}")
    full = find_architecture(name)
    if full is None:
        given = one_line(repr(name))
        known = [*CONFIGS, *(VARIANTS if name.count("_") > 1 else ())]
        raise ValueError(f"build: name must be a known architecture, got {given}; {_suggest(name, known)}")
    architecture, changed = split_variant(full)
    base = CONFIGS[architecture]
    fields = [field.name for field in dataclasses.fields(base) if field.name != "architecture"]
    for key in overrides:
        if key not in fields:
            raise TypeError(
                f"build: overrides of {architecture} must be fields of its configuration, got {key!r}; "
                f"{_suggest(key, fields)}"
            )
    config = dataclasses.replace(base, **{**changed, **overrides})
    return SegNeXt(config) if isinstance(config, SegNeXtConfig) else MSCAN(config)


def _suggest(word: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(word.lower(), known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(close)}?" if close else f"known are {', '.join(known)}"
