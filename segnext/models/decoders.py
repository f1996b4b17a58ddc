"""The table of decoders, by the names that configurations use."""

from __future__ import annotations

from segnext.models.config import SegNeXtConfig, expect
from segnext.models.decoder import Decoder
from segnext.models.light_ham import LightHam, OneStage
from segnext.models.mlp import MLP

DECODERS: dict[str, type[Decoder]] = {"ham": LightHam, "cnn": OneStage, "mlp": MLP}


def decoder_of(config: SegNeXtConfig) -> type[Decoder]:
    """Return the class of a configuration's decoder.

    Raises:
        ValueError: no decoder has this name.
    """
    expect(config, "decoder", config.decoder in DECODERS, f"one of {', '.join(DECODERS)}")
    return DECODERS[config.decoder]


def stages_of(config: SegNeXtConfig) -> tuple[int, ...]:
    """Return the stages (0-3) that a configuration's decoder reads; the first sets the size of the logits.

    Raises:
        ValueError: no decoder has this name.
    """
    return decoder_of(config).stages_of(config)
