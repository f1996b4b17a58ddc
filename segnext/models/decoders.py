"""The table of decoders, by the names that configurations use."""

from __future__ import annotations

from segnext.models.config import SegNeXtConfig, expect
from segnext.models.decoder import Decoder
from segnext.models.light_ham import LightHam

DECODERS: dict[str, type[Decoder]] = {"ham": LightHam}


def decoder_of(config: SegNeXtConfig) -> type[Decoder]:
    """Return the class of a configuration's decoder.

    Raises:
        ValueError: no decoder has this name.
    """
    expect(config, "decoder", config.decoder in DECODERS, f"one of {', '.join(DECODERS)}")
    return DECODERS[config.decoder]
